"""Place for a CPU: which axis runs along the vector lanes, what is packed, and which instruction does each dot.

The lane axis is the one that most tiles of a kernel share (rows that are reduced, so that max, sum and rescaling are
lane-wise); among equals it is the one contiguous in the output. A dot then has one operand with
lanes, read as vectors from a packed tile, and one without, read as broadcast scalars straight from memory where its
element type and strides allow. Copies are inserted where they do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashc.errors import UnsupportedError
from flashc.hwmodels.model import Device
from flashc.ir.analysis import operands, sites
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div
from flashc.ir.nodes import Atom, Carry, Copy, Dot, Kernel, Load, Map, Program, Reduce, Seq, Stmt, Store, outputs_of
from flashc.ir.ranges import Scope
from flashc.ir.rewrite import rewrite_body, rewrite_kernels
from flashc.ir.types import F32, Layout, Mode, Value
from flashc.passes.stage import stage

LEVEL = "l2"  # packed tiles and accumulators live in the core's private cache
ALWAYS_F32 = "fma_f32"
PAIRED = "dot_bf16"


def place(program: Program, device: Device) -> Program:
    """The program with a level and a layout for every on-chip value, an atom for every dot, and the copies between."""
    from flashc.backends.cpu.place_resident import Resident, resident_matrices
    from flashc.backends.cpu.place_rows import STREAM_BLOCK, ShortRows, has_short_rows

    def style(kernel: Kernel) -> type[Placement]:
        if resident_matrices(program, kernel):
            return Resident
        return ShortRows if has_short_rows(program, kernel) else Placement

    styles = {k.name: style(k) for k in program.kernels}
    short = [name for name, chosen in styles.items() if chosen is ShortRows]
    program = rewrite_kernels(
        program, lambda k: stage(program, k, lane_axis(program, k)) if styles[k.name] is Placement else k
    )
    placed = rewrite_kernels(program, lambda k: styles[k.name](program, k, device).kernel(), stage="placed")
    return replace(placed, tiles=(*program.tiles, "mr", "nr", *((STREAM_BLOCK,) if short else ())))


def lane_axis(program: Program, kernel: Kernel) -> str:
    """The tiled output axis, of all dots where there is one, that most on-chip values have.

    Ties go to the axis contiguous in the stored tensor.
    """
    count: dict[str, int] = {}
    tiled: list[set[str]] = []
    contiguous = ""
    for site in sites(program, kernel):
        out = outputs_of(site.stmt)
        for axis in out.axes if out else ():
            count[axis] = count.get(axis, 0) + 1
        if isinstance(site.stmt, Dot):
            tiled.append({a for a in site.stmt.out.axes if a in {t.axis for t in site.trips}})
        if isinstance(site.stmt, Store):
            contiguous = str(site.stmt.access.index[-1])
    everywhere = set.intersection(*tiled) if tiled else set()
    candidates = everywhere or set().union(*tiled) or set(count)
    return max(sorted(candidates), key=lambda a: (count.get(a, 0), a == contiguous))


@dataclass
class Placement:
    """Placement of one kernel whose rows are in the lanes."""

    program: Program
    source: Kernel
    device: Device

    def kernel(self) -> Kernel:
        self.lane = lane_axis(self.program, self.source)
        self.width = self.device.vector.width_bits // 32
        self.scopes: dict[str, Scope] = {}
        self.loads: dict[str, Load] = {}
        self.dots: dict[str, str] = {}
        self.elementwise: set[str] = set()
        walked = tuple(sites(self.program, self.source))
        self.all_dots = [s.stmt for s in walked if isinstance(s.stmt, Dot)]
        for site in walked:
            if isinstance(site.stmt, Load):
                self.loads[site.stmt.out.name] = site.stmt
            if (out := outputs_of(site.stmt)) is not None:
                self.scopes[out.name] = site.scope
            if isinstance(site.stmt, Map | Reduce | Store):
                self.elementwise |= set(operands(site.stmt))
        for site in sites(self.program, self.source):
            self._note(site.stmt, site.scope)
        self.values: dict[str, Value] = {}
        body = rewrite_body(self.source.body, self._place)
        return replace(self.source, body=body)

    # -- what the kernel holds

    def _note(self, stmt: Stmt, scope: Scope) -> None:
        out = outputs_of(stmt)
        if out is not None:
            self.scopes[out.name] = scope
        if isinstance(stmt, Seq):
            self.scopes.update({c.value.name: scope for c in stmt.carry})
        if isinstance(stmt, Dot):
            unit = self._unit(stmt)
            self.dots.update({stmt.a: unit, stmt.b: unit})
            self.elementwise |= {n for n in operands(stmt) if n not in (stmt.a, stmt.b)}
        if isinstance(stmt, Map | Reduce | Store):
            self.elementwise |= set(operands(stmt))

    def _unit(self, dot: Dot) -> str:
        """Pairs need operands packed along the contracted axis, so every operand of the kernel must have one only."""
        types = {self._value(n).dtype.name for n in (dot.a, dot.b)}
        if types != {"bf16"} or "avx512_bf16" not in self.device.features:
            return ALWAYS_F32
        dots = [s.stmt for s in sites(self.program, self.source) if isinstance(s.stmt, Dot)]
        packings = {(name, d.over) for d in dots for name in (d.a, d.b)}
        return PAIRED if len(packings) == len({name for name, _ in packings}) else ALWAYS_F32

    def _value(self, name: str) -> Value:
        for site in sites(self.program, self.source):
            out = outputs_of(site.stmt)
            if out is not None and out.name == name:
                return out
            if isinstance(site.stmt, Seq):
                for c in site.stmt.carry:
                    if c.value.name == name:
                        return c.value
        raise KeyError(name)

    # -- statement by statement

    def _place(self, stmt: Stmt) -> tuple[Stmt, ...]:
        match stmt:
            case Load(out=out):
                return self._load(stmt, out)
            case Dot():
                return self._dot(stmt)
            case Map(out=out) | Reduce(out=out):
                return (replace(stmt, out=self._on_chip(out)),)
            case Seq(carry=carry):
                placed = tuple(Carry(self._on_chip(c.value), c.init, c.next) for c in carry)
                return (replace(stmt, carry=placed, stages=self._stages(stmt)),)
            case _:
                return (stmt,)

    def _stages(self, seq: Seq) -> IntExpr:
        """No load is started ahead: rows in the lanes use every loaded element often."""
        return Const(1)

    def _load(self, stmt: Load, out: Value) -> tuple[Stmt, ...]:
        """A load is a view of memory; the copy that follows it packs or converts where a user of it needs that."""
        here = replace(stmt, out=replace(out, name=f"{out.name}_mem", level="memory"))
        packed = self._packed(stmt, out)
        if packed is None:
            return (replace(stmt, out=replace(out, level="memory")),)
        return (here, Copy(packed, here.out.name))

    def _packed(self, stmt: Load, out: Value) -> Value | None:
        unit = self.dots.get(out.name)
        if unit is None or out.name in self.elementwise:
            return self._on_chip(replace(out, dtype=F32))
        pair = self._over(out) if unit == PAIRED else None
        if self.lane in out.axes:
            return self._on_chip(out if pair else replace(out, dtype=F32), pair)
        contiguous = str(stmt.access.index[-1]) == pair
        if (pair and contiguous) or (not pair and out.dtype == F32):
            return None
        return self._plain(out if pair else replace(out, dtype=F32), pair)

    def _over(self, value: Value) -> str:
        dots = [s.stmt for s in sites(self.program, self.source) if isinstance(s.stmt, Dot)]
        return next(d.over[0] for d in dots if value.name in (d.a, d.b))

    def _dot(self, dot: Dot) -> tuple[Stmt, ...]:
        with_lanes = [n for n in (dot.a, dot.b) if self.lane in self._value(n).axes]
        if len(with_lanes) != 1 or len(dot.over) != 1 or len(dot.out.axes) != 2:
            raise UnsupportedError(
                f"cpu: the dot {dot.out.name} needs two output axes, one contracted axis, and exactly one operand with "
                f"the lane axis {self.lane}; it has operands {dot.a}, {dot.b} over {dot.over}"
            )
        unit = self._unit(dot)
        atom = Atom(unit, self.lane, Sym("mr"), Sym("nr"), 2 if unit == PAIRED else 1)
        return (replace(dot, out=self._on_chip(dot.out), atom=atom),)

    # -- layouts

    def _on_chip(self, value: Value, pair: str | None = None) -> Value:
        """Vectors of the lane axis, the other axes row-major around them; f32 unless it feeds a pairwise dot."""
        if pair is None and self.dots.get(value.name) == PAIRED and value.name not in self.loads:
            pair = self._over(value)
        dtype = value.dtype if pair else F32
        if self.lane not in value.axes:
            return self._plain(replace(value, dtype=dtype), pair)
        step: IntExpr = Const(2 if pair else 1)
        tile = self._extent(value, self.lane)
        lanes = (
            Mode(self.lane, Const(self.width), step, "lane"),
            Mode(self.lane, ceil_div(tile, self.width), step * self.width, "offset"),
        )
        outer = [a for a in value.axes if a != self.lane]
        modes = self._row_major(value, outer, ceil_div(tile, self.width) * self.width * step, pair)
        return replace(value, dtype=dtype, level=LEVEL, layout=Layout((*lanes, *modes)))

    def _plain(self, value: Value, pair: str | None = None) -> Value:
        """Row-major, the paired axis outermost and its two halves innermost."""
        axes = [a for a in value.axes if a != pair]
        order = [pair, *axes] if pair else axes
        modes = self._row_major(value, order, Const(2 if pair else 1), pair)
        return replace(value, level=LEVEL, layout=Layout(modes))

    def _row_major(self, value: Value, axes: list[str], step: IntExpr, pair: str | None) -> tuple[Mode, ...]:
        modes: list[Mode] = []
        for axis in reversed(axes):
            extent = self._extent(value, axis)
            if axis == pair:
                modes.append(Mode(axis, Const(2), Const(1), "reg"))
                extent = ceil_div(extent, 2)
            modes.append(Mode(axis, extent, step, "offset"))
            step = step * extent
        return tuple(modes)

    def _extent(self, value: Value, axis: str) -> IntExpr:
        return self.scopes[value.name][axis].size
