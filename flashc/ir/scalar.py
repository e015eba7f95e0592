"""Elementwise expressions: an immutable DAG over coordinates, earlier values and gathered tensor elements.

The same type serves inside tile programs (the `expr` node) and for what users write under `score:`, `keep:`
and `epilogue:`. An expression has no shape of its own: every leaf is broadcast over named program axes.

Kinds are 'bool', 'int' and 'float'. Arithmetic of an int with a float is float, `/` is always float, `//` and
`%` take ints and round towards minus infinity. -inf and NaN follow numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import DTypeLike

from flashc.errors import ExpressionError
from flashc.ir.scalar_functions import ATOM, COMPARE, INFIX, NOT, SYMBOLS, UNARY, Function
from flashc.ir.scalar_functions import FUNCTIONS as FUNCTIONS
from flashc.ir.scalar_functions import Kind as Kind

ScalarLike = Union["Scalar", bool, int, float]


class Scalar:
    """Base of all expression nodes. `==` compares structure; `.eq()` and `.ne()` build comparison nodes."""

    __slots__ = ()

    def __add__(self, other: ScalarLike) -> Scalar:
        return call("add", self, other)

    def __radd__(self, other: ScalarLike) -> Scalar:
        return call("add", other, self)

    def __sub__(self, other: ScalarLike) -> Scalar:
        return call("sub", self, other)

    def __rsub__(self, other: ScalarLike) -> Scalar:
        return call("sub", other, self)

    def __mul__(self, other: ScalarLike) -> Scalar:
        return call("mul", self, other)

    def __rmul__(self, other: ScalarLike) -> Scalar:
        return call("mul", other, self)

    def __truediv__(self, other: ScalarLike) -> Scalar:
        return call("div", self, other)

    def __rtruediv__(self, other: ScalarLike) -> Scalar:
        return call("div", other, self)

    def __floordiv__(self, other: ScalarLike) -> Scalar:
        return call("floordiv", self, other)

    def __rfloordiv__(self, other: ScalarLike) -> Scalar:
        return call("floordiv", other, self)

    def __mod__(self, other: ScalarLike) -> Scalar:
        return call("mod", self, other)

    def __rmod__(self, other: ScalarLike) -> Scalar:
        return call("mod", other, self)

    def __neg__(self) -> Scalar:
        return call("neg", self)

    def __abs__(self) -> Scalar:
        return call("abs", self)

    def __lt__(self, other: ScalarLike) -> Scalar:
        return call("lt", self, other)

    def __le__(self, other: ScalarLike) -> Scalar:
        return call("le", self, other)

    def __gt__(self, other: ScalarLike) -> Scalar:
        return call("gt", self, other)

    def __ge__(self, other: ScalarLike) -> Scalar:
        return call("ge", self, other)

    def eq(self, other: ScalarLike) -> Scalar:
        return call("eq", self, other)

    def ne(self, other: ScalarLike) -> Scalar:
        return call("ne", self, other)

    def __and__(self, other: ScalarLike) -> Scalar:
        return call("and", self, other)

    def __or__(self, other: ScalarLike) -> Scalar:
        return call("or", self, other)

    def __invert__(self) -> Scalar:
        return call("not", self)

    def __bool__(self) -> bool:
        raise TypeError("a Scalar has no truth value; combine predicates with & | ~ and choose with where()")

    def __str__(self) -> str:
        return _text(self)[0]


@dataclass(frozen=True, slots=True, eq=False)
class Lit(Scalar):
    """A constant; `Lit(1)`, `Lit(1.0)` and `Lit(True)` differ. NaN and longer ints raise ExpressionError."""

    value: bool | int | float

    def __post_init__(self) -> None:
        if isinstance(self.value, float) and math.isnan(self.value):
            raise ExpressionError("NaN is not a literal; allowed: numbers, inf, true, false")
        if isinstance(self.value, int) and not -(2**63) <= self.value < 2**63:
            raise ExpressionError(f"{self.value} does not fit in 64 bits; write {float(self.value):g}")

    def _key(self) -> tuple[str, str]:
        return type(self.value).__name__, repr(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lit) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True, slots=True)
class Coord(Scalar):
    """Integer coordinate of the element along a program axis."""

    axis: str


@dataclass(frozen=True, slots=True)
class Ref(Scalar):
    """A tile or scalar computed earlier, broadcast by its named axes."""

    name: str


@dataclass(frozen=True, slots=True)
class Fetch(Scalar):
    """One element of a tensor, gathered at integer indices."""

    tensor: str
    index: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class InDomain(Scalar):
    """True where the element lies inside the Domain of the enclosing loop along `axis`."""

    axis: str


@dataclass(frozen=True, slots=True)
class Call(Scalar):
    """A function of FUNCTIONS applied to arguments. Build it with :func:`call`, which simplifies."""

    fn: str
    args: tuple[Scalar, ...]


# --- smart constructors ---------------------------------------------------------------------------


def as_scalar(value: ScalarLike) -> Scalar:
    """A Python bool, int or float as a literal; a Scalar as it is."""
    if isinstance(value, Scalar):
        return value
    if isinstance(value, (bool, int, float)):
        return Lit(value)
    raise TypeError(f"expected a Scalar, bool, int or float, got {type(value).__name__}")


def call(fn: str, *args: ScalarLike) -> Scalar:
    """Apply a function of FUNCTIONS, folding constants and neutral elements.

    Raises ExpressionError for an unknown function, a wrong number of arguments or literals of a wrong kind.
    """
    function = FUNCTIONS.get(fn)
    if function is None:
        raise ExpressionError(f"unknown function {fn!r}; allowed: {', '.join(sorted(FUNCTIONS))}")
    if len(args) != function.arity:
        raise ExpressionError(f"{fn} takes {function.arity} argument(s), got {len(args)}")
    scalars = tuple(as_scalar(arg) for arg in args)
    folded = _fold(function, scalars)
    if folded is not None:
        return folded
    simpler = _simplify(fn, scalars)
    return Call(fn, scalars) if simpler is None else simpler


def _fold(function: Function, args: tuple[Scalar, ...]) -> Lit | None:
    literals = [arg for arg in args if isinstance(arg, Lit)]
    if len(literals) < len(args) or (function.name == "to_int" and not math.isfinite(literals[0].value)):
        return None
    node = Call(function.name, args)
    kind_of(node, {})
    if function.name in ("floordiv", "mod") and literals[1].value == 0:
        raise ExpressionError(f"`{node}` divides by zero")
    with np.errstate(all="ignore"):
        value = function.numpy(*(literal.value for literal in literals))
    value = value.item() if isinstance(value, (np.ndarray, np.generic)) else value
    return None if isinstance(value, float) and math.isnan(value) else Lit(value)


def _simplify(fn: str, args: tuple[Scalar, ...]) -> Scalar | None:
    """An equal, smaller expression, or None. Only int neutral elements go: `x * 1.0` makes x a float."""
    if fn in ("add", "mul", "and", "or") and isinstance(args[0], Lit) and not isinstance(args[1], Lit):
        return call(fn, args[1], args[0])
    if fn == "mul":
        return args[0] if args[1] == Lit(1) else _merge_factors(args[0], args[1])
    if fn in ("add", "sub") and args[1] == Lit(0):
        return args[0]
    if fn in ("neg", "not") and isinstance(args[0], Call) and args[0].fn == fn:
        return args[0].args[0]
    if fn in ("and", "or") and args[1] in (_TRUE, _FALSE):
        return args[0] if args[1] == Lit(fn == "and") else args[1]
    if fn == "where" and args[0] in (_TRUE, _FALSE):
        return args[1] if args[0] == _TRUE else args[2]
    if fn == "where" and args[1] == args[2]:
        return args[1]
    return None


_TRUE, _FALSE = Lit(True), Lit(False)


def _merge_factors(left: Scalar, right: Scalar) -> Scalar | None:
    """`(x * a) * b` as `x * (a*b)` unless the product of the literals overflows or underflows."""
    if not (isinstance(left, Call) and left.fn == "mul"):
        return None
    inner = left.args[1]
    if not (isinstance(inner, Lit) and isinstance(right, Lit)) or {inner, right} & {_TRUE, _FALSE}:
        return None
    product = inner.value * right.value
    if product == 0 or not math.isfinite(product) or abs(product) >= 2**63:
        return None
    return call("mul", left.args[0], product)


def exp(x: ScalarLike) -> Scalar:
    return call("exp", x)


def exp2(x: ScalarLike) -> Scalar:
    return call("exp2", x)


def log(x: ScalarLike) -> Scalar:
    return call("log", x)


def log2(x: ScalarLike) -> Scalar:
    return call("log2", x)


def tanh(x: ScalarLike) -> Scalar:
    return call("tanh", x)


def minimum(a: ScalarLike, b: ScalarLike) -> Scalar:
    return call("min", a, b)


def maximum(a: ScalarLike, b: ScalarLike) -> Scalar:
    return call("max", a, b)


def where(condition: ScalarLike, a: ScalarLike, b: ScalarLike) -> Scalar:
    return call("where", condition, a, b)


def isinf(x: ScalarLike) -> Scalar:
    return call("isinf", x)


def isfinite(x: ScalarLike) -> Scalar:
    return call("isfinite", x)


def to_float(x: ScalarLike) -> Scalar:
    return call("to_float", x)


def to_int(x: ScalarLike) -> Scalar:
    """Truncates towards zero."""
    return call("to_int", x)


# --- walking --------------------------------------------------------------------------------------


def children(expr: Scalar) -> tuple[Scalar, ...]:
    """Arguments of a Call, indices of a Fetch, nothing for the other leaves."""
    if isinstance(expr, Call):
        return expr.args
    return expr.index if isinstance(expr, Fetch) else ()


def walk(expr: Scalar) -> Iterator[Scalar]:
    """Every distinct node once, children before parents."""
    seen: set[Scalar] = set()
    stack = [(expr, False)]
    while stack:
        node, expanded = stack.pop()
        if node in seen:
            continue
        if expanded:
            seen.add(node)
            yield node
            continue
        stack.append((node, True))
        stack.extend((child, False) for child in reversed(children(node)))


def coords(expr: Scalar) -> frozenset[str]:
    """Axes whose coordinate the expression reads."""
    return frozenset(node.axis for node in walk(expr) if isinstance(node, Coord))


def refs(expr: Scalar) -> frozenset[str]:
    """Names of earlier values the expression reads."""
    return frozenset(node.name for node in walk(expr) if isinstance(node, Ref))


def fetches(expr: Scalar) -> tuple[Fetch, ...]:
    """The distinct gathers of the expression, in order of evaluation."""
    return tuple(node for node in walk(expr) if isinstance(node, Fetch))


def substitute(expr: Scalar, mapping: Mapping[Scalar, Scalar]) -> Scalar:
    """Replace nodes by structure, outermost first; replacements are not visited again."""
    if expr in mapping:
        return mapping[expr]
    if isinstance(expr, Fetch):
        return Fetch(expr.tensor, tuple(substitute(item, mapping) for item in expr.index))
    if isinstance(expr, Call):
        return call(expr.fn, *(substitute(arg, mapping) for arg in expr.args))
    return expr


def kind_of(expr: Scalar, kinds: Mapping[str, str]) -> Kind:
    """Kind of the value, given the kinds of refs and fetched tensors by name.

    Raises ExpressionError where a function gets operands of a kind it does not take, or a name has no kind.
    """
    found: dict[Scalar, Kind] = {}
    for node in walk(expr):
        found[node] = _kind(node, kinds, tuple(found[child] for child in children(node)))
    return found[expr]


def _kind(node: Scalar, kinds: Mapping[str, str], below: tuple[Kind, ...]) -> Kind:
    if isinstance(node, Lit):
        return _NAME_KINDS[type(node.value).__name__]
    if isinstance(node, Coord):
        return "int"
    if isinstance(node, InDomain):
        return "bool"
    if isinstance(node, Call):
        function = FUNCTIONS[node.fn]
        kind = function.rule(below)
        if kind is None:
            raise ExpressionError(f"`{node}`: {SYMBOLS.get(node.fn, node.fn)} takes {function.accepts}, "
                                  f"got {' and '.join(below)}")
        return kind
    name = node.tensor if isinstance(node, Fetch) else getattr(node, "name", "")
    if isinstance(node, Fetch) and set(below) - {"int"}:
        raise ExpressionError(f"`{node}`: an index must be int, got {' and '.join(below)}")
    if kinds.get(name) not in _NAME_KINDS:
        known = ", ".join(sorted(kinds)) or "none"
        raise ExpressionError(f"`{node}`: {name!r} has no known kind; known names: {known}")
    return _NAME_KINDS[kinds[name]]


_NAME_KINDS: dict[str, Kind] = {"bool": "bool", "int": "int", "float": "float"}


def evaluate(
    expr: Scalar, leaf: Callable[[Scalar], Any], float_dtype: DTypeLike = np.float64
) -> np.ndarray[Any, np.dtype[Any]]:
    """Value of the expression with float arithmetic in `float_dtype` and int arithmetic in int64.

    `leaf` gives the value of a Coord, Ref, Fetch or InDomain as an array or number; arrays must broadcast.
    For a Fetch it evaluates the indices itself, by calling `evaluate` with the same `leaf`.
    """
    values: dict[Scalar, Any] = {}

    def computed(node: Scalar) -> Any:
        return FUNCTIONS[node.fn].numpy(*map(value_of, node.args)) if isinstance(node, Call) else leaf(node)

    def value_of(node: Scalar) -> Any:
        if isinstance(node, Lit):
            return node.value
        if node not in values:
            values[node] = _widened(computed(node), float_dtype)
        return values[node]

    with np.errstate(all="ignore"):
        return np.asarray(value_of(expr))


def _widened(raw: Any, float_dtype: DTypeLike) -> np.ndarray[Any, np.dtype[Any]]:
    array = np.asarray(raw)
    if array.dtype.kind == "b":
        return array
    return array.astype(np.int64 if array.dtype.kind in "iu" else float_dtype, copy=False)


# --- printing -------------------------------------------------------------------------------------


def _text(expr: Scalar) -> tuple[str, int]:
    """Text and binding strength of the outermost operator."""
    if isinstance(expr, Lit):
        return _literal(expr.value)
    if isinstance(expr, Coord):
        return f"@{expr.axis}", ATOM
    if isinstance(expr, Ref):
        return expr.name, ATOM
    if isinstance(expr, InDomain):
        return f"indomain({expr.axis})", ATOM
    if isinstance(expr, Fetch):
        return f"{expr.tensor}[{', '.join(map(str, expr.index))}]", ATOM
    assert isinstance(expr, Call)
    if expr.fn == "neg":
        return f"-{_bracket(expr.args[0], UNARY)}", UNARY
    if expr.fn == "not":
        return f"not {_bracket(expr.args[0], NOT)}", NOT
    if expr.fn not in INFIX:
        return f"{expr.fn}({', '.join(map(str, expr.args))})", ATOM
    symbol, strength = INFIX[expr.fn]
    left = _bracket(expr.args[0], strength + (strength == COMPARE))
    return f"{left} {symbol} {_bracket(expr.args[1], strength + 1)}", strength


def _bracket(expr: Scalar, least: int) -> str:
    text, strength = _text(expr)
    return text if strength >= least else f"({text})"


def _literal(value: bool | float) -> tuple[str, int]:
    if isinstance(value, bool):
        return str(value).lower(), ATOM
    return repr(value), UNARY if value < 0 else ATOM
