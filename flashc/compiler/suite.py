"""Suites: many workloads checked, timed and searched for better tiles on one device, as one result document.

Everything that touches the device's clock is handed in (:class:`Tools`). Each phase ends at its share of the suite's
time and each case gets an equal part of what its phase has left; what there is no time for is listed as skipped, and a
case that fails is listed as failed and does not end the others. docs/schema/benchmark.schema.json describes the result.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flashc.compiler import regret
from flashc.compiler.ahead import Job, build_all
from flashc.compiler.bench import BenchResult, Rates, bench_kernel, modelled_rates
from flashc.compiler.kernel import Kernel, compile_for
from flashc.compiler.timing import Clock, Stopwatch
from flashc.compiler.tune import Tuning, tune
from flashc.compiler.verify import verify_native
from flashc.compiler.workload import Workload, load_workload
from flashc.hwmodels.load import load_device
from flashc.hwmodels.model import Device
from flashc.system.files import json_text, write_whole

SCHEMA = "flashc.benchmark/1"
PHASES = {"compiling ahead": 0.35, "checks": 0.5, "timing": 0.75, "regret": 0.95}  # share of the time by their ends
_PACKAGES = ("flashc", "torch", "triton", "numpy")


@dataclass(frozen=True)
class Case:
    """A workload of a suite; ``group`` is what its ratios are averaged over."""

    group: str
    document: Mapping[str, Any]

    @cached_property
    def workload(self) -> Workload:
        return load_workload(self.document)

    @property
    def label(self) -> str:
        shown = {k: v for k, v in self.document.items() if k not in ("op", "batch") or v != 1}
        return " ".join(f"{k}={_compact(v)}" if k != "op" else str(v) for k, v in shown.items())


@dataclass(frozen=True)
class Suite:
    """``checks`` are held against float64, ``timed`` against the operator's peers; on ``landscapes`` the solver's pick
    is held against about ``points`` other tilings among the ``listed`` best predicted of each schedule."""

    name: str
    checks: tuple[Case, ...] = ()
    timed: tuple[Case, ...] = ()
    landscapes: tuple[Case, ...] = ()
    points: int = 0
    listed: int = 0


@dataclass(frozen=True)
class Tools:
    """What a run measures with; ``rates`` gives what the machine reaches, for the shares. ``workers``: processes that
    compile ahead; ``repeat``: rounds of a timed case at most; ``say`` is told what goes on."""

    stopwatch: Stopwatch
    rates: Callable[[Workload, Device], Rates] = modelled_rates
    repeat: int = 7
    workers: int = 1
    clock: Clock = time.monotonic
    say: Callable[[str], None] = lambda _text: None


@dataclass
class Budget:
    """Seconds from now that a suite may take, and what they did not suffice for."""

    seconds: float
    clock: Clock = time.monotonic
    skipped: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def left(self, phase: str) -> float:
        return self.began + PHASES[phase] * self.seconds - self.clock()

    def spent(self) -> float:
        return self.clock() - self.began

    def cases(self, phase: str, cases: Sequence[Case]) -> Iterator[tuple[Case, float]]:
        """The cases that there is time for, each with its seconds."""
        for number, case in enumerate(cases):
            left = self.left(phase)
            if left <= 0:
                why = f"the {PHASES[phase] * self.seconds:.0f} s for {phase} and all before it were spent"
                self.skipped.append({"what": f"{phase}: {case.group}: {case.label}", "why": why})
            else:
                yield case, left / (len(cases) - number)

    def attempt(
        self, phase: str, run: Callable[..., dict[str, Any]], case: Case, *others: Any
    ) -> list[dict[str, Any]]:
        """The result, or none where the case fails, which is noted: the suite goes on and ends with a failure."""
        try:
            return [run(case, *others)]
        except Exception as problem:  # a driver's error is no reason to lose the results before it
            why = f"{type(problem).__name__}: {problem}".strip().splitlines()[0]
            self.failed.append({"what": f"{phase}: {case.group}: {case.label}", "why": why})
            return []


def run_suite(suite: Suite, device: str, tools: Tools, machine: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
    """All phases on the device of that name; the result document, in which :func:`problems` finds what went wrong."""
    model = load_device(device)
    if tools.workers > 1:
        name = device if device.endswith((".yaml", ".yml")) else model.name  # a worker need not ask the driver again
        _compile_ahead(suite, name, model, tools, budget)
    checks, rows, outcomes = [], [], []
    for case, _ in budget.cases("checks", suite.checks):
        tools.say(f"checking {case.label}")
        checks += budget.attempt("checks", _checked, case, model)
    for case, seconds in budget.cases("timing", suite.timed):
        tools.say(f"timing {case.label}")
        rows += budget.attempt("timing", timed, case, model, tools, seconds)
    for case, seconds in budget.cases("regret", suite.landscapes):
        tools.say(f"timing tilings of {case.label}")
        outcomes += budget.attempt("regret", _searched, case, model, tools, seconds, suite)
    found = {
        "budget": budget.seconds, "seconds": budget.spent(), "checks": checks, "rows": rows, "regret": outcomes
    }
    return document(suite.name, machine, tools.repeat, found, budget.skipped, budget.failed)


def document(
    suite: str, machine: Mapping[str, Any], repeat: int, found: Mapping[str, Any],
    skipped: Sequence[Mapping[str, str]] = (), failed: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """A result document; ``found`` fills ``checks``, ``rows`` and ``regret``."""
    empty: dict[str, Any] = {"checks": [], "rows": [], "regret": []}
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "schema": SCHEMA, "suite": suite, "date": date, "machine": dict(machine), "repeat": repeat,
        **empty, **found, "skipped": list(skipped), "failed": list(failed),
    }


def versions() -> dict[str, str]:
    """Of everything installed that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def problems(result: Mapping[str, Any]) -> list[str]:
    """What must not be in a result: failures, results outside the accuracy rule, under-predicted shared memory."""
    found = [f"{f['what']}: {f['why']}" for f in result["failed"]]
    found += [f"checks: {c['group']}: {_worst(c['rows'])}" for c in result["checks"] if not c["passed"]]
    for row in result["rows"]:
        for kernel in (k for k in row["shared_memory"] if k["compiled"] > k["predicted"]):
            sizes = f"{kernel['compiled']} B of shared memory, {kernel['predicted']} B predicted"
            found.append(f"timing: {row['group']}: kernel {kernel['kernel']} takes {sizes}")
    return found + [f"regret: {r['name']}: {text}" for r in result["regret"] for text in r["failed"]]


