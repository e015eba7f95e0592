"""The library's front door to tuning: names and paths in, the result object that the command line prints out."""

from __future__ import annotations

from typing import Any

from flashc.compiler.tune import Tuning
from flashc.compiler.tune import tune as tune_workload
from flashc.compiler.workload import Workload, load_workload
from flashc.hwmodels.load import load_device


def tune(workload: Any, *, device: str = "native", backend: str | None = None, top_k: int = 1) -> Tuning:
    """Choose schedule and tile sizes for a workload (path, YAML text, mapping or Workload) on a named device.

    Nothing is compiled, and the device need not be here. Raises WorkloadError, UnknownDeviceError, DeviceModelError,
    InfeasibleError.
    """
    loaded = workload if isinstance(workload, Workload) else load_workload(workload)
    return tune_workload(loaded, load_device(device), backend=backend, top_k=top_k)
