"""How good the solver's pick is: the pick beside feasible tilings of every schedule, measured.

The feasible tilings are sampled evenly over the predicted order, compiled, checked against the pick's result and timed;
the pick and the fastest are then timed once more, interleaved. Where the slowest takes less than 1.5 times the
fastest, the workload says nothing about tiles and does not count.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashc import backends
from flashc.autotune import solve
from flashc.backends.base import Invocation
from flashc.compiler.arguments import invocation, is_torch
from flashc.compiler.artefacts import build_choice
from flashc.compiler.bench import on_device
from flashc.compiler.kernel import compile_for
from flashc.compiler.timing import Clock, Run, Stopwatch, interleaved
from flashc.compiler.tune import Choice, Tuning, accumulation, choice_at, environment, space
from flashc.compiler.verify import random_inputs
from flashc.compiler.workload import Workload
from flashc.hwmodels.model import Device
from flashc.ir.analysis import traffic_bytes
from flashc.ir.nodes import Program
from flashc.ops import registry

TELLING = 1.5  # slowest over fastest
ROUNDS, BEST = 5, 5
AGAIN = 45  # rounds of the pick and the BEST fastest: the least of several medians is low by as much as they scatter
TOLERANCE = 0.02  # of a tiling's result against the pick's; the pick's own accuracy is verify's business
SHARE = 0.7  # of the time allowed, for compiling and timing all; the rest re-times the fastest


@dataclass(frozen=True)
class Timed:
    """One tiling: modelled and measured seconds (median), and the spread of the measurements."""

    choice: Choice
    seconds: float
    sigma: float

    @property
    def predicted(self) -> float:
        return self.choice.picoseconds * 1e-12


@dataclass(frozen=True)
class Outcome:
    """``timed`` begins with the pick. ``pick`` and ``best`` are from the interleaved rounds, ``ordered`` is the share
    of telling pairs that the model ranks as measured; ``failed`` says which tilings did not compile, run or compute
    what the pick does; ``left_out`` counts those that the time did not allow."""

    name: str
    timed: tuple[Timed, ...]
    pick: float
    best: float
    ordered: float
    failed: tuple[str, ...] = ()
    left_out: int = 0

    @property
    def spread(self) -> float:
        times = [t.seconds for t in self.timed]
        return max(times) / min(times)

    @property
    def regret(self) -> float:
        return self.pick / self.best - 1

    @property
    def counts(self) -> bool:
        return self.spread >= TELLING


def mean_regret(outcomes: Sequence[Outcome]) -> tuple[float, float] | None:
    """Geometric mean and worst of the workloads that count; None where none does."""
    telling = [o.regret for o in outcomes if o.counts]
    if not telling:
        return None
    return math.exp(sum(math.log1p(max(r, 0.0)) for r in telling) / len(telling)) - 1, max(telling)


def sampled(tuning: Tuning, points: int, listed: int) -> list[Choice]:
    """About ``points`` feasible tilings, as many of each schedule, evenly over the predicted order of the ``listed``
    best; the pick first, the others in an order of chance, so that any first part is spread as evenly."""
    workload, device = tuning.workload, tuning.device
    operator, backend = registry()[workload.op], backends.get(tuning.backend)
    env = environment(operator, workload.spec)
    schedules = [p for p in operator.schedules(workload.spec) if accumulation(p) is None]
    pick, others = tuning.best, list[Choice]()
    for program in schedules:
        found = space(program, backend, device, env)
        solution = solve(found.problem, k=listed)
        step = max(1, len(solution.best) * len(schedules) // points)
        kept = [choice_at(found, p, env, "", traffic_bytes(found.placed)) for p in solution.best[::step]]
        others += [c for c in kept if (c.schedule, c.tiles) != (pick.schedule, pick.tiles)]
    random.Random(0).shuffle(others)
    return [pick, *others]


class Runs:
    """The runs of one workload's tilings, on one set of inputs and of outputs and workspaces by shape."""

    def __init__(self, tuning: Tuning) -> None:
        self.tuning, self.backend = tuning, backends.get(tuning.backend)
        self.operator = registry()[tuning.workload.op]
        self.sizes = self.operator.sizes(tuning.workload.spec)
        self.arrays = on_device(random_inputs(self.operator, tuning.workload.spec, 0), tuning.device)
        self.made: dict[tuple[str, tuple[int, ...]], Any] = {}
        self.reference: dict[str, Any] = {}

    def run_of(self, choice: Choice) -> Run:
        """Compiled, run once and compared. Raises ArithmeticError where it computes something else than the first."""
        program, device = choice.program, self.tuning.device
        executable = self.backend.load(build_choice(choice, self.backend, self.tuning), program, device)
        call = self._call(program)
        executable(call)
        outputs = {t.name: _as_floats(call.tensors[t.name]) for t in program.tensors if t.role == "out"}
        self.reference = self.reference or outputs
        for name, value in outputs.items():
            wanted = self.reference[name]
            if not np.allclose(value, wanted, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                raise ArithmeticError(f"{name} differs from the pick's")
        return lambda: executable(call)

    def _call(self, program: Program) -> Invocation:
        env = {**self.sizes, **dict(program.fixed)}
        keys = {
            t.name: (t.name, tuple(d.evaluate(env) for d in t.dims)) for t in program.tensors if t.role != "in"
        }
        known = {name: self.made[key] for name, key in keys.items() if key in self.made}
        params = self.operator.params(self.tuning.workload.spec)
        call = invocation(program, self.arrays, self.sizes, params, self.operator.derive, known)
        self.made.update({key: call.tensors[name] for name, key in keys.items()})
        for tensor in (call.tensors[t.name] for t in program.tensors if t.role == "out"):
            tensor[...] = math.nan
        return call


def measured(
    name: str, workload: Workload, device: Device, stopwatch: Stopwatch, *, points: int, listed: int,
    within: float = math.inf, clock: Clock = time.monotonic,
) -> Outcome:
    """Regret of the compiled pick on one workload. After about ``within`` seconds no further tiling is tried."""
    began = clock()

    def left() -> float:
        return began + SHARE * within - clock()

    tuning = compile_for(workload, device).tuning
    chosen = sampled(tuning, points, listed)
    all_runs = Runs(tuning)
    runs: dict[int, Run] = {0: all_runs.run_of(chosen[0])}
    failed: list[str] = []
    tried = 1
    for number, choice in enumerate(chosen[1:], 1):
        if left() <= 0:
            break
        tried += 1
        try:
            runs[number] = all_runs.run_of(choice)
        except Exception as problem:  # whatever a compiler, a driver or the comparison says is a result here
            failed.append(f"{choice.schedule} {tiling(choice)}: {type(problem).__name__}: {problem}")
    times = interleaved(runs, ROUNDS, stopwatch, within=left(), clock=clock)
    timed = {n: Timed(chosen[n], statistics.median(t), statistics.stdev(t)) for n, t in times.items()}
    fastest = sorted(timed, key=lambda n: timed[n].seconds)[:BEST]
    again = interleaved(
        {n: runs[n] for n in dict.fromkeys([0, *fastest])}, AGAIN, stopwatch,
        within=began + within - clock(), clock=clock,
    )
    medians = {n: statistics.median(t) for n, t in again.items()}
    in_order = tuple(timed[n] for n in sorted(timed))
    return Outcome(
        name, in_order, medians[0], min(medians.values()), ordered(in_order), tuple(failed), len(chosen) - tried
    )


def ordered(timed: Sequence[Timed]) -> float:
    """Of the pairs whose times differ by more than three sigma, the share whose predictions differ the same way."""
    right = told = 0
    for a, b in itertools.combinations(timed, 2):
        if abs(a.seconds - b.seconds) > 3 * math.hypot(a.sigma, b.sigma):
            told += 1
            right += (a.seconds < b.seconds) == (a.predicted < b.predicted)
    return right / told if told else math.nan


def as_json(outcome: Outcome, document: Mapping[str, Any]) -> dict[str, Any]:
    """An outcome as it stands in a result file, beside the workload's document."""
    tilings = [
        {
            "schedule": t.choice.schedule, "tiles": dict(t.choice.tiles), "predicted": t.predicted,
            "seconds": t.seconds, "sigma": t.sigma,
        }
        for t in outcome.timed
    ]
    return {
        "name": outcome.name, "workload": dict(document), "pick": outcome.pick, "best": outcome.best,
        "regret": outcome.regret, "ordered": outcome.ordered, "spread": outcome.spread, "counts": outcome.counts,
        "failed": list(outcome.failed), "left_out": outcome.left_out, "tilings": tilings,
    }


def tiling(choice: Choice) -> str:
    return " ".join(f"{symbol}={value}" for symbol, value in choice.tiles.items())


def _as_floats(tensor: Any) -> Any:
    """A copy in float32 as numpy array."""
    return tensor.float().cpu().numpy().copy() if is_torch(tensor) else tensor.astype(np.float32)
