"""Bench: a compiled kernel beside what a user would pick instead, in one process, interleaved, by medians."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flashc.compiler.arguments import invocation
from flashc.compiler.kernel import Kernel, compile_for
from flashc.compiler.timing import Clock, Run, Stopwatch, interleaved, stopwatch_for, warmed
from flashc.compiler.tune import environment
from flashc.compiler.verify import random_inputs
from flashc.compiler.workload import Workload
from flashc.hwmodels.load import load_device
from flashc.hwmodels.model import Device
from flashc.iomodel.compulsory import compulsory
from flashc.iomodel.from_program import cascade
from flashc.ir.analysis import work
from flashc.ops import Operator, registry
from flashc.system.units import flops


@dataclass(frozen=True)
class BenchRow:
    """One contender: median seconds, useful GFLOP/s, speed relative to flashc's kernel, share of the limit, and the
    compulsory traffic in GB/s."""

    name: str
    seconds_median: float
    seconds_all: tuple[float, ...]
    gflops: float
    ratio: float
    share_of_peak: float
    gbs: float = math.nan


@dataclass(frozen=True)
class BenchResult:
    """Rows with flashc's own first; ``notes`` say what ran: shapes, threads, versions, which limit shares refer to.
    ``refused``: contenders that did not run, and why."""

    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": "flashc.bench/1",
            "rows": [asdict(r) for r in self.rows],
            "refused": dict(self.refused),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Rates:
    """What a machine reaches: operations of the products' element type, bytes to and from its memory, per second;
    0 where not known. ``origin`` says who says so."""

    flops: float
    bytes: float
    origin: str


@dataclass(frozen=True)
class Limit:
    """What the problem itself takes: operations of the kept region, compulsory bytes, and the least seconds."""

    flops: float
    bytes: float
    rates: Rates

    @property
    def seconds_compute(self) -> float:
        return self.flops / self.rates.flops if self.rates.flops else 0.0

    @property
    def seconds_memory(self) -> float:
        return self.bytes / self.rates.bytes if self.rates.bytes else 0.0

    def share(self, seconds: float) -> float:
        """The least time over ``seconds``; NaN where no rate is known."""
        return max(self.seconds_compute, self.seconds_memory) / seconds or math.nan

    def __str__(self) -> str:
        if self.seconds_memory > self.seconds_compute:
            need = f"that the compulsory {self.bytes / 1e6:.1f} MB need"
            return f"share: of the {self.rates.bytes / 1e9:.0f} GB/s {need}, {self.rates.origin}"
        return f"share: of {flops(self.rates.flops, 'FLOP/s')}, {self.rates.origin}"


def bench(workload: Workload, device: str = "native", *, repeat: int = 7, seed: int = 0) -> BenchResult:
    """Time the compiled kernel and the operator's peers ``repeat`` times each, in turn, after one warm-up.

    Peers need torch; without it only flashc's kernel is timed and a note says so.
    """
    model = load_device(device)
    kernel = compile_for(workload, model)
    return bench_kernel(kernel, stopwatch_for(model), repeat=repeat, seed=seed)


def bench_kernel(
    kernel: Kernel, stopwatch: Stopwatch, *, repeat: int = 7, seed: int = 0, rates: Rates | None = None,
    within: float = math.inf, clock: Clock = time.monotonic,
) -> BenchResult:
    """The same for a kernel that is there; ``rates`` are those of the device's model by default, ``within`` the
    seconds after which no further round begins."""
    workload, device, operator = kernel.workload, kernel.device, kernel.operator
    spec, sizes = workload.spec, operator.sizes(workload.spec)
    arrays = on_device(random_inputs(operator, spec, seed), device)
    call = invocation(kernel.program, arrays, sizes, operator.params(spec), operator.derive)
    executable = kernel.executable
    executable(call)
    peers, refused = warmed(_peers(operator, spec, arrays))
    runs: dict[str, Run] = {"flashc": lambda: executable(call), **peers}
    times = interleaved(runs, repeat, stopwatch, within=within, clock=clock)
    limit = limit_of(workload, rates or modelled_rates(workload, device))
    medians = {name: statistics.median(t) for name, t in times.items()}
    rows = tuple(
        BenchRow(
            name, m, tuple(times[name]), limit.flops / m / 1e9, medians["flashc"] / m, limit.share(m),
            limit.bytes / m / 1e9,
        )
        for name, m in medians.items()
    )
    tiles = " ".join(f"{k}={v}" for k, v in kernel.tiles.items())
    done = len(times["flashc"])
    notes = (
        f"{workload.op} on {device.title}: " + " ".join(f"{k}={v}" for k, v in sizes.items()),
        f"flashc: {kernel.choice.schedule}, {tiles}; modelled {kernel.choice.picoseconds * 1e-9:.3f} ms",
        str(limit),
        *(f"{name} does not run: {why}" for name, why in refused.items()),
        *([f"{done} of {repeat} rounds: the time for it was spent"] if done < repeat else []),
        *_versions(arrays),
    )
    return BenchResult(rows, notes, refused)


def limit_of(workload: Workload, rates: Rates) -> Limit:
    """Operations that the kept region needs and bytes that any schedule moves, against ``rates``."""
    operator = registry()[workload.op]
    env = environment(operator, workload.spec)
    schedule = operator.schedules(workload.spec)[0]
    ones = dict.fromkeys(schedule.tiles, 1)
    useful = sum(work(schedule, k).flops.evaluate({**env, **dict(schedule.fixed), **ones}) for k in schedule.kernels)
    moved = compulsory(cascade(operator.algorithm(workload.spec), schedule)).at(env, math.inf).total
    return Limit(float(useful), float(moved), rates)


def modelled_rates(workload: Workload, device: Device) -> Rates:
    """The peaks of the device's model for the element type of the workload's operands."""
    dtype = element_type(workload)
    peak = device.peak_tflops(dtype) or device.peak_tflops("f32") or 0.0
    return Rates(peak * 1e12, (device.main_memory.bandwidth_gbs or 0.0) * 1e9, f"by the model of {device.title}")


def element_type(workload: Workload) -> str:
    """Of the first operand: f32, bf16, ..."""
    return registry()[workload.op].algorithm(workload.spec).tensors[0].dtype.name


def on_device(arrays: Mapping[str, Any], device: Device) -> dict[str, Any]:
    """The arrays as torch tensors where the device's kernels run; as they are without torch."""
    try:
        import torch
    except ImportError:
        return dict(arrays)
    place = "cuda" if device.kind == "gpu" else "cpu"
    found = {}
    for name, array in arrays.items():
        dtype = {"bfloat16": torch.bfloat16}.get(str(array.dtype))
        tensor = torch.from_numpy(array.astype("float32") if dtype else array)
        found[name] = tensor.to(place, dtype) if dtype else tensor.to(place)
    return found


def _peers(operator: Operator, spec: Any, arrays: Mapping[str, Any]) -> dict[str, Run]:
    try:
        import torch  # noqa: F401 - peers are torch functions
    except ImportError:
        return {}
    return operator.peers(spec, arrays)


def _versions(arrays: Mapping[str, Any]) -> tuple[str, ...]:
    from flashc import __version__
    from flashc.backends.cpu.run import threads

    try:
        import torch

        peer = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    except ImportError:
        peer = "torch is not installed: no peer was timed"
    return (f"flashc {__version__}, {threads()} threads; {peer}; Python {platform.python_version()}",)
