"""The time model: picoseconds of a placed program on a device, as one integer expression in its tile symbols.

Everything is read off the program by walkers and off the device model; no operator and no device is named here.
docs/model.md has the formulas, the constants and where they come from. In short, per kernel:

    units     work of each unit (matrix, on-chip operand reads, vector, exponential, shared cache) / its rate
    core      the longest unit, plus the rest divided by the number of independent streams that hide it
    stall     the part of a load's latency that neither buffers nor other resident tasks cover, once per loop step
    makespan  tasks over cores: whole tasks per core where they are equal, the longest task where they are not
    total     makespan beside the traffic with the slowest memory, and one launch
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flashc.autotune import counts, rates
from flashc.autotune.counts import SHARE, Tasks
from flashc.autotune.rates import ZERO, divided, total
from flashc.hwmodels.model import Device
from flashc.ir.analysis import Pad, transfers
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imax, imin
from flashc.ir.let import Names
from flashc.ir.nodes import Kernel, Par, Program, Seq, Stmt

ONE: IntExpr = Const(1)


@dataclass(frozen=True, slots=True)
class Style:
    """How a kind of machine executes.

    one_issue   arithmetic of all kinds goes through the same ports: its times add up, and moves cost operations
    step_ps     fixed cost of an iteration of a sequential loop: barriers, address arithmetic, loop control
    streams     independent streams of one core besides its resident tasks and its loops' buffers
    prefetches  hardware hides the latency of streamed loads
    """

    one_issue: bool
    step_ps: int
    streams: int
    prefetches: bool


STYLES: Mapping[str, Style] = {
    "cpu": Style(one_issue=True, step_ps=40_000, streams=4, prefetches=True),
    "gpu": Style(one_issue=False, step_ps=100_000, streams=1, prefetches=False),
    "npu": Style(one_issue=False, step_ps=400_000, streams=0, prefetches=False),
    "accelerator": Style(one_issue=False, step_ps=400_000, streams=0, prefetches=False),
}
TRANSPOSED_MOVE = 2  # scalar load and store slots of an element that is transposed on its way
STRAIGHT_MOVE = 2  # vector slots (load, convert, store) per vector of elements, less what overlaps
HIDDEN_LOADS = 8  # a CPU hides the loads of a register block behind its multiply-adds, all but one part in this


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Modelled picoseconds of one kernel: each unit with all cores busy, and in all with waves, steps and launch."""

    kernel: str
    units: tuple[tuple[str, IntExpr], ...]
    total: IntExpr


@dataclass(frozen=True, slots=True)
class ProgramTime:
    kernels: tuple[KernelTime, ...]

    @property
    def total(self) -> IntExpr:
        return total([k.total for k in self.kernels])


def model_time(
    placed: Program, device: Device, pad: Pad, resident: Mapping[str, IntExpr] | None = None
) -> ProgramTime:
    """Time of every kernel; ``resident`` gives tasks per core by kernel name where a core holds more than one."""
    held = resident or {}
    return ProgramTime(tuple(_Model(placed, k, device, pad, held.get(k.name, ONE)).time() for k in placed.kernels))


