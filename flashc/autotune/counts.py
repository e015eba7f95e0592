"""What a placed kernel does, as the time model counts it: tasks, loop steps, operations, operand reads.

Like ``ir.analysis`` these walk the nodes and know of no operator; unlike there the counts are those of a
machine: tiles are padded to the matrix unit's shape, an operand counts once per group of workers that reads
it, and a subexpression counts over its own axes only, since compilers take it out of the inner loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from flashc.autotune.rates import ZERO, matrix_unit, total
from flashc.hwmodels.model import Device
from flashc.ir.analysis import Pad, Site, expressions, sites, tensor_bytes, transfers, values_of
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imax, imin
from flashc.ir.nodes import (
    Access,
    Copy,
    Dot,
    Kernel,
    Load,
    Loop,
    Par,
    Program,
    Reduce,
    Seq,
    Store,
    outputs_of,
)
from flashc.ir.scalar import FUNCTIONS, Call, Coord, InDomain, Ref, Scalar, walk
from flashc.ir.types import Value

SHARE = 64  # task sizes are compared in 64ths of their mean
SPLITS = (1, 2, 4, 8, 16)
PREDICATES = ("where", "and", "or", "not")


# -- tasks and steps


@dataclass(frozen=True, slots=True)
class Tasks:
    """Independent tasks of a kernel; ``smallest`` and ``longest`` in SHARE-ths of the mean task."""

    count: IntExpr
    smallest: IntExpr
    longest: IntExpr


def steps_of(program: Program, kernel: Kernel) -> IntExpr:
    """Iterations of all sequential loops over all tasks."""
    return total(site.count(()) for site in _loop_bodies(program, kernel))


def tasks_of(program: Program, kernel: Kernel) -> Tasks:
    """Tasks differ where a loop's range depends on the task's tile; its first and last are the extremes."""
    count: IntExpr = Const(1)
    for loop in parallel_loops(kernel):
        count = count * ceil_div(program.axis(loop.axis).extent, loop.tile)
    bodies = [site for site in _loop_bodies(program, kernel) if _uneven(site)]
    mean = total(site.count(()) for site in bodies)
    if not bodies:
        return Tasks(count, Const(SHARE), Const(SHARE))
    first, last = (total(_as_if(site, last) for site in bodies) for last in (False, True))
    shares = [end * SHARE // imax(mean, Const(1)) for end in (first, last)]
    return Tasks(count, imin(*shares), imax(*shares))


def parallel_loops(kernel: Kernel) -> tuple[Loop, ...]:
    return tuple(loop for stmt in kernel.body if isinstance(stmt, Par) for loop in stmt.loops)


def _loop_bodies(program: Program, kernel: Kernel) -> Iterator[Site]:
    """For every sequential loop, the first statement of its body."""
    found = list(sites(program, kernel))
    for here, inner in zip(found, found[1:], strict=False):
        if isinstance(here.stmt, Seq):
            yield inner


def _uneven(site: Site) -> bool:
    tiles = {t.var for t in site.trips if t.parallel and t.tile != Const(1)}
    return any(tiles & t.count.symbols() for t in site.trips if not t.parallel)


def _as_if(site: Site, last: bool) -> IntExpr:
    """Executions if every task were like the first, or the last, along its tiled axes."""
    trips, repeated = site.trips, Const(1) * 1
    for trip in site.trips:
        if not trip.parallel or trip.tile == Const(1):
            continue
        at = {trip.var: trip.count - 1 if last else ZERO}
        trips = tuple(replace(t, count=t.count.subs(at)) for t in trips if t.var != trip.var)
        repeated = repeated * trip.count
    return Site(site.stmt, site.scope, trips).count(()) * repeated


# -- operations


def element_operations(program: Program, kernel: Kernel, pad: Pad) -> tuple[IntExpr, IntExpr]:
    """(vector operations, exponentials) of all maps, reductions and accumulator updates.

    Predicates of a loop's domain are left out: only the few partial tiles evaluate them.
    """
    axes_of = {name: value.axes for name, (value, _, _) in values_of(program, kernel).items()}
    vector: list[IntExpr] = []
    exps: list[IntExpr] = []
    for site in sites(program, kernel):
        out = outputs_of(site.stmt)
        if isinstance(site.stmt, Reduce):
            vector.append(site.count((*site.stmt.out.axes, site.stmt.over), pad))
        for expr in expressions(site.stmt):
            for call in _calls(expr):
                wanted = _axes(call, axes_of)
                axes = tuple(a for a in (out.axes if out else ()) if a in wanted)
                if not axes:
                    continue
                cost, elements = FUNCTIONS[call.fn], site.count(axes, pad)
                (exps if cost.transcendental else vector).append(elements * max(cost.flops, 1))
    return total(vector), total(exps)


def _calls(expr: Scalar) -> list[Call]:
    calls = dict.fromkeys(n for n in walk(expr) if isinstance(n, Call))
    return [c for c in calls if not (c.fn in PREDICATES and any(isinstance(n, InDomain) for n in walk(c)))]


def _axes(expr: Scalar, axes_of: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    for node in walk(expr):
        if isinstance(node, Ref):
            found |= set(axes_of.get(node.name, ()))
        if isinstance(node, Coord | InDomain):
            found.add(node.axis)
    return found


def moves(program: Program, kernel: Kernel) -> tuple[IntExpr, IntExpr]:
    """Elements that copies and stores move in memory order, and those they transpose on the way.

    A move transposes when the vector lanes run along another axis than the one contiguous in memory.
    """
    values = {name: value for name, (value, _, _) in values_of(program, kernel).items()}
    sources = {s.stmt.out.name: s.stmt.access for s in sites(program, kernel) if isinstance(s.stmt, Load)}
    straight, transposed = ZERO, ZERO
    for site in sites(program, kernel):
        match site.stmt:
            case Copy(out=value, source=source) if source in sources:
                access: Access = sources[source]
            case Store(access=access, value=name):
                value = values[name]
            case _:
                continue
        lanes = value.layout.lane_axis() if value.layout else None
        elements = site.count(value.axes)
        if lanes is None or str(access.index[-1]) == lanes or len(value.axes) == 1:
            straight = straight + elements
        else:
            transposed = transposed + elements
    return straight, transposed


def exchanged_bytes(program: Program, kernel: Kernel) -> IntExpr:
    """Bytes that copies between two on-chip levels move."""
    values = {name: value for name, (value, _, _) in values_of(program, kernel).items()}
    found = ZERO
    for site in sites(program, kernel):
        if isinstance(site.stmt, Copy) and values[site.stmt.source].level != site.stmt.out.level:
            found = found + site.count(site.stmt.out.axes) * site.stmt.out.dtype.bytes
    return found


# -- dots


@dataclass(frozen=True, slots=True)
class DotCount:
    """One dot: its node, operand type, operations as executed, and bytes of operands it reads."""

    dot: Dot
    dtype: str
    operations: IntExpr
    operand_bytes: IntExpr


def dots(program: Program, kernel: Kernel, device: Device, pad: Pad, workers: IntExpr) -> Iterator[DotCount]:
    """All dots of a kernel; ``workers``: the warps of a task, between which the tile is divided."""
    values = {name: value for name, (value, _, _) in values_of(program, kernel).items()}
    found = list(sites(program, kernel))
    reduced = {site.stmt.over for site in found if isinstance(site.stmt, Reduce)}
    for site in found:
        if not isinstance(site.stmt, Dot):
            continue
        dot, a, b = site.stmt, values[site.stmt.a], values[site.stmt.b]
        unit = matrix_unit(device, dot.atom)
        shape = {} if unit is None else {
            **{x: unit.m for x in dot.out.axes if x in a.axes},
            **{x: unit.n for x in dot.out.axes if x not in a.axes},
            **dict.fromkeys(dot.over, unit.k),
        }
        operations = site.count((*dot.out.axes, *dot.over), _rounded(pad, shape)) * 2
        groups = _groups(device, unit.m if unit else 1, workers)
        chained = any(x in reduced for x in dot.out.axes)
        reads = _reads(site, a, b, pad, groups, chained)
        yield DotCount(dot, a.dtype.name, operations, reads)


def _rounded(pad: Pad, shape: Mapping[str, int]) -> Pad:
    def rule(axis: str, extent: IntExpr) -> IntExpr:
        padded, step = pad(axis, extent), shape.get(axis, 1)
        return padded if step == 1 else ceil_div(padded, step) * step

    return rule


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


def distinct_bytes(program: Program, kernel: Kernel, slots: IntExpr, capacity: int | None) -> IntExpr:
    """Bytes between the slowest memory and a shared cache of ``capacity`` bytes that ``slots`` tasks use
    together.

    Tasks that run together move along their loops together and share what they stream. What they touch
    together is read once per wave where the cache cannot hold all tensors, in proportion to what it cannot.
    """
    moved: dict[str, IntExpr] = {}
    for transfer in transfers(program, kernel):
        moved[transfer.tensor] = moved.get(transfer.tensor, ZERO) + transfer.bytes
    if capacity is None:
        return total(moved.values())
    stmts = [site.stmt for site in sites(program, kernel)]
    indices = {s.access.tensor: s.access for s in stmts if isinstance(s, Load | Store)}
    sizes = {name: tensor_bytes(program.tensor(name)) for name in moved}
    waves = ceil_div(tasks_of(program, kernel).count, slots)
    covered = _coverage(program, kernel, slots)
    all_bytes = total(sizes.values())
    missing = imax(ZERO, all_bytes - capacity) * SHARE // imax(all_bytes, Const(1))
    found = []
    for name, size in sizes.items():
        once = imin(size, moved[name])
        again = _touched(program, indices[name], size, covered) * waves if name in indices else once
        found.append(once + imax(ZERO, imin(again, moved[name]) - once) // SHARE * missing)
    return total(found)


def _coverage(program: Program, kernel: Kernel, slots: IntExpr) -> dict[str, tuple[IntExpr, IntExpr]]:
    """Tiles that consecutive tasks cover, and tiles in all, per parallel axis; the last varies quickest."""
    found: dict[str, tuple[IntExpr, IntExpr]] = {}
    left = slots
    for loop in reversed(parallel_loops(kernel)):
        count = ceil_div(program.axis(loop.axis).extent, loop.tile)
        found[loop.axis] = (imin(left, count), count)
        left = ceil_div(left, imax(count, Const(1)))
    return found


def _touched(
    program: Program, access: Access, size: IntExpr, covered: Mapping[str, tuple[IntExpr, IntExpr]]
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
