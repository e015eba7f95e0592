"""Measures the CPU of this machine with probe.cpp and writes the result as a device document.

Without a C++ compiler the document holds the instruction set's usual rates as tagged defaults instead.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashc.hwmodels.machine import Cache, Machine
from flashc.system.toolchain import compile_shared

SOURCE = Path(__file__).with_name("probe.cpp")
SOURCES = {
    "probe": {"tier": "measured", "text": "micro-benchmark on this machine"},
    "sysfs": {"tier": "primary", "text": "/sys/devices/system/cpu of this machine"},
    "procfs": {"tier": "primary", "text": "/proc/cpuinfo and /proc/meminfo of this machine"},
}
_SECONDS = 0.002  # per trial: shorter than a time slice of the system's scheduler
# the working set that stands for main memory, all threads together
_MIN_DRAM_BYTES, _MAX_DRAM_BYTES = 64 << 20, 1 << 30
_DTYPES = {"f32": "probe_fma_f32", "f64": "probe_fma_f64", "f16": "probe_fma_f16", "bf16": "probe_dot_bf16"}
_TYPICAL_CACHES = (Cache(1, 32 << 10, 64, 1), Cache(2, 512 << 10, 64, 1))
_TYPICAL_CLOCK_GHZ = 2.5
_TYPICAL_LATENCY_NS = {"dram": 100.0, "l3": 20.0, "l2": 4.0, "l1": 1.2}
_TYPICAL_BYTES_PER_CLK = {"l3": 16, "l2": 32}
_TYPICAL_DRAM_GBS = 20.0

Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rates:
    """What the micro-benchmarks (or the defaults) give; ``src`` and ``how`` go beside each number."""

    clock_ghz: float
    exp_per_second: float
    peak_gflops: Mapping[str, float]
    read_gbs: Mapping[str, float]
    read_gbs_one_core: Mapping[str, float]
    latency_ns: Mapping[str, float]
    src: str
    how: str

    def node(self, value: float) -> Node:
        return _node(_rounded(value), self.src, self.how)


def measure(machine: Machine) -> Rates:
    """Run the micro-benchmarks on the machine's cores (a few seconds with the compilation).

    Raises CompilerMissingError, CompileError.
    """
    # -mcpu is the flag that selects instruction sets on Arm
    native = "-march=native" if machine.isa.arch.startswith("x86") else "-mcpu=native"
    flags = ("-O2", "-std=c++17", native, "-pthread")
    library = ctypes.CDLL(str(compile_shared(SOURCE.read_text(encoding="utf-8"), flags, stem="probe")))
    cpus = (ctypes.c_int * len(machine.cpus))(*machine.cpus)
    seconds = ctypes.c_double(_SECONDS)

    def call(name: str, *arguments: Any) -> float:
        function = getattr(library, name)
        function.restype = ctypes.c_double
        return float(function(*arguments, seconds))

    def read_gbs(name: str, threads: int) -> float:
        size = _working_set(machine, name) // (threads if _shared(machine, name) else 1)
        return call("probe_read", ctypes.c_size_t(size), cpus, threads) / 1e9

    def latency_ns(name: str) -> float:
        size = ctypes.c_size_t(_working_set(machine, name))
        return 1e9 / call("probe_chase", size, _line_bytes(machine), cpus)

    names = _memory_levels(machine)
    peaks = {dtype: call(function, cpus, len(cpus)) / 1e9 for dtype, function in _DTYPES.items()}
    return Rates(
        clock_ghz=call("probe_clock", cpus) / 1e9,
        exp_per_second=call("probe_exp2", cpus, len(cpus)),
        peak_gflops={dtype: peak for dtype, peak in peaks.items() if peak > 0},
        read_gbs={name: read_gbs(name, len(cpus)) for name in names},
        read_gbs_one_core={name: read_gbs(name, 1) for name in names},
        latency_ns={name: latency_ns(name) for name in names},
        src="probe",
        how="",
    )


def assume(machine: Machine) -> Rates:
    """Usual rates of the machine's instruction set, for when nothing can be measured."""
    clock = machine.clock_ghz or _TYPICAL_CLOCK_GHZ
    per_clk = len(machine.cpus) * clock
    f32 = per_clk * machine.isa.width_bits / 32 * 2 * 2
    names = _memory_levels(machine)
    vector_bytes = machine.isa.width_bits // 8
    bytes_per_clk = {**_TYPICAL_BYTES_PER_CLK, "l1": 2 * vector_bytes}
    one = {name: clock * bytes_per_clk.get(name, 16) for name in names if name != "dram"}
    return Rates(
        clock_ghz=clock,
        exp_per_second=per_clk * 1e9 * machine.isa.width_bits / 32 / 8,
        peak_gflops={"f32": f32, "f64": f32 / 2},
        read_gbs={"dram": _TYPICAL_DRAM_GBS, **{n: rate * len(machine.cpus) for n, rate in one.items()}},
        read_gbs_one_core={"dram": _TYPICAL_DRAM_GBS, **one},
        latency_ns={name: _TYPICAL_LATENCY_NS.get(name, _TYPICAL_LATENCY_NS["l3"]) for name in names},
        src="default",
        how="not measured: two FMA pipes, two loads per clock, typical cache and memory rates",
    )


