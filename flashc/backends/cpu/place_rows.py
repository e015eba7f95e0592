"""Place short rows for a CPU: a few rows (heads of a group, query positions) meet long streams of other operands.

The rows are too few to fill the vector lanes, and what they meet is read once: it stays where it lies in memory, and
each dot takes its lanes along that operand's contiguous axis. If that is the contracted axis, products are summed over
the lanes at the end ("across"); otherwise the lanes run along the result and each row gives a broadcast scalar
("stream"). On chip the lanes of a value run along its one axis that is no row; a value with rows only has none.
"""

from __future__ import annotations

from dataclasses import replace

from flashc.backends.cpu.place import LEVEL, PAIRED, Placement
from flashc.errors import UnsupportedError
from flashc.ir.analysis import sites
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div
from flashc.ir.nodes import Atom, Copy, Dot, Kernel, Load, Map, Program, Seq, Stmt, Store, outputs_of
from flashc.ir.scalar import Ref
from flashc.ir.types import F32, Layout, Mode, Value

ACROSS_F32, ACROSS_BF16, STREAM_F32, STREAM_BF16 = "across_f32", "across_bf16", "stream_f32", "stream_bf16"
ROW_UNITS = (ACROSS_F32, ACROSS_BF16, STREAM_F32, STREAM_BF16)
STREAM_BLOCK = "kr"  # tile symbol: rows of the streamed operand in an across block


def has_short_rows(program: Program, kernel: Kernel) -> bool:
    """Whether tiles have rows along several axes: more than one lane axis and one row axis can hold."""
    outs = (outputs_of(site.stmt) for site in sites(program, kernel))
    return any(out is not None and len(out.axes) > 2 for out in outs)


def row_axes(program: Program, kernel: Kernel) -> frozenset[str]:
    """The axes that all dots share on the side of their operand with the most axes; without a dot, all axes of the
    widest stored tile but the contiguous one."""
    walked = [site.stmt for site in sites(program, kernel)]
    values = {out.name: out for stmt in walked if (out := outputs_of(stmt)) is not None}
    dots = [stmt for stmt in walked if isinstance(stmt, Dot)]
    if dots:
        wider = (max((values[d.a], values[d.b]), key=lambda v: len(v.axes)) for d in dots)
        return frozenset.intersection(*(frozenset(v.axes) - set(d.over) for v, d in zip(wider, dots, strict=True)))
    stored = max((s for s in walked if isinstance(s, Store)), key=lambda s: len(values[s.value].axes))
    return frozenset(values[stored.value].axes) - {str(stored.access.index[-1])}


class ShortRows(Placement):
    """Placement of one kernel with short rows."""

    def kernel(self) -> Kernel:
        self.rows = row_axes(self.program, self.source)
        return super().kernel()

    def _lane_of(self, value: Value) -> str | None:
        along = [a for a in value.axes if a not in self.rows]
        if len(along) > 1:
            raise UnsupportedError(
                f"cpu: the tile {value.name}[{', '.join(value.axes)}] has the axes {' and '.join(along)} besides its "
                f"rows {', '.join(sorted(self.rows))}; only a loaded operand of a dot may"
            )
        return along[0] if along else None

    def _stages(self, seq: Seq) -> IntExpr:
        """What streams by is used once: it is fetched ``stages - 1`` tiles ahead."""
        return seq.stages

    # -- operands

    def _streamed(self, dot: Dot) -> tuple[Value, str]:
        """The operand without rows, and the axis along which it is contiguous: the lanes of the dot."""
        found = [n for n in (dot.a, dot.b) if not self.rows & set(self._value(n).axes)]
        load = self.loads.get(found[0]) if len(found) == 1 else None
        if load is None or len(load.out.axes) != 2 or len(dot.over) != 1:
            raise UnsupportedError(
                f"cpu: the dot {dot.out.name} over {', '.join(dot.over)} needs one operand loaded with two axes, "
                f"none of them one of the rows {', '.join(sorted(self.rows))}; it has {dot.a} and {dot.b}"
            )
        return load.out, str(load.access.index[-1])

    def _unit(self, dot: Dot) -> str:
        streamed, lane = self._streamed(dot)
        paired = super()._unit(dot) == PAIRED and self._whole(streamed, lane)
        if lane in dot.over:
            return ACROSS_BF16 if paired else ACROSS_F32
        return STREAM_BF16 if paired else STREAM_F32

    def _whole(self, value: Value, lane: str) -> bool:
        """Whether the operand is read where it lies: along the result its vectors must all be whole."""
        dot = next(d for d in self.all_dots if value.name in (d.a, d.b))
        extent = self._extent(value, lane).subs(dict(self.program.fixed))
        whole = isinstance(extent, Const) and extent.value % self.width == 0
        return value.name not in self.elementwise and (lane in dot.over or whole)

    def _load(self, stmt: Load, out: Value) -> tuple[Stmt, ...]:
        streamed = [(v, lane) for d in self.all_dots for v, lane in [self._streamed(d)] if v.name == out.name]
        here = replace(stmt, out=replace(out, level="memory"))
        if streamed and self._whole(*streamed[0]):
            return (here,)
        here = replace(here, out=replace(here.out, name=f"{out.name}_mem"))
        lane = streamed[0][1] if streamed else self._lane_of(out)
        return (here, Copy(self._laid_out(out, lane), here.out.name))

    def _dot(self, dot: Dot) -> tuple[Stmt, ...]:
        lane, unit = self._streamed(dot)[1], self._unit(dot)
        depth = 2 if unit in (ACROSS_BF16, STREAM_BF16) else 1
        out = self._on_chip(dot.out)
        if lane not in dot.over:
            return (replace(dot, out=out, atom=Atom(unit, lane, Sym("mr"), Sym("nr"), depth)),)
        atom = Atom(unit, lane, Sym(STREAM_BLOCK), Sym("nr"), depth)
        if dot.init is None:
            return (replace(dot, out=out, atom=atom),)
        part = replace(out, name=f"{out.name}_part")
        return (replace(dot, out=part, init=None, atom=atom), Map(out, dot.init + Ref(part.name)))

    # -- layouts

    def _on_chip(self, value: Value, pair: str | None = None) -> Value:
        return self._laid_out(value, self._lane_of(value))

    def _laid_out(self, value: Value, lane: str | None) -> Value:
        """Vectors of the lane axis, the other axes row-major around them."""
        keeps = self.dots.get(value.name) in (ACROSS_BF16, STREAM_BF16) and value.name not in self.elementwise
        step: IntExpr = Const(1)
        modes: tuple[Mode, ...] = ()
        if lane is not None:
            vectors = ceil_div(self._extent(value, lane), self.width)
            modes = (Mode(lane, Const(self.width), step, "lane"), Mode(lane, vectors, Const(self.width), "offset"))
            step = vectors * self.width
        outer = [a for a in value.axes if a != lane]
        layout = Layout((*modes, *self._row_major(value, outer, step, None)))
        return replace(value, dtype=value.dtype if keeps else F32, level=LEVEL, layout=layout)
