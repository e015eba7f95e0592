"""The time model: picoseconds of a placed program on a device, as one integer expression in its tile symbols.

Everything is read off the program by walkers and off the device; no operator and no device is named here.
docs/model.md has the formulas, the constants and where they come from. In short, per kernel:

    units      work of each unit (matrix, vector, exponential, on-chip reads, loads) over its rate
    core       the longest unit, plus what the core's other independent streams do not hide of the rest
    stall      what neither buffers nor other resident tasks cover of a load's latency, once per loop step
    makespan   whole tasks per core where tasks are equal, the longest task where they are not
    total      makespan beside the traffic with the slowest memory, launches, and barriers of all tasks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flashc.autotune import counts, rates
from flashc.autotune.counts import SHARE, Tasks
from flashc.autotune.occupancy import spilled_bytes, workers
from flashc.autotune.rates import ZERO, divided, total
from flashc.autotune.streams import ahead_again, jumps
from flashc.hwmodels.model import Device, Level
from flashc.ir.analysis import Pad, Transfer, transfers
from flashc.ir.intexpr import Const, IntExpr, ceil_div, imax, imin
from flashc.ir.let import Names
from flashc.ir.nodes import Kernel, Par, Program, Seq, Stmt
from flashc.ir.steps import barriers, launched, launches

ONE: IntExpr = Const(1)
LOADS, MEMORY, JUMPS = "loads", "memory", "jumps"
PARTS = 4  # streams are counted in quarters
SIDE_BY_SIDE = 2  # tasks that hide each other on one core: while one multiplies the other does the rest


@dataclass(frozen=True, slots=True)
class Style:
    """How a kind of machine executes.

    out_of_order   all arithmetic shares the issue ports, so its times add up; hardware prefetches loads
    issue_ps       instructions of a loop iteration besides its work: addresses, barriers, control
    step_ps        latency of a loop iteration that other streams hide: barriers, row reductions, flags
    streams        streams that hide each other, besides a core's resident tasks and its loops' buffers
    """

    out_of_order: bool
    issue_ps: int
    step_ps: int
    streams: int


STYLES: Mapping[str, Style] = {
    "cpu": Style(out_of_order=True, issue_ps=40_000, step_ps=0, streams=16),
    "gpu": Style(out_of_order=False, issue_ps=20_000, step_ps=100_000, streams=1),
    "npu": Style(out_of_order=False, issue_ps=100_000, step_ps=400_000, streams=0),
    "accelerator": Style(out_of_order=False, issue_ps=100_000, step_ps=400_000, streams=0),
}
STRAIGHT_MOVE = 2  # vector slots (load, store) of a vector of elements; transposing it shuffles it log2(lanes) times
ZIP_AND_ADD = 3  # vector operations per accumulator that is summed across its lanes
SPILL_TOUCHES = 32  # accesses of a spilled register per step: read and written by some 16 instructions
HIDDEN_PANELS = 8  # of vectors that come from the second cache instead of the first, one in this many is not hidden
HIDDEN_LOADS = 16  # of the loads of a CPU's register block, one part in this is not hidden


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Modelled picoseconds of one kernel: each unit with all cores busy, and in all."""

    kernel: str
    units: tuple[tuple[str, IntExpr], ...]
    total: IntExpr


@dataclass(frozen=True, slots=True)
class ProgramTime:
    kernels: tuple[KernelTime, ...]

    @property
    def total(self) -> IntExpr:
        return total(k.total for k in self.kernels)


def model_time(
    placed: Program, device: Device, pad: Pad, resident: Mapping[str, IntExpr] | None = None
) -> ProgramTime:
    """Time of every kernel; ``resident`` gives tasks per core by kernel name where a core holds several."""
    held = resident or {}
    models = (
        _Model(placed, part, device, pad, held.get(kernel.name, ONE))
        for kernel in placed.kernels
        for part in launched(kernel)
    )
    return ProgramTime(tuple(model.time() for model in models))


