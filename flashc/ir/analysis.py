"""Walkers that derive every quantity of a tile program from its nodes: traffic, operations and footprint.

All results are integer expressions in sizes and tile symbols (a sum may stay a sum); nothing about an operator is
known here. Element counts are exact, tails included; with a ``Pad`` they are of tiles as a machine executes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flashc.ir.intexpr import Const, IntExpr, Sym, add, ceil_div, imax, imin, isum
from flashc.ir.nodes import (
    Access,
    Alloc,
    Copy,
    Dot,
    Kernel,
    Load,
    Loop,
    Map,
    Par,
    Program,
    Reduce,
    Seq,
    Stmt,
    Store,
    View,
    outputs_of,
    tiled_axis,
)
from flashc.ir.ranges import Scope, enter, part_range, valid_end, whole
from flashc.ir.scalar import FUNCTIONS, Call, Ref, Scalar, coords, fetches, refs, walk
from flashc.ir.types import Tensor, Value

ZERO = Const(0)
SLOW = "memory"  # the level that holds the tensors; a value there is a tile that is read where it lies
_NOTHING: IntExpr = ZERO


@dataclass(frozen=True, slots=True)
class Trip:
    """One enclosing loop of a statement: ``count`` iterations over ``axis``, covering ``covered`` coordinates."""

    axis: str
    var: str
    count: IntExpr
    tile: IntExpr
    covered: IntExpr
    size: IntExpr
    parallel: bool


@dataclass(frozen=True, slots=True)
class Pad:
    """How a machine executes tiles: ``rule(axis, extent)`` coordinates for ``extent`` of them (the next power of two).

    ``whole``: a last tile of fewer valid coordinates takes as many as the others.
    """

    rule: Callable[[str, IntExpr], IntExpr]
    whole: bool = True

    def each(self, trip: Trip) -> IntExpr:
        """Coordinates of one iteration."""
        return self.rule(trip.axis, trip.tile if self.whole else trip.size)

    def all(self, trip: Trip) -> IntExpr:
        """Coordinates of all iterations."""
        tile = self.rule(trip.axis, trip.tile)
        if self.whole:
            return trip.count * tile
        before = trip.count - 1
        return before * tile + self.rule(trip.axis, trip.covered - before * trip.tile)


@dataclass(frozen=True, slots=True)
class Site:
    """A statement with the loops around it, outermost first."""

    stmt: Stmt
    scope: Scope
    trips: tuple[Trip, ...]

    def count(self, axes: Sequence[str], pad: Pad | None = None) -> IntExpr:
        """How many elements of a tile over ``axes`` this statement touches in all its executions."""
        looped = {t.axis for t in self.trips}
        total: IntExpr = Const(1)
        for axis in axes:
            if axis not in looped:
                extent = self.scope[axis].extent
                total = total * (pad.rule(axis, extent) if pad else extent)
        for trip in reversed(self.trips):
            total = _repeat(total, trip, trip.axis in axes, pad)
        return total


def _repeat(total: IntExpr, trip: Trip, along: bool, pad: Pad | None) -> IntExpr:
    if trip.var in total.symbols():
        each = (pad.each(trip) if pad else trip.size) if along else Const(1)
        return isum(trip.var, trip.count, each * total)
    if not along:
        return total * trip.count
    return total * (pad.all(trip) if pad else trip.covered)


End = Callable[[Seq, Scope], IntExpr]


def sites(program: Program, kernel: Kernel, end: End = valid_end) -> Iterator[Site]:
    """Every statement of a kernel in program order, loops included, each with its context; loops end at ``end``."""
    yield from _sites(kernel.body, whole(program), (), end)


def tiled_loops(program: Program) -> list[Loop]:
    """Every loop whose tile is still a symbol, in program order."""
    found: list[Loop] = []
    for kernel in program.kernels:
        for site in sites(program, kernel):
            match site.stmt:
                case Par(loops=loops):
                    found += [x for x in loops if isinstance(x.tile, Sym)]
                case Seq(loop=loop) if isinstance(loop.tile, Sym):
                    found.append(loop)
    return found


def longest_last(par: Par) -> set[str]:
    """Tiled axes along which the work of a task grows, where the longest start first: those that upper bounds of inner
    loops follow."""
    if par.order != "longest":
        return set()
    bounds = [b for s in _inner_loops(par.body) if s.domain for b in s.domain.upper]
    tiled = {x.axis for x in par.loops if x.tile != Const(1)}
    return {axis for axis in tiled if any(axis in b.symbols() for b in bounds)}


def _inner_loops(body: Sequence[Stmt]) -> list[Seq]:
    return [s for stmt in body if isinstance(stmt, Seq) for s in (stmt, *_inner_loops(stmt.body))]


def part_counts(program: Program) -> dict[str, IntExpr]:
    """Tile symbols that no loop steps by: how many tiles make one coordinate of an axis of parts; with its extent."""
    looped = {str(loop.tile) for loop in tiled_loops(program)}
    return {t: a.extent for t in program.tiles if t not in looped for a in program.axes if t in a.extent.symbols()}


def _sites(body: Sequence[Stmt], scope: Scope, trips: tuple[Trip, ...], end: End) -> Iterator[Site]:
    for stmt in body:
        yield Site(stmt, scope, trips)
        match stmt:
            case Par():
                inner, more = scope, trips
                for loop in stmt.loops:
                    extent = scope[loop.axis].extent
                    inner, trip = _enter(inner, loop.axis, loop.tile, ZERO, extent, extent, len(more), True)
                    more += (trip,)
                yield from _sites(stmt.body, inner, more, end)
            case Seq():
                first, stop = part_range(stmt, scope)
                last = end(stmt, scope)
                inner, trip = _enter(scope, stmt.loop.axis, stmt.loop.tile, first, stop, last, len(trips), False)
                yield from _sites(stmt.body, inner, (*trips, trip), end)


def _enter(
    scope: Scope, axis: str, tile: IntExpr, first: IntExpr, stop: IntExpr, end: IntExpr, depth: int, parallel: bool
) -> tuple[Scope, Trip]:
    """``end`` is where coordinates end: the axis' extent or a bound of the domain."""
    scalar = tile == Const(1)
    var = axis if scalar else f"{axis}_{depth}"
    count = ceil_div(imax(stop - first, ZERO) if first != ZERO else stop, tile)
    start = first + Sym(var) * tile
    inner = enter(scope, axis, Sym(axis) if scalar else start, tile)
    everything = parallel or (first == ZERO and stop in (end, imax(end, ZERO)))
    covered = end if everything else imin(count * tile, imax(end - first, ZERO))
    return inner, Trip(axis, var, count, tile, covered, imin(tile, end - start), parallel)


