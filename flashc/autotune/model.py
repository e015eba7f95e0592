"""The time model: picoseconds of a placed program on a device, as one integer expression in its tile symbols.

Everything is read off the program by the walkers of ``ir.analysis`` and off the device model; no operator and no device
is named here. Per kernel, the work of each unit (matrix, vector, exponential, slow memory, on-chip memory) is divided by
the unit's rate. Units that run side by side overlap, so the largest counts in full and the rest in part; units that
share an issue port add up. The result is stretched by the last, partly filled wave of tasks, and a launch and the
latency of each dependent step are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from flashc.hwmodels.model import Device
from flashc.ir.analysis import Pad, Site, sites, transfers, work
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imax
from flashc.ir.nodes import Dot, Kernel, Load, Par, Program, Seq

ZERO: IntExpr = Const(0)


@dataclass(frozen=True, slots=True)
class Style:
    """How a kind of machine executes.

    hidden        share of the smaller units' time that disappears behind the largest (1 = perfect overlap)
    step_ns       fixed cost of one iteration of a sequential loop: barriers, address arithmetic, loop control
    slots         resident tasks per core as an expression (occupancy), 1 where a core runs one task at a time
    """

    hidden: Fraction
    step_ns: Fraction


# Out-of-order CPUs issue everything through the same vector ports; GPUs and NPUs have separate matrix, special-function
# and load units with imperfect overlap. The shares are fitted by eye to the anchors of docs/model.md, not per device.
STYLES: Mapping[str, Style] = {
    "cpu": Style(hidden=Fraction(0), step_ns=Fraction(40)),
    "gpu": Style(hidden=Fraction(3, 4), step_ns=Fraction(120)),
    "npu": Style(hidden=Fraction(3, 4), step_ns=Fraction(400)),
    "accelerator": Style(hidden=Fraction(3, 4), step_ns=Fraction(400)),
}


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Modelled picoseconds of one kernel: by unit, and in all with waves, steps and launch."""

    kernel: str
    units: tuple[tuple[str, IntExpr], ...]
    tasks: IntExpr
    slots: IntExpr
    total: IntExpr


@dataclass(frozen=True, slots=True)
class ProgramTime:
    kernels: tuple[KernelTime, ...]

    @property
    def total(self) -> IntExpr:
        found = ZERO
        for k in self.kernels:
            found = found + k.total
        return found


def model_time(
    placed: Program, device: Device, pad: Pad, occupancy: Mapping[str, IntExpr] | None = None
) -> ProgramTime:
    """Time of every kernel; ``occupancy`` gives resident tasks per core by kernel name where more than one fits."""
    slots = occupancy or {}
    return ProgramTime(
        tuple(_kernel_time(placed, k, device, pad, slots.get(k.name, Const(1))) for k in placed.kernels)
    )