@dataclass
class _Model:
    program: Program
    kernel: Kernel
    device: Device
    pad: Pad
    resident: IntExpr

    def time(self) -> KernelTime:
        self.style = STYLES[self.device.kind]
        self.tasks = counts.tasks_of(self.program, self.kernel)
        self.stages = imax(ONE, *(s.stages for s in _loops(self.kernel.body)))
        self.workers: IntExpr = Sym("warps") if "warps" in self.program.tiles else ONE
        units = (*self._units(), ("memory", self._memory()))
        return KernelTime(self.kernel.name, units, self._total(units))

    def _total(self, units: Sequence[tuple[str, IntExpr]]) -> IntExpr:
        named = Names()
        self.resident = named.name("resident", self.resident)
        self.steps = named.name("steps", imax(ONE, counts.steps_of(self.program, self.kernel)))
        self.streams = named.name("streams", self._streams())
        *per_core, memory = [named.name(name, time) for name, time in units]
        busy = named.name("busy", self._core(per_core))
        span = named.name("span", _spread(named.name("core", busy + self._stall(busy)), self.tasks, self.device.cores))
        launch = int(self.device.launch_overhead_us * 1_000_000)
        return named.close(imax(span, memory) + imin(span, memory) // (self.streams + 1) + launch)

    # -- units

    def _units(self) -> tuple[tuple[str, IntExpr], ...]:
        """Name and time, all cores busy, of every unit that a core has a share of."""
        found = list(counts.dots(self.program, self.kernel, self.device, self.pad, self.workers))
        vector, exps = counts.element_operations(self.program, self.kernel, self.pad)
        arithmetic = [
            ("matrix", total([self._dot(d) for d in found])),
            ("vector", divided(vector + self._moves(), rates.vector_rate(self.device))),
            ("exp", divided(exps, rates.exp_rate(self.device))),
        ]
        times = [(name, self._shared_out(t)) for name, t in arithmetic]
        staging, cache = rates.staging(self.device), rates.shared_cache(self.device)
        if staging is not None:
            reads = total([d.operand_bytes for d in found])
            times.append((staging.name, divided(reads, rates.level_rate(staging))))
        if cache is not None:
            moved = total([t.bytes for t in transfers(self.program, self.kernel)]) + self._exchange()
            times.append((cache.name, divided(moved, rates.level_rate(cache))))
        return tuple(times)

    def _dot(self, found: counts.DotCount) -> IntExpr:
        """A register block of m x n multiply-adds per contraction step also loads m vectors and n broadcasts."""
        time = divided(found.operations, rates.dot_rate(self.device, found.dot.atom, found.dtype))
        atom = found.dot.atom
        if atom is None or atom.lane is None:
            return time
        ratio = rates.loads_per_multiply_add(self.device)
        block, loads = atom.m * atom.n * ratio.denominator, (atom.m + atom.n) * ratio.numerator
        slots = imax(block, loads) * HIDDEN_LOADS + imin(block, loads)
        return time // (block * HIDDEN_LOADS) * slots

    def _moves(self) -> IntExpr:
        if not self.style.one_issue:
            return ZERO
        straight, transposed = counts.moves(self.program, self.kernel)
        lanes = self.device.vector.width_bits // 32
        return straight * STRAIGHT_MOVE + transposed * TRANSPOSED_MOVE * lanes

    def _exchange(self) -> IntExpr:
        """Bytes through the shared cache between matrix and vector cores, which meet nowhere else: out and in."""
        if self.device.vector.units_per_core == 1:
            return ZERO
        return counts.exchanged_bytes(self.program, self.kernel) * 2

    def _shared_out(self, time: IntExpr) -> IntExpr:
        """Fewer warps on a core than it has sub-partitions leave the others idle."""
        limits = self.device.occupancy
        if limits is None or self.workers == ONE:
            return time
        parts = limits.sub_partitions_per_sm
        return time // imin(Const(parts), self.workers * self.resident) * parts

    def _memory(self) -> IntExpr:
        cache = rates.shared_cache(self.device)
        capacity = cache.capacity_bytes * cache.instances if cache and cache.capacity_bytes else None
        slots = self.resident * self.device.cores
        moved = counts.distinct_bytes(self.program, self.kernel, slots, capacity)
        return divided(moved, rates.memory_rate(self.device))

    # -- one core

    def _streams(self) -> IntExpr:
        """Independent streams of a core that hide each other's units: tasks side by side, or buffers in flight."""
        if self.style.one_issue:
            return Const(self.style.streams)
        if self.device.occupancy is None:
            return self.stages + self.style.streams
        return imin(self.resident, ceil_div(self.tasks.count, self.device.cores)) + self.style.streams

    def _core(self, times: Sequence[IntExpr]) -> IntExpr:
        steps = self.steps * self.style.step_ps // self.device.cores
        if self.style.one_issue:
            times = [total(times[:3]) + steps, *times[3:]]
            steps = ZERO
        longest = imax(*times)
        return longest + (total(times) - longest + steps) // self.streams

    def _stall(self, busy: IntExpr) -> IntExpr:
        """What buffers ahead and the other resident tasks leave of a load's latency, over all steps."""
        if self.style.prefetches:
            return ZERO
        step = busy // self.steps * self.device.cores
        covered = step * (self.stages * self.resident - 1)
        left = imax(ZERO, Const(rates.load_latency_ps(self.device)) - covered)
        return self.steps // (self.resident * self.device.cores) * left


def _spread(busy: IntExpr, tasks: Tasks, cores: int) -> IntExpr:
    """Time until the last core is done, longest tasks first; ``busy`` is the time if all cores shared evenly."""
    task = busy // imax(tasks.count, ONE) * cores
    idle = ceil_div(tasks.count, cores) * cores - tasks.count
    return imax(busy + task // (SHARE * cores) * tasks.smallest * idle, task // SHARE * tasks.longest)


def _loops(body: Sequence[Stmt]) -> list[Seq]:
    found: list[Seq] = []
    for stmt in body:
        if isinstance(stmt, Seq):
            found.append(stmt)
        if isinstance(stmt, Par | Seq):
            found += _loops(stmt.body)
    return found
