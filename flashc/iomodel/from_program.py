"""Reads the affine statements of an operator off its untiled program, so that bounds need no description of their own.

Each dot, reduction and map becomes a statement over the scalar coordinates and the axes it runs along. A loaded tile
stands for the tensor elements it was loaded from, every other tile for a temp with one element per coordinate. The kept
part of an axis (causal, window, lengths) comes from a schedule, where it is the domain of a loop. What is not affine
(gathers, other carried values) is left out: a statement with fewer operands has a weaker bound, never a wrong one.

Grouped heads read ``k[h // G]``: there ``h`` is split into two indices, ``h = h_group * G + h_in``. What a loop over
single steps carries is an array with one element more than steps, ``state[t]`` before step t. A tensor of which every
access takes a fixed part (a gate's weights ``r[2, ...]``) is one array per part. Where a table may end a sequence or
reset its state, a schedule may leave steps out: such loops, and all inputs, then count nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from flashc.iomodel.regions import Region, distinct_elements, region
from flashc.iomodel.statements import Array, Cascade, Index, Reference, Statement, Update
from flashc.ir.analysis import Site, expressions, sites
from flashc.ir.footprint import values_of
from flashc.ir.intexpr import Const, FloorDiv, IntExpr, Sym, imax, imin
from flashc.ir.nodes import Dot, Load, Map, Program, Reduce, Seq, Stmt, Store, View
from flashc.ir.scalar import Coord, Fetch, Lit, Scalar, fetches, refs
from flashc.ir.types import Tensor, Value

UPDATES: dict[str, Update] = {"sum": "+=", "max": "max=", "min": "min="}


def cascade(algorithm: Program, schedule: Program) -> Cascade:
    """The statements of ``algorithm``; ``schedule`` (any of the operator's) tells the kept region and what is touched.

    Temps weigh as much as the narrowest floating-point element of the program, however a schedule may store them.
    """
    walked = tuple(site for kernel in algorithm.kernels for site in sites(algorithm, kernel))
    optional = _optional_loops(algorithm, walked)
    axes = {name: v[0].axes for k in algorithm.kernels for name, v in values_of(algorithm, k).items()}
    reader = _Reader(algorithm, region(schedule), _split_axes(walked), _fixed_dims(walked), optional, axes)
    statements = tuple(s for site in walked for s in reader.read(site))
    used = {r.array for s in statements for r in (s.target, *s.operands)}
    types = [*(t.dtype for t in algorithm.tensors), *(v.dtype for v in reader.values)]
    narrowest = min((d.bytes for d in types if d.kind == "float"), default=1)
    parts = [(name, t) for t in algorithm.tensors for name in reader.parts.get(t.name, (t.name,)) if name in used]
    arrays = [
        Array(name, narrowest if t.role == "temp" else t.dtype.bytes, t.role, part_of=t.name if name != t.name else "")
        for name, t in parts
    ]
    arrays += [Array(name, narrowest, "temp") for name in reader.temps if name in used]
    known = distinct_elements(schedule)
    if optional:
        known = {t.name: known[t.name] for t in algorithm.tensors if t.name in known and t.role != "in"}
    # What is captured where a mask may hide it, and tables, count nothing: that keeps compulsory traffic a bound.
    touched = tuple((name, reader.share(t, known.get(t.name, Const(0)))) for name, t in parts if t.role != "temp")
    return Cascade(algorithm.name, algorithm.sizes, tuple(arrays), statements, touched)


def _split_axes(walked: Sequence[Site]) -> dict[str, IntExpr]:
    """Axes that some access divides, with the divisor."""
    accesses = (s.stmt.access for s in walked if isinstance(s.stmt, Load | Store))
    parts = (part for access in accesses for part in access.index)
    return {p.num.name: p.den for p in parts if isinstance(p, FloorDiv) and isinstance(p.num, Sym)}


def _fixed_dims(walked: Sequence[Site]) -> dict[str, frozenset[int]]:
    """Dimensions that every access to a tensor takes at a number; of tensors that have such."""
    found: dict[str, frozenset[int]] = {}
    for name, index in (access for site in walked for access in _accesses(site.stmt)):
        fixed = frozenset(n for n, part in enumerate(index) if isinstance(part, Const))
        found[name] = found.get(name, fixed) & fixed
    return {name: dims for name, dims in found.items() if dims}


def _optional_loops(program: Program, walked: Sequence[Site]) -> frozenset[str]:
    """Axes of the loops over single steps in which a table decides what is carried on."""
    found = set[str]()
    for site in walked:
        tables = (program.tensor(f.tensor).dtype.kind for e in expressions(site.stmt) for f in fetches(e))
        if isinstance(site.stmt, Map) and any(kind != "float" for kind in tables):
            found |= {t.axis for t in site.trips if not t.parallel and t.tile == Const(1)}
    return frozenset(found)


def _accesses(stmt: Stmt) -> Iterator[tuple[str, Sequence[IntExpr | Scalar]]]:
    if isinstance(stmt, Load | Store):
        yield stmt.access.tensor, stmt.access.index
    for expr in expressions(stmt):
        yield from ((fetch.tensor, fetch.index) for fetch in fetches(expr))


@dataclass
class _Reader:
    """Walks a program in order and remembers which elements every tile stands for."""

    program: Program
    kept: Region | None
    split: dict[str, IntExpr]
    fixed: dict[str, frozenset[int]]
    optional: frozenset[str]
    axes: dict[str, tuple[str, ...]]
    tiles: dict[str, Reference] = field(default_factory=dict)
    sums: dict[str, Reference] = field(default_factory=dict)
    temps: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    states: dict[str, Reference] = field(default_factory=dict)
    steps: dict[str, IntExpr] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def read(self, site: Site) -> Iterator[Statement]:
        if self.optional & {t.axis for t in site.trips}:
            return
        match site.stmt:
            case Load(out=out, access=access):
                self.tiles[out.name] = self._reference(access.tensor, access.index)
            case Store(access=access, value=value) if value in self.tiles:
                axes = [a for a in site.scope if any(a in x.symbols() for x in access.index)]
                target = self._reference(access.tensor, access.index)
                yield self._statement(site, f"store_{access.tensor}", axes, target, "=", [self._tile(site, value)])
            case View(out=out, source=source) if source in self.tiles:
                names = dict(zip(self.axes[source], map(Sym, out.axes), strict=True))
                renamed = tuple(x.subs(names) for x in self.tiles[source].subscripts)
                self.tiles[out.name] = Reference(self.tiles[source].array, renamed)
            case Seq(carry=carry, law="add"):
                self.sums.update({c.next: self._define(site, c.value) for c in carry})
            case Seq(carry=carry, loop=loop, reverse=False) if loop.tile == Const(1):
                self.steps[loop.axis] = self.program.axis(loop.axis).extent
                after = {loop.axis: Sym(loop.axis) + 1}
                for c in carry:
                    before = self._define(site, c.value, (loop.axis,))
                    self.states[c.next] = Reference(before.array, tuple(x.subs(after) for x in before.subscripts))
            case Dot():
                yield from self._dot(site, site.stmt)
            case Reduce(out=out, op=op, source=source, over=over) if source in self.tiles:
                parts = [self._tile(site, source)]
                target = self._define(site, out)
                yield self._statement(site, out.name, (*out.axes, over), target, UPDATES[op], parts)
            case Map(out=out):
                read = self._operands(site)
                yield self._statement(site, out.name, out.axes, self._define(site, out), "=", read)

    def _dot(self, site: Site, dot: Dot) -> Iterator[Statement]:
        """What a dot adds to, unless it is the sum of an earlier part, is a statement of its own."""
        out, factors = dot.out, [self._tile(site, n) for n in (dot.a, dot.b) if n in self.tiles]
        whole = dot.init is None or out.name in self.sums
        named = out if whole else replace(out, name=f"{out.name}_product")
        target = self.sums.get(out.name) or self._define(site, named)
        self.tiles[named.name] = target
        yield self._statement(site, named.name, (*out.axes, *dot.over), target, "+=", factors)
        if not whole:
            read = [target, *self._operands(site)]
            yield self._statement(site, out.name, out.axes, self._define(site, out), "=", read)

    def _tile(self, site: Site, name: str) -> Reference:
        """The elements of a tile; of what a loop carried, after the last step."""
        inside = {t.axis for t in site.trips}
        last = {axis: steps for axis, steps in self.steps.items() if axis not in inside}
        tile = self.tiles[name]
        return Reference(tile.array, tuple(x.subs(last) for x in tile.subscripts)) if last else tile

    def _operands(self, site: Site) -> list[Reference]:
        found: list[Reference] = []
        for expr in expressions(site.stmt):
            found += [self._tile(site, n) for n in sorted(refs(expr)) if n in self.tiles]
            gathered = (self._gathered(f) for f in fetches(expr))
            found += [g for g in gathered if g is not None]
        return found

    def _gathered(self, fetch: Fetch) -> Reference | None:
        index = [_position(x) for x in fetch.index]
        plain = [x for x in index if x is not None]
        return self._reference(fetch.tensor, plain) if len(plain) == len(index) else None

    def _define(self, site: Site, out: Value, along: tuple[str, ...] = ()) -> Reference:
        """A temp with one element per scalar coordinate (and per coordinate ``along`` which it is carried) and per
        coordinate along the tile's axes; a value that is carried on is the next state."""
        if out.name in self.states:
            self.tiles[out.name] = self.states[out.name]
            return self.states[out.name]
        taken = {t.name for t in self.program.tensors} | set(self.temps)
        name = out.name
        while name in taken:
            name += "_"
        self.temps.append(name)
        self.values.append(out)
        around = (t.axis for t in site.trips if site.scope[t.axis].scalar and t.axis not in out.axes)
        axes = (*around, *along, *out.axes)
        self.tiles[out.name] = self._reference(name, [Sym(a) for a in axes])
        return self.tiles[out.name]

    def _reference(self, array: str, index: Sequence[IntExpr]) -> Reference:
        fixed = self.fixed.get(array, frozenset())
        if fixed:
            name = "_".join([array, *(str(index[n]) for n in sorted(fixed))])
            self.parts[array] = tuple(dict.fromkeys((*self.parts.get(array, ()), name)))
            array = name
        return Reference(array, tuple(y for n, x in enumerate(index) if n not in fixed for y in self._subscript(x)))

    def share(self, tensor: Tensor, elements: IntExpr) -> IntExpr:
        """Of the elements of a tensor, those of one part."""
        for n in self.fixed.get(tensor.name, ()):
            elements = elements // tensor.dims[n]
        return elements

    def _subscript(self, part: IntExpr) -> tuple[IntExpr, ...]:
        for axis, group in self.split.items():
            if part == Sym(axis) // group:
                return (Sym(f"{axis}_group"),)
            part = part.subs({axis: Sym(f"{axis}_group") * group + Sym(f"{axis}_in")})
        return (part,)

    def _statement(
        self,
        site: Site,
        name: str,
        axes: Sequence[str],
        target: Reference,
        update: Update,
        operands: Sequence[Reference],
    ) -> Statement:
        around = [t.axis for t in site.trips if site.scope[t.axis].scalar or t.axis in axes]
        run = {*around, *axes}
        ordered = [a.name for a in self.program.axes if a.name in run]
        if self.kept is not None and self.kept.axis in run:
            ordered = [*(a for a in ordered if a != self.kept.axis), self.kept.axis]
        indices = tuple(i for a in ordered for i in self._indices(a, run))
        return Statement(name, indices, target, update, tuple(dict.fromkeys(operands)))

    def _indices(self, axis: str, run: set[str]) -> tuple[Index, ...]:
        zero, extent = Const(0), self.program.axis(axis).extent
        group = self.split.get(axis)
        if group is not None:
            return Index(f"{axis}_group", zero, extent // group), Index(f"{axis}_in", zero, group)
        if self.kept is None or self.kept.axis != axis:
            return (Index(axis, zero, extent),)
        domain = self.kept.domain
        names = {a.name for a in self.program.axes}
        if {s for b in (*domain.lower, *domain.upper) for s in b.symbols()} & names - run:
            return (Index(axis, zero, extent),)
        lower, upper = (tuple(self._subscript(b)[0] for b in side) for side in (domain.lower, domain.upper))
        return (Index(axis, imax(zero, *lower), imin(extent, *upper)),)


def _position(index: Scalar) -> IntExpr | None:
    """A plain coordinate or a whole number as an integer expression; None for what is computed."""
    if isinstance(index, Coord):
        return Sym(index.axis)
    return Const(index.value) if isinstance(index, Lit) and isinstance(index.value, int) else None
