"""Which coordinates a loop visits: the tile ranges that a ``Domain`` leaves, for numbers and for expressions alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from flashc.ir.intexpr import Const, IntExpr, ceil_div, imax, imin
from flashc.ir.nodes import Domain, Program, Seq


@dataclass(frozen=True, slots=True)
class Span:
    """Coordinates of one axis in scope: ``size`` of them from ``start``, ``extent`` in all; scalar if one by design."""

    start: IntExpr
    size: IntExpr
    extent: IntExpr
    scalar: bool = False

    @property
    def last(self) -> IntExpr:
        return imin(self.start + self.size, self.extent) - 1


Scope = Mapping[str, Span]


@dataclass(frozen=True, slots=True)
class TileRange:
    """Half-open coordinate ranges of a sequential loop: tiles start at ``first`` and end before ``stop``.

    Tiles from ``full_first`` up to ``full_stop`` (both multiples of the tile) hold kept pairs only.
    """

    first: IntExpr
    stop: IntExpr
    full_first: IntExpr
    full_stop: IntExpr


def whole(program: Program) -> dict[str, Span]:
    """Every axis present whole: the scope outside all loops."""
    return {a.name: Span(Const(0), a.extent, a.extent) for a in program.axes}


def row_free(bounds: Collection[IntExpr], scope: Scope) -> tuple[IntExpr, ...]:
    """The bounds that are the same for every row of the tile: those a load may use to stop early."""
    return tuple(b for b in bounds if not _tiled(b, scope))


def valid_end(loop: Seq, scope: Scope) -> IntExpr:
    """Where the coordinates of a loop end: at the extent, or at a bound that holds for every row (a length).

    The last tile is cut there: nothing beyond is loaded, multiplied or stored.
    """
    bounds = loop.domain.upper if loop.domain else ()
    return imin(scope[loop.loop.axis].extent, *row_free(bounds, scope))


def needed_end(loop: Seq, scope: Scope) -> IntExpr:
    """Beyond this no row of the tile keeps a coordinate: what executes single coordinates may stop here."""
    bounds = loop.domain.upper if loop.domain else ()
    return imin(scope[loop.loop.axis].extent, *(_at(b, scope, last=True) for b in bounds))


def _tiled(bound: IntExpr, scope: Scope) -> set[str]:
    return {s for s in bound.symbols() if s in scope and not scope[s].scalar}


def _at(bound: IntExpr, scope: Scope, last: bool) -> IntExpr:
    """The bound for the first or the last row of the tile; scalar axes stand for themselves."""
    rows = {s: scope[s].last if last else scope[s].start for s in _tiled(bound, scope)}
    return bound.subs(rows) if rows else bound


def tile_range(loop: Seq, scope: Scope) -> TileRange:
    """First and last tiles of a sequential loop, and the run of FULL tiles among them.

    Bounds do not fall as a tiled row coordinate grows, so the least restrictive row is the first one for lower bounds
    and the last one for upper bounds.
    """
    axis, tile = loop.loop.axis, loop.loop.tile
    extent = scope[axis].extent
    domain = loop.domain or Domain()
    zero = Const(0)
    low = imax(zero, *(_at(b, scope, last=False) for b in domain.lower))
    high = imin(extent, *(_at(b, scope, last=True) for b in domain.upper))
    full_low = imax(zero, *(_at(b, scope, last=True) for b in domain.lower))
    full_high = imin(extent, *(_at(b, scope, last=False) for b in domain.upper))
    first = low // tile * tile
    stop = imax(first, high)
    full_first = imax(first, imin(ceil_div(full_low, tile), ceil_div(stop, tile)) * tile) if domain.lower else first
    return TileRange(first, stop, full_first, imax(full_first, full_high // tile * tile))


def part_range(loop: Seq, scope: Scope) -> tuple[IntExpr, IntExpr]:
    """Start and end coordinates of the tiles that this loop visits, given its ``part`` and ``side``."""
    r = tile_range(loop, scope)
    if loop.part == "all":
        return r.first, r.stop
    if loop.part == "full":
        return r.full_first, r.full_stop
    if loop.side == "left":
        return r.first, imin(r.full_first, r.stop)
    return r.full_stop, r.stop


def enter(scope: Scope, axis: str, start: IntExpr, tile: IntExpr) -> dict[str, Span]:
    """The scope inside a loop over ``axis``."""
    extent = scope[axis].extent
    return {**scope, axis: Span(start, tile, extent, scalar=tile == Const(1))}
