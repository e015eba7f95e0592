"""Build, load and call: the shared library of a program, the process-wide thread pool, and the C call."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from flashc.backends.base import Built, Invocation, KernelResources
from flashc.errors import ArgumentError, CompilerMissingError, DeviceAbsentError
from flashc.hwmodels.model import Device
from flashc.ir.nodes import Program
from flashc.system.cache import Cache, key_of
from flashc.system.toolchain import compile_shared

# Not -ffast-math: NaN and inf keep their meaning; only contraction to FMA and errno-free math are allowed.
FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-pthread",
)
_BEYOND_ISA = {"avx512_bf16": "-mavx512bf16"}  # used where a device has it, in no x86-64 level


class _Call(ctypes.Structure):
    _fields_ = [
        ("tensor", ctypes.c_void_p), ("stride", ctypes.c_void_p), ("size", ctypes.c_void_p),
        ("param", ctypes.c_void_p), ("parallel", ctypes.c_void_p), ("threads", ctypes.c_int),
    ]


def resource(name: str) -> str:
    return (files("flashc.backends.cpu") / name).read_text()


def whole_source(source: str) -> str:
    """The emitted text with the prelude in place: what is compiled, saved and shown."""
    return source.replace('#include "prelude.hpp"', resource("prelude.hpp"))


def machine_of(arch: str) -> str:
    """The architecture as a compiler's triple names it, of a device's ``arch`` or of ``platform.machine()``."""
    return "aarch64" if arch.startswith(("aarch64", "arm")) else "x86_64"


def build(source: str, program: Program, device: Device) -> Built:
    """Compile for the device's instruction set; for another architecture only where a cross compiler is.

    Raises CompilerMissingError or CompileError.
    """
    isa = device.cpu_isa
    if isa is None:
        raise DeviceAbsentError(f"{device.name} has no CPU instruction set to compile for")
    stem, machine = f"{program.name}_{program.schedule}", machine_of(device.arch)
    further = [flag for feature, flag in _BEYOND_ISA.items() if feature in device.features]
    kernels = tuple(KernelResources(k.name) for k in program.kernels)
    try:
        library = compile_shared(source, (*FLAGS, f"-march={isa}", *further), stem=stem, machine=machine)
    except CompilerMissingError as problem:
        if machine == machine_of(platform.machine()):
            raise
        name = f"{stem}.cpp"
        saved = Cache.default().put_or_temp("emitted-source", key_of(name, source), {name: source.encode()})
        return Built({"source": saved / name}, kernels, str(problem))
    return Built({"source": library.with_suffix(".cpp"), "binary": library}, kernels)


@lru_cache(maxsize=1)
def _pool() -> int:
    library = ctypes.CDLL(str(compile_shared(resource("runtime.cpp"), FLAGS, stem="flashc_runtime")))
    address = ctypes.cast(library.flashc_parallel, ctypes.c_void_p).value
    assert address is not None
    _keep.append(library)
    return address


_keep: list[Any] = []


def threads() -> int:
    """Threads of a call: torch's setting once torch is imported, else OMP_NUM_THREADS; at most the affinity."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch = sys.modules.get("torch")
    if torch is not None:
        return max(1, min(allowed, int(torch.get_num_threads())))
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(allowed, int(wanted))) if wanted.isdigit() else allowed


class CpuExecutable:
    """A loaded program. Calls may come from several threads; each builds its own argument block."""

    def __init__(self, library: Path, program: Program) -> None:
        self.program = program
        self.library = ctypes.CDLL(str(library))
        self.run = self.library.flashc_run
        self.run.argtypes, self.run.restype = [ctypes.POINTER(_Call)], None
        self.dims = [len(t.dims) for t in program.tensors]

    def __call__(self, call: Invocation) -> None:
        pointers: list[int] = []
        strides: list[int] = []
        for tensor in self.program.tensors:
            pointer, steps = address_and_strides(call.tensors[tensor.name])
            pointers.append(pointer)
            strides += steps
        names = [p.name for p in self.program.params]
        blocks = (
            (ctypes.c_void_p * len(pointers))(*pointers),
            (ctypes.c_long * max(1, len(strides)))(*strides),
            (ctypes.c_long * len(self.program.sizes))(*(call.sizes[n] for n in self.program.sizes)),
            (ctypes.c_float * max(1, len(names)))(*(call.params[n] for n in names)),
        )
        block = _Call(*(ctypes.addressof(b) for b in blocks), _pool(), threads())
        self.run(ctypes.byref(block))


def address_and_strides(array: Any) -> tuple[int, Sequence[int]]:
    """Address and strides in elements of a numpy array or a CPU torch tensor; ArgumentError for another."""
    if not hasattr(array, "data_ptr"):
        return int(array.ctypes.data), [s // array.itemsize for s in array.strides]
    if array.device.type != "cpu":
        raise ArgumentError(f"a CPU kernel was given a tensor on {array.device}; move it to the CPU")
    return int(array.data_ptr()), array.stride()


def load(built: Built, program: Program) -> CpuExecutable:
    return CpuExecutable(built.files["binary"], program)
