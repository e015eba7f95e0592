"""The suite of `make gpu`: the Triton backend on an NVIDIA GPU, checked, and timed beside PyTorch's kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from flashc.compiler.bench import Rates, element_type
from flashc.compiler.gpu_machine import gpu_facts, require, software
from flashc.compiler.suite import Budget, Case, Suite, Tools, run_suite, versions
from flashc.compiler.timing import CudaEvents
from flashc.compiler.workload import Workload
from flashc.hwmodels.load import load_device
from flashc.hwmodels.model import Device
from flashc.hwmodels.probe_gpu import gpu_rates

SECONDS = 450.0  # of a run
REPEAT = 15
TOKENS, HIDDEN = 16384, 2048  # of every timed prefill, as in FlashAttention's benchmarks (Dao 2023, arXiv 2307.08691)
LENGTHS = (1024, 2048, 4096, 8192, 16384)
DECODES = ((1, 8192), (1, 32768), (1, 131072), (16, 8192), (64, 4096))  # batch, keys
ORIGIN = "measured: a matrix product of 8192^3 by cuBLAS, a copy of 1 GiB"


def attention(**options: Any) -> dict[str, Any]:
    return {"op": "attention", "batch": 1, "heads": 4, "head_dim": 64, "dtype": "bf16", **options}


def prefill(length: int, d: int, causal: bool) -> dict[str, Any]:
    return attention(batch=TOKENS // length, heads=HIDDEN // d, seq=length, head_dim=d, causal=causal)


def decode(batch: int, keys: int) -> dict[str, Any]:
    return attention(batch=batch, heads={"q": 32, "kv": 8}, seq={"q": 1, "kv": keys}, head_dim=128)


def timed_cases() -> Iterator[Case]:
    for d in (64, 128, 256):
        for causal, name in ((False, "full"), (True, "causal")):
            for length in LENGTHS:
                yield Case(f"d{d} {name}", prefill(length, d, causal))
    for batch, keys in DECODES:
        yield Case("decode", decode(batch, keys))


def checked_cases() -> Iterator[Case]:
    """Every shape class and mask, lengths no tile divides among them."""
    for d in (64, 128, 256):
        yield Case("full", attention(seq=1024, head_dim=d))
        yield Case("causal", attention(seq=1024, head_dim=d, causal=True))
    for length in (1, 17, 137, 1025):
        yield Case("odd lengths", attention(seq=length, causal=True))
    for d in (40, 72, 96):
        yield Case("odd head dimensions", attention(seq=513, head_dim=d))
    yield Case("cross", attention(seq={"q": 137, "kv": 1025}))
    yield Case("grouped heads", attention(seq=513, heads={"q": 8, "kv": 2}, causal=True))
    yield Case("decode", attention(seq={"q": 1, "kv": 4097}, heads={"q": 8, "kv": 2}, head_dim=128))
    yield Case("decode, one key head", attention(seq={"q": 1, "kv": 4097}, heads={"q": 12, "kv": 1}))
    lengths = {"batch": 3, "kv_lengths": [2049, 1, 300], "causal": True, "outputs": ["o", "lse"]}
    yield Case("decode, lengths", attention(seq={"q": 1, "kv": 2049}, heads={"q": 8, "kv": 2}, **lengths))
    for queries in (4, 17):
        several = attention(seq={"q": queries, "kv": 2049}, heads={"q": 8, "kv": 2}, causal=True)
        yield Case("decode, several queries", several)
    yield Case("bias", attention(seq=513, bias={"shape": [1, 4, 513, 513]}))
    yield Case("mask", attention(seq=513, mask={"shape": [1, 1, 513, 513]}))
    yield Case("window", attention(seq=513, causal=True, window=[100, 0]))
    yield Case("softcap", attention(seq=513, softcap=30.0))
    yield Case("alibi", attention(seq=513, alibi=True))
    yield Case("lengths", attention(batch=3, seq=513, kv_lengths=[513, 1, 300]))
    yield Case("statistics", attention(seq=513, outputs=["o", "lse"]))
    for dtype in ("fp16", "fp32"):
        yield Case(dtype, attention(seq=513, causal=True, dtype=dtype))
    for dtype in ("bf16", "fp32"):
        yield Case(f"gemm {dtype}", {"op": "gemm", "m": 513, "n": 640, "k": 300, "dtype": dtype})


def searched_cases() -> Iterator[Case]:
    yield Case("d128 full", prefill(4096, 128, False))
    yield Case("d64 causal", prefill(4096, 64, True))
    yield Case("decode", decode(16, 8192))


SUITE = Suite(
    "gpu", tuple(checked_cases()), tuple(timed_cases()), tuple(searched_cases()), points=60, listed=1000
)


def run(device: str, say: Callable[[str], None], seconds: float = SECONDS) -> dict[str, Any]:
    """The suite's result on this machine's GPU, modelled as ``device``. Raises DeviceAbsentError naming what is missing
    or too old."""
    require(software())
    budget = Budget(seconds)
    say("measuring this GPU's peaks")
    peaks = gpu_rates()
    tools = Tools(CudaEvents(), measured_rates(peaks), REPEAT, min(os.cpu_count() or 1, 32), say=say)
    return run_suite(SUITE, device, tools, machine(device, peaks), budget)


def measured_rates(peaks: dict[str, float]) -> Callable[[Workload, Device], Rates]:
    """Limits out of what :func:`flashc.hwmodels.probe_gpu.gpu_rates` measured."""

    def rates(workload: Workload, _device: Device) -> Rates:
        flops = peaks[f"matmul_{element_type(workload)}_tflops"] * 1e12
        return Rates(flops, peaks["dram_copy_gbs"] * 1e9, ORIGIN)

    return rates


def machine(device: str, peaks: dict[str, float]) -> dict[str, Any]:
    import torch

    facts = gpu_facts()
    return {
        "device": facts.get("name", load_device(device).title),
        "model": load_device(device).name,
        "driver": facts.get("driver_version"),
        "cuda": torch.version.cuda,
        "clock_max": facts.get("clocks.max.sm"),
        "power_limit": facts.get("power.limit"),
        "peaks": dict(peaks),
        "versions": versions(),
    }