def tiled_axes(access: Access, scope: Scope) -> tuple[str, ...]:
    """Axes of which the access takes a whole tile."""
    return tuple(a for expr in access.index if (a := tiled_axis(expr, tiled_in(scope))) is not None)


def tiled_in(scope: Scope) -> frozenset[str]:
    """The axes that are more than one coordinate."""
    return frozenset(a for a, span in scope.items() if not span.scalar)


# -- traffic with the slowest memory


@dataclass(frozen=True, slots=True)
class Transfer:
    """Elements of one tensor that one statement moves between slow memory and the kernel."""

    tensor: str
    direction: str
    elements: IntExpr
    bytes: IntExpr


def transfers(program: Program, kernel: Kernel, walked: Sequence[Site] = ()) -> tuple[Transfer, ...]:
    """All loads and stores of a kernel, gathers inside expressions included; ``walked``: its sites if at hand."""
    found: list[Transfer] = []
    for site in walked or sites(program, kernel):
        match site.stmt:
            case Load(access=access):
                found.append(_transfer(program, site, access.tensor, "load", tiled_axes(access, site.scope)))
            case Store(access=access, accumulate=accumulate):
                directions = ("load", "store") if accumulate else ("store",)
                axes = tiled_axes(access, site.scope)
                found += [_transfer(program, site, access.tensor, way, axes) for way in directions]
        for expr in expressions(site.stmt):
            for node in fetches(expr):
                axes = tuple(a for a in coords(node) if a in site.scope and not site.scope[a].scalar)
                found.append(_transfer(program, site, node.tensor, "load", axes))
    return tuple(found)


