"""The device type: what the solver, the time model and the backends read about a machine.

Every number comes from a device file (or the probe) together with its source; nothing here supplies a value.
Units are in the field names: bytes, GB/s (1e9 B/s), GHz, TFLOP/s (1e12, dense; an FMA counts 2), ns, us.
Rates and peaks are aggregated over the device unless the name says ``per_core``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Tier = Literal["primary", "secondary", "derived", "measured", "default"]
Kind = Literal["gpu", "npu", "cpu", "accelerator"]
LevelKind = Literal["explicit", "cache", "registers", "storage"]
Scope = Literal["device", "group", "core"]
FactValue = int | float | str | bool | tuple[int | float | str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a number comes from; ``how`` is the formula, the unit conversion or the reason of a default."""

    id: str
    tier: Tier
    text: str
    how: str = ""


@dataclass(frozen=True, slots=True)
class Default:
    """A value that no source gives: output that leaned on it prints it with its reason."""

    field: str
    value: FactValue
    reason: str


@dataclass(frozen=True, slots=True)
class Level:
    """One memory level. ``capacity_bytes`` is of ONE instance; ``instances`` of them sit on the device.

    ``per``: 'device' (one, shared by all cores), 'group' (shared by some cores, e.g. an XCD) or 'core'.
    ``bandwidth_gbs``: reads out of all instances together. ``kind``: the program fills 'explicit' levels; 'storage' is
    a disk, outside all others, with ``queue_depth`` requests in flight and ``latency_ns`` to the first byte of each.
    """

    name: str
    kind: LevelKind
    per: Scope
    instances: int
    capacity_bytes: int | None
    bandwidth_gbs: float | None
    line_bytes: int | None
    alignment_bytes: int | None
    latency_ns: float | None
    queue_depth: int | None = None

    @property
    def label(self) -> str:
        """The name as people write it: L2, DRAM, registers."""
        return "registers" if self.kind == "registers" else self.name.upper()

    def throughput_gbs(self, chunk_bytes: float) -> float | None:
        """Reachable GB/s for requests of ``chunk_bytes`` contiguous bytes: c / (t0 / qd + c / B).

        After "LLM in a flash" (Alizadeh et al. 2023, arXiv 2312.11514); a request moves at least a line. Where requests
        cost nothing of their own (no ``queue_depth``) it is the bandwidth.
        """
        if self.bandwidth_gbs is None or self.queue_depth is None or self.latency_ns is None:
            return self.bandwidth_gbs
        moved = max(chunk_bytes, self.line_bytes or 0)
        return chunk_bytes / (self.latency_ns / self.queue_depth + moved / self.bandwidth_gbs)


@dataclass(frozen=True, slots=True)
class MatrixUnit:
    """One matrix instruction: smallest shape m x n x k; n may grow in steps of n up to ``n_max``."""

    name: str
    m: int
    n: int
    k: int
    n_max: int
    operand: str
    accumulator: str
    peak_tflops: float


