"""One fused sweep of elementwise statements: vectors of the lane axis outside, rows inside, reductions in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flashc.backends.cpu.scalars import Text, as_kind, as_vector, int_text, scalar_text
from flashc.errors import IRError, UnsupportedError
from flashc.ir.analysis import operands
from flashc.ir.nodes import Map, Reduce
from flashc.ir.ranges import Scope
from flashc.ir.scalar import Coord, Fetch, Lit, Ref, Scalar
from flashc.passes.fuse import space

if TYPE_CHECKING:
    from flashc.backends.cpu.frame import Place, Printer, Targets

IDENTITY = {"max": "-INF", "sum": "0.0f", "min": "INF"}
PART = "[[maybe_unused]] int part"
COMBINE = {"max": "larger", "sum": "add", "min": "smaller"}


class Sweep:
    """Names of the values already in registers, per row instance, and where indices stand."""

    def __init__(self, p: Printer, scope: Scope, position: dict[str, str]) -> None:
        self.p, self.scope, self.position = p, scope, position
        self.registers: dict[str, str] = {}
        self.targets: Targets = {}

    def at_row(self, axis: str, index: str) -> Sweep:
        inner = type(self)(self.p, self.scope, {**self.position, axis: index})
        inner.registers, inner.targets = dict(self.registers), self.targets
        return inner

    def leaf(self, node: Scalar) -> Text:
        match node:
            case Ref(name=n) if n in self.registers:
                return Text(self.registers[n], "float", self.p.lane in self.p.values[n].axes)
            case Ref(name=n) if n in self.p.places:
                return Text(self.load(n), "float", self.p.lane in self.p.places[n].strides)
            case Ref(name=n) if n in {x.name for x in self.p.program.params}:
                return Text(n, "float", False)
            case Ref(name=n) if n in self.p.program.sizes:
                return Text(f"(int32_t){n}", "int", False)
            case Coord(axis=a):
                return self.coordinate(a)
            case Fetch():
                return self.fetch(node)
        raise IRError(f"cpu: no code for `{node}`")

    def load(self, name: str) -> str:
        """A vector of the value, or its one element where it has none along the lanes."""
        place = self.p.places[name]
        if self.p.lane not in place.strides:
            return f"*({self.address(place)})"
        return f"load_vector({self.address(place)})" if place.dtype.name != "f32" else f"load({self.address(place)})"

    def address(self, place: Place) -> str:
        terms = [place.pointer]
        for axis, step in place.strides.items():
            at = self.position[axis]
            terms.append(f"{at} * W" if axis == self.p.lane else f"{at} * {step}")
        return " + ".join(terms)

    def coordinate(self, axis: str) -> Text:
        if self.scope[axis].scalar:
            return Text(f"(int32_t){axis}", "int", False)
        start = self.p.start(axis, self.scope)
        if axis != self.p.lane:
            return Text(f"(int32_t)({start} + {self.position[axis]})", "int", False)
        last = int_text(self.scope[axis].extent - 1)
        return Text(
            f"vmin((int32_t)({start} + {self.position[axis]} * W) + lanes(), splat((int32_t)({last})))", "int", True
        )

    def fetch(self, node: Fetch) -> Text:
        """A gathered element; an index that is computed is clamped to its dimension."""
        tensor = self.p.program.tensor(node.tensor)
        index = [as_kind(scalar_text(x, self.leaf), "int") for x in node.index]
        kind = "float" if tensor.dtype.kind == "float" else "bool" if tensor.dtype.kind == "bool" else "int"
        terms, lanes = [f"{tensor.name}_ptr"], []
        for d, (text, expr) in enumerate(zip(index, node.index, strict=True)):
            code = f"{text.code}" if isinstance(expr, Coord | Lit) else _clamped(text, int_text(tensor.dims[d]))
            step = "1" if d == len(index) - 1 else f"{tensor.name}_s{d}"
            if text.vector:
                lanes.append((code, step))
            else:
                terms.append(f"(long)({code}) * {step}")
        base = " + ".join(terms)
        if not lanes:
            element = f"({base})[0]"
            wrap = {"float": "to_f32({})", "int": "(int32_t){}", "bool": "{}"}[kind]
            return Text(wrap.format(element), kind, False)  # type: ignore[arg-type]
        offsets = " + ".join(f"(long)({code})[l] * {step}" for code, step in lanes)
        wrap = {"float": "to_f32(at[{}])", "int": "(int32_t)at[{}]", "bool": "-(int32_t)at[{}]"}[kind]
        vector = "vf" if kind == "float" else "vi"
        each = f"for (int l = 0; l < W; ++l) r[l] = {wrap.format(offsets)};"
        gathered = f"[&] {{ const auto* at = {base}; {vector} r; {each} return r; }}()"
        return Text(gathered, kind, True)  # type: ignore[arg-type]


def _clamped(text: Text, extent: str) -> str:
    high = f"(int32_t)({extent} - 1)"
    if text.vector:
        return f"vmax(vmin({text.code}, splat({high})), vi{{}})"
    return f"vmax(vmin({text.code}, {high}), 0)"


def expression(p: Printer, expr: Scalar, scope: Scope, position: dict[str, str]) -> str:
    """A vector expression at a position given per axis (the lane axis in vectors)."""
    sweep = Sweep(p, scope, position)
    return as_vector(as_kind(scalar_text(expr, sweep.leaf), "float"))


def emit_sweep(p: Printer, group: Sequence[Map | Reduce], targets: Targets, scope: Scope) -> None:
    """Print one group (see passes.fuse): all its statements sweep the same axes; results are written to ``targets``."""
    axes = space(group[0])
    lane = _lane(p, group)
    p.lane = lane
    rows = sorted(axes - {lane})
    if lane not in axes or len(rows) > 1:
        raise UnsupportedError(f"cpu: a sweep over {sorted(axes)} needs the lane axis {lane} and at most one more")
    p.open(f"for (int {lane}_v = 0, {lane}_vs = {p.vectors(lane, scope)}; {lane}_v < {lane}_vs; ++{lane}_v)")
    sweep = Sweep(p, scope, {lane: f"{lane}_v"})
    sweep.targets = targets
    _preload(p, group, sweep, set())
    if rows:
        _reducing_rows(p, group, sweep, rows[0])
    else:
        _row(p, group, sweep, "")
    p.close()


def _reducing_rows(p: Printer, group: Sequence[Map | Reduce], sweep: Sweep, row: str) -> None:
    reductions = [s for s in group if isinstance(s, Reduce)]
    for stmt in reductions:
        p.line(f"vf {stmt.out.name}_r[UNROLL];")
        p.line(f"std::fill_n({stmt.out.name}_r, UNROLL, splat({IDENTITY[stmt.op]}));")
    _row_loop(p, group, sweep, row)
    for stmt in reductions:
        law = f"[](vf a, vf b) {{ return {COMBINE[stmt.op]}(a, b); }}"
        p.line(f"store({sweep.address(p.places[stmt.out.name])}, combined({stmt.out.name}_r, {law}));")


def _preload(p: Printer, group: Sequence[Map | Reduce], sweep: Sweep, rows: set[str], suffix: str = "") -> None:
    """Read stored operands into registers before anything is written: a result may share its operand's buffer."""
    made = {s.out.name for s in group}
    for name in dict.fromkeys(n for s in group for n in operands(s)):
        if name in made or name in sweep.registers or name not in p.places:
            continue
        place = p.places[name]
        if set(place.strides) - {p.lane} == rows:
            p.line(f"const vf {name}_v{suffix} = {sweep.load(name)};")
            sweep.registers[name] = f"{name}_v{suffix}"


