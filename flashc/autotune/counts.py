"""What a placed kernel does, as the time model counts it: tasks, loop steps, operations, operand reads.

Like ``ir.analysis`` these walk the nodes and know of no operator; unlike there the counts are those of a
machine: tiles are padded to the matrix unit's shape, an operand counts once per group of workers that reads
it, and a subexpression counts over its own axes only, since compilers take it out of the inner loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from flashc.autotune.rates import ZERO, matrix_unit, total
from flashc.hwmodels.model import Device, MatrixUnit
from flashc.ir.analysis import Pad, Site, expressions, sites, tensor_bytes, transfers
from flashc.ir.footprint import tile_elements, values_of
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imax, imin
from flashc.ir.nodes import (
    Access,
    Copy,
    Dot,
    Kernel,
    Load,
    Loop,
    Program,
    Reduce,
    Seq,
    Store,
    outputs_of,
)
from flashc.ir.ranges import Scope, needed_end, valid_end
from flashc.ir.scalar import FUNCTIONS, Call, Coord, InDomain, Ref, Scalar, walk
from flashc.ir.steps import tasks as launch_tasks
from flashc.ir.types import Value

SHARE = 64  # task sizes are compared in 64ths of their mean
SPLITS = (1, 2, 4, 8, 16)
PARTS_OF_FOLD = 11  # a row's reduction starts, reads and combines four partial results
ROW_WAITS = 3  # an element of its own waits for itself: rows that are few do not hide the latency of their chains
PREDICATES = ("where", "and", "or", "not")


@dataclass(frozen=True, slots=True)
class Walked:
    """A kernel of a placed program, walked once: its statements in context, and its values by name."""

    program: Program
    kernel: Kernel
    sites: tuple[Site, ...]
    values: Mapping[str, Value]


def walked(program: Program, kernel: Kernel, pad: Pad) -> Walked:
    values = {name: value for name, (value, _, _) in values_of(program, kernel).items()}
    end = valid_end if pad.whole else needed_end
    return Walked(program, kernel, tuple(sites(program, kernel, end)), values)


# -- tasks and steps


@dataclass(frozen=True, slots=True)
class Tasks:
    """Independent tasks of a kernel; ``smallest`` and ``longest`` in SHARE-ths of the mean task."""

    count: IntExpr
    smallest: IntExpr
    longest: IntExpr


def steps_of(k: Walked) -> IntExpr:
    """Iterations of all sequential loops over all tasks."""
    return total(site.count(()) for site in _loop_bodies(k))


def tasks_of(k: Walked) -> Tasks:
    """Tasks differ where a loop's range depends on the task's tile; its first and last are the extremes."""
    count = total(launch_tasks(k.program, par) for par in k.kernel.pars)
    bodies = [site for site in _loop_bodies(k) if _uneven(site)]
    if not bodies:
        return Tasks(count, Const(SHARE), Const(SHARE))
    mean = total(site.count(()) for site in bodies)
    first, last = (total(_as_if(site, last) for site in bodies) for last in (False, True))
    shares = [end * SHARE // imax(mean, Const(1)) for end in (first, last)]
    return Tasks(count, imin(*shares), imax(*shares))


def parallel_loops(kernel: Kernel) -> tuple[Loop, ...]:
    return tuple(loop for par in kernel.pars for loop in par.loops)


def _loop_bodies(k: Walked) -> Iterator[Site]:
    """For every sequential loop, the first statement of its body."""
    for here, inner in zip(k.sites, k.sites[1:], strict=False):
        if isinstance(here.stmt, Seq):
            yield inner


def _uneven(site: Site) -> bool:
    tiles = {t.var for t in site.trips if t.parallel and t.tile != Const(1)}
    return any(tiles & t.count.symbols() for t in site.trips if not t.parallel)


def _as_if(site: Site, last: bool) -> IntExpr:
    """Executions if every task were like the first, or the last, along its tiled axes."""
    trips = site.trips
    repeated: IntExpr = Const(1)
    for trip in site.trips:
        if not trip.parallel or trip.tile == Const(1):
            continue
        at = {trip.var: trip.count - 1 if last else ZERO}
        trips = tuple(replace(t, count=t.count.subs(at)) for t in trips if t.var != trip.var)
        repeated = repeated * trip.count
    return Site(site.stmt, site.scope, trips).count(()) * repeated


# -- operations


def element_operations(k: Walked, pad: Pad, lanes: int) -> tuple[IntExpr, IntExpr]:
    """(vector operations, exponentials) of all maps, reductions and accumulator updates, in elements.

    Where values have vector lanes, what does not run along them takes a whole vector of ``lanes`` elements as well.
    Predicates of a loop's domain are left out: only the few partial tiles evaluate them.
    """
    vector: list[IntExpr] = []
    exps: list[IntExpr] = []
    for site in k.sites:
        if isinstance(site.stmt, Reduce):
            vector.append(site.count((*site.stmt.out.axes, site.stmt.over), pad))
            vector.append(_folds(k, site.stmt, site, lanes))
        for axes, (flops, calls) in _costs(k, site).items():
            elements = site.count(axes, pad) * _filled(outputs_of(site.stmt), axes, lanes)
            vector.append(elements * flops)
            exps.append(elements * calls)
    return total(vector), total(exps)


def _filled(value: Value | None, axes: Collection[str], lanes: int) -> int:
    """Elements that an element of an expression over ``axes`` stands for."""
    if value is None or value.layout is None or value.layout.lane_axis() in axes:
        return 1
    return lanes if value.layout.lane_axis() else lanes * ROW_WAITS


def _folds(k: Walked, reduce: Reduce, site: Site, lanes: int) -> IntExpr:
    """A vector reduced to one element is shuffled and combined log2(lanes) times."""
    layout = k.values[reduce.source].layout
    if layout is None or layout.lane_axis() != reduce.over:
        return ZERO
    return site.count(reduce.out.axes) * (2 * lanes.bit_length() - 2 + PARTS_OF_FOLD) * lanes


def _costs(k: Walked, site: Site) -> dict[tuple[str, ...], tuple[int, int]]:
    """Plain operations and exponentials per element, by the axes over which they are evaluated."""
    out = outputs_of(site.stmt)
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for call in (c for expr in expressions(site.stmt) for c in _calls(expr)):
        wanted = _axes(call, k.values)
        axes = tuple(a for a in (out.axes if out else ()) if a in wanted)
        flops, calls = found.get(axes, (0, 0))
        cost = FUNCTIONS[call.fn]
        found[axes] = (flops + cost.flops, calls + cost.transcendental)
    return {axes: cost for axes, cost in found.items() if axes}


def _calls(expr: Scalar) -> list[Call]:
    calls = dict.fromkeys(n for n in walk(expr) if isinstance(n, Call))
    return [c for c in calls if not (c.fn in PREDICATES and any(isinstance(n, InDomain) for n in walk(c)))]


def _axes(expr: Scalar, values: Mapping[str, Value]) -> set[str]:
    found: set[str] = set()
    for node in walk(expr):
        if isinstance(node, Ref) and node.name in values:
            found |= set(values[node.name].axes)
        if isinstance(node, Coord | InDomain):
            found.add(node.axis)
    return found


def moves(k: Walked) -> tuple[IntExpr, IntExpr]:
    """Elements that copies and stores move in memory order, and those they transpose on the way.

    A move transposes when the vector lanes run along another axis than the one contiguous in memory.
    """
    sources = {s.stmt.out.name: s.stmt.access for s in k.sites if isinstance(s.stmt, Load)}
    straight, transposed = ZERO, ZERO
    for site in k.sites:
        match site.stmt:
            case Copy(out=value, source=source) if source in sources:
                access: Access = sources[source]
            case Store(access=access, value=name):
                value = k.values[name]
            case _:
                continue
        lanes = value.layout.lane_axis() if value.layout else None
        elements = site.count(value.axes)
        if lanes is None or str(access.index[-1]) == lanes or len(value.axes) == 1:
            straight = straight + elements
        else:
            transposed = transposed + elements
    return straight, transposed


def exchanged_bytes(k: Walked) -> IntExpr:
    """Bytes that copies between two on-chip levels move."""
    found = ZERO
    for site in k.sites:
        if isinstance(site.stmt, Copy) and k.values[site.stmt.source].level != site.stmt.out.level:
            found = found + site.count(site.stmt.out.axes) * site.stmt.out.dtype.bytes
    return found


# -- dots


@dataclass(frozen=True, slots=True)
class DotCount:
    """One dot: its node, operand type, operations as executed, and bytes of operands it reads.

    On a CPU ``panel_bytes`` is the memory that a register block's vectors are strewn over (0 where they lie side by
    side, as hardware prefetches them), ``panel_reads`` the bytes of vectors that all blocks read, ``result_bytes`` the
    size of the result's tile, and ``results`` the bytes of results that are read, added to and written.
    """

    dot: Dot
    dtype: str
    operations: IntExpr
    operand_bytes: IntExpr
    panel_bytes: IntExpr
    panel_reads: IntExpr
    result_bytes: IntExpr
    results: IntExpr


def dots(k: Walked, device: Device, pad: Pad, workers: IntExpr) -> Iterator[DotCount]:
    """All dots of a kernel; ``workers``: the warps of a task, between which the tile is divided."""
    reduced = {site.stmt.over for site in k.sites if isinstance(site.stmt, Reduce)}
    for site in k.sites:
        if not isinstance(site.stmt, Dot):
            continue
        dot, a, b = site.stmt, k.values[site.stmt.a], k.values[site.stmt.b]
        unit, lanes = matrix_unit(device, dot.atom), device.vector.width_bits // 32
        shape = _machine_shape(site, a, unit, pad) if unit else _block_shape(dot, lanes)
        operations = site.count((*dot.out.axes, *dot.over), _rounded(pad, shape)) * 2
        groups = _groups(device, unit.m if unit else 1, workers)
        chained = any(x in reduced for x in dot.out.axes)
        reads = _reads(site, a, b, pad, groups, chained)
        touched = ZERO if dot.init is None else site.count(dot.out.axes, pad) * dot.out.dtype.bytes * 2
        tile = tile_elements(dot.out, site.scope) * dot.out.dtype.bytes
        yield DotCount(dot, a.dtype.name, operations, reads, *_panel(dot, a, b, operations), tile, touched)


def resident_reads(k: Walked, level: str) -> tuple[IntExpr, IntExpr]:
    """Operands of dots that stay at ``level``, a shared cache: bytes that all dots read, bytes that one task holds."""
    reads, held = ZERO, {}
    for site in k.sites:
        for value in (k.values[n] for n in (site.stmt.a, site.stmt.b)) if isinstance(site.stmt, Dot) else ():
            if value.level == level:
                reads = reads + site.count(value.axes) * value.dtype.bytes
                held[value.name] = tile_elements(value, site.scope) * value.dtype.bytes
    return reads, total(held.values())


def summed_across(k: Walked) -> IntExpr:
    """Results whose accumulators hold partial sums in their lanes: of dots with the lanes along what is contracted."""
    found = ZERO
    for site in k.sites:
        if isinstance(site.stmt, Dot) and site.stmt.atom is not None and site.stmt.atom.lane in site.stmt.over:
            found = found + site.count(site.stmt.out.axes)
    return found


def _machine_shape(site: Site, a: Value, unit: MatrixUnit, pad: Pad) -> dict[str, IntExpr]:
    """What each axis is rounded up to by a matrix unit."""
    dot = site.stmt
    assert isinstance(dot, Dot)
    rows = [x for x in dot.out.axes if x in a.axes]
    columns = [x for x in dot.out.axes if x not in a.axes]
    return {
        **_side(rows, unit.m, site.scope, pad),
        **_side(columns, unit.n, site.scope, pad),
        **dict.fromkeys(dot.over, Const(unit.k)),
    }


def _block_shape(dot: Dot, lanes: int) -> dict[str, IntExpr]:
    """What each axis is rounded up to by a CPU's register blocks: their rows, and whole vectors."""
    if dot.atom is None or dot.atom.lane not in dot.out.axes or len(dot.out.axes) != 2:
        return {}
    return {x: Const(lanes) if x == dot.atom.lane else dot.atom.n for x in dot.out.axes}


