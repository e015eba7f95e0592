"""Bench: a compiled kernel beside what a user would pick instead, in one process, interleaved, by medians."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flashc.compiler.arguments import invocation
from flashc.compiler.kernel import compile_for
from flashc.compiler.tune import environment
from flashc.compiler.verify import random_inputs
from flashc.compiler.workload import Workload
from flashc.hwmodels.load import load_device
from flashc.hwmodels.model import Device
from flashc.iomodel.compulsory import compulsory
from flashc.iomodel.from_program import cascade
from flashc.ir.analysis import work
from flashc.ops import Operator, registry


@dataclass(frozen=True)
class BenchRow:
    """One contender: median seconds, useful GFLOP/s, speed relative to flashc's kernel, share of the device's limit."""

    name: str
    seconds_median: float
    seconds_all: tuple[float, ...]
    gflops: float
    ratio: float
    share_of_peak: float


@dataclass(frozen=True)
class BenchResult:
    """Rows with flashc's own first; ``notes`` say what ran: shapes, threads, versions, which limit shares refer to."""

    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {"schema": "flashc.bench/1", "rows": [asdict(r) for r in self.rows], "notes": list(self.notes)}


def bench(workload: Workload, device: str = "native", *, repeat: int = 7, seed: int = 0) -> BenchResult:
    """Time the compiled kernel and the operator's peers ``repeat`` times each, in turn, after one warm-up.

    Peers need torch; without it only flashc's kernel is timed and a note says so.
    """
    model = load_device(device)
    operator = registry()[workload.op]
    kernel = compile_for(workload, model)
    arrays = _as_tensors(random_inputs(operator, workload.spec, seed), model)
    sizes = operator.sizes(workload.spec)
    call = invocation(kernel.program, arrays, sizes, operator.params(workload.spec), operator.derive)
    contenders: dict[str, Callable[[], Any]] = {"flashc": lambda: kernel.executable(call)}
    contenders.update(_peers(operator, workload.spec, arrays))
    times = _interleaved(contenders, repeat, _synchronise(model))
    useful, peak, limit = _useful_work(operator, workload, model)
    own = statistics.median(times["flashc"])
    rows = tuple(
        BenchRow(name, m, tuple(t), useful / m / 1e9, own / m, useful / m / peak if peak else float("nan"))
        for name, t in times.items()
        for m in [statistics.median(t)]
    )
    tiles = " ".join(f"{k}={v}" for k, v in kernel.tiles.items())
    notes = (
        f"{workload.op} on {model.title}: " + " ".join(f"{k}={v}" for k, v in sizes.items()),
        f"flashc: {kernel.choice.schedule}, {tiles}; modelled {kernel.choice.picoseconds * 1e-9:.3f} ms",
        limit,
        *_versions(arrays),
    )
    return BenchResult(rows, notes)


def _useful_work(operator: Operator, workload: Workload, device: Device) -> tuple[float, float, str]:
    """Operations that the kept region needs, the device's limit for them, and a sentence that names the limit."""
    env = environment(operator, workload.spec)
    schedule = operator.schedules(workload.spec)[0]
    ones = dict.fromkeys(schedule.tiles, 1)
    flops = sum(work(schedule, k).flops.evaluate({**env, **dict(schedule.fixed), **ones}) for k in schedule.kernels)
    dtype = schedule.tensors[0].dtype.name
    peak = device.peak_tflops(dtype) or device.peak_tflops("f32") or 0.0
    seconds_compute = flops / (peak * 1e12) if peak else 0.0
    moved = compulsory(cascade(operator.algorithm(workload.spec), schedule)).at(env, math.inf).total
    bandwidth = (device.main_memory.bandwidth_gbs or 0.0) * 1e9
    seconds_memory = moved / bandwidth if bandwidth else 0.0
    if seconds_memory > seconds_compute:
        rate = flops / seconds_memory
        return (
            float(flops),
            rate,
            f"share: of the {bandwidth / 1e9:.0f} GB/s that the compulsory {moved / 1e6:.1f} MB need",
        )
    return float(flops), peak * 1e12, f"share: of the {dtype} peak, {peak * 1e3:.0f} GFLOP/s of {device.title}"


def _as_tensors(arrays: Mapping[str, Any], device: Device) -> dict[str, Any]:
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


def _peers(operator: Operator, spec: Any, arrays: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    try:
        import torch  # noqa: F401 - peers are torch functions
    except ImportError:
        return {}
    return operator.peers(spec, arrays)


def _synchronise(device: Device) -> Callable[[], None]:
    if device.kind != "gpu":
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize()


def _interleaved(
    contenders: Mapping[str, Callable[[], Any]], repeat: int, wait: Callable[[], None]
) -> dict[str, list[float]]:
    for run in contenders.values():
        run()
    wait()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            wait()
            times[name].append(time.perf_counter() - began)
    return times


def _versions(arrays: Mapping[str, Any]) -> tuple[str, ...]:
    from flashc import __version__
    from flashc.backends.cpu.run import threads

    try:
        import torch

        peer = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    except ImportError:
        peer = "torch is not installed: no peer was timed"
    return (f"flashc {__version__}, {threads()} threads; {peer}; Python {platform.python_version()}",)
