"""Bounds at every boundary of a device: between each memory and everything inside it, down to one core.

    ssd | dram | L2 | one SM: shared memory and registers          capacities add up from the inside

Across a boundary no schedule moves less than the bound at M = all memory inside (Hong & Kung 1981, for each level at
once). Where P workers, each with its own M_s, meet only in the outer memory, each of them cuts its own transfers into
blocks, and a block of X items does at most chi(X) work whoever runs it. So the shares add up to the bound at M_s: P
drops out, and P small memories are worth no more than one of them. Weights that stay from step to step are no such
block: all P memories count for them (``bounds.for_workers``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flashc.hwmodels.model import Device, Level
from flashc.iomodel.bound import Env, LowerBound, Moved, best, warm
from flashc.iomodel.bounds import for_workers
from flashc.ir.analysis import sites
from flashc.ir.footprint import values_of
from flashc.ir.intexpr import IntExpr, Sym
from flashc.ir.nodes import Access, Load, Program, Store
from flashc.ir.ranges import Scope


@dataclass(frozen=True, slots=True)
class Boundary:
    """Between ``outer`` and ``workers`` equal memories inside it, each of ``worker_bytes`` with all that it contains.

    ``inner``: the levels right inside; a core's scratchpads and registers lie side by side and count as one.
    """

    outer: Level
    inner: tuple[Level, ...]
    workers: int
    worker_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.workers * self.worker_bytes

    @property
    def private(self) -> bool:
        """Everything inside belongs to one core."""
        return all(level.per == "core" for level in self.inner)


@dataclass(frozen=True, slots=True)
class LevelBound:
    """What must cross a boundary, in bytes.

    ``moved``: workers exchange data through the outer memory only; ``joined``: even if all memory inside were one;
    ``warm``: as ``moved``, starting with all memory inside full of what it likes. ``seconds``: ``moved.total`` over
    the outer level's bandwidth, None where that is unknown.
    """

    boundary: Boundary
    moved: Moved
    rule: str
    joined: Moved
    warm: Moved
    seconds: float | None


def boundaries(device: Device) -> tuple[Boundary, ...]:
    """Outermost first; a boundary is left out where a capacity inside is unknown."""
    groups = _side_by_side(device.levels)
    found = []
    for at in range(1, len(groups)):
        inside = [level for group in groups[at:] for level in group]
        if any(level.capacity_bytes is None for level in inside):
            continue
        workers = min(level.instances for level in groups[at])
        total = sum((level.capacity_bytes or 0) * level.instances for level in inside)
        found.append(Boundary(groups[at - 1][0], tuple(groups[at]), workers, total // workers))
    return tuple(found)


def core_boundary(device: Device) -> Boundary:
    """Between the memory that cores share and one core."""
    return next(b for b in boundaries(device) if b.private)


def crossed(device: Device, placed: Program) -> Boundary | None:
    """The boundary that a placed program's loads and stores cross: around one core, or around the outermost cache
    that cores share in which it keeps a tile. None where the size of a memory inside is unknown."""
    kept = {v.level for kernel in placed.kernels for v, _, _ in values_of(placed, kernel).values()}
    shared = next((level for level in device.levels if level.per != "core" and level.name in kept), None)
    return next((b for b in boundaries(device) if (shared in b.inner if shared else b.private)), None)


def _side_by_side(levels: Sequence[Level]) -> list[list[Level]]:
    """Caches and shared memories enclose what follows them; a core's explicit memories stand beside each other."""
    groups: list[list[Level]] = []
    for level in levels:
        beside = groups and all(_scratch(x) for x in (level, groups[-1][-1]))
        if beside:
            groups[-1].append(level)
        else:
            groups.append([level])
    return groups


def _scratch(level: Level) -> bool:
    return level.per == "core" and level.kind != "cache"


def level_bounds(bounds: Sequence[LowerBound], sizes: Env, device: Device) -> tuple[LevelBound, ...]:
    """The best bound at every boundary of the device, outermost first; ``bounds`` of the operator's statements."""
    return tuple(_at(boundary, bounds, sizes) for boundary in boundaries(device))


def _at(boundary: Boundary, bounds: Sequence[LowerBound], sizes: Env) -> LevelBound:
    moved, rule = best(for_workers(bounds, boundary.workers), sizes, boundary.worker_bytes)
    joined, _ = best(bounds, sizes, boundary.total_bytes)
    rate = boundary.outer.bandwidth_gbs
    seconds = None if rate is None else moved.total / (rate * 1e9)
    return LevelBound(boundary, moved, rule.rule, joined, warm(moved, boundary.total_bytes), seconds)


# -- storage


def contiguous_bytes(program: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """Bytes in one piece that each tensor is read or written in, by the tile program's smallest access to it.

    Dimensions taken whole run on into the one before them; the first that is taken in part ends the run.
    """
    found: dict[str, int] = {}
    for kernel in program.kernels:
        for site in sites(program, kernel):
            if isinstance(site.stmt, Load | Store):
                name = site.stmt.access.tensor
                run = _run(program, site.stmt.access, site.scope, sizes) * program.tensor(name).dtype.bytes
                found[name] = min(run, found.get(name, run))
    return found


def _run(program: Program, access: Access, scope: Scope, sizes: Mapping[str, int]) -> int:
    run = 1
    for index, dim in zip(reversed(access.index), reversed(program.tensor(access.tensor).dims), strict=True):
        extent = dim.evaluate(sizes)
        taken = _taken(index, scope, sizes)
        run *= min(taken, extent)
        if taken < extent:
            break
    return run


def _taken(index: IntExpr, scope: Scope, sizes: Mapping[str, int]) -> int:
    """Consecutive coordinates of one dimension: the axis' tile where it is a bare axis, else a single one."""
    if not (isinstance(index, Sym) and index.name in scope) or scope[index.name].scalar:
        return 1
    return scope[index.name].size.evaluate({**sizes, index.name: 0})


def storage_seconds(disk: Level, moved: Mapping[str, float], runs: Mapping[str, int]) -> float:
    """Time on a disk for the bytes of each tensor in requests of its contiguous run, at most a whole tensor."""
    seconds = 0.0
    for name, count in moved.items():
        rate = disk.throughput_gbs(runs[name]) or math.inf
        seconds += count / (rate * 1e9)
    return seconds
