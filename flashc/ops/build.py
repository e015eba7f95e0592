"""Short constructors for tile programs, so that a schedule reads like the algorithm it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flashc.ir.intexpr import Const, IntExpr, Sym, as_expr
from flashc.ir.nodes import Access, Carry, Dot, Load, Loop, Map, Reduce, Stmt, Store
from flashc.ir.scalar import Lit, Ref, Scalar
from flashc.ir.types import F32, DType, Value

Index = Sequence[IntExpr | str | int]
ONE = Const(1)


def syms(names: str) -> tuple[Sym, ...]:
    return tuple(Sym(n) for n in names.split())


def access(tensor: str, index: Index) -> Access:
    return Access(tensor, tuple(Sym(x) if isinstance(x, str) else as_expr(x) for x in index))


def load(name: str, axes: str, dtype: DType, tensor: str, index: Index) -> Load:
    return Load(Value(name, tuple(axes), dtype), access(tensor, index))


def store(tensor: str, index: Index, value: str) -> Store:
    return Store(access(tensor, index), value)


def accumulate(tensor: str, index: Index, value: str) -> Store:
    return Store(access(tensor, index), value, accumulate=True)


def dot(
    name: str, axes: str, a: str, b: str, over: str, init: Scalar | None = None, *, zero_skips: bool = False
) -> Dot:
    return Dot(Value(name, tuple(axes), F32), a, b, tuple(over), init, zero_skips)


def elementwise(name: str, axes: str, expr: Scalar, dtype: DType = F32) -> Map:
    return Map(Value(name, tuple(axes), dtype), expr)


def reduce(name: str, axes: str, op: Literal["max", "sum", "min"], source: str, over: str) -> Reduce:
    return Reduce(Value(name, tuple(axes), F32), op, source, over)


def carry(name: str, axes: str, init: float, after: str) -> Carry:
    return Carry(Value(name, tuple(axes), F32), Lit(init), after)


def over(axis: str, tile: IntExpr | int) -> Loop:
    """A sequential loop."""
    return Loop(axis, as_expr(tile))


def loops(*pairs: tuple[str, IntExpr | int]) -> tuple[Loop, ...]:
    """Parallel loops: one task per combination of tiles."""
    return tuple(Loop(axis, as_expr(tile), "grid") for axis, tile in pairs)


def cast(name: str, axes: str, source: str, dtype: DType) -> tuple[Stmt, ...]:
    """Round ``source`` to ``dtype``; callers skip it where nothing changes."""
    return (Map(Value(name, tuple(axes), dtype), Ref(source)),)
