"""Calls emitted kernels: on a GPU of this machine, or under Triton's interpreter in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flashc.backends.base import Built, Invocation
from flashc.backends.triton.arguments import Argument
from flashc.backends.triton.build import import_source, options_of
from flashc.backends.triton.launching import Printed, launches
from flashc.backends.triton.source import emit, printed_kernels
from flashc.errors import CompilerMissingError, DeviceAbsentError, UnsupportedError
from flashc.hwmodels.model import Device
from flashc.ir.interp import NUMPY
from flashc.ir.nodes import Program

GRID_LIMIT = 2**31 - 1  # programs along the first grid axis, on NVIDIA and AMD GPUs
INTERPRETER = "flashc.backends.triton.interpreter"


# -- on a GPU


def absent(device: Device) -> str | None:
    """Why kernels for the device cannot run on this machine, or None."""
    try:
        import torch
    except ImportError:
        return f"{device.name}: running Triton kernels takes PyTorch; `pip install torch`"
    if device.triton_target is None:
        return f"{device.name}: Triton has no target for {device.arch}"
    if not torch.cuda.is_available():
        return f"this machine has no GPU that PyTorch can use; the kernel is for {device.title}"
    kind, arch, _ = device.triton_target
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    here = (
        str(getattr(properties, "gcnArchName", "")).split(":")[0]
        if torch.version.hip
        else properties.major * 10 + properties.minor
    )
    if (kind == "hip") == bool(torch.version.hip) and str(here) == str(arch):
        return None
    return f"the GPU of this machine is {properties.name}; the kernel is for {device.title} ({device.arch})"


class TritonExecutable:
    """A compiled program on the current GPU. Launches go to PyTorch's current stream and return at once."""

    def __init__(self, built: Built, bound: Program) -> None:
        self.bound, self.kernels = bound, printed_kernels(bound)
        source = built.files["source"]
        self.module = import_source(source, f"flashc_kernels_{source.parent.name[:16]}")

    def __call__(self, call: Invocation) -> None:
        import torch

        units = _needed_units(self.kernels)
        given = {t.name: _on_gpu(call.tensors[t.name]) for t in self.bound.tensors}
        tensors = {name: aligned(tensor, units.get(name, {})) for name, tensor in given.items()}
        with torch.cuda.device(next(iter(tensors.values())).device):
            launch_all(self.module, self.kernels, Invocation(tensors, call.sizes, call.params))
        for t in (t for t in self.bound.tensors if t.role == "out"):
            if tensors[t.name] is not given[t.name]:
                given[t.name].copy_(tensors[t.name])
            if isinstance(call.tensors[t.name], np.ndarray):
                call.tensors[t.name][...] = _from_gpu(given[t.name])


def load(built: Built, bound: Program, device: Device) -> TritonExecutable:
    """A callable for this machine. Raises DeviceAbsentError where the device is not here."""
    reason = absent(device)
    if reason is not None:
        raise DeviceAbsentError(reason)
    return TritonExecutable(built, bound)


def _on_gpu(array: Any) -> Any:
    import torch

    if not isinstance(array, np.ndarray):
        return array
    if array.dtype != NUMPY["bf16"]:
        return torch.from_numpy(array).cuda()
    return torch.from_numpy(array.view(np.int16)).cuda().view(torch.bfloat16)  # torch does not know numpy's bf16


def _from_gpu(tensor: Any) -> Any:
    import torch

    if tensor.dtype != torch.bfloat16:
        return tensor.cpu().numpy()
    return tensor.cpu().view(torch.int16).numpy().view(NUMPY["bf16"])


def _needed_units(kernels: Sequence[Printed]) -> dict[str, dict[int, int]]:
    """For each tensor the multiples that its strides must be, by dimension."""
    found: dict[str, dict[int, int]] = {}
    for printed in kernels:
        for a in printed.arguments:
            if a.kind == "pointer":
                found.setdefault(a.source, {})
            if a.kind == "stride":
                found.setdefault(a.source, {})[a.dim] = a.unit
    return found


def aligned(tensor: Any, units: Mapping[int, int]) -> Any:
    """The tensor, or a contiguous copy if its last dimension is not dense or a stride is no such multiple."""
    dense = tensor.ndim == 0 or tensor.shape[-1] <= 1 or tensor.stride(-1) == 1
    if dense and all(tensor.stride(d) % unit == 0 for d, unit in units.items()):
        return tensor
    return tensor.contiguous()


def launch_all(module: ModuleType, kernels: Sequence[Printed], call: Invocation) -> None:
    """Run the kernels of an imported source on torch tensors, some of them once per step."""
    prepared = {printed.kernel: launch(module, printed, call, options_of(printed)) for printed in kernels}
    for printed, step in launches(kernels, call.sizes):
        prepared[printed.kernel](step)