def document(machine: Machine, rates: Rates) -> dict[str, Any]:
    """A complete device document (the schema's) of the machine with those rates."""
    cores = len(machine.cpus)
    peaks = {dtype: rates.node(gflops / 1e3) for dtype, gflops in rates.peak_gflops.items()}
    one_core = {f"{name}_gbs_one_core": rates.node(gbs) for name, gbs in rates.read_gbs_one_core.items()}
    return {
        "title": machine.model,
        "vendor": "native",
        "kind": "cpu",
        "arch": machine.isa.arch,
        "cores": _node(cores, "sysfs", "physical cores that this process may run on"),
        "clock_ghz": rates.node(rates.clock_ghz),
        "launch_overhead_us": _default(1.0, "fork and join of a hot thread team"),
        "exp_per_clk_per_core": rates.node(rates.exp_per_second / (cores * rates.clock_ghz * 1e9)),
        "matmul_efficiency": _default(0.9, "register-blocked kernels reach 0.85 to 0.95 of the FMA peak"),
        "memory_efficiency": _default(1.0, "the bandwidth is one that reads reach, not a nominal one"),
        "levels": _levels(machine, rates),
        "vector": {
            "width_bits": _node(machine.isa.width_bits, "procfs", "widest vectors among the CPU's flags"),
            "registers": _node(machine.isa.registers, "procfs", "vector registers of the instruction set"),
            "bf16_dot": "bf16" in peaks,
            "peak_tflops": peaks,
        },
        "features": list(machine.features),
        "targets": {"cpu": ["native"]},
        "facts": one_core,
        "sources": SOURCES,
    }


def _levels(machine: Machine, rates: Rates) -> dict[str, Any]:
    line = _node(_line_bytes(machine), "sysfs", "cache line")
    dram: Node = {"kind": "explicit", "per": "device", "line_bytes": line}
    if machine.memory_bytes:
        dram["capacity_bytes"] = _node(machine.memory_bytes, "procfs", "MemTotal")
    levels = {"dram": dram}
    for cache in reversed(_caches(machine)):
        levels[f"l{cache.level}"] = _cache(machine, cache)
    for name, level in levels.items():
        level["bandwidth_gbs"] = rates.node(rates.read_gbs[name])
        level["latency_ns"] = rates.node(rates.latency_ns[name])
    registers = machine.isa.registers * machine.isa.width_bits // 8
    levels["reg"] = {
        "kind": "registers",
        "per": "core",
        "capacity_bytes": _node(registers, "derived", "vector registers x width / 8"),
    }
    return levels


def _cache(machine: Machine, cache: Cache) -> Node:
    if not machine.caches:
        sizes = {
            key: _default(value, "the system does not tell its caches")
            for key, value in (("capacity_bytes", cache.size_bytes), ("line_bytes", cache.line_bytes))
        }
        return {"kind": "cache", "per": "core", **sizes}
    return {
        "kind": "cache",
        "per": _scope(machine, cache),
        "instances": _node(cache.instances, "sysfs", "over the usable cores"),
        "capacity_bytes": _node(cache.size_bytes, "sysfs", ""),
        "line_bytes": _node(cache.line_bytes, "sysfs", ""),
    }


def _scope(machine: Machine, cache: Cache) -> str:
    """Where one core is usable, a cache that it shares with others is still no core's own."""
    if cache.instances == len(machine.cpus) and not (cache.instances == 1 and cache.shared):
        return "core"
    return "device" if cache.instances == 1 else "group"


def _memory_levels(machine: Machine) -> tuple[str, ...]:
    return ("dram", *(f"l{cache.level}" for cache in reversed(_caches(machine))))


def _caches(machine: Machine) -> tuple[Cache, ...]:
    return machine.caches or _TYPICAL_CACHES


def _working_set(machine: Machine, name: str) -> int:
    """Half of the cache, so that it stays there; for main memory four times the last cache."""
    if name == "dram":
        last = _caches(machine)[-1].size_bytes * _caches(machine)[-1].instances
        fits = machine.memory_bytes // 4 or _MIN_DRAM_BYTES
        return min(max(4 * last, _MIN_DRAM_BYTES), _MAX_DRAM_BYTES, fits)
    return _cache_of(machine, name).size_bytes // 2


def _shared(machine: Machine, name: str) -> bool:
    """Whether the threads divide one working set among them."""
    if name == "dram":
        return True
    return _cache_of(machine, name).instances < len(machine.cpus)


def _cache_of(machine: Machine, name: str) -> Cache:
    return next(cache for cache in _caches(machine) if f"l{cache.level}" == name)


def _line_bytes(machine: Machine) -> int:
    return _caches(machine)[0].line_bytes


def _node(value: float, src: str, how: str) -> Node:
    return {"v": value, "src": src, "how": how} if how else {"v": value, "src": src}


def _default(value: float, reason: str) -> Node:
    return _node(value, "default", reason)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
