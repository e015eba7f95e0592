"""Counts and simulates the chosen schedule, on a part of the problem where the whole would take too long.

The part: one task of every scalar parallel axis (batch, head), then half as many tiles of the longest loop, and so on.
Every such part is a smaller problem of the same program, so its bound and its closed form are evaluated at its sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashc.errors import CompilerMissingError, UnsupportedError
from flashc.iomodel.bound import best
from flashc.iomodel.closed_form import level_traffic
from flashc.iomodel.simulate import Cache, belady, explicit, lru
from flashc.iomodel.trace import trace
from flashc.ir.analysis import sites
from flashc.ir.intexpr import Const, Sym
from flashc.ir.nodes import Load, Loop, Par, Program, Seq, Store
from flashc.report.case import Case
from flashc.report.facts import Simulated, TrafficRow

MOST_LINES = 20_000_000  # accesses to cache lines: some seconds of simulation
LINE = 64


def simulated(case: Case) -> Simulated:
    """Exact count, LRU and Belady with the fast memory; without a C++ compiler the exact count alone, of a program
    that has no trace neither."""
    sizes = part(case.program, case.sizes)
    fast = case.fast_bytes // LINE * LINE
    bound, rule = best(case.single, sizes, fast)
    counted = level_traffic(case.program)
    loads, stores = (counted.bytes(direction=way).evaluate(sizes) for way in ("read", "write"))
    rows = [
        TrafficRow("bound", "lower bound", bound.loads, bound.stores, bound.total, rule.rule),
        TrafficRow("chosen", "closed form", loads, stores, loads + stores),
    ]
    peak, missing = 0, ""
    try:
        exact = explicit(trace(case.program, sizes))
        peak = exact.peak
        rows.append(TrafficRow("simulated", "exact count", exact.loads, exact.stores, exact.total, "tile by tile"))
        rows += _cached(case, sizes, fast)
    except CompilerMissingError as error:
        missing = f"no cache simulation: {error}"
    except UnsupportedError as error:
        missing = f"no simulation: {error}"
    cut = tuple((n, sizes[n], case.sizes[n]) for n in case.program.sizes if sizes[n] != case.sizes[n])
    return Simulated(cut, fast, peak, tuple(rows), missing)


def _cached(case: Case, sizes: Mapping[str, Any], fast: int) -> list[TrafficRow]:
    touched = trace(case.program, sizes, detail="tiles")
    cache = Cache(fast, LINE)
    best_order, (recent,) = belady(touched, cache), lru(touched, [cache])
    fewest = "a cache that knows the future: fewest loads in this order"
    return [
        TrafficRow("simulated", "LRU", recent.loads, recent.stores, recent.total, "a cache of that size"),
        TrafficRow("simulated", "Belady", best_order.loads, best_order.stores, best_order.total, fewest),
    ]


def part(program: Program, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of the largest part that touches at most MOST_LINES lines."""
    sizes = dict(numbers)
    for loop in _loops(program):
        extent = program.axis(loop.axis).extent
        if loop.tile == Const(1) and isinstance(extent, Sym) and _lines(program, sizes) > MOST_LINES:
            sizes[extent.name] = min(1, sizes[extent.name])
    sizes |= _reached(program, sizes)
    while _lines(program, sizes) > MOST_LINES:
        tiles = {size: sizes[size] // tile for size, tile in _tiled(program, sizes).items()}
        longest = max(tiles, key=lambda size: tiles[size], default=None)
        if longest is None or tiles[longest] < 2:
            return sizes
        sizes[longest] = (sizes[longest] + 1) // 2
    return sizes


def _reached(program: Program, sizes: Mapping[str, Any]) -> dict[str, int]:
    """Sizes that no axis has, such as the key heads of grouped queries: as far as the tasks left reach."""
    extents = {str(a.extent) for a in program.axes}
    last = {a.name: a.extent - 1 for a in program.axes}
    found: dict[str, int] = {}
    for kernel in program.kernels:
        for site in sites(program, kernel):
            access = site.stmt.access if isinstance(site.stmt, Load | Store) else None
            for index, dim in zip(access.index, program.tensor(access.tensor).dims, strict=True) if access else ():
                if isinstance(dim, Sym) and dim.name not in extents:
                    found[dim.name] = index.subs(last).evaluate(sizes) + 1
    return found


def _lines(program: Program, sizes: Mapping[str, Any]) -> int:
    counted = level_traffic(program)
    return int(sum(counted.bytes(level).evaluate(sizes) for level in counted.levels())) // LINE


def _tiled(program: Program, sizes: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of tiled axes with the largest tile along them."""
    found: dict[str, int] = {}
    for loop in _loops(program):
        extent, tile = program.axis(loop.axis).extent, loop.tile.evaluate(sizes)
        if isinstance(extent, Sym) and loop.tile != Const(1):
            found[extent.name] = max(found.get(extent.name, 1), tile)
    return found


def _loops(program: Program) -> list[Loop]:
    found: list[Loop] = []
    for kernel in program.kernels:
        for site in sites(program, kernel):
            match site.stmt:
                case Par(loops=loops):
                    found += loops
                case Seq(loop=loop):
                    found.append(loop)
    return found