def launch(
    module: ModuleType, printed: Printed, call: Invocation, options: Mapping[str, Any]
) -> Callable[[Mapping[str, int]], None]:
    """What runs one kernel for a step, by axis. Raises UnsupportedError for too large a grid."""
    tables = {n: t.tolist() for n, t in call.tensors.items() if n in printed.programs.tables()}
    programs = printed.programs.evaluate({**call.sizes, **tables})
    if programs > GRID_LIMIT:
        raise UnsupportedError(
            f"kernel {printed.kernel} needs {programs} programs; a grid holds {GRID_LIMIT}. Raise the tiles"
        )
    if programs == 0:
        return lambda _step: None
    kernel = getattr(module, printed.kernel)[(programs,)]
    given = [None if a.kind == "step" else _argument(a, call) for a in printed.arguments]
    changing = [(n, a.source) for n, a in enumerate(printed.arguments) if a.kind == "step"]

    def run(step: Mapping[str, int]) -> None:
        for n, axis in changing:
            given[n] = step[axis]
        kernel(*given, **options)

    return run


def _argument(argument: Argument, call: Invocation) -> Any:
    match argument.kind:
        case "pointer":
            return _as_bytes(call.tensors[argument.source])
        case "stride":
            return call.tensors[argument.source].stride(argument.dim)
        case "size":
            return call.sizes[argument.source]
        case "param":
            return float(call.params[argument.source])
    raise ValueError(f"no value of the argument {argument.name} belongs to the whole call")


def _as_bytes(tensor: Any) -> Any:
    import torch

    return tensor.view(torch.int8) if tensor.dtype == torch.bool else tensor


# -- under the interpreter


def interpret_program(bound: Program, call: Invocation) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Run the emitted source of a bound program under Triton's interpreter; outputs and workspaces by name.

    Tensors are numpy arrays; those the program only writes may be left out. Raises CompilerMissingError
    without Triton or PyTorch, and RuntimeError with the interpreter's message if a kernel fails there.
    """
    return interpret_programs([(bound, call)])[0]


def interpret_programs(
    cases: Sequence[tuple[Program, Invocation]],
) -> list[dict[str, np.ndarray[Any, np.dtype[Any]]]]:
    """As ``interpret_program`` for several programs in one process, which takes seconds to start."""
    for module in ("triton", "torch"):
        if importlib_missing(module):
            raise CompilerMissingError(f"Triton's interpreter needs {module}; `pip install {module}`")
    with tempfile.TemporaryDirectory(prefix="flashc-interpret-") as name:
        root = Path(name)
        for n, (bound, call) in enumerate(cases):
            _write_case(root / f"case{n}", bound, call)
        environment = {
            **os.environ,
            "TRITON_INTERPRET": "1",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        done = subprocess.run(
            [sys.executable, "-m", INTERPRETER, name],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"Triton's interpreter fails:\n{done.stderr[-4000:]}")
        return [_read_case(root / f"case{n}", bound) for n, (bound, _) in enumerate(cases)]


def importlib_missing(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is None


def _write_case(folder: Path, bound: Program, call: Invocation) -> None:
    folder.mkdir()
    (folder / "kernels.py").write_text(emit(bound, "Triton's interpreter"), encoding="utf-8")
    tables = {n: np.asarray(a) for n, a in call.tensors.items()}
    for t in bound.tensors:
        shape = [d.evaluate({**call.sizes, **dict(bound.fixed), **tables}) for d in t.dims]
        array = call.tensors.get(t.name)
        np.save(
            folder / f"{t.name}.npy",
            _stored(np.zeros(shape) if array is None else array, t.dtype.name, array is None),
        )
    env = {**call.sizes, **tables}
    kernels = [_described(printed, step, env) for printed, step in launches(printed_kernels(bound), env)]
    types = {t.name: t.dtype.name for t in bound.tensors}
    plan = {"kernels": kernels, "types": types, "sizes": dict(call.sizes), "params": dict(call.params)}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


def _described(printed: Printed, step: Mapping[str, int], env: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kernel": printed.kernel,
        "programs": printed.programs.evaluate(env),
        "arguments": [[a.kind, a.source, a.dim] for a in printed.arguments],
        "step": step,
    }


def _stored(array: Any, dtype: str, poison: bool) -> np.ndarray[Any, np.dtype[Any]]:
    """In the tensor's element type, bf16 as its bits; elements that nobody has written are NaN."""
    filled = (
        np.full_like(array, np.nan) if poison and dtype != "bool" and dtype[0] != "i" else np.asarray(array)
    )
    typed = np.ascontiguousarray(filled.astype(NUMPY[dtype]))
    return typed.view(np.uint16) if dtype == "bf16" else typed


def _read_case(folder: Path, bound: Program) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    found = {}
    for t in bound.tensors:
        if t.role != "in":
            raw = np.load(folder / f"{t.name}.out.npy")
            found[t.name] = raw.view(NUMPY["bf16"]) if t.dtype.name == "bf16" else raw
    return found