def _lane(p: Printer, group: Sequence[Map | Reduce]) -> str:
    for stmt in group:
        axis = stmt.out.layout.lane_axis() if stmt.out.layout else None
        if axis is not None:
            return axis
    raise UnsupportedError(f"cpu: {group[0].out.name} has no lane axis")


def _row_loop(p: Printer, group: Sequence[Map | Reduce], sweep: Sweep, row: str) -> None:
    count = p.counts[row]
    paired = any(place.pair == row for places in sweep.targets.values() for place in places)
    if not paired:
        p.open(f"for_rows({count}, [&](long {row}, {PART}) INLINE_LAMBDA")
        _row(p, group, sweep.at_row(row, row), "")
        p.close("});")
        return
    p.open(f"for_rows({count} / 2, [&](long {row}_pair, {PART}) INLINE_LAMBDA")
    p.line(f"const long {row} = 2 * {row}_pair;")
    _pair(p, group, sweep, row, both=True)
    p.close("});")
    p.open(f"if (const long {row} = {count} - 1; {count} % 2)")
    p.line("[[maybe_unused]] const int part = 0;")
    _pair(p, group, sweep, row, both=False)
    p.close()


def _pair(p: Printer, group: Sequence[Map | Reduce], sweep: Sweep, row: str, both: bool) -> None:
    even = _row(p, group, sweep.at_row(row, row), "_even")
    odd = _row(p, group, sweep.at_row(row, f"({row} + 1)"), "_odd") if both else {}
    pairs = [(s.out.name, place) for s in group for place in sweep.targets[s.out.name] if place.pair == row]
    for name, place in pairs:
        at = sweep.at_row(row, f"{row} / 2").address(place)
        address = at.replace(f"{sweep.position[p.lane]} * W", f"2 * {sweep.position[p.lane]} * W")
        p.line(f"store_pair((uint32_t*)({address}), {even[name]}, {odd.get(name, 'vf{}')});")


def _row(p: Printer, group: Sequence[Map | Reduce], sweep: Sweep, suffix: str) -> dict[str, str]:
    """The statements at one row; returns the register of every map."""
    made: dict[str, str] = {}
    _preload(p, group, sweep, set(sweep.position) - {p.lane}, suffix)
    for stmt in group:
        if isinstance(stmt, Reduce):
            value = sweep.leaf(Ref(stmt.source)).code
            name = f"{stmt.out.name}_r[part]"
            p.line(f"{name} = {COMBINE[stmt.op]}({name}, {value});")
            continue
        register = f"{stmt.out.name}_v{suffix}"
        text = as_vector(as_kind(scalar_text(stmt.expr, sweep.leaf), "float"))
        p.line(f"const vf {register} = {text};")
        made[stmt.out.name] = sweep.registers[stmt.out.name] = register
        for place in (to for to in sweep.targets[stmt.out.name] if to.pair is None):
            store = "store" if place.dtype.name == "f32" else "store_vector"
            p.line(f"{store}({sweep.address(place)}, {register});")
    return made
