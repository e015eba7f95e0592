"""Timing: runs in interleaved rounds under a stopwatch, so that whatever disturbs one disturbs all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flashc.hwmodels.model import Device

Run = Callable[[], Any]
Stopwatch = Callable[[Run], float]
"""Seconds that one run takes."""
Clock = Callable[[], float]
Key = TypeVar("Key")

LEAST_ROUNDS = 3
FLUSH_BYTES = 1 << 30  # many times any cache of a GPU; 0.2 ms of writes on an H200, more than a launch takes


def wall(run: Run) -> float:
    """Seconds of one run on the host's clock."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Filled:
    """The mean of as many runs as fill ``seconds``, for runs too short for one reading of the clock."""

    seconds: float

    def __call__(self, run: Run) -> float:
        count = max(1, int(self.seconds / wall(run)))
        began = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - began) / count


class CudaEvents:
    """Seconds between two events around one run on PyTorch's current stream, the caches cold.

    A buffer larger than any cache is written first: it evicts the operands, and while the GPU writes it the host
    queues the run, whose launch from Python therefore does not count.
    """

    def __init__(self) -> None:
        import torch

        self.buffer = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self.began, self.ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, run: Run) -> float:
        self.buffer.zero_()
        self.began.record()
        run()
        self.ended.record()
        self.ended.synchronize()
        return float(self.began.elapsed_time(self.ended)) * 1e-3


def stopwatch_for(device: Device) -> Stopwatch:
    """What fits the device: events on a GPU, the host's clock elsewhere."""
    return CudaEvents() if device.kind == "gpu" else wall


def warmed(runs: Mapping[str, Run]) -> tuple[dict[str, Run], dict[str, str]]:
    """Every run once: those that can be timed, and of the others (a forced library without a kernel) why not."""
    ready: dict[str, Run] = {}
    refused: dict[str, str] = {}
    for name, run in runs.items():
        try:
            run()
        except RuntimeError as problem:
            refused[name] = str(problem).strip().splitlines()[0]
        else:
            ready[name] = run
    return ready, refused


def interleaved(
    runs: Mapping[Key, Run],
    rounds: int,
    stopwatch: Stopwatch,
    *,
    within: float = math.inf,
    clock: Clock = time.monotonic,
) -> dict[Key, list[float]]:
    """``rounds`` times of each run, taken in turn; after ``within`` seconds no round begins, but three at least do."""
    deadline = clock() + within
    times: dict[Key, list[float]] = {key: [] for key in runs}
    for done in range(rounds):
        if done >= LEAST_ROUNDS and clock() >= deadline:
            break
        for key, run in runs.items():
            times[key].append(stopwatch(run))
    return times
