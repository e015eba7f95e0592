"""Axes that share one dimension of a block.

Triton's dots are products of two matrices of at least 16 rows and columns. Where a dot's result has several axes on
one side, their tiles lie one behind the other along one dimension of every block of the kernel, the last axis
fastest. Each axis keeps its own coordinates and mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flashc.autotune.problem import Constraint
from flashc.errors import UnsupportedError
from flashc.ir.analysis import sites
from flashc.ir.footprint import values_of
from flashc.ir.intexpr import Const, IntExpr
from flashc.ir.nodes import Dot, Kernel, Program
from flashc.ir.types import Value

SMALLEST = 16  # rows and columns of a dot

Sides = tuple[tuple[str, ...], ...]


def merged_axes(program: Program, kernel: Kernel) -> dict[str, tuple[str, ...]]:
    """For every axis that shares a dimension all axes of that dimension.

    Raises UnsupportedError where two dots of the kernel want an axis in different company.
    """
    found: dict[str, tuple[str, ...]] = {}
    for side in (s for dot, values in _dots(program, kernel) for s in sides(dot, values) if len(s) > 1):
        for axis in side:
            if found.setdefault(axis, side) != side:
                raise UnsupportedError(
                    f"triton: kernel {kernel.name} multiplies rows along {' and '.join(found[axis])} and rows along "
                    f"{' and '.join(side)}; an axis lies in one dimension of all blocks"
                )
    return found


def sides(dot: Dot, values: Mapping[str, Value]) -> Sides:
    """The axes of a dot's result that come from its operand ``a``, from ``b``, and from both."""
    a, b = values[dot.a].axes, values[dot.b].axes
    rows = tuple(x for x in dot.out.axes if x in a and x not in b)
    columns = tuple(x for x in dot.out.axes if x in b and x not in a)
    return rows, columns, tuple(x for x in dot.out.axes if x in a and x in b)


def dimensions(axes: Sequence[str], merged: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """The dimensions of a block over ``axes``; one that several axes share is there as soon as one of them is."""
    return tuple(dict.fromkeys(merged.get(a, (a,)) for a in axes))


def constraints(placed: Program) -> Iterator[Constraint]:
    """That a dot's operands share no axis of its result, and that axes in one dimension make rows enough together."""
    for kernel in placed.kernels:
        dots = [(dot, sides(dot, values)) for dot, values in _dots(placed, kernel)]
        shared = max((len(batch) for _, (_, _, batch) in dots), default=0)
        if shared:
            yield Constraint(
                f"triton.dot_axes.{kernel.name}", Const(shared), "<=", Const(0), "axes",
                "a schedule whose dots are products of two matrices",
            )
        scopes = {name: scope for name, (_, scope, _) in values_of(placed, kernel).items()}
        merged = {s: scopes[dot.out.name] for dot, (rows, columns, _) in dots for s in (rows, columns) if len(s) > 1}
        for side, scope in merged.items():
            rows: IntExpr = Const(1)
            for axis in side:
                rows = rows * scope[axis].size
            yield Constraint(
                f"triton.dot_rows.{kernel.name}", Const(SMALLEST), "<=", rows, "rows",
                f"raise the tiles of {' and '.join(side)}",
            )


def _dots(program: Program, kernel: Kernel) -> Iterator[tuple[Dot, Mapping[str, Value]]]:
    values = {name: value for name, (value, _, _) in values_of(program, kernel).items()}
    for site in sites(program, kernel):
        if isinstance(site.stmt, Dot):
            yield site.stmt, values
