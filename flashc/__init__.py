"""flashc: a hardware-portable kernel compiler and autotuner.

    k = flashc.compile("attention.yaml", device="native"); o = k(q, k_, v)
    flashc.tune("attention.yaml", device="a100")          # tiles, prediction and bound, without the device
    flashc.attention(q, k, v, causal=True)                # numpy arrays or torch tensors
    y, last = flashc.rnn("lstm", x, R, b, W=W)            # the same, with gradients
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Kernel", "Tuning", "attention", "compile", "load_device", "load_workload", "rnn", "rnn_backward", "tune"]

if TYPE_CHECKING:
    from flashc.api import tune
    from flashc.compiler.kernel import Kernel, compile
    from flashc.compiler.tune import Tuning
    from flashc.compiler.workload import load_workload
    from flashc.functional import attention
    from flashc.hwmodels.load import load_device
    from flashc.recurrent import rnn, rnn_backward

_HOMES = {
    "Kernel": "flashc.compiler.kernel", "Tuning": "flashc.compiler.tune", "attention": "flashc.functional",
    "compile": "flashc.compiler.kernel", "load_device": "flashc.hwmodels.load",
    "load_workload": "flashc.compiler.workload", "rnn": "flashc.recurrent", "rnn_backward": "flashc.recurrent",
    "tune": "flashc.api",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that ``import flashc`` and the command line start quickly."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'flashc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
