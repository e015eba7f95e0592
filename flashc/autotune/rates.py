"""Rates of a device as the time model uses them, and how amounts are divided by them in integers."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from flashc.hwmodels.model import Device, Level, MatrixUnit
from flashc.ir.intexpr import Const, IntExpr, add
from flashc.ir.nodes import Atom

PRECISION = 64  # largest denominator of a rate: it is then off by less than 1 part in 4000
ZERO: IntExpr = Const(0)


def total(terms: Iterable[IntExpr]) -> IntExpr:
    return add(*terms)


def divided(amount: IntExpr, rate: float) -> IntExpr:
    """amount / rate; 0 where the rate is unknown. Dividing first keeps the product within int64.

    With amounts in operations and rates in TFLOP/s (bytes and TB/s), the result is in picoseconds, low by
    at most the numerator or denominator of the rate: some hundred picoseconds.
    """
    if rate <= 0:
        return ZERO
    if rate >= 1:
        exact = Fraction(rate).limit_denominator(PRECISION)
        return amount // exact.numerator * exact.denominator
    inverse = Fraction(1 / rate).limit_denominator(PRECISION)
    return amount // inverse.denominator * inverse.numerator


def matrix_unit(device: Device, atom: Atom | None) -> MatrixUnit | None:
    """The matrix unit that an atom names; None where the vector unit does the work."""
    return next((u for u in device.matrix_units if atom is not None and u.name == atom.unit), None)


def dot_rate(device: Device, atom: Atom | None, dtype: str) -> float:
    """Reachable TFLOP/s of a dot: of the unit its atom names, or of the vector unit for operands of
    ``dtype``.

    An atom of the vector unit is named after its instruction and type, such as ``fma_f32``.
    """
    unit = matrix_unit(device, atom)
    if unit is not None:
        return unit.peak_tflops * device.matmul_efficiency
    computed = atom.unit.rpartition("_")[2] if atom is not None else device.compute_dtype(dtype)
    peaks = device.vector.peak_tflops
    return peaks.get(computed, peaks.get("f32", 0.0)) * device.matmul_efficiency


def vector_rate(device: Device) -> float:
    """Element operations per picosecond: f32 lanes times clock (a multiply-add is two operations in one)."""
    return device.vector.peak_tflops.get("f32", 0.0) / 2


def exp_rate(device: Device) -> float:
    """Exponentials per picosecond."""
    return device.exp_per_second / 1e12


def private_caches(device: Device) -> list[Level]:
    """Caches of one core whose bandwidth is known, the innermost last."""
    return [lv for lv in device.levels if lv.kind == "cache" and lv.per == "core" and lv.bandwidth_gbs]


def first_caches(device: Device) -> tuple[int, float] | None:
    """Bytes of a core's innermost cache and the rate of the next; None unless it has two of known size and rate."""
    caches = private_caches(device)
    if len(caches) < 2 or not caches[-1].capacity_bytes:
        return None
    return caches[-1].capacity_bytes, level_rate(caches[-2])


def multiply_adds_per_load(device: Device) -> Fraction:
    """Multiply-adds that a CPU core issues per vector load: its peak against its innermost cache."""
    caches = private_caches(device)
    width = device.vector.width_bits // 8
    if not caches or not caches[-1].bandwidth_gbs:
        return Fraction(1)
    loads = caches[-1].bandwidth_gbs / 1e3 / width
    multiply_adds = device.vector.peak_tflops.get("f32", 0.0) / (2 * width / 4)
    return Fraction(multiply_adds / loads).limit_denominator(8)


def shared_cache(device: Device) -> Level | None:
    """The outermost cache that cores share."""
    shared = (lv for lv in device.levels if lv.kind == "cache" and lv.per != "core" and lv.bandwidth_gbs)
    return next(shared, None)


def staging(device: Device) -> Level | None:
    """The core's memory from which matrix units take operands: its outermost explicit one."""
    own = (lv for lv in device.levels if lv.kind == "explicit" and lv.per == "core" and lv.bandwidth_gbs)
    return next(own, None)


def level_rate(level: Level) -> float:
    """Bytes per picosecond out of all instances of a level."""
    return (level.bandwidth_gbs or 0.0) / 1e3


def memory_rate(device: Device) -> float:
    """Reachable bytes per picosecond of the main memory."""
    return level_rate(device.main_memory) * device.memory_efficiency


BARRIER_TRIPS = 3  # an arrival: the store before it must be visible, the counter goes up, a waiting task sees it


def barrier_ps(device: Device) -> int:
    """How long all tasks of a kernel wait for each other: trips to the memory where all cores meet."""
    return BARRIER_TRIPS * load_latency_ps(device)


MISSES = 24  # misses of a CPU core's first cache under way at once: 10 on Intel Skylake, 24 on AMD Zen 3


def jump_ps(device: Device) -> int:
    """What a load costs that no prefetcher foresees, beside others like it."""
    return load_latency_ps(device) // MISSES


def load_latency_ps(device: Device) -> int:
    """How long a load takes that a shared cache serves, or the main memory where there is none."""
    level = shared_cache(device) or device.main_memory
    return int((level.latency_ns or device.main_memory.latency_ns or 0.0) * 1000)
