"""Small suites, and tools with a clock and a stopwatch of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flashc.compiler.bench import Rates
from flashc.compiler.suite import Suite, Tools
from flashc.compiler.timing import Run

SCHEMA = json.loads((Path(__file__).parents[1] / "docs/schema/benchmark.schema.json").read_text(encoding="utf-8"))
TINY = {"op": "attention", "batch": 1, "heads": 1, "seq": 33, "head_dim": 16, "dtype": "fp32"}
GEMM = {"op": "gemm", "m": 48, "n": 32, "k": 32, "dtype": "fp32"}
MACHINE = {"device": "a test", "model": "native", "peaks": {"f32_tflops": 1.0}, "versions": {"python": "3"}}
RATES = Rates(1e9, 1e9, "a test's")


class Clock:
    """Stands still but for the seconds that runs are said to take."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.seconds, self.runs = 100.0, seconds or (1e-3,), 0

    def __call__(self) -> float:
        return self.now

    def stopwatch(self, run: Run) -> float:
        run()
        took = self.seconds[self.runs % len(self.seconds)]
        self.runs += 1
        self.now += took
        return took


def tools(clock: Clock, repeat: int = 5) -> Tools:
    return Tools(clock.stopwatch, lambda _workload, _device: RATES, repeat, 1, clock)


def small(name: str = "cpu", **parts: Any) -> Suite:
    return Suite(name, **parts)
