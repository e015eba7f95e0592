"""How a workload scales with one of its keys: tuned and bounded anew at sizes that double."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from flashc.compiler.tune import tune
from flashc.compiler.workload import Workload
from flashc.errors import InfeasibleError, IntegerOverflowError, WorkloadError
from flashc.hwmodels.model import Device
from flashc.iomodel.bound import best
from flashc.report.case import case_of
from flashc.report.facts import Sweep, SweepPoint
from flashc.report.gather import least_seconds

MOST = 40
_SCALES = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_RANGE = re.compile(r"(?P<key>[A-Za-z_][\w.]*)=(?P<low>\d+)(?P<a>[kMG]?):(?P<high>\d+)(?P<b>[kMG]?)")


@dataclass(frozen=True)
class Range:
    """``key`` from ``low`` to ``high``; k, M and G are powers of 1024, as lengths are."""

    key: str
    low: int
    high: int

    def values(self) -> tuple[int, ...]:
        """Doubling from ``low``; ``high`` is always the last one."""
        found = [self.low]
        while found[-1] * 2 < self.high:
            found.append(found[-1] * 2)
        return tuple(dict.fromkeys((*found, self.high)))


def parse_range(text: str) -> Range:
    """`seq=1k:1M`. Raises ValueError saying what is wrong, what is allowed and an example."""
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r}: write KEY=FROM:TO with whole numbers, k, M or G after them, as in `seq=1k:1M`")
    low, high = int(found["low"]) * _SCALES[found["a"]], int(found["high"]) * _SCALES[found["b"]]
    if not 1 <= low <= high:
        raise ValueError(f"{text!r}: from {low} to {high}; FROM must be at least 1 and at most TO")
    return Range(found["key"], low, high)


def sweep(
    workload: Workload, device: Device, over: Range, *, backend: str | None, progress: Callable[[str], None]
) -> Sweep:
    """One point per size; a size that no tiling fits is named with its reason. Raises WorkloadError for a bad key."""
    points: list[SweepPoint] = []
    skipped: list[tuple[int, str]] = []
    for value in over.values():
        progress(f"{over.key} = {value}")
        try:
            points.append(_point(workload, device, over.key, value, backend))
        except WorkloadError as error:
            raise WorkloadError(f"--sweep {over.key}={over.low}:{over.high}, at {value}: {error}") from error
        except (InfeasibleError, IntegerOverflowError) as error:
            skipped.append((value, str(error).splitlines()[0]))
    if not points:
        raise InfeasibleError(f"--sweep {over.key}={over.low}:{over.high}: no size can be tuned; {skipped[0][1]}")
    return Sweep(over.key, tuple(points), tuple(skipped))


def _point(workload: Workload, device: Device, key: str, value: int, backend: str | None) -> SweepPoint:
    case = case_of(tune(workload.with_overrides({key: value}), device, backend=backend))
    chosen = case.tuning.best
    moved, _ = best(case.bounds, case.sizes, case.fast_bytes)
    return SweepPoint(
        value,
        moved.total,
        float(chosen.traffic_bytes),
        chosen.picoseconds * 1e-12,
        least_seconds(case),
        chosen.schedule,
        dict(chosen.tiles),
    )