def plan(suite: Suite, device: str, repeat: int) -> list[dict[str, Any]]:
    """What a run would do, in order, with the solver's picks and their modelled seconds; nothing is compiled."""
    model = load_device(device)
    found = []
    phases = (("checks", suite.checks, 1), ("timing", suite.timed, repeat), ("regret", suite.landscapes, suite.points))
    for phase, cases, runs in phases:
        for case in cases:
            best = tune(case.workload, model).best
            found.append({
                "phase": phase, "group": case.group, "workload": dict(case.document), "label": case.label,
                "schedule": best.schedule, "tiles": dict(best.tiles), "predicted": best.picoseconds * 1e-12,
                "runs": runs,
            })
    return found


def group_means(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, float]]:
    """(group, geometric mean of the ratios, the smallest)."""
    for group in dict.fromkeys(r["group"] for r in rows):
        ratios = [r["ratio"] for r in rows if r["group"] == group and r["ratio"]]
        if ratios:
            yield group, statistics.geometric_mean(ratios), min(ratios)


def save(result: Mapping[str, Any], folder: Path) -> Path:
    """Write into the folder as SUITE-DEVICE-DATE.json, where that exists already SUITE-DEVICE-DATE-2.json and so on.

    Raises OutputError.
    """
    stem = f"{result['suite']}-{result['machine']['model']}-{result['date'][:10]}"
    names = (f"{stem}{f'-{n}' if n > 1 else ''}.json" for n in range(1, 1_000_000))
    path = next(p for name in names if not (p := folder / name).exists())
    write_whole(path, json_text(result, indent=1) + "\n")
    return path