def _kernel_time(program: Program, kernel: Kernel, device: Device, pad: Pad, resident: IntExpr) -> KernelTime:
    style = STYLES[device.kind]
    units = tuple(_units(program, kernel, device, pad))
    times = [t for _, t in units]
    total_units, largest = _sum(times), imax(*times)
    busy = largest + _times(total_units - largest, 1 - style.hidden)
    tasks, steps, stages = _tasks(program, kernel), _steps(program, kernel), _stages(kernel)
    slots = resident * device.cores
    waves = ceil_div(tasks, slots)
    stretched = busy // imax(tasks, Const(1)) * waves * slots
    step_ps = int(style.step_ns * 1000)
    wait = _memory_latency_ps(device)
    dependent = steps * (step_ps + wait // stages) // imax(tasks, Const(1)) * waves
    launch = int(device.launch_overhead_us * 1_000_000)
    return KernelTime(
        kernel.name, units, tasks, slots, stretched + _times(dependent, 1 - style.hidden) + launch
    )


def _units(program: Program, kernel: Kernel, device: Device, pad: Pad) -> Sequence[tuple[str, IntExpr]]:
    done = work(program, kernel, pad)
    dtype = _dot_dtype(program, kernel)
    peak = device.peak_tflops(dtype) or device.peak_tflops("f32") or 0.0
    peak *= device.matmul_efficiency
    vector = device.vector.peak_tflops.get("f32", 0.0) / 2 or peak
    slow = device.levels[0].bandwidth_gbs or 0.0
    moved = _sum([t.bytes for t in transfers(program, kernel)])
    found = [
        ("matrix", _divide(_dot_work(program, kernel, pad, device), peak)),
        ("vector", _divide(done.vector, vector)),
        ("exp", _divide(done.exps, device.exp_per_second / 1e12)),
        (
            "memory",
            _divide(_beyond_cache(program, kernel, device, moved), slow * device.memory_efficiency / 1e3),
        ),
    ]
    cache = _shared_cache(device)
    if cache is not None:
        found.append((cache[0], _divide(moved, cache[1] / 1e3)))
    staging = _staging_rate(device)
    if staging is not None:
        found.append(("on-chip", _divide(_operand_reads(program, kernel, pad), staging / 1e3)))
    return found


def _dot_work(program: Program, kernel: Kernel, pad: Pad, device: Device) -> IntExpr:
    """Multiply-add operations as issued: a register block of mr x nr pays for its loads and for its write-back."""
    total = ZERO
    for site in sites(program, kernel):
        if not isinstance(site.stmt, Dot):
            continue
        out, atom = site.stmt.out, site.stmt.atom
        flops = site.count((*out.axes, *site.stmt.over), pad) * 2
        if atom is None or atom.lane is None:
            total = total + flops
            continue
        block = atom.m * atom.n
        # per contraction step: m vector loads and n broadcasts beside m*n multiply-adds; 2 moves per accumulator at the end
        total = total + flops * imax(block, atom.m + atom.n) // block + site.count(out.axes, pad) * 4
    return total


def _operand_reads(program: Program, kernel: Kernel, pad: Pad) -> IntExpr:
    """Bytes that the matrix units read from the staging memory: each worker of a task reads the shared operand whole."""
    total = ZERO
    workers: IntExpr = Sym("warps") if "warps" in program.tiles else Const(1)
    staged = {s.stmt.out.name: s.stmt.out for s in sites(program, kernel) if isinstance(s.stmt, Load)}
    for site in sites(program, kernel):
        if isinstance(site.stmt, Dot):
            value = staged.get(site.stmt.b)
            if value is not None:
                total = total + site.count(value.axes, pad) * value.dtype.bytes * workers
    return total


def _beyond_cache(program: Program, kernel: Kernel, device: Device, moved: IntExpr) -> IntExpr:
    """Bytes from the slowest memory: what the tasks move, less what a shared cache that holds the inputs serves again."""
    cache = next(
        (lv for lv in device.levels[1:] if lv.per != "core" and lv.kind == "cache" and lv.capacity_bytes),
        None,
    )
    if cache is None or cache.capacity_bytes is None:
        return moved
    capacity = cache.capacity_bytes * cache.instances
    once = ZERO
    touched = {t.tensor: t for t in transfers(program, kernel)}
    for name in touched:
        size: IntExpr = Const(program.tensor(name).dtype.bytes)
        for dim in program.tensor(name).dims:
            size = size * dim
        once = once + size
    # Tasks that run together share the operands they stream: about an eighth of them is wanted at a time. What of that
    # does not fit in the cache is read again, in proportion (in 1/1024).
    wanted = once // 8
    missing = imax(ZERO, wanted - capacity) * 1024 // imax(wanted, Const(1))
    return once + imax(moved - once, ZERO) * missing // 1024


# -- loops and rates


def _tasks(program: Program, kernel: Kernel) -> IntExpr:
    found: IntExpr = Const(1)
    for stmt in kernel.body:
        if isinstance(stmt, Par):
            for loop in stmt.loops:
                found = found * ceil_div(program.axis(loop.axis).extent, loop.tile)
    return found


def _steps(program: Program, kernel: Kernel) -> IntExpr:
    """Iterations of all sequential loops, over all tasks."""
    return _sum(
        [_iterations(s) for s in sites(program, kernel) if isinstance(s.stmt, Load) and _innermost(s)]
    )


def _innermost(site: Site) -> bool:
    return bool(site.trips) and not site.trips[-1].parallel


def _iterations(site: Site) -> IntExpr:
    return site.count(())


def _stages(kernel: Kernel) -> IntExpr:
    return imax(Const(1), *(s.stages for s in _seqs(kernel.body)))


def _seqs(body: Sequence[object]) -> list[Seq]:
    found: list[Seq] = []
    for stmt in body:
        if isinstance(stmt, Seq):
            found.append(stmt)
        if isinstance(stmt, Par | Seq):
            found += _seqs(stmt.body)
    return found


def _memory_latency_ps(device: Device) -> int:
    if device.kind == "cpu":
        return 0  # hardware prefetch and out-of-order execution hide it
    return int((device.levels[0].latency_ns or 500.0) * 1000)


def _shared_cache(device: Device) -> tuple[str, float] | None:
    for level in device.levels[1:]:
        if level.kind == "cache" and level.per != "core" and level.bandwidth_gbs:
            return level.name, level.bandwidth_gbs
    return None


def _staging_rate(device: Device) -> float | None:
    for level in device.levels:
        if level.kind == "explicit" and level.per == "core" and level.bandwidth_gbs:
            return level.bandwidth_gbs
    return None


def _dot_dtype(program: Program, kernel: Kernel) -> str:
    for site in sites(program, kernel):
        if isinstance(site.stmt, Load):
            return program.tensor(site.stmt.access.tensor).dtype.name
    return "f32"


def _sum(terms: Sequence[IntExpr]) -> IntExpr:
    total = ZERO
    for term in terms:
        total = total + term
    return total


def _times(expr: IntExpr, factor: Fraction) -> IntExpr:
    if factor == 0:
        return ZERO
    return expr * factor.numerator // factor.denominator


def _divide(amount: IntExpr, per_ps: float) -> IntExpr:
    """amount / rate with a rate per picosecond (TFLOP/s, TB/s): exact to a part in a million."""
    if per_ps <= 0:
        return ZERO
    rate = Fraction(per_ps).limit_denominator(1000)
    rate = rate if rate > 0 else Fraction(1, 1000)
    return amount * rate.denominator // rate.numerator
