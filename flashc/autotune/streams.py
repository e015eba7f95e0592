"""How a kernel's loads follow each other in memory, as a CPU's prefetchers and caches see them."""

from __future__ import annotations

from collections.abc import Iterator

from flashc.autotune.counts import Walked
from flashc.autotune.rates import ZERO, total
from flashc.ir.analysis import Site, tiled_in
from flashc.ir.footprint import tile_elements
from flashc.ir.intexpr import Const, IntExpr, imax, imin
from flashc.ir.nodes import Load, Seq, tiled_axis


def jumps(k: Walked) -> IntExpr:
    """How often a load goes on somewhere else: the contiguous runs of its tile after the first, over all executions."""
    loads = (site for site in k.sites if isinstance(site.stmt, Load))
    return total(site.count(axes) - site.count(()) for site in loads if (axes := _between_runs(k, site)))


def _between_runs(k: Walked, site: Site) -> tuple[str, ...]:
    """The tiled axes that step from one contiguous run to the next: those before the last dimension taken in part."""
    assert isinstance(site.stmt, Load)
    access, broken = site.stmt.access, False
    found = []
    dims = k.program.tensor(access.tensor).dims
    for index, dim in zip(reversed(access.index), reversed(dims), strict=True):
        axis = tiled_axis(index, tiled_in(site.scope))
        if broken and axis is not None:
            found.append(axis)
        broken = broken or (site.scope[axis].size if axis is not None else Const(1)) != dim
    return tuple(found)


def ahead_again(k: Walked, first: int) -> IntExpr:
    """Bytes that a loop loads ahead and reads from the second cache: of tiles that wait, what ``first`` bytes of the
    innermost one do not hold."""
    return total(_beyond(site, stages, first) for site, stages in _ahead(k))


def _ahead(k: Walked) -> Iterator[tuple[Site, IntExpr]]:
    """Loads of loops with buffers ahead, and the loop's stages."""
    stages = {id(stmt): s.stmt.stages for s in k.sites if isinstance(s.stmt, Seq) for stmt in s.stmt.body}
    for site in k.sites:
        if isinstance(site.stmt, Load) and stages.get(id(site.stmt), Const(1)) != Const(1):
            yield site, stages[id(site.stmt)]


def _beyond(site: Site, stages: IntExpr, first: int) -> IntExpr:
    assert isinstance(site.stmt, Load)
    value = site.stmt.out
    ring = tile_elements(value, site.scope) * value.dtype.bytes * stages
    moved = site.count(value.axes) * value.dtype.bytes
    again = moved // imax(ring, Const(1)) * imax(ZERO, ring - first)
    return again * imin(Const(1), stages - 1)
