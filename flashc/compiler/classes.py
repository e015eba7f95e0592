"""Classes of calls: what functions of arrays compile once, on first use, and then look up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from flashc import backends
from flashc.compiler.arguments import is_torch
from flashc.compiler.interpreted import INTERPRETER, Interpreted
from flashc.compiler.kernel import Kernel, compile_for
from flashc.compiler.workload import load_workload
from flashc.errors import DeviceAbsentError
from flashc.hwmodels.load import load_device


def device_of(array: Any, device: str | None) -> str:
    """The device that is asked for, or the one that holds the array."""
    if device is not None:
        return device
    return "native-gpu" if is_torch(array) and array.device.type != "cpu" else "native"


def kernel_of(document: Mapping[str, Any], device: str) -> Kernel | Interpreted:
    """The kernel of a class, given as the workload it is tuned for. Raises DeviceAbsentError."""
    return _kernel(frozen(document), device)


def frozen(value: Any) -> Any:
    """What identifies mappings and lists of plain values."""
    if isinstance(value, Mapping):
        return tuple((k, frozen(v)) for k, v in value.items())
    return tuple(frozen(v) for v in value) if isinstance(value, list | tuple) else value


def thawed(value: Any) -> Any:
    """The mappings and lists that :func:`frozen` was given."""
    pairs = isinstance(value, tuple) and value and all(isinstance(x, tuple) and len(x) == 2 for x in value)
    if pairs and all(isinstance(x[0], str) for x in value):
        return {k: thawed(v) for k, v in value}
    return [thawed(v) for v in value] if isinstance(value, tuple) else value


@lru_cache(maxsize=512)
def _kernel(document: Any, device: str) -> Kernel | Interpreted:
    """Threads that ask for a class at once may each solve; the cache compiles once."""
    workload = load_workload(thawed(document))
    if device == INTERPRETER:
        return Interpreted(workload)
    model = load_device(device)
    absent = backends.for_device(model).absent(model)
    if absent:
        raise DeviceAbsentError(f"{workload.op} on {model.name}: {absent}")
    return compile_for(workload, model)
