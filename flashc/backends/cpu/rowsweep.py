"""Sweeps of values with short rows: rows outside, vectors of the lane axis inside, folds along the lanes.

A value without an axis along the lanes has one element per row: it is a scalar of the row, and a sweep over rows only
is scalar altogether.
"""

from __future__ import annotations

from collections.abc import Sequence

from flashc.backends.cpu.frame import Printer, Targets
from flashc.backends.cpu.scalars import as_kind, as_vector, scalar_text
from flashc.backends.cpu.sweep import COMBINE, IDENTITY, PART, Sweep
from flashc.errors import UnsupportedError
from flashc.ir.analysis import operands
from flashc.ir.nodes import Map, Reduce
from flashc.ir.ranges import Scope
from flashc.ir.scalar import Ref
from flashc.passes.fuse import space


def sweeps_rows(p: Printer, group: Sequence[Map | Reduce]) -> bool:
    """Whether some value of the group has no lanes, or one is folded along them."""
    if any(isinstance(s, Reduce) and s.over == _lane_of(p, s.source) for s in group):
        return True
    return any(_lane_of(p, n) is None for s in group for n in (s.out.name, *operands(s)) if n in p.values)


def emit_row_sweep(p: Printer, group: Sequence[Map | Reduce], targets: Targets, scope: Scope) -> None:
    """Print one group (see passes.fuse); results are written to ``targets``."""
    axes = space(group[0])
    lane = next((a for s in group for n in (s.out.name, *operands(s)) if n in p.values and (a := _lane_of(p, n))), "")
    p.lane = lane
    for stmt in group:
        if isinstance(stmt, Reduce) and stmt.over != lane:
            raise UnsupportedError(f"cpu: {stmt.out.name} folds {stmt.source} along {stmt.over}, one of its rows")
    rows = [a.name for a in p.program.axes if a.name in axes and a.name != lane]
    for row in rows:
        p.open(f"for (long {row} = 0; {row} < {p.counts[row]}; ++{row})")
    if not rows:
        p.open("")
    sweep = Sweep(p, scope, dict(zip(rows, rows, strict=True)))
    sweep.targets = targets
    _preload(p, group, sweep, vectors=False)
    if lane:
        _vectors(p, group, sweep, lane)
    else:
        for stmt in group:
            _statement(p, stmt, sweep)
    for _ in rows or [""]:
        p.close()


def _lane_of(p: Printer, name: str) -> str | None:
    layout = p.values[name].layout
    return layout.lane_axis() if layout else None


def _preload(p: Printer, group: Sequence[Map | Reduce], sweep: Sweep, *, vectors: bool) -> None:
    """Read stored operands into registers before anything is written: a result may share its operand's buffer."""
    made = {s.out.name for s in group}
    for name in dict.fromkeys(n for s in group for n in operands(s)):
        if name not in made and name in p.places and (p.lane in p.places[name].strides) == vectors:
            p.line(f"const {'vf' if vectors else 'float'} {name}_v = {sweep.load(name)};")
            sweep.registers[name] = f"{name}_v"


def _vectors(p: Printer, group: Sequence[Map | Reduce], sweep: Sweep, lane: str) -> None:
    folds = [s for s in group if isinstance(s, Reduce)]
    for fold in folds:
        p.line(f"vf {fold.out.name}_r[UNROLL];")
        p.line(f"std::fill_n({fold.out.name}_r, UNROLL, splat({IDENTITY[fold.op]}));")
    p.open(f"for_rows({p.vectors(lane, sweep.scope)}, [&](long {lane}_v, {PART}) INLINE_LAMBDA")
    inner = sweep.at_row(lane, f"{lane}_v")
    _preload(p, group, inner, vectors=True)
    for stmt in group:
        _statement(p, stmt, inner)
    p.close("});")
    for fold in folds:
        name, law = fold.out.name, f"[](vf a, vf b) {{ return {COMBINE[fold.op]}(a, b); }}"
        p.line(f"*({sweep.address(p.places[name])}) = fold_lanes(combined({name}_r, {law}), {law});")


def _statement(p: Printer, stmt: Map | Reduce, sweep: Sweep) -> None:
    name, lane = stmt.out.name, p.lane
    if isinstance(stmt, Reduce):
        value = sweep.leaf(Ref(stmt.source)).code
        if lane in p.partial:
            inside = f"(int32_t)({lane}_v * W) + lanes() < (int32_t)({p.counts[lane]})"
            value = f"pick({inside}, {value}, splat({IDENTITY[stmt.op]}))"
        p.line(f"{name}_r[part] = {COMBINE[stmt.op]}({name}_r[part], {value});")
        return
    text = as_kind(scalar_text(stmt.expr, sweep.leaf), "float")
    vector = lane in stmt.out.axes
    p.line(f"const {'vf' if vector else 'float'} {name}_v = {as_vector(text) if vector else text.code};")
    sweep.registers[name] = f"{name}_v"
    for place in sweep.targets[name]:
        target = sweep.address(place)
        p.line(f"store_vector({target}, {name}_v);" if vector else f"*({target}) = {name}_v;")
