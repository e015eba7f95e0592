"""How good the solver's pick is: `python benchmarks/regret.py [-o FILE.json] [--only TEXT] [--points N]`.

For each workload the feasible tilings of every schedule are sampled evenly over the predicted order, compiled, checked
against the pick's result and timed; the pick and the five fastest are then timed once more, interleaved. A workload
whose slowest tiling is less than 1.5 times its fastest says nothing about tiles and does not count.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from flashc import backends
from flashc.autotune import solve
from flashc.commands.render import Table, percent, print_blocks, progress, seconds, tiles_text
from flashc.compiler.arguments import invocation
from flashc.compiler.artefacts import build_choice
from flashc.compiler.tune import Choice, Tuning, choice_at, environment, space, tune
from flashc.compiler.verify import random_inputs
from flashc.compiler.workload import Workload, load_workload
from flashc.hwmodels import load_device
from flashc.hwmodels.model import Device
from flashc.ir.analysis import traffic_bytes
from flashc.ops import registry

LISTED = 200_000  # tilings of one schedule at most, best predicted first
TELLING = 1.5  # slowest over fastest
ROUNDS, BEST = 5, 5
SECONDS = 0.05  # of one measurement: short kernels run several times

WORKLOADS: dict[str, dict[str, Any]] = {
    "fp32": {"op": "attention", "batch": 1, "heads": 4, "seq": 1024, "head_dim": 64, "dtype": "fp32"},
    "fp32 d128": {"op": "attention", "batch": 1, "heads": 2, "seq": 1024, "head_dim": 128, "dtype": "fp32"},
    "causal": {"op": "attention", "batch": 1, "heads": 4, "seq": 1024, "head_dim": 64, "dtype": "fp32", "causal": True},
    "short": {"op": "attention", "batch": 1, "heads": 8, "seq": 128, "head_dim": 64, "dtype": "fp32"},
    "odd": {"op": "attention", "batch": 1, "heads": 8, "seq": 137, "head_dim": 72, "dtype": "fp32"},
    "bf16": {"op": "attention", "batch": 1, "heads": 4, "seq": 1024, "head_dim": 64, "dtype": "bf16"},
    "decode": {
        "op": "attention", "batch": 1, "heads": {"q": 32, "kv": 8}, "seq": {"q": 1, "kv": 8192}, "head_dim": 128,
        "dtype": "fp32",
    },
    "gemm": {"op": "gemm", "m": 1024, "n": 1024, "k": 1024, "dtype": "fp32"},
    "gemm bf16": {"op": "gemm", "m": 1024, "n": 1024, "k": 1024, "dtype": "bf16"},
    "gemm skinny": {"op": "gemm", "m": 16, "n": 4096, "k": 1024, "dtype": "fp32"},
}


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
    """``pick`` and ``best`` from the interleaved rounds, ``ordered`` the share of telling pairs that the model ranks
    as measured."""

    name: str
    timed: tuple[Timed, ...]
    pick: float
    best: float
    ordered: float

    @property
    def spread(self) -> float:
        times = [t.seconds for t in self.timed]
        return max(times) / min(times)

    @property
    def regret(self) -> float:
        return self.pick / self.best - 1


def sampled(workload: Workload, device: Device, points: int) -> list[Choice]:
    """About ``points`` feasible tilings, as many of each schedule, evenly over its predicted order; the pick first."""
    operator, backend = registry()[workload.op], backends.for_device(device)
    env = environment(operator, workload.spec)
    schedules = operator.schedules(workload.spec)
    chosen = [tune(workload, device).best]
    for program in schedules:
        found = space(program, backend, device, env)
        solution = solve(found.problem, k=LISTED)
        step = max(1, len(solution.best) * len(schedules) // points)
        kept = [choice_at(found, p, env, "", traffic_bytes(found.placed)) for p in solution.best[::step]]
        chosen += [c for c in kept if (c.schedule, c.tiles) != (chosen[0].schedule, chosen[0].tiles)]
    return chosen


def runs(workload: Workload, device: Device, tuning: Tuning, chosen: Sequence[Choice]) -> Iterator[Callable[[], Any]]:
    """A thunk per tiling. Raises ArithmeticError where one computes something else than the first."""
    operator, backend = registry()[workload.op], backends.for_device(device)
    arrays = random_inputs(operator, workload.spec, 0)
    params, sizes = operator.params(workload.spec), operator.sizes(workload.spec)
    reference: Mapping[str, Any] = {}
    for choice in chosen:
        executable = backend.load(build_choice(choice, backend, tuning), choice.program, device)
        call = invocation(choice.program, arrays, sizes, params, operator.derive)
        executable(call)
        outputs = {t.name: call.tensors[t.name].copy() for t in choice.program.tensors if t.role == "out"}
        reference = reference or outputs
        for name, value in outputs.items():
            if not np.allclose(value.astype("f4"), reference[name].astype("f4"), rtol=0.02, atol=0.02, equal_nan=True):
                raise ArithmeticError(f"{choice.schedule} {tiles_text(choice.tiles)}: {name} differs from the pick's")
        yield lambda executable=executable, call=call: executable(call)  # type: ignore[misc]


def once(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    count = max(1, int(SECONDS / (time.perf_counter() - began)))
    began = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - began) / count


def interleaved(several: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in several]
    for _ in range(rounds):
        for n, run in enumerate(several):
            times[n].append(once(run))
    return times


def measured(name: str, workload: Workload, device: Device, points: int) -> Outcome:
    chosen = sampled(workload, device, points)
    several = list(runs(workload, device, tune(workload, device), chosen))
    all_times = interleaved(several, ROUNDS)
    timed = tuple(
        Timed(c, statistics.median(t), statistics.stdev(t)) for c, t in zip(chosen, all_times, strict=True)
    )
    fastest = sorted(range(len(timed)), key=lambda n: timed[n].seconds)[:BEST]
    again = interleaved([several[0], *(several[n] for n in fastest)], 3 * ROUNDS)
    medians = [statistics.median(t) for t in again]
    return Outcome(name, timed, medians[0], min(medians), ordered(timed))


def ordered(timed: Sequence[Timed]) -> float:
    """Of the pairs whose times differ by more than three sigma, the share whose predictions differ the same way."""
    right = told = 0
    for a, b in itertools.combinations(timed, 2):
        if abs(a.seconds - b.seconds) > 3 * math.hypot(a.sigma, b.sigma):
            told += 1
            right += (a.seconds < b.seconds) == (a.predicted < b.predicted)
    return right / told if told else math.nan


def as_json(outcome: Outcome) -> dict[str, Any]:
    tilings = [
        {
            "schedule": t.choice.schedule, "tiles": dict(t.choice.tiles), "predicted": t.predicted,
            "seconds": t.seconds, "sigma": t.sigma,
        }
        for t in outcome.timed
    ]
    return {
        "name": outcome.name, "workload": WORKLOADS[outcome.name], "regret": outcome.regret,
        "ordered": outcome.ordered, "spread": outcome.spread, "counts": outcome.spread >= TELLING, "tilings": tilings,
    }


def shown(o: Outcome) -> tuple[str, ...]:
    best, worst = (f(o.timed, key=lambda t: t.seconds) for f in (min, max))
    pick = o.timed[0].choice
    return (
        o.name, str(len(o.timed)), seconds(best.seconds), seconds(worst.seconds), f"{o.spread:.1f}x",
        seconds(o.pick), percent(o.regret) if o.spread >= TELLING else "(flat)", percent(o.ordered),
        f"{pick.schedule} {tiles_text(pick.tiles)}", f"{best.choice.schedule} {tiles_text(best.choice.tiles)}",
    )


@click.command(help=__doc__)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the results as JSON.")
@click.option("--only", default="", help="Only the workloads whose name contains this.")
@click.option("--points", type=click.IntRange(min=2), default=120, show_default=True, help="Tilings of a workload.")
def main(output: Path | None, only: str, points: int) -> None:
    device, outcomes = load_device("native"), []
    for name, document in WORKLOADS.items():
        if only in name:
            with progress(f"{name}: compiling and timing {points} tilings"):
                outcomes.append(measured(name, load_workload(document), device, points))
    columns = ("workload", "tilings", "best", "worst", "spread", "pick", "regret", "ordered", "picked", "fastest")
    print_blocks([Table("Regret of the solver's pick", columns, tuple(map(shown, outcomes)), frozenset(columns[1:8]))])
    telling = [o for o in outcomes if o.spread >= TELLING]
    if telling:
        mean = math.exp(sum(math.log1p(max(o.regret, 0.0)) for o in telling) / len(telling)) - 1
        click.echo(f"regret: geometric mean {percent(mean)}, worst {percent(max(o.regret for o in telling))}")
    if output is not None:
        output.write_text(json.dumps({"schema": "flashc.regret/1", "outcomes": list(map(as_json, outcomes))}) + "\n")


if __name__ == "__main__":
    main()