@dataclass
class _Model:
    program: Program
    kernel: Kernel
    device: Device
    pad: Pad
    resident: IntExpr

    def time(self) -> KernelTime:
        self.style = STYLES[self.device.kind]
        self.lanes = self.device.vector.width_bits // 32
        self.walked = counts.walked(self.program, self.kernel, self.pad)
        self.stages = imax(ONE, *(s.stages for s in _loops(self.kernel.body)))
        self.workers = workers(self.program, self.device)
        named = Names(self.kernel.name)
        tasks = counts.tasks_of(self.walked)
        self.tasks = replace(tasks, count=named.name("tasks", tasks.count))
        there = ceil_div(self.tasks.count, self.device.cores)
        self.resident = named.name("resident", imin(self.resident, imax(ONE, there)))
        self.steps = named.name("steps", imax(ONE, counts.steps_of(self.walked)))
        self.streams = named.name("streams", self._streams())
        units = (*self._units(), (MEMORY, self._memory()))
        closed = tuple((name, named.close(time)) for name, time in units)
        return KernelTime(self.kernel.name, closed, self._total(units, named))

    def _total(self, units: Sequence[tuple[str, IntExpr]], named: Names) -> IntExpr:
        times = {name: named.name(name, time) for name, time in units}
        memory = times.pop(MEMORY)
        busy = named.name("busy", self._core(times))
        core = named.name("core", busy + self._stall(busy))
        span = named.name("span", _makespan(core, self.tasks, self.device.cores))
        hidden = imin(span, memory) // (self._ahead() + PARTS) * PARTS
        return named.close(imax(span, memory) + hidden + self._waits())

    def _waits(self) -> IntExpr:
        """Launches, one per step of a loop around the kernel's tasks, and the barriers of a persistent kernel. A CPU
        that has one task only does neither."""
        launch = Const(int(self.device.launch_overhead_us * 1_000_000))
        barrier = barriers(self.program, self.kernel) * rates.barrier_ps(self.device)
        waits = launches(self.program, self.kernel) * launch + barrier
        return waits * imin(ONE, self.tasks.count - 1) if self.style.out_of_order else waits

    def _ahead(self) -> IntExpr:
        """Streams, in PARTS-ths, beside which memory works. On a CPU that loads ahead by choice, misses add up with
        all else where it does not."""
        if self.style.out_of_order and self.stages != ONE:
            return imin(self.streams, (self.stages - 1) * self.streams)
        return self.streams

    # -- units

    def _units(self) -> tuple[tuple[str, IntExpr], ...]:
        """Name and time, all cores busy, of every unit that a core has a share of."""
        dots = list(counts.dots(self.walked, self.device, self.pad, self.workers))
        vector, exps = counts.element_operations(self.walked, self.pad, self.lanes)
        arithmetic = (
            ("matrix", total(self._dot(d) for d in dots)),
            ("vector", divided(vector + self._moves() + self._across(), rates.vector_rate(self.device))),
            ("exp", divided(exps, rates.exp_rate(self.device))),
        )
        found = [(name, self._shared_out(time)) for name, time in arithmetic]
        if self.style.out_of_order and (jumped := jumps(self.walked)) != ZERO:
            found.append((JUMPS, jumped // self.device.cores * rates.jump_ps(self.device)))
        staging, cache = rates.staging(self.device), rates.shared_cache(self.device)
        if staging is not None:
            reads = total(d.operand_bytes for d in dots) + self._spills()
            found.append((staging.name, divided(reads, rates.level_rate(staging))))
        if cache is not None:
            moved = total(t.bytes for t in self._transfers()) + self._exchange() + self._resident(cache)
            found.append((LOADS, divided(moved, rates.level_rate(cache))))
        return tuple(found)

    def _transfers(self) -> tuple[Transfer, ...]:
        return transfers(self.program, self.kernel, self.walked.sites)

    def _dot(self, found: counts.DotCount) -> IntExpr:
        """A CPU's register block of m x n multiply-adds per step also loads m vectors and n broadcasts."""
        time = divided(found.operations, rates.dot_rate(self.device, found.dot.atom, found.dtype))
        atom = found.dot.atom
        if atom is None or atom.lane is None:
            return time
        ratio = rates.multiply_adds_per_load(self.device)
        block, loads = atom.m * atom.n * ratio.denominator, (atom.m + atom.n) * ratio.numerator
        slots = imax(block, loads) * HIDDEN_LOADS + imin(block, loads)
        return time // (block * HIDDEN_LOADS) * slots + self._beyond_first_cache(found)

    def _beyond_first_cache(self, found: counts.DotCount) -> IntExpr:
        """A panel that is strewn over more than the innermost cache comes from the next one at every block, and a
        result that is added to goes there and back if its tile is larger."""
        caches = rates.first_caches(self.device)
        if caches is None:
            return ZERO
        first, next_rate = caches
        strewn, spread = (imin(ONE, b // (first + 1)) for b in (found.panel_bytes, found.result_bytes))
        panels = divided(found.panel_reads, next_rate) // HIDDEN_PANELS
        return panels * strewn + divided(found.results, next_rate) * spread

    def _moves(self) -> IntExpr:
        """Vector operations of copies and stores, where no other unit moves data."""
        if not self.style.out_of_order:
            return ZERO
        straight, transposed = counts.moves(self.walked)
        return straight * STRAIGHT_MOVE + transposed * (STRAIGHT_MOVE + self.lanes.bit_length() - 1)

    def _across(self) -> IntExpr:
        """Operations that sum accumulators across their lanes: two of them are zipped twice and added, to be one."""
        return counts.summed_across(self.walked) * (self.lanes * ZIP_AND_ADD)

    def _spills(self) -> IntExpr:
        beyond = spilled_bytes(self.program, self.kernel, self.device, self.pad)
        return beyond * SPILL_TOUCHES * self.steps

    def _exchange(self) -> IntExpr:
        """Bytes through the shared cache between matrix and vector cores, which meet nowhere else."""
        if self.device.vector.units_per_core == 1:
            return ZERO
        return counts.exchanged_bytes(self.walked) * 2

    def _shared_out(self, time: IntExpr) -> IntExpr:
        """Fewer warps on a core than it has sub-partitions leave the others idle."""
        limits = self.device.occupancy
        if limits is None:
            return time
        parts = limits.sub_partitions_per_sm
        return time // imin(Const(parts), self.workers * self.resident) * parts

    def _resident(self, cache: Level) -> IntExpr:
        """Bytes of matrices that the shared cache hands out in each step, where a core's own cache cannot hold them."""
        reads, held = counts.resident_reads(self.walked, cache.name)
        own = rates.private_caches(self.device)
        capacity = own[0].capacity_bytes if own else None
        return reads * imin(ONE, held // (capacity + 1)) if capacity else reads

    def _memory(self) -> IntExpr:
        cache = rates.shared_cache(self.device)
        capacity = cache.capacity_bytes * cache.instances if cache and cache.capacity_bytes else None
        slots = self.resident * self.device.cores
        moved = counts.distinct_bytes(self.walked, self.tasks.count, slots, capacity)
        return divided(moved, rates.memory_rate(self.device)) + self._again()

    def _again(self) -> IntExpr:
        """On a CPU what is loaded ahead waits in its caches: where the first is too small, it comes from the second."""
        caches = rates.first_caches(self.device)
        if caches is None or not self.style.out_of_order:
            return ZERO
        first, next_rate = caches
        return divided(ahead_again(self.walked, first), next_rate)

    # -- one core

    def _streams(self) -> IntExpr:
        """Independent streams of a core that hide each other's units, in PARTS-ths: tasks, or buffers ahead.

        A task of fewer warps than the core has sub-partitions is on some of them only. The warps of one task
        keep step with each other, so more warps are not more streams.
        """
        always = self.style.streams * PARTS
        if self.style.out_of_order:
            return Const(always)
        if self.device.occupancy is None:
            return self.stages * PARTS + always
        parts = self.device.occupancy.sub_partitions_per_sm
        tasks = imin(Const(SIDE_BY_SIDE), self.resident)
        return tasks * imin(Const(PARTS), self.workers * PARTS // parts) + always

    def _core(self, times: Mapping[str, IntExpr]) -> IntExpr:
        """Arithmetic is hidden by the core's other streams; loads by them and by each buffer ahead."""
        loads = times.get(LOADS, ZERO)
        busy = [time for name, time in times.items() if name != LOADS]
        if self.style.out_of_order:
            busy = [total(busy)]
        waits = self.steps * self.style.step_ps // self.device.cores
        issued = self.steps * self.style.issue_ps // self.device.cores
        longest = imax(*busy)
        core = longest + issued + (total(busy) - longest + waits) // self.streams * PARTS
        ahead = self.streams
        if not self.style.out_of_order:
            ahead = imax(Const(PARTS), ahead + (self.stages - 1 - self.style.streams) * PARTS)
        return imax(core, loads) + imin(core, loads) // ahead * PARTS

    def _stall(self, busy: IntExpr) -> IntExpr:
        """What buffers ahead and the other resident tasks leave of a load's latency, over all steps."""
        if self.style.out_of_order:
            return ZERO
        step = busy // self.steps * self.device.cores
        covered = step * (self.stages * self.resident - 1)
        left = imax(ZERO, Const(rates.load_latency_ps(self.device)) - covered)
        return self.steps // (self.resident * self.device.cores) * left


def _makespan(busy: IntExpr, tasks: Tasks, cores: int) -> IntExpr:
    """Time until the last core is done, longest tasks first; ``busy`` if the cores shared all work evenly."""
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
