"""The nodes of integer expressions: immutable, hashable, compared by structure.

:mod:`flashc.ir.intexpr` is the public face; it puts the simplifying constructors into ``CONSTRUCTORS``,
through which operators and substitution build. The node classes themselves do not simplify.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from flashc.errors import IRError
from flashc.ir.intarith import Arithmetic, Exact, Int64, Ints, V

NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
RESERVED = frozenset({"min", "max", "ceil", "sum", "in"})
IntLike = Union[int, "IntExpr"]
CONSTRUCTORS: dict[type[IntExpr], Callable[..., IntExpr]] = {}
"""The constructor of each operation, filled by :mod:`flashc.ir.intexpr`."""


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
        return CONSTRUCTORS[Add](self, other)

    def __radd__(self, other: IntLike) -> IntExpr:
        return CONSTRUCTORS[Add](other, self)

    def __sub__(self, other: IntLike) -> IntExpr:
        return CONSTRUCTORS[Add](self, CONSTRUCTORS[Mul](-1, other))

    def __rsub__(self, other: IntLike) -> IntExpr:
        return CONSTRUCTORS[Add](other, CONSTRUCTORS[Mul](-1, self))

    def __mul__(self, other: IntLike) -> IntExpr:
        return CONSTRUCTORS[Mul](self, other)

    def __rmul__(self, other: IntLike) -> IntExpr:
        return CONSTRUCTORS[Mul](other, self)

    def __floordiv__(self, other: IntLike) -> IntExpr:
        return CONSTRUCTORS[FloorDiv](self, other)

    def __rfloordiv__(self, other: IntLike) -> IntExpr:
        return CONSTRUCTORS[FloorDiv](other, self)

    def __mod__(self, other: IntLike) -> IntExpr:
        return CONSTRUCTORS[Mod](self, other)

    def __rmod__(self, other: IntLike) -> IntExpr:
        return CONSTRUCTORS[Mod](other, self)

    def __neg__(self) -> IntExpr:
        return CONSTRUCTORS[Mul](-1, self)


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
        return CONSTRUCTORS[Sum](self.var, *children)

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
        return CONSTRUCTORS[Sum](var, self.count.subs(mapping), body)

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


def _bracketed(expr: IntExpr, *kinds: type[IntExpr]) -> str:
    """The text of an operand, in brackets if it is one of ``kinds`` (``ceil`` brackets itself)."""
    loose = isinstance(expr, kinds) and not isinstance(expr, CeilDiv)
    return f"({expr})" if loose else str(expr)
