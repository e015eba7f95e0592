"""Traffic against the size of fast memory: the bound, each schedule's best, and where which of them leads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from flashc.iomodel.bound import best
from flashc.iomodel.levels import Boundary, boundaries, core_boundary
from flashc.ir.nodes import Program
from flashc.report.case import Case
from flashc.report.facts import Curves, Mark, Series, Span
from flashc.report.schedules import all_schedules, least

STEPS_PER_DOUBLING = 4  # of the bound
DOUBLINGS_PER_STEP = 2  # of a schedule, which is solved for at every size
TIE = 1e-6
FLAT = 1.03  # a line that falls by less between two points is drawn straight
MARGIN = 4  # the axis reaches this factor beyond the smallest and the largest memory of the device


def curves(case: Case, progress: Callable[[str], None]) -> Curves:
    """Every line of the plot over the range of the device's memories."""
    inside = [b for b in boundaries(case.device) if b.outer.kind != "storage"]
    memories = sorted({b.worker_bytes for b in inside})
    grid = _grid(memories[0] / MARGIN, memories[-1] * MARGIN)
    bound = Series("lower bound", "bound", tuple((m, best(case.bounds, case.sizes, m)[0].total) for m in grid))
    coarse = grid[:: DOUBLINGS_PER_STEP * STEPS_PER_DOUBLING]
    sizes = sorted({*map(int, (*coarse, grid[-1])), *memories})
    schedules = tuple(s for s in _schedules(case, sizes, progress) if s.points)
    return Curves(
        (bound, *schedules),
        _spans(grid, _deciding(case, grid)),
        _leaders(schedules, grid),
        tuple(Mark(_mark(case, b), float(b.worker_bytes)) for b in inside),
        case.fast_bytes,
        float(case.tuning.best.traffic_bytes),
    )


def _grid(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
    return [2.0 ** (first + n / STEPS_PER_DOUBLING) for n in range((last - first) * STEPS_PER_DOUBLING + 1)]


def _schedules(case: Case, sizes: Sequence[int], progress: Callable[[str], None]) -> list[Series]:
    """Each schedule's least traffic, from the smallest memory that it can work in."""
    found = []
    for kind, program in all_schedules(case):
        progress(f"best tiles of {program.schedule} against the size of fast memory")

        def moved(size: int, program: Program = program) -> float:
            best_tiles = least(case, program, size)
            return math.inf if best_tiles is None else float(best_tiles.traffic)

        traced = sorted(_traced(sizes, moved).items())
        found.append(Series(program.schedule, kind, tuple((float(x), y) for x, y in traced if y < math.inf)))
    return found


def _traced(sizes: Sequence[int], moved: Callable[[int], float]) -> dict[int, float]:
    """A falling function at both ends and, where those differ, in between: where it is flat two points draw it."""
    values = {size: moved(size) for size in (sizes[0], sizes[-1])}

    def between(low: int, high: int) -> None:
        start, end = values[sizes[low]], values[sizes[high]]
        if high - low < 2 or start <= end * FLAT:
            return
        middle = (low + high) // 2
        values[sizes[middle]] = moved(sizes[middle])
        between(low, middle)
        between(middle, high)

    between(0, len(sizes) - 1)
    return values


def _leaders(schedules: Sequence[Series], grid: Sequence[float]) -> tuple[Span, ...]:
    """Which schedule's line is lowest; of equal ones the one that led before."""
    names: list[str] = []
    known: list[float] = []
    for size in grid:
        read = ((s.name, _read(s.points, size)) for s in schedules)
        moved = {name: value for name, value in read if value is not None}
        if moved:
            names.append(_first(moved, min(moved.values()) * (1 + TIE), names, lambda a, b: a <= b))
            known.append(size)
    return _spans(known, names) if known else ()


def _read(points: Sequence[tuple[float, float]], x: float) -> float | None:
    """The line's height at ``x``, straight on logarithmic axes between its points; None before its first one."""
    for (left, above), (right, below) in itertools.pairwise(points):
        if left <= x <= right:
            share = math.log(x / left) / math.log(right / left)
            return math.exp((1 - share) * math.log(above) + share * math.log(below))
    return points[-1][1] if x >= points[-1][0] else None


def _deciding(case: Case, grid: Sequence[float]) -> list[str]:
    """The rule that gives the bound at each M; of equal ones the one that gave it before."""
    names: list[str] = []
    for m in grid:
        totals = {b.rule: b.at(case.sizes, m).total for b in case.bounds}
        names.append(_first(totals, max(totals.values()) * (1 - TIE), names, lambda a, b: a >= b))
    return names


def _first(
    values: dict[str, float], limit: float, before: Sequence[str], meets: Callable[[float, float], bool]
) -> str:
    top = [name for name, value in values.items() if meets(value, limit)]
    return before[-1] if before and before[-1] in top else top[-1]


def _spans(grid: Sequence[float], names: Sequence[str]) -> tuple[Span, ...]:
    """Stretches of one name; each ends where the next begins."""
    runs = [list(run) for _, run in itertools.groupby(zip(grid, names, strict=True), key=lambda p: p[1])]
    ends = [run[0][0] for run in runs[1:]] + [grid[-1]]
    return tuple(Span(run[0][1], run[0][0], end) for run, end in zip(runs, ends, strict=True))


def _mark(case: Case, boundary: Boundary) -> str:
    """What a vertical line of the plot stands for: one memory of the boundary with all that it contains."""
    if boundary == core_boundary(case.device):
        return "one core"
    name = " + ".join(level.label for level in boundary.inner)
    if boundary.private:
        return f"{name} of one core"
    cores = case.device.cores // boundary.workers
    return f"{name} and {cores} cores"