def _side(axes: Sequence[str], length: int, scope: Scope, pad: Pad) -> dict[str, IntExpr]:
    """What fills one side of a matrix unit: its ``length`` along the first axis, less what the others bring."""
    if not axes:
        return {}
    others: IntExpr = Const(1)
    for axis in axes[1:]:
        others = others * pad.rule(axis, scope[axis].size)
    return {axes[0]: ceil_div(Const(length), others)}


def _panel(dot: Dot, a: Value, b: Value, operations: IntExpr) -> tuple[IntExpr, IntExpr]:
    atom = dot.atom
    if atom is None or atom.lane is None:
        return ZERO, ZERO
    vectors = a if atom.lane in a.axes else b
    if vectors.layout is None or atom.lane in dot.over:  # read where it lies, in order
        return ZERO, ZERO
    steps = next(m for m in vectors.layout.modes if m.axis in dot.over and m.space == "offset")
    lanes = vectors.layout.lane_mode()
    assert lanes is not None
    strewn = imin(Const(1), steps.stride // (atom.m * lanes.shape * lanes.stride + 1))
    width = vectors.dtype.bytes
    return steps.shape * steps.stride * width * strewn, operations // 2 // atom.n * width


def _rounded(pad: Pad, shape: Mapping[str, IntExpr]) -> Pad:
    def rule(axis: str, extent: IntExpr) -> IntExpr:
        padded = pad.rule(axis, extent)
        return ceil_div(padded, shape[axis]) * shape[axis] if axis in shape else padded

    return replace(pad, rule=rule)


def _groups(device: Device, rows: int, workers: IntExpr) -> IntExpr:
    """Workers that read operands on their own: several warps execute one instruction of many rows together.

    A warp alone covers half as many rows as it has threads: 16 of 32 (mma.sync), 32 of 64 (MFMA).
    """
    threads = device.occupancy.threads_per_warp if device.occupancy else 2
    return imax(Const(1), workers // max(1, 2 * rows // threads))


def _reads(site: Site, a: Value, b: Value, pad: Pad, groups: IntExpr, chained: bool) -> IntExpr:
    """Bytes of both operands out of the staging memory, each once per group along the other's axis.

    Operands in registers cost nothing. Where a row of the result is reduced its columns stay in one worker.
    """
    left, right = (site.count(v.axes, pad) * v.dtype.bytes if v.level != "reg" else ZERO for v in (a, b))
    if groups == Const(1):
        return left + right
    if chained:
        return left + right * groups
    splits = ((imin(groups, rows), ceil_div(groups, rows)) for rows in SPLITS)
    return imin(*(left * columns + right * rows for rows, columns in splits))


# -- the slowest memory


def distinct_bytes(k: Walked, tasks: IntExpr, slots: IntExpr, capacity: int | None) -> IntExpr:
    """Bytes beyond a shared cache of ``capacity`` bytes, of ``tasks`` that run ``slots`` at a time.

    Tasks that run together move along their loops together and share what they stream. What they touch
    together is read once per wave where the cache cannot hold all tensors, in proportion to what it cannot.
    """
    moved: dict[str, IntExpr] = {}
    for transfer in transfers(k.program, k.kernel, k.sites):
        moved[transfer.tensor] = moved.get(transfer.tensor, ZERO) + transfer.bytes
    if capacity is None:
        return total(moved.values())
    sizes = {name: tensor_bytes(k.program.tensor(name)) for name in moved}
    once = {name: imin(size, moved[name]) for name, size in sizes.items()}
    all_bytes = total(sizes.values())
    missing = imax(ZERO, all_bytes - capacity) * SHARE // imax(all_bytes, Const(1))
    if missing == ZERO:
        return total(once.values())
    indices = {s.stmt.access.tensor: s.stmt.access for s in k.sites if isinstance(s.stmt, Load | Store)}
    covered, waves = _coverage(k, slots), ceil_div(tasks, slots)
    found = list(once.values())
    for name, access in indices.items():
        again = _touched(access, sizes[name], covered) * waves
        found.append(imax(ZERO, imin(again, moved[name]) - once[name]) // SHARE * missing)
    return total(found)


def _coverage(k: Walked, slots: IntExpr) -> dict[str, tuple[IntExpr, IntExpr]]:
    """Tiles that consecutive tasks cover, and tiles in all, per parallel axis; the last varies quickest."""
    found: dict[str, tuple[IntExpr, IntExpr]] = {}
    left = slots
    for loop in reversed(parallel_loops(k.kernel)):
        count = ceil_div(k.program.axis(loop.axis).extent, loop.tile)
        found[loop.axis] = (imin(left, count), count)
        left = ceil_div(left, imax(count, Const(1)))
    return found


def _touched(
    access: Access, size: IntExpr, covered: Mapping[str, tuple[IntExpr, IntExpr]]
) -> IntExpr:
    """Bytes of a tensor that the tasks of one wave touch: its size, less the tiles that none is at."""
    for index in access.index:
        for axis in sorted(index.symbols() & covered.keys()):
            tiles, count = covered[axis]
            if isinstance(index, Sym):
                size = size // imax(count, Const(1)) * tiles
                continue
            reach = [index.subs({axis: n - 1}) + 1 for n in (tiles, count)]
            if not any(r.symbols() & covered.keys() or r.tables() for r in reach):
                size = size // imax(reach[1], Const(1)) * reach[0]
    return size
