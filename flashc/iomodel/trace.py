"""The address trace of a bound tile program: which bytes it touches, in order, as arrays of segments.

A segment is a run of consecutive bytes. Tensors lie one after another, contiguous, each on a page of its own; values on
chip lie behind them, in a scratch area per worker. Three grades of detail:

    slow       loads and stores of tensors only: what crosses from slow memory where every level on chip is explicit
               (the accesses that a cache in front of slow memory sees), with marks for what the program holds on chip
    tiles      every statement touches its operands and its result, whole tiles at a time: a cache-managed device; the
               dots of a lowered program go by the register blocks of their atoms
    elements   the same, and a dot touches its operands element by element, as every product needs them: with a fast
               memory of M bytes such a run is a red-blue pebble game (Hong & Kung 1981) with M bytes of pebbles and
               three registers, so no policy can go below a lower bound at that size

In the last two a loaded tile is read where it lies. A value's bytes are discarded once it is dead, without going back
to slow memory; a lowered program's buffers are where its ``Alloc`` put them, and no cache learns that they are dead.

Everything is vectorised over the executions of a statement; the only Python loop is over statements, and over tasks in
batches.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flashc.errors import IRError, UnsupportedError
from flashc.iomodel.blocks import block_accesses
from flashc.iomodel.lifetimes import Step, lifetimes
from flashc.iomodel.places import Detail, Here, Layout, Places
from flashc.iomodel.segments import (
    FREE,
    HOLD,
    READ,
    WRITE,
    Grouped,
    Ints,
    Segments,
    boxed,
    concatenated,
    interleaved,
    regrouped,
    reordered,
    spread,
)
from flashc.ir.analysis import expressions, longest_last, reads_of, writes_of
from flashc.ir.intexpr import Const, Sym
from flashc.ir.nodes import Alloc, Dot, Kernel, Load, Par, Program, Seq, Stmt, Store
from flashc.ir.ranges import enter, part_range, valid_end, whole
from flashc.ir.rewrite import rewrite_kernels
from flashc.ir.scalar import Scalar, fetches, refs
from flashc.ir.steps import refuse_recurrence
from flashc.ir.views import without_views

Select = Callable[[Mapping[str, int]], bool]
BATCH = 1 << 21  # executions of statements that are worked out at a time


@dataclass(frozen=True, slots=True)
class Trace:
    """Segments in order, and where everything lies; ``detail`` says which accesses are in it.

    ``regions``: (address, bytes) by tensor name, of ``scratch`` for all workers together, and of the first worker's
    values as ``kernel.value``.
    """

    segments: Segments
    regions: Mapping[str, tuple[int, int]]
    detail: Detail

    def only(self, *names: str) -> Trace:
        """The accesses to the named regions alone."""
        spans = [self.regions[n] for n in names]
        at = self.segments.address
        kept = np.zeros(len(at), dtype=bool)
        for start, size in spans:
            kept |= (at >= start) & (at < start + size)
        return replace(self, segments=self.segments.chosen(kept))


def trace(
    program: Program,
    env: Mapping[str, Any],
    *,
    detail: Detail = "slow",
    workers: int = 1,
    order: Sequence[str] | None = None,
    select: Select | None = None,
) -> Trace:
    """The trace of a program whose tile sizes are bound (as constants or in ``env``).

    ``env``: sizes by symbol and run-time tables by name. ``workers``: tasks that run at the same time, taking turns at
    each iteration of their outermost sequential loop; a worker that is done takes the next task. ``order``: axes of the
    parallel loops, slowest first, ``-axis`` from the last tile back; as the program says by default. ``select`` may
    leave out tasks by the coordinates of their loops. Raises IRError for a symbol without a value, UnsupportedError
    for an index that is computed from values.
    """
    program = rewrite_kernels(program, lambda kernel: replace(kernel, body=without_views(kernel.body)))
    refuse_recurrence(program, "the trace")
    known = {**dict(program.fixed), **env}
    layout = Layout.of(program, known, detail)
    found = []
    for kernel in program.kernels:
        walk = _Walk(Places(program, kernel, known, layout), detail, workers)
        found += [walk.parallel(par, _ordered(par, order), select) for par in _loops(kernel)]
    return Trace(concatenated(found), layout.regions(workers), detail)


def _loops(kernel: Kernel) -> list[Par]:
    found = [stmt for stmt in kernel.body if isinstance(stmt, Par)]
    if len(found) < len(kernel.body):
        raise UnsupportedError(f"trace: kernel {kernel.name} has statements outside its parallel loops; move them in")
    return found


def _ordered(par: Par, order: Sequence[str] | None) -> list[str]:
    """Axes of the parallel loops, slowest first; the program's own order starts the longest tasks first where it says
    so."""
    own = [loop.axis for loop in par.loops]
    if order is not None:
        chosen = [name for name in order if name.lstrip("-") in own]
        if sorted(name.lstrip("-") for name in chosen) != sorted(own):
            raise IRError(f"trace: order {list(order)} must name each of the axes {', '.join(own)} once")
        return chosen
    late = longest_last(par)
    return [*(f"-{axis}" for axis in own if axis in late), *(axis for axis in own if axis not in late)]


def _scheduled(turns: Ints, workers: int) -> tuple[Any, Ints]:
    """Worker and first turn of every task: the next task goes to the worker that is free first."""
    if workers == 1:
        return 0, np.cumsum(turns) - turns
    free = [(0, w) for w in range(workers)]
    worker, start = np.empty_like(turns), np.empty_like(turns)
    for n, length in enumerate(turns.tolist()):
        time, w = free[0]
        worker[n], start[n] = w, time
        heapq.heapreplace(free, (time + length, w))
    return worker, start


# -- walking a kernel


@dataclass(frozen=True, slots=True)
class _Walk:
    places: Places
    detail: Detail
    workers: int

    # -- loops

    def parallel(self, par: Par, order: Sequence[str], select: Select | None) -> Segments:
        tasks = self.tasks(par, order, select)
        if tasks.count == 0:
            return concatenated([])
        worker, start = _scheduled(self.turns(par, tasks), self.workers)
        tasks = replace(tasks, worker=worker)
        steps = () if self.places.lowered else lifetimes(par.body)
        batch = tasks.count
        if self.workers == 1:  # tasks follow each other, so they can be worked out in turn
            executions = sum(s.count(()).evaluate(self.places.env) for s in self.places.sites)
            batch = max(1, BATCH * tasks.count // max(executions, 1))
        cuts = [slice(n, n + batch) for n in range(0, tasks.count, batch)]
        return concatenated([self.chunks(par, tasks.picked(cut), steps, start[cut]) for cut in cuts])

    def tasks(self, par: Par, order: Sequence[str], select: Select | None) -> Here:
        tiles = {x.axis: x.tile for x in par.loops}
        axes = [name.lstrip("-") for name in order]
        starts, sizes = [], {}
        for name, axis in zip(order, axes, strict=True):
            extent, tile = self.places.extents[axis], tiles[axis].evaluate(self.places.env)
            found = np.arange(0, extent, tile, dtype=np.int64)
            starts.append(found[::-1] if name.startswith("-") else found)
            sizes[axis] = (tile, extent)
        grid = dict(zip(axes, (g.ravel() for g in np.meshgrid(*starts, indexing="ij")), strict=True))
        if select is not None:
            points = zip(*(grid[a].tolist() for a in axes), strict=True)
            kept = np.array([select(dict(zip(axes, point, strict=True))) for point in points], dtype=bool)
            grid = {a: v[kept] for a, v in grid.items()}
        scope = whole(self.places.program)
        for loop in par.loops:
            scope = enter(scope, loop.axis, Sym(loop.axis), loop.tile)
        size = {a: np.minimum(tile, extent - grid[a]) for a, (tile, extent) in sizes.items()}
        untouched = dict.fromkeys(self.places.extents, 0)
        return Here(len(grid[axes[0]]), scope, {**untouched, **grid}, {**self.places.extents, **size}, 0)

    def turns(self, par: Par, tasks: Here) -> Ints:
        """Iterations of each task's outermost sequential loops; at least one."""
        total = np.zeros(tasks.count, np.int64)
        for stmt in par.body:
            if isinstance(stmt, Seq):
                total += self.iterations(stmt, tasks)[0]
        return np.maximum(total, 1)

    def iterations(self, seq: Seq, here: Here) -> tuple[Ints, Ints, Ints]:
        """Iterations of a loop, where it starts, and where its last tile is cut, per execution."""
        bounds = (*part_range(seq, here.scope), valid_end(seq, here.scope))
        first, stop, end = (np.broadcast_to(self.places.number(e, here), (here.count,)) for e in bounds)
        tile = self.places.number(seq.loop.tile, here)
        return np.maximum(0, -((first - stop) // tile)), first, end

    def chunks(self, par: Par, tasks: Here, steps: Sequence[Step], start: Ints) -> Segments:
        """All tasks in the order of their turns: a chunk is one iteration of an outermost loop, or one statement."""
        parts: list[Grouped] = []
        times: list[Ints] = []
        owners: list[Ints] = []
        turn = start.copy()
        everyone = np.arange(tasks.count)
        for n, stmt in enumerate(par.body):
            step = steps[n] if steps else Step()
            if not isinstance(stmt, Seq):
                found = interleaved(self.statement(stmt, tasks, step), tasks.count)
                parts, times, owners = [*parts, found], [*times, turn.copy()], [*owners, everyone]
                continue
            around = (self.entering(stmt, tasks, step), self.leaving(step, tasks))
            iterations, inner = self.inside(stmt, tasks)
            task, iteration = spread(iterations)
            body = self.block(stmt.body, inner, step.body)
            parts += [around[0], body, around[1]]
            times += [turn.copy(), turn[task] + iteration, turn + np.maximum(iterations - 1, 0)]
            owners += [everyone, task, everyone]
            turn = turn + iterations
        counts, time, owner = (np.concatenate(x) for x in ([p.counts for p in parts], times, owners))
        worker = np.zeros_like(owner) if self.workers == 1 else tasks.worker[owner]
        sequence = np.repeat(np.arange(len(parts)), [len(p.counts) for p in parts])
        order = np.lexsort((sequence, owner, worker, time))
        return reordered(concatenated([p.segments for p in parts]), counts, order)

    def inside(self, seq: Seq, here: Here) -> tuple[Ints, Here]:
        iterations, first, end = self.iterations(seq, here)
        parent, iteration = spread(iterations)
        tile = self.places.number(seq.loop.tile, here)
        start = first[parent] + iteration * (tile[parent] if isinstance(tile, np.ndarray) and tile.ndim else tile)
        size = np.minimum(start + tile, end[parent]) - start
        return iterations, here.entered(seq.loop, parent, start, size)

    def block(self, body: Sequence[Stmt], here: Here, steps: Sequence[Step]) -> Grouped:
        found: list[Grouped] = []
        for n, stmt in enumerate(body):
            step = steps[n] if steps else Step()
            if not isinstance(stmt, Seq):
                found += self.statement(stmt, here, step)
                continue
            iterations, inner = self.inside(stmt, here)
            body_parts = regrouped(self.block(stmt.body, inner, step.body), iterations)
            found += [self.entering(stmt, here, step), body_parts, self.leaving(step, here)]
        return interleaved(found, here.count)

    def entering(self, seq: Seq, here: Here, step: Step) -> Grouped:
        """What a loop does before its first iteration: it makes room, and sets its state."""
        return interleaved([*self.marks(HOLD, step.held, here), *self.touched(seq, here)], here.count)

    def leaving(self, step: Step, here: Here) -> Grouped:
        return interleaved(self.marks(FREE, step.after, here), here.count)

    # -- statements

    def statement(self, stmt: Stmt, here: Here, step: Step) -> list[Grouped]:
        """Segments of one statement. In place: what dies is given up before the result is written."""
        before = [(name, Const(1)) for name in step.before]
        held, after = (self.marks(k, names, here) for k, names in ((HOLD, step.held), (FREE, step.after)))
        gathered = self.gathered(stmt, here)
        freed = self.marks(FREE, before, here)
        if self.detail == "slow":
            return [*gathered, *freed, *held, *self.crossing(stmt, here), *after]
        if isinstance(stmt, Dot) and self.detail == "elements":
            return [*gathered, *held, self.products(stmt, here), *freed, *after]
        if isinstance(stmt, Dot) and self.places.lowered and stmt.atom is not None and stmt.atom.lane is not None:
            return [*gathered, block_accesses(self.places, stmt, stmt.atom, here)]
        reads, writes = self.touched(stmt, here, "read"), self.touched(stmt, here, "write")
        stored = self.crossing(stmt, here) if isinstance(stmt, Store) else []
        return [*gathered, *reads, *freed, *held, *writes, *stored, *after]

    def marks(self, kind: int, names: Sequence[tuple[str, Any]], here: Here) -> list[Grouped]:
        return [self.places.mark(name, copies, kind, here) for name, copies in names]

    def crossing(self, stmt: Stmt, here: Here) -> list[Grouped]:
        """A load or a store between slow memory and the tile."""
        match stmt:
            case Load(access=access):
                return [boxed(self.places.tensor(access, here), READ, here.count)]
            case Store(access=access, accumulate=accumulate):
                box = self.places.tensor(access, here)
                return [boxed(box, kind, here.count) for kind in ((READ, WRITE) if accumulate else (WRITE,))]
        return []

    def touched(self, stmt: Stmt, here: Here, way: str = "both") -> list[Grouped]:
        """Values that a statement reads or writes where they lie; a load only says where its tile is."""
        if self.detail == "slow" or isinstance(stmt, Load | Alloc):
            return []
        reads = self.places.known(reads_of(stmt)) if way != "write" else []
        writes = self.places.known(v.name for v in writes_of(stmt)) if way != "read" else []
        return [
            boxed(self.places.value(name, here), kind, here.count)
            for kind, names in ((READ, reads), (WRITE, writes))
            for name in names
        ]

    def gathered(self, stmt: Stmt, here: Here) -> list[Grouped]:
        """Elements of tensors that the statement's expressions fetch."""
        nodes = [node for expr in expressions(stmt) for node in fetches(expr)]
        return [self.places.fetched(node, stmt, here) for node in nodes]

    def products(self, dot: Dot, here: Here) -> Grouped:
        """A dot element by element: per element of the result its products, its initial value, itself."""
        init: Scalar | None = dot.init
        starts = self.places.known(sorted(refs(init))) if init is not None else []
        return self.places.products(dot, starts, here)
