"""Build, load and call: the shared library of a program, the process-wide thread pool, and the C call."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from flashc.backends.base import Built, Invocation, KernelResources, Prepared
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
        ("param", ctypes.c_void_p), ("parallel", ctypes.c_void_p), ("together", ctypes.c_void_p),
        ("threads", ctypes.c_int),
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
def _runtime() -> tuple[ctypes.CDLL, int, int]:
    """The threads that all kernels share, and the addresses of their entry points: for tasks alone and together."""
    library = ctypes.CDLL(str(compile_shared(resource("runtime.cpp"), FLAGS, stem="flashc_runtime")))
    entries = (library.flashc_parallel, library.flashc_together)
    alone, together = (ctypes.cast(f, ctypes.c_void_p).value for f in entries)
    assert alone is not None and together is not None
    return library, alone, together


def shares_openmp() -> bool:
    """Whether kernels run on the threads of GNU OpenMP: from the first call prepared after something has loaded it."""
    return bool(_runtime()[0].flashc_join_openmp())


@lru_cache(maxsize=1)
def allowed_cores() -> int:
    """Cores this process may run on, as at its first call: asking takes longer than a small kernel."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads of a call: torch's setting once torch is imported, else OMP_NUM_THREADS; at most the affinity."""
    if torch := sys.modules.get("torch"):
        return min(allowed_cores(), torch.get_num_threads()) or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(allowed_cores(), int(wanted))) if wanted.isdigit() else allowed_cores()


def _thread_count() -> tuple[Callable[[], int], int]:
    """What says how many threads a call has, and the most it may have: ``threads``, faster where torch is imported."""
    torch = sys.modules.get("torch")
    return (torch.get_num_threads if torch else threads), allowed_cores()


class CpuExecutable:
    """A loaded program. Calls may come from several threads; each has its own array of addresses."""

    def __init__(self, library: Path, program: Program) -> None:
        self.program = program
        self.library = ctypes.CDLL(str(library))
        self.run = self.library.flashc_run
        self.run.argtypes, self.run.restype = [ctypes.c_void_p], None

    def __call__(self, call: Invocation) -> None:
        self.prepare(call)([address(call.tensors[t.name]) for t in self.program.tensors])

    def prepare(self, call: Invocation) -> Prepared:
        """Strides, sizes and parameters laid out for C."""
        steps = [s for t in self.program.tensors for s in strides(call.tensors[t.name])]
        names = [p.name for p in self.program.params]
        blocks = (
            (ctypes.c_long * max(1, len(steps)))(*steps),
            (ctypes.c_long * len(self.program.sizes))(*(call.sizes[n] for n in self.program.sizes)),
            (ctypes.c_float * max(1, len(names)))(*(call.params[n] for n in names)),
        )
        fixed = _Call(None, *(ctypes.addressof(b) for b in blocks), *_runtime()[1:], 0)
        return _prepared(self.run, struct.Struct(f"{2 + len(self.program.tensors)}P").pack, fixed, blocks)


def _prepared(run: Callable[..., None], pack: Callable[..., bytes], fixed: _Call, kept: Sequence[Any]) -> Prepared:
    at, (asked, most) = ctypes.addressof(fixed), _thread_count()
    shares_openmp()

    def call(addresses: Iterable[int], _alive: Any = (fixed, kept)) -> None:
        wanted = asked()
        run(pack(at, wanted if wanted < most else most, *addresses))

    return call


def address(array: Any) -> int:
    """Where the elements of a numpy array or a CPU torch tensor start; ArgumentError for a tensor elsewhere."""
    if not hasattr(array, "data_ptr"):
        return int(array.ctypes.data)
    if array.device.type != "cpu":
        raise ArgumentError(f"a CPU kernel was given a tensor on {array.device}; move it to the CPU")
    return int(array.data_ptr())


def strides(array: Any) -> Sequence[int]:
    """Strides in elements."""
    return array.stride() if hasattr(array, "data_ptr") else [s // array.itemsize for s in array.strides]


def load(built: Built, program: Program) -> CpuExecutable:
    return CpuExecutable(built.files["binary"], program)
