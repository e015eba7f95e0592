"""Sizes that bounds are stated in, read off a tile program: distinct elements touched, and kept pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flashc.ir.analysis import expressions, sites
from flashc.ir.intexpr import Const, IntExpr, Sym, imax, imin, isum
from flashc.ir.nodes import Domain, Load, Par, Program, Seq, Stmt, Store
from flashc.ir.scalar import Coord, fetches

ZERO: IntExpr = Const(0)


@dataclass(frozen=True, slots=True)
class Region:
    """The kept part of the (row axis x column axis) plane of a loop: its domain and the axes around it."""

    axis: str
    domain: Domain
    outer: tuple[str, ...]


def region(program: Program) -> Region | None:
    """The first sequential loop with a domain, if the program has one."""
    for kernel in program.kernels:
        for site in sites(program, kernel):
            if isinstance(site.stmt, Seq) and site.stmt.domain is not None:
                return Region(site.stmt.loop.axis, site.stmt.domain, tuple(t.axis for t in site.trips))
    return None


def _bounds(program: Program, found: Region, row: IntExpr | None, first_row: bool) -> tuple[IntExpr, IntExpr]:
    rows = _row_axes(program, found)
    extent = program.axis(found.axis).extent

    def at(bound: IntExpr, last: bool) -> IntExpr:
        value = {r: row if row is not None else (program.axis(r).extent - 1 if last else Const(0)) for r in rows}
        return bound.subs(value)

    low = imax(ZERO, *(at(b, last=not first_row) for b in found.domain.lower))
    high = imin(extent, *(at(b, last=first_row) for b in found.domain.upper))
    return low, high


def _row_axes(program: Program, found: Region) -> set[str]:
    names = {a.name for a in program.axes}
    used = {s for b in (*found.domain.lower, *found.domain.upper) for s in b.symbols()}
    return (used & names) - _scalar_axes(program)


def _scalar_axes(program: Program) -> set[str]:
    loops = [x for k in program.kernels for s in k.body if isinstance(s, Par) for x in s.loops]
    return {x.axis for x in loops if x.tile == Const(1)}


def kept_pairs(program: Program) -> IntExpr:
    """Pairs (row, column) inside the domain over all scalar axes: |E| of the bounds times batch and heads."""
    found = region(program)
    if found is None:
        return ZERO
    each = isum("row", program.axis(_row_axis(program, found)).extent, _kept_in_row(program, found))
    return _over_scalars(program, each)


def _row_axis(program: Program, found: Region) -> str:
    return (sorted(_row_axes(program, found)) or [a for a in found.outer if a not in _scalar_axes(program)])[0]


def _kept_in_row(program: Program, found: Region) -> IntExpr:
    """Columns that the row ``row`` keeps."""
    low, high = _bounds(program, found, Sym("row"), first_row=True)
    return imax(high - low, ZERO)


def needed_rows(program: Program, found: Region) -> IntExpr:
    """Rows that keep a column, for given scalar coordinates: the others are never multiplied."""
    extent = program.axis(_row_axis(program, found)).extent
    if not found.domain.lower and not found.domain.upper:
        return extent
    return isum("row", extent, imin(1, _kept_in_row(program, found)))


def _over_scalars(program: Program, each: IntExpr) -> IntExpr:
    for axis in sorted(_scalar_axes(program)):
        extent = program.axis(axis).extent
        each = isum(axis, extent, each) if axis in each.symbols() else each * extent
    return each


def covered_columns(program: Program, found: Region) -> IntExpr:
    """Columns that at least one row keeps, for given scalar coordinates."""
    low, high = _bounds(program, found, None, first_row=True)
    return imax(high - low, ZERO)


def distinct_elements(program: Program) -> dict[str, IntExpr]:
    """Elements of every input that must be read, and of every output that must be written, at least once.

    Captured tensors read inside expressions count where they are indexed by plain coordinates; a mask or an index that
    is computed makes their count unknown, and they are left out, which keeps the bound a bound.
    """
    found = region(program)
    result: dict[str, IntExpr] = {}
    for stmt in _statements(program):
        if not isinstance(stmt, Load | Store):
            continue
        tensor = program.tensor(stmt.access.tensor)
        if tensor.role == "temp":
            continue
        result[tensor.name] = _elements(program, tensor.dims, stmt.access.index, found, isinstance(stmt, Load))
    for name, count in _captured(program, found):
        result.setdefault(name, count)
    return result


def _elements(
    program: Program, dims: Sequence[IntExpr], index: Sequence[IntExpr], found: Region | None, read: bool = False
) -> IntExpr:
    """A row that keeps nothing is not read, but its result is written."""
    total: IntExpr = Const(1)
    summed: list[str] = []
    for dim, expr in zip(dims, index, strict=True):
        factor = dim
        if found is not None and expr == Sym(found.axis):
            factor = covered_columns(program, found)
        elif found is not None and read and expr == Sym(_row_axis(program, found)):
            factor = needed_rows(program, found)
        summed += factor.symbols() & _scalar_axes(program)
        total = total * factor
    for axis in summed:
        total = isum(axis, program.axis(axis).extent, total) // program.axis(axis).extent
    return total


def _captured(program: Program, found: Region | None) -> Iterator[tuple[str, IntExpr]]:
    everything = [n for s in _statements(program) for e in expressions(s) for n in fetches(e)]
    masked = any(program.tensor(n.tensor).dtype.kind == "bool" for n in everything)
    for node in everything:
        plain = all(isinstance(x, Coord) for x in node.index)
        tensor = program.tensor(node.tensor)
        if plain and not masked and tensor.dtype.kind == "float" and found is None:
            yield (
                tensor.name,
                _elements(program, tensor.dims, [Sym(x.axis) for x in node.index if isinstance(x, Coord)], None),
            )


def _statements(program: Program) -> Iterator[Stmt]:
    for kernel in program.kernels:
        for site in sites(program, kernel):
            yield site.stmt
