"""Measures this machine's GPU through torch: what a plain copy and plain matrix products reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flashc.errors import DeviceAbsentError

_TRIALS = 10


def gpu_rates(device: str = "cuda", *, extent: int = 8192, copy_bytes: int = 1 << 30) -> dict[str, float]:
    """Copy bandwidth (GB/s, reads + writes) and TFLOP/s of extent^3 products in f32, f16 and bf16.

    Best of ten trials on the torch device. Raises DeviceAbsentError without torch or such a device.
    """
    try:
        import torch
    except ImportError as error:
        raise DeviceAbsentError("measuring the GPU needs torch: pip install 'flashc[torch]'") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceAbsentError("torch finds no GPU on this machine")

    def seconds(work: Callable[[], Any]) -> float:
        return min(
            _elapsed(work, torch.cuda.synchronize if device == "cuda" else _nothing) for _ in range(_TRIALS)
        )

    source = torch.ones(copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = {"dram_copy_gbs": 2 * copy_bytes / seconds(lambda: target.copy_(source)) / 1e9}
    for name, dtype in (("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)):
        a = torch.randn(extent, extent, device=device).to(dtype)
        rates[f"matmul_{name}_tflops"] = 2 * extent**3 / seconds(lambda a=a: a @ a) / 1e12  # type: ignore[misc]
    return rates


def _elapsed(work: Callable[[], Any], wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def _nothing() -> None:
    pass