@dataclass(frozen=True, slots=True)
class VectorUnit:
    """The SIMD side of a core (CUDA cores, AMD SIMDs, Ascend vector cores, CPU vector units).

    ``units_per_core``: vector cores per core (2 on a split Ascend AI core). ``registers``: of a CPU core.
    ``bf16_dot``: has a pairwise bf16 dot product accumulating in f32 (vdpbf16ps, bfdot).
    ``flops_per_clk_per_core`` is ``peak_tflops`` / (cores x clock).
    """

    width_bits: int
    units_per_core: int
    registers: int | None
    bf16_dot: bool
    peak_tflops: Mapping[str, float] = field(hash=False)
    flops_per_clk_per_core: Mapping[str, float] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How blocks share one GPU core; registers are 32 bit, memory in bytes."""

    threads_per_warp: int
    max_threads_per_block: int
    max_threads_per_sm: int
    max_blocks_per_sm: int
    regs_per_sm: int
    regs_per_thread_max: int
    reg_alloc_unit_per_warp: int
    sub_partitions_per_sm: int
    smem_per_sm: int
    smem_per_block_max: int
    smem_reserved_per_block: int
    smem_granularity: int


@dataclass(frozen=True, slots=True)
class Device:
    """A device model. ``levels`` run from the outermost (a disk if there is one, dram, gm) to the innermost.

    ``product_names``: what the driver calls it. ``cores``: SMs, CUs, AI (cube) cores, matrix engines or CPU
    cores that one kernel uses. ``grid_limit``: largest launch grid per axis, () when there is none.
    ``matmul_efficiency``, ``memory_efficiency``: reachable share of the peak and of the main memory's bandwidth.
    ``targets``: backend name -> compile target, e.g. {'triton': ('cuda', 80, 32)}, {'cpu': ('x86-64-v4',)}.
    ``missing_artefacts``: why no backend can emit, when ``targets`` is empty. ``unusable``: why tiles cannot
    be computed at all. ``facts``: sourced facts beyond the fields above. ``sources``: field path -> source.
    """

    name: str
    title: str
    vendor: str
    kind: Kind
    arch: str
    note: str
    product_names: tuple[str, ...]
    cores: int
    clock_ghz: float
    launch_overhead_us: float
    grid_limit: tuple[int, ...]
    exp_per_clk_per_core: float
    matmul_efficiency: float
    memory_efficiency: float
    levels: tuple[Level, ...]
    matrix_units: tuple[MatrixUnit, ...]
    vector: VectorUnit
    occupancy: Occupancy | None
    features: frozenset[str]
    targets: Mapping[str, tuple[str | int, ...]] = field(hash=False)
    missing_artefacts: str | None
    unusable: str | None
    facts: Mapping[str, FactValue] = field(hash=False)
    sources: Mapping[str, Source] = field(hash=False, repr=False)
    defaults: tuple[Default, ...]
    hash: str

    def level(self, name: str) -> Level:
        """The memory level of that name; KeyError (listing the levels) when the device has none."""
        for level in self.levels:
            if level.name == name:
                return level
        known = ", ".join(level.name for level in self.levels)
        raise KeyError(f"{self.name} has no memory level {name!r}; it has {known}")

    @property
    def main_memory(self) -> Level:
        """The memory that holds the operands of a call: the outermost level that is not a disk."""
        return next(level for level in self.levels if level.kind != "storage")

    @property
    def storage(self) -> Level | None:
        """The disk, where the machine is modelled with one."""
        return next((level for level in self.levels if level.kind == "storage"), None)

    def peak_tflops(self, dtype: str, accumulate: str = "f32") -> float | None:
        """Dense peak for operands of ``dtype``: best matrix unit with that accumulator, else the vectors'.

        None when the device cannot multiply that type; see :meth:`compute_dtype`.
        """
        wanted = (dtype, accumulate)
        matrix = [u.peak_tflops for u in self.matrix_units if (u.operand, u.accumulator) == wanted]
        return max(matrix, default=None) or self.vector.peak_tflops.get(dtype)

    def compute_dtype(self, dtype: str) -> str:
        """The type that products of ``dtype`` are computed in: itself, or f32 where the device lacks it."""
        return dtype if self.peak_tflops(dtype) is not None else "f32"

    @property
    def exp_per_second(self) -> float:
        """Exponentials per second over the whole device."""
        return self.exp_per_clk_per_core * self.cores * self.clock_ghz * 1e9

    @property
    def triton_target(self) -> tuple[str | int, ...] | None:
        """('cuda', cc, 32) or ('hip', 'gfx942', 64): backend, architecture, threads per warp."""
        return self.targets.get("triton")

    @property
    def cpu_isa(self) -> str | None:
        """The ``-march`` value for a C++ compiler, e.g. 'x86-64-v4'."""
        target = self.targets.get("cpu")
        return None if target is None else str(target[0])