# -- one case of each phase


def timed(case: Case, device: Device, tools: Tools, within: float = math.inf) -> dict[str, Any]:
    """A row of a result: the compiled pick beside its peers."""
    kernel = compile_for(case.workload, device)
    rates = tools.rates(case.workload, device)
    result = bench_kernel(
        kernel, tools.stopwatch, repeat=tools.repeat, rates=rates, within=within, clock=tools.clock
    )
    return _row(case, kernel, result)


def _row(case: Case, kernel: Kernel, result: BenchResult) -> dict[str, Any]:
    own = result.rows[0]
    peers = {r.name: r.seconds_median for r in result.rows[1:]}
    return {
        "group": case.group,
        "workload": dict(case.document),
        "schedule": kernel.choice.schedule,
        "tiles": dict(kernel.tiles),
        "predicted": kernel.choice.picoseconds * 1e-12,
        "seconds": own.seconds_median,
        "sigma": statistics.stdev(own.seconds_all) if len(own.seconds_all) > 1 else 0.0,
        "rounds": len(own.seconds_all),
        "gflops": own.gflops,
        "gbs": own.gbs,
        "share": own.share_of_peak,
        "peers": peers,
        "refused": dict(result.refused),
        "ratio": min(peers.values()) / own.seconds_median if peers else None,
        "shared_memory": shared_memory(kernel),
        "spilled": sum(r.spill_bytes or 0 for r in kernel.resources),
        "notes": list(result.notes),
    }


def shared_memory(kernel: Kernel) -> list[dict[str, Any]]:
    """Bytes per block of each kernel, predicted and compiled; [] where the target has no such number."""
    prefix = "device.smem."
    predicted = {c.name.removeprefix(prefix): c.needs for c in kernel.choice.checks if c.name.startswith(prefix)}
    pairs = zip(kernel.program.kernels, kernel.resources, strict=False)
    return [
        {"kernel": own.name, "predicted": predicted[own.name], "compiled": found.shared_bytes}
        for own, found in pairs
        if own.name in predicted and found.shared_bytes is not None
    ]


def _checked(case: Case, device: Device) -> dict[str, Any]:
    rows = verify_native(case.workload, device)
    passed = all(r.ok for r in rows)
    return {
        "group": case.group, "workload": dict(case.document), "passed": passed, "rows": [asdict(r) for r in rows]
    }


def _searched(case: Case, device: Device, tools: Tools, within: float, suite: Suite) -> dict[str, Any]:
    outcome = regret.measured(
        case.group, case.workload, device, tools.stopwatch, points=suite.points, listed=suite.listed, within=within,
        clock=tools.clock,
    )
    return regret.as_json(outcome, case.document)


def _compile_ahead(suite: Suite, name: str, device: Device, tools: Tools, budget: Budget) -> None:
    tools.say("listing the tilings to compare")
    jobs = [Job(c.document, name) for c in (*suite.landscapes, *suite.timed, *suite.checks)]
    for case in suite.landscapes:
        tuning: Tuning = tune(case.workload, device)
        chosen = regret.sampled(tuning, suite.points, suite.listed)
        jobs += [Job(case.document, name, (c.schedule, c.tiles)) for c in chosen[1:]]
    tools.say(f"compiling {len(jobs)} kernels in {tools.workers} processes")
    late = build_all(jobs, tools.workers, budget.left("compiling ahead"))
    if late:
        why = f"{late} of {len(jobs)} kernels were not compiled ahead in time; they are where they are needed"
        budget.skipped.append({"what": "compiling ahead", "why": why})


def _worst(rows: Sequence[Mapping[str, Any]]) -> str:
    row = max(rows, key=lambda r: r["error"] / r["limit"])
    return f"{row['output']} has error {row['error']:.2e}, limit {row['limit']:.2e}"


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace('"', "")