def _transfer(program: Program, site: Site, tensor: str, direction: str, axes: tuple[str, ...]) -> Transfer:
    elements = site.count(axes)
    return Transfer(tensor, direction, elements, elements * program.tensor(tensor).dtype.bytes)


def traffic_bytes(program: Program) -> IntExpr:
    """Bytes between slow memory and the kernels, both ways, over the whole program."""
    return add(*(t.bytes for kernel in program.kernels for t in transfers(program, kernel)))


def traffic_words(program: Program) -> IntExpr:
    """Elements instead of bytes: the measure of the two-level word model."""
    return add(*(t.elements for kernel in program.kernels for t in transfers(program, kernel)))


def tensor_bytes(tensor: Tensor) -> IntExpr:
    """Bytes of a whole tensor."""
    size: IntExpr = Const(tensor.dtype.bytes)
    for dim in tensor.dims:
        size = size * dim
    return size


# -- operations


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of a kernel: multiply-adds count two flops; exps are transcendental calls, vector the other element
    operations."""

    flops: IntExpr
    exps: IntExpr
    vector: IntExpr


def work(program: Program, kernel: Kernel, pad: Pad | None = None) -> Work:
    """Operations of all executions; with ``pad``, as the padded tiles of the hardware execute them."""
    flops, exps, vector = _NOTHING, _NOTHING, _NOTHING
    for site in sites(program, kernel):
        match site.stmt:
            case Dot(out=out, over=over):
                flops = flops + site.count((*out.axes, *over), pad) * 2
            case Reduce(out=out, over=over):
                vector = vector + site.count((*out.axes, over), pad)
            case Copy(out=out):
                vector = vector + site.count(out.axes, pad)
        for expr in expressions(site.stmt):
            out_value = outputs_of(site.stmt)
            axes = out_value.axes if out_value else ()
            elements = site.count(axes, pad)
            costs = [FUNCTIONS[n.fn] for n in walk(expr) if isinstance(n, Call)]
            exps = exps + elements * sum(c.transcendental for c in costs)
            vector = vector + elements * sum(c.flops for c in costs)
    return Work(flops, exps, vector)


def expressions(stmt: Stmt) -> tuple[Scalar, ...]:
    """The elementwise expressions a statement evaluates (loop initial values are not counted)."""
    match stmt:
        case Map(expr=e):
            return (e,)
        case Dot(init=e) if e is not None:
            return (e,)
        case _:
            return ()


# -- what statements read and write


def operands(stmt: Stmt) -> tuple[str, ...]:
    """Names of the values a statement itself reads (not those its body reads)."""
    named: tuple[str, ...] = ()
    match stmt:
        case Store(value=v):
            named = (v,)
        case Copy(source=v) | View(source=v) | Reduce(source=v):
            named = (v,)
        case Dot(a=a, b=b):
            named = (a, b)
        case Seq(carry=carry):
            return tuple(r for c in carry for r in sorted(refs(c.init)))
    return (*named, *(r for e in expressions(stmt) for r in sorted(refs(e))))


def reads_of(stmt: Stmt) -> tuple[str, ...]:
    """Names of the values that one execution reads, each once; a view, or a loop that goes on with its state, none."""
    if isinstance(stmt, View):
        return ()
    own = {c.value.name for c in stmt.carry} if isinstance(stmt, Seq) else set()
    return tuple(name for name in dict.fromkeys(operands(stmt)) if name not in own)


def writes_of(stmt: Stmt) -> tuple[Value, ...]:
    """Values that one execution writes; a loop writes the initial elements of its state, a view nothing."""
    if isinstance(stmt, Alloc | View):
        return ()
    if isinstance(stmt, Seq):
        return tuple(c.value for c in stmt.carry if c.init != Ref(c.value.name))
    out = outputs_of(stmt)
    return (out,) if out is not None else ()


def uses(stmt: Stmt) -> frozenset[str]:
    """Names of all values read by a statement or anything inside it."""
    found = set(operands(stmt))
    if isinstance(stmt, Par | Seq):
        found |= {n for inner in stmt.body for n in uses(inner)}
    if isinstance(stmt, Seq):
        found |= {c.next for c in stmt.carry}
    return frozenset(found)
