"""Immutable integer expressions: one type for tile sizes, bounds, constraints, traffic and objectives.

Build them with ``Sym("tile")``, the operators ``+ - * // %`` (ints on either side) and the constructors
below, which keep a canonical form: constants folded, sums and products flattened and sorted, like terms
collected. The node classes themselves do not simplify. Simplification keeps the value as long as divisors
are not zero, the count of a sum is not negative, and tiles and extents (``isum``) are positive.

    >>> n, t = Sym("n"), Sym("t")
    >>> str(isum("v", ceil_div(n, t), imin(t, n - Sym("v") * t)))
    'n'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Union

import numpy as np

from flashc.errors import IRError
from flashc.ir.intarith import Arithmetic, Exact, Int64, Ints, V

NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
RESERVED = frozenset({"min", "max", "ceil", "sum", "in"})
FOLD_LIMIT = 4096
"""Longest sum without free symbols that is replaced by its value."""
IntLike = Union[int, "IntExpr"]


class IntExpr:
    """Base of all nodes. Equality is structural; nodes are hashable."""

    __slots__ = ()

    def children(self) -> tuple[IntExpr, ...]:
        return ()

    def rebuild(self, children: tuple[IntExpr, ...]) -> IntExpr:
        """The same operation on other operands, simplified."""
        return CONSTRUCTORS[type(self)](*children) if children else self

    def value_in(self, ops: Arithmetic[V]) -> V:
        """The value under an arithmetic of :mod:`flashc.ir.intarith`."""
        raise NotImplementedError

    def evaluate(self, env: Mapping[str, Any]) -> int:
        """The exact value; ``env`` gives an int per symbol and an integer array per table.

        Raises IRError for a missing symbol, a division by zero, a bad index or a negative count.
        """
        return self.value_in(Exact(env))

    def evaluate_array(self, env: Mapping[str, Any]) -> Ints:
        """int64 values for all candidates at once, with the shape of the symbols' arrays broadcast together.

        ``env`` gives an int or an integer array per symbol and an integer array per table. Raises what
        ``evaluate`` raises, and IntegerOverflowError rather than wrap around.
        """
        return self.value_in(Int64(env))

    def to_sympy(self) -> Any:
        """A sympy expression; sums stay ``sympy.Sum``, table elements are ``sympy.Indexed``."""
        # Imported late: sympy takes half a second to import, and only reports need it.
        from flashc.ir.intsympy import to_sympy

        return to_sympy(self)

    def symbols(self) -> frozenset[str]:
        """Free symbols: without the variables of sums, without tables."""
        return frozenset().union(*(child.symbols() for child in self.children()))

    def tables(self) -> frozenset[str]:
        return frozenset().union(*(child.tables() for child in self.children()))

    def subs(self, mapping: Mapping[str, IntLike]) -> IntExpr:
        """Replace free symbols, and simplify. Variables of sums are renamed where they would capture."""
        if self.symbols().isdisjoint(mapping):
            return self
        return self.rebuild(tuple(child.subs(mapping) for child in self.children()))

    def __add__(self, other: IntLike) -> IntExpr:
        return add(self, other)

    def __radd__(self, other: IntLike) -> IntExpr:
        return add(other, self)

    def __sub__(self, other: IntLike) -> IntExpr:
        return add(self, mul(-1, other))

    def __rsub__(self, other: IntLike) -> IntExpr:
        return add(other, mul(-1, self))

    def __mul__(self, other: IntLike) -> IntExpr:
        return mul(self, other)

    def __rmul__(self, other: IntLike) -> IntExpr:
        return mul(other, self)

    def __floordiv__(self, other: IntLike) -> IntExpr:
        return floor_div(self, other)

    def __rfloordiv__(self, other: IntLike) -> IntExpr:
        return floor_div(other, self)

    def __mod__(self, other: IntLike) -> IntExpr:
        return mod(self, other)

    def __rmod__(self, other: IntLike) -> IntExpr:
        return mod(other, self)

    def __neg__(self) -> IntExpr:
        return mul(-1, self)


@dataclass(frozen=True, slots=True)
class Const(IntExpr):
    value: int

    def value_in(self, ops: Arithmetic[V]) -> V:
        return ops.const(self.value)

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Sym(IntExpr):
    name: str

    def __post_init__(self) -> None:
        check_name(self.name)

    def value_in(self, ops: Arithmetic[V]) -> V:
        return ops.symbol(self.name)

    def symbols(self) -> frozenset[str]:
        return frozenset({self.name})

    def subs(self, mapping: Mapping[str, IntLike]) -> IntExpr:
        return as_expr(mapping.get(self.name, self))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Nary(IntExpr):
    """An operation on any number of operands."""

    args: tuple[IntExpr, ...]

    def children(self) -> tuple[IntExpr, ...]:
        return self.args


@dataclass(frozen=True, slots=True)
class Quotient(IntExpr):
    """An operation on a numerator and a divisor."""

    num: IntExpr
    den: IntExpr

    def children(self) -> tuple[IntExpr, ...]:
        return (self.num, self.den)

    def infix(self, sign: str) -> str:
        num, den = _bracketed(self.num, Add, Quotient), _bracketed(self.den, Add, Mul, Quotient)
        return f"({num}) {sign} {den}" if num.startswith("-") else f"{num} {sign} {den}"


class Add(Nary):
    __slots__ = ()

    def value_in(self, ops: Arithmetic[V]) -> V:
        return ops.add([arg.value_in(ops) for arg in self.args])

    def __str__(self) -> str:
        first, *rest = (_bracketed(arg, Add) for arg in self.args)
        return first + "".join(f" - {text[1:]}" if text.startswith("-") else f" + {text}" for text in rest)


class Mul(Nary):
    __slots__ = ()

    def value_in(self, ops: Arithmetic[V]) -> V:
        return ops.mul([arg.value_in(ops) for arg in self.args])

    def __str__(self) -> str:
        first, rest = self.args[0], self.args[1:]
        if not (isinstance(first, Const) and rest):
            return " * ".join(_bracketed(arg, Add, Mul, Quotient) for arg in self.args)
        product = " * ".join(_bracketed(arg, Add, Mul, Quotient) for arg in rest)
        if isinstance(rest[0], Add) and len(rest) > 1:
            product = f"({product})"  # read from the left, the constant would be distributed over the sum
        return f"-{product}" if first == Const(-1) else f"{first} * {product}"


class FloorDiv(Quotient):
    __slots__ = ()

    def value_in(self, ops: Arithmetic[V]) -> V:
        return ops.floor_div(self.num.value_in(ops), self.den.value_in(ops))

    def __str__(self) -> str:
        return self.infix("//")


class CeilDiv(Quotient):
    __slots__ = ()

    def value_in(self, ops: Arithmetic[V]) -> V:
        negated = ops.mul([ops.const(-1), self.num.value_in(ops)])
        return ops.mul([ops.const(-1), ops.floor_div(negated, self.den.value_in(ops))])

    def __str__(self) -> str:
        return f"ceil({self.infix('/')})"


class Mod(Quotient):
    __slots__ = ()

    def value_in(self, ops: Arithmetic[V]) -> V:
        return ops.mod(self.num.value_in(ops), self.den.value_in(ops))

    def __str__(self) -> str:
        return self.infix("%")


class Min(Nary):
    __slots__ = ()

    def value_in(self, ops: Arithmetic[V]) -> V:
        return ops.minimum([arg.value_in(ops) for arg in self.args])

    def __str__(self) -> str:
        return f"min({', '.join(map(str, self.args))})"


class Max(Nary):
    __slots__ = ()

    def value_in(self, ops: Arithmetic[V]) -> V:
        return ops.maximum([arg.value_in(ops) for arg in self.args])

    def __str__(self) -> str:
        return f"max({', '.join(map(str, self.args))})"


@dataclass(frozen=True, slots=True)
class Sum(IntExpr):
    """The sum of ``body`` over ``var`` in range(count); ``var`` is bound in ``body``, not in ``count``."""

    var: str
    count: IntExpr
    body: IntExpr

    def __post_init__(self) -> None:
        check_name(self.var)

    def children(self) -> tuple[IntExpr, ...]:
        return (self.count, self.body)

    def rebuild(self, children: tuple[IntExpr, ...]) -> IntExpr:
        return isum(self.var, *children)

    def value_in(self, ops: Arithmetic[V]) -> V:
        return ops.sum(self)

    def symbols(self) -> frozenset[str]:
        return self.count.symbols() | (self.body.symbols() - {self.var})

    def subs(self, mapping: Mapping[str, IntLike]) -> IntExpr:
        free = self.body.symbols() - {self.var}
        inner = {name: as_expr(new) for name, new in mapping.items() if name in free}
        brought = free.union(*(new.symbols() for new in inner.values()))
        var = self.var
        while var in brought:
            var += "_"
        body = self.body.subs({**inner, self.var: Sym(var)})
        return isum(var, self.count.subs(mapping), body)

    def __str__(self) -> str:
        return f"sum({self.var} < {self.count}: {self.body})"


@dataclass(frozen=True, slots=True)
class Item(IntExpr):
    """Element of an integer table known at run time, such as ``kv_lengths[b]``."""

    table: str
    index: tuple[IntExpr, ...]

    def __post_init__(self) -> None:
        check_name(self.table)

    def children(self) -> tuple[IntExpr, ...]:
        return self.index

    def rebuild(self, children: tuple[IntExpr, ...]) -> IntExpr:
        return Item(self.table, children)

    def value_in(self, ops: Arithmetic[V]) -> V:
        return ops.item(self.table, [position.value_in(ops) for position in self.index])

    def tables(self) -> frozenset[str]:
        return frozenset({self.table}).union(*(position.tables() for position in self.index))

    def __str__(self) -> str:
        return f"{self.table}[{', '.join(map(str, self.index))}]"


def check_name(name: str) -> None:
    """Raise IRError unless ``name`` is an identifier, dots allowed, that the printed form can carry."""
    if NAME.fullmatch(name) is None or name in RESERVED:
        reserved = ", ".join(sorted(RESERVED))
        raise IRError(f"{name!r} is not a symbol name: use letters, digits, _ and dots, none of {reserved}")


def as_expr(value: IntLike) -> IntExpr:
    """An expression from an int (numpy integers too) or an expression. Raises TypeError for anything else."""
    if isinstance(value, IntExpr):
        return value
    if isinstance(value, (int, np.integer)):
        return Const(int(value))
    raise TypeError(f"expected an int or an IntExpr, got {type(value).__name__}")


def add(*terms: IntLike) -> IntExpr:
    """The sum of the terms, like terms collected, positive terms first, the constant last."""
    constant = 0
    coefficients: dict[IntExpr, int] = {}
    for term in _flat(Add, terms):
        coefficient, factors = _coefficient(term)
        if not factors:
            constant += coefficient
            continue
        rest = factors[0] if len(factors) == 1 else Mul(factors)
        coefficients[rest] = coefficients.get(rest, 0) + coefficient
    kept = [mul(coefficient, rest) for rest, coefficient in coefficients.items() if coefficient]
    kept.sort(key=lambda term: (_coefficient(term)[0] < 0, str(term)))
    if constant or not kept:
        kept.append(Const(constant))
    return kept[0] if len(kept) == 1 else Add(tuple(kept))


def mul(*factors: IntLike) -> IntExpr:
    """The product, constant first and the other factors sorted; a constant is distributed over a sum."""
    flat = list(_flat(Mul, factors))
    constant = prod(factor.value for factor in flat if isinstance(factor, Const))
    rest = sorted((factor for factor in flat if not isinstance(factor, Const)), key=str)
    if constant == 0 or not rest:
        return Const(constant)
    if len(rest) == 1 and constant == 1:
        return rest[0]
    if len(rest) == 1 and isinstance(rest[0], Add):
        return add(*(mul(constant, term) for term in rest[0].args))
    return Mul((*((Const(constant),) if constant != 1 else ()), *rest))


def floor_div(num: IntLike, den: IntLike) -> IntExpr:
    """num // den, as Python's. Raises IRError where ``den`` is the constant 0."""
    top, bottom = as_expr(num), as_expr(den)
    exact = _exact_quotient(top, bottom)
    if exact is not None:
        return exact
    if isinstance(top, Const) and isinstance(bottom, Const):
        return Const(top.value // bottom.value)
    return FloorDiv(top, bottom)


def ceil_div(num: IntLike, den: IntLike) -> IntExpr:
    """The least integer that is not below num / den. Raises IRError where ``den`` is the constant 0."""
    top, bottom = as_expr(num), as_expr(den)
    exact = _exact_quotient(top, bottom)
    if exact is not None:
        return exact
    if isinstance(top, Const) and isinstance(bottom, Const):
        return Const(-(-top.value // bottom.value))
    return CeilDiv(top, bottom)


def mod(num: IntLike, den: IntLike) -> IntExpr:
    """num % den, with the divisor's sign as Python's. Raises IRError where ``den`` is the constant 0."""
    top, bottom = as_expr(num), as_expr(den)
    if _exact_quotient(top, bottom) is not None:
        return Const(0)
    if isinstance(top, Const) and isinstance(bottom, Const):
        return Const(top.value % bottom.value)
    return Mod(top, bottom)


def imin(*args: IntLike) -> IntExpr:
    """The least of the arguments (at least one)."""
    rest, constants = _split_constants(_flat(Min, args))
    kept = (*rest, *((Const(min(constants)),) if constants else ()))
    return kept[0] if len(kept) == 1 else Min(kept)


def imax(*args: IntLike) -> IntExpr:
    """The greatest of the arguments (at least one)."""
    rest, constants = _split_constants(_flat(Max, args))
    kept = (*rest, *((Const(max(constants)),) if constants else ()))
    return kept[0] if len(kept) == 1 else Max(kept)


def isum(var: str, count: IntLike, body: IntLike) -> IntExpr:
    """The sum of ``body`` over ``var`` in range(count), in closed form where that is easy.

    Terms and factors free of ``var`` leave the sum, and tiles clipped at the end of an extent add up to what
    they cover: the sum of min(T, n - v*T) over v < c is min(c*T, n) for every c up to ceil(n / T).
    """
    n, term, position = as_expr(count), as_expr(body), Sym(var)
    if n == Const(0) or term == Const(0):
        return Const(0)
    if var not in term.symbols():
        return mul(n, term)
    if n == Const(1):
        return term.subs({var: 0})
    if isinstance(term, Add):
        return add(*(isum(var, n, part) for part in term.args))
    if isinstance(term, Mul) and any(var not in factor.symbols() for factor in term.args):
        free = [factor for factor in term.args if var not in factor.symbols()]
        return mul(*free, isum(var, n, mul(*(factor for factor in term.args if var in factor.symbols()))))
    if term == position:
        return floor_div(mul(n, add(n, -1)), 2)
    for extent, tile in _coverings(n):
        if var not in n.symbols() and term == imin(tile, extent - position * tile):
            return extent if n == ceil_div(extent, tile) else imin(n * tile, extent)
    whole = Sum(var, n, term)
    if isinstance(n, Const) and n.value <= FOLD_LIMIT and not whole.symbols() and not whole.tables():
        return Const(whole.evaluate({}))
    return whole


def _flat(kind: type[Nary], args: Iterable[IntLike]) -> Iterable[IntExpr]:
    for arg in map(as_expr, args):
        if isinstance(arg, kind):
            yield from _flat(kind, arg.args)
        else:
            yield arg


def _coefficient(term: IntExpr) -> tuple[int, tuple[IntExpr, ...]]:
    """The integer factor of a canonical term, and its other factors."""
    if isinstance(term, Const):
        return term.value, ()
    if not isinstance(term, Mul):
        return 1, (term,)
    if isinstance(term.args[0], Const):
        return term.args[0].value, term.args[1:]
    return 1, term.args


def _split_constants(args: Iterable[IntExpr]) -> tuple[list[IntExpr], list[int]]:
    distinct = sorted(set(args), key=str)
    rest = [arg for arg in distinct if not isinstance(arg, Const)]
    return rest, [arg.value for arg in distinct if isinstance(arg, Const)]


def _coverings(count: IntExpr) -> Iterable[tuple[IntExpr, IntExpr]]:
    """Pairs (extent, tile) of which ``count`` is plainly at most ceil(extent / tile)."""
    if isinstance(count, Min):
        for arg in count.args:
            yield from _coverings(arg)
    if isinstance(count, CeilDiv):
        extents = count.num.args if isinstance(count.num, Min) else (count.num,)
        yield from ((extent, count.den) for extent in extents)


def _exact_quotient(num: IntExpr, den: IntExpr) -> IntExpr | None:
    """num / den where it is plainly an integer expression: den divides each coefficient, or is a factor."""
    if den == Const(0):
        raise IRError(f"division by zero: ({num}) by 0")
    terms = num.args if isinstance(num, Add) else (num,)
    parts = []
    for term in terms:
        coefficient, factors = _coefficient(term)
        if isinstance(den, Const) and coefficient % den.value == 0:
            parts.append(mul(coefficient // den.value, *factors))
        elif den in factors:
            at = factors.index(den)
            parts.append(mul(coefficient, *factors[:at], *factors[at + 1 :]))
        else:
            return None
    return add(*parts)


def _bracketed(expr: IntExpr, *kinds: type[IntExpr]) -> str:
    """The text of an operand, in brackets if it is one of ``kinds`` (``ceil`` brackets itself)."""
    loose = isinstance(expr, kinds) and not isinstance(expr, CeilDiv)
    return f"({expr})" if loose else str(expr)


CONSTRUCTORS: dict[type[IntExpr], Callable[..., IntExpr]] = {
    Add: add, Mul: mul, FloorDiv: floor_div, CeilDiv: ceil_div, Mod: mod, Min: imin, Max: imax,
}  # fmt: skip
