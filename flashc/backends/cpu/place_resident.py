"""Place a recurrence for a CPU: matrices that stay for all steps of a loop, and rows that meet them anew in each.

The lanes of a value run along its axis that is no row, so a new state is the next step's operand as it lies: row by
row, read as broadcast scalars. A matrix is packed once, before the loop, in panels of the register block's width: a
block then reads one stream of consecutive vectors. Few rows lose nothing, and no sum crosses the lanes.
"""

from __future__ import annotations

from dataclasses import replace

from flashc.backends.cpu.place import LEVEL, PAIRED, Placement
from flashc.errors import UnsupportedError
from flashc.ir.analysis import sites
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div
from flashc.ir.nodes import Atom, Copy, Dot, Kernel, Load, Program, Seq, Stmt, Store, Sync, View, outputs_of
from flashc.ir.scalar import refs
from flashc.ir.types import F32, Layout, Mode, Value


def resident_matrices(program: Program, kernel: Kernel) -> frozenset[str]:
    """Operands of dots that are made before a loop whose axis is none of theirs: they are the same in all its steps.

    Only where the other operand comes from the step before, by a view of its result or past a barrier.
    """
    walked = tuple(sites(program, kernel))
    if not any(isinstance(site.stmt, View | Sync) for site in walked):
        return frozenset()
    made: dict[str, frozenset[str]] = {}
    found: set[str] = set()
    for site in walked:
        around = frozenset(t.axis for t in site.trips if not t.parallel)
        if isinstance(site.stmt, Dot):
            dot = site.stmt
            repeated = around - set(dot.out.axes) - set(dot.over)
            found |= {n for n in (dot.a, dot.b) if n in made and repeated - made[n]}
        elif isinstance(site.stmt, Load | Copy):
            made[site.stmt.out.name] = around
    return frozenset(found)


def row_axes(program: Program, kernel: Kernel) -> frozenset[str]:
    """The axes of results that a resident matrix does not have."""
    resident = resident_matrices(program, kernel)
    dots = [s.stmt for s in sites(program, kernel) if isinstance(s.stmt, Dot)]
    matrices = {
        v.name: v for s in sites(program, kernel) if (v := outputs_of(s.stmt)) is not None and v.name in resident
    }
    return frozenset(
        axis for d in dots for name in (d.a, d.b) if name in matrices
        for axis in d.out.axes if axis not in matrices[name].axes
    )


class Resident(Placement):
    """Placement of one kernel with resident matrices."""

    def kernel(self) -> Kernel:
        self.rows = row_axes(self.program, self.source)
        self.matrices = resident_matrices(self.program, self.source)
        walked = [s.stmt for s in sites(self.program, self.source)]
        self.stored = {s.access.tensor for s in walked if isinstance(s, Store)}
        self.initial = {n for s in walked if isinstance(s, Seq) for c in s.carry for n in refs(c.init)}
        self.views = {s.out.name: s.source for s in walked if isinstance(s, View)}
        shared = [lv.name for lv in self.device.levels if lv.kind == "cache"]
        self.far = shared[0] if shared else LEVEL
        return super().kernel()

    def _place(self, stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, View):
            return (replace(stmt, out=self._on_chip(stmt.out)),)
        return super()._place(stmt)

    def _lane_of(self, value: Value) -> str:
        along = [a for a in value.axes if a not in self.rows]
        if len(along) != 1 or len(value.axes) > 2:
            raise UnsupportedError(
                f"cpu: the tile {value.name}[{', '.join(value.axes)}] needs one axis besides one of the rows "
                f"{', '.join(sorted(self.rows))}; only a resident matrix has two"
            )
        return along[0]

    # -- statements

    def _load(self, stmt: Load, out: Value) -> tuple[Stmt, ...]:
        """A matrix is packed; what is read as it lies stays there; all else is copied."""
        if out.name in self.matrices:
            packed = self._panels(out)
        elif self._read_in_place(stmt, out):
            return (replace(stmt, out=replace(out, level="memory")),)
        else:
            packed = self._on_chip(out)
        here = replace(stmt, out=replace(out, name=f"{out.name}_mem", level="memory"))
        return (here, Copy(packed, here.out.name))

    def _read_in_place(self, stmt: Load, out: Value) -> bool:
        """Elements of a row that nothing overwrites: scalars of a dot's own type, or whole vectors of elements."""
        contiguous = str(stmt.access.index[-1]) == self._lane_of(out)
        unit = self.dots.get(out.name)
        if out.name in self.elementwise or unit is None:
            extent = self.program.axis(self._lane_of(out)).extent.subs(dict(self.program.fixed))
            whole = isinstance(extent, Const) and extent.value % self.width == 0
            return contiguous and whole and unit is None and not self._kept(stmt, out)
        return contiguous and (unit == PAIRED or out.dtype == F32)

    def _kept(self, stmt: Load, out: Value) -> bool:
        """Whether the elements are needed after the memory may have changed."""
        return stmt.access.tensor in self.stored or out.name in self.initial

    def _dot(self, dot: Dot) -> tuple[Stmt, ...]:
        with_rows = [n for n in (dot.a, dot.b) if n not in self.matrices]
        if len(with_rows) != 1 or len(dot.over) != 1 or len(dot.out.axes) != 2:
            raise UnsupportedError(
                f"cpu: the dot {dot.out.name} needs two output axes, one contracted axis, and one operand that stays "
                f"for all steps; it has {dot.a} and {dot.b} over {', '.join(dot.over)}"
            )
        unit = self._unit(dot)
        atom = Atom(unit, self._lane_of(dot.out), Sym("mr"), Sym("nr"), 2 if unit == PAIRED else 1)
        return (replace(dot, out=self._on_chip(dot.out), atom=atom),)

    # -- layouts

    def _on_chip(self, value: Value, pair: str | None = None) -> Value:
        """Row by row, whole vectors of the lane axis; in the type of a dot that reads it, else f32."""
        lane = self._lane_of(value)
        vectors = ceil_div(self._extent(value, lane), self.width)
        lanes = (Mode(lane, Const(self.width), Const(1), "lane"), Mode(lane, vectors, Const(self.width), "offset"))
        outer = [a for a in value.axes if a != lane]
        layout = Layout((*lanes, *self._row_major(value, outer, vectors * self.width, None)))
        readers = {value.name, *(view for view, source in self.views.items() if source == value.name)}
        paired = any(self.dots.get(name) == PAIRED for name in readers)
        return replace(value, dtype=value.dtype if paired else F32, level=LEVEL, layout=layout)

    def _panels(self, value: Value) -> Value:
        """Panels of ``mr`` vectors, each with all of the contracted axis."""
        dot = next(d for d in self.all_dots if value.name in (d.a, d.b))
        over, lane = dot.over[0], next(a for a in value.axes if a not in dot.over)
        pair = self._unit(dot) == PAIRED
        depth = 2 if pair else 1
        mr, width, extent = Sym("mr"), Const(self.width), self._extent(value, over)
        deep = ceil_div(extent, depth)
        step: IntExpr = mr * self.width * depth
        modes = [Mode(lane, width, Const(depth), "lane"), Mode(lane, mr, width * depth, "offset")]
        modes += [Mode(over, Const(2), Const(1), "reg")] if pair else []
        modes += [
            Mode(over, deep, step, "offset"),
            Mode(lane, ceil_div(self._extent(value, lane), mr * self.width), step * deep, "offset"),
        ]
        return replace(value, dtype=value.dtype if pair else F32, level=self.far, layout=Layout(tuple(modes)))
