"""What Linux says about this machine's CPU: model, instruction sets, usable cores, caches."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_CPU_DIR = Path("sys/devices/system/cpu")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_X86_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_X86_V3 = {"avx2", "fma", "f16c", "bmi2"}
# /proc/cpuinfo spelling -> the feature names of the device files
_FEATURES = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512f",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx",
    "asimd": "neon",
    "asimdhp": "fp16",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache level: size of one instance, line, how many instances serve the usable cores, and whether other cores,
    usable or not, share the first one."""

    level: int
    size_bytes: int
    line_bytes: int
    instances: int
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Isa:
    """Vector instruction set: name as in device files, width, and number of vector registers."""

    arch: str
    width_bits: int
    registers: int


@dataclass(frozen=True, slots=True)
class Machine:
    """``cpus``: one logical CPU per physical core that this process may use; threads are pinned to them."""

    model: str
    flags: frozenset[str]
    cpus: tuple[int, ...]
    caches: tuple[Cache, ...]
    memory_bytes: int
    clock_ghz: float | None
    isa: Isa

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(sorted(_FEATURES[flag] for flag in self.flags & _FEATURES.keys()))


def read_machine(root: Path = Path("/"), cpus: frozenset[int] | None = None) -> Machine:
    """Read the machine below ``root``; ``cpus``: logical CPUs to use, by default this process's affinity."""
    allowed = cpus if cpus is not None else _affinity()
    cpuinfo = _read(root / "proc/cpuinfo")
    flags = frozenset((_field(cpuinfo, "flags") or _field(cpuinfo, "Features") or "").split())
    cores = _one_cpu_per_core(root, allowed)
    clock = _field(cpuinfo, "cpu MHz")
    return Machine(
        model=_field(cpuinfo, "model name") or _arm_model(cpuinfo) or platform.machine(),
        flags=flags,
        cpus=cores,
        caches=_caches(root, cores),
        memory_bytes=_memory(root),
        clock_ghz=float(clock) / 1e3 if clock else None,
        isa=_isa(flags),
    )


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _isa(flags: frozenset[str]) -> Isa:
    if flags >= _X86_V4:
        return Isa("x86-64-v4", 512, 32)
    if flags >= _X86_V3:
        return Isa("x86-64-v3", 256, 16)
    if "asimd" in flags:
        return Isa("aarch64-neon", 128, 32)
    return Isa("x86-64" if "sse2" in flags else platform.machine(), 128, 16)


def _one_cpu_per_core(root: Path, allowed: frozenset[int]) -> tuple[int, ...]:
    """The lowest allowed CPU of each set of hyper-thread siblings."""
    chosen: dict[str, int] = {}
    for cpu in sorted(allowed):
        siblings = _read(root / _CPU_DIR / f"cpu{cpu}/topology/thread_siblings_list").strip()
        chosen.setdefault(siblings or str(cpu), cpu)
    return tuple(chosen.values())


def _caches(root: Path, cpus: tuple[int, ...]) -> tuple[Cache, ...]:
    """Data and unified caches of the first usable core; instances are counted over all usable cores."""
    found = []
    for index in sorted((root / _CPU_DIR / f"cpu{cpus[0]}/cache").glob("index*")):
        size = re.fullmatch(r"(\d+)([KMG])", _read(index / "size").strip())
        if _read(index / "type").strip() == "Instruction" or size is None:
            continue
        serves = [_read(root / _CPU_DIR / f"cpu{cpu}/cache/{index.name}/shared_cpu_list") for cpu in cpus]
        found.append(
            Cache(
                level=int(_read(index / "level")),
                size_bytes=int(size[1]) * _UNITS[size[2]],
                line_bytes=int(_read(index / "coherency_line_size").strip() or 64),
                instances=len(set(serves)),
                shared=serves[0] != _read(root / _CPU_DIR / f"cpu{cpus[0]}/topology/thread_siblings_list"),
            )
        )
    return tuple(sorted(found, key=lambda cache: cache.level))


def _memory(root: Path) -> int:
    total = _field(_read(root / "proc/meminfo"), "MemTotal")
    return int(total.split()[0]) * 1024 if total else 0


def _arm_model(cpuinfo: str) -> str:
    part = _field(cpuinfo, "CPU part")
    return f"Arm CPU part {part}, implementer {_field(cpuinfo, 'CPU implementer')}" if part else ""


def _field(text: str, name: str) -> str | None:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
