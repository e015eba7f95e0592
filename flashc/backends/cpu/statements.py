"""Statements of a lowered program in C++: sweeps, dots, moves and the loops around them.

What a node costs to execute was decided by place and lower. Tiles in buffers are vectors of the lane axis; loads stay
where they are and are read through their strides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flashc.backends.cpu.direct import Within
from flashc.backends.cpu.frame import Place, Printer, elements, panels
from flashc.backends.cpu.lower import buffered, direct, group_of
from flashc.backends.cpu.moves import emit_copy, emit_load, emit_store, target_place
from flashc.backends.cpu.place import ALWAYS_F32, LEVEL, PAIRED
from flashc.backends.cpu.place_rows import ROW_UNITS
from flashc.backends.cpu.rowdots import emit_row_dot
from flashc.backends.cpu.rowsweep import emit_row_sweep, sweeps_rows
from flashc.backends.cpu.scalars import int_text, literal
from flashc.backends.cpu.sweep import emit_sweep, expression
from flashc.errors import IRError, UnsupportedError
from flashc.ir.intexpr import Const, Sym
from flashc.ir.nodes import Copy, Dot, Load, Map, Reduce, Seq, Stmt, Store, View, outputs_of
from flashc.ir.ranges import Scope, Span, needed_end, part_range
from flashc.ir.scalar import Lit, Ref, Scalar, refs
from flashc.ir.types import Value

PART = 256  # terms of a sum in fp32 that are added up one after another; costs a layer of 768 units 1 to 2 % of time


def block(
    p: Printer, body: Sequence[Stmt], scope: Scope, carried: frozenset[str] = frozenset(), part: range | None = None
) -> None:
    """Print the statements of ``body``, or those at the positions ``part``; ``carried`` values are read after it."""
    done = 0
    for n in range(len(body)) if part is None else part:
        stmt = body[n]
        if n < done:
            continue
        if not isinstance(stmt, Map | Reduce):
            _statement(p, stmt, scope)
            continue
        group = group_of(body, n)
        done = n + len(group)
        p.values.update({s.out.name: s.out for s in group})
        at = Within(p.program, scope, frozenset(p.partial))
        stores = direct(body, n, at)
        done += len(stores)
        _group(p, group, buffered(body, n, carried, at), stores, scope)


def _group(
    p: Printer, group: Sequence[Map | Reduce], kept: Collection[str], stores: Sequence[Store], scope: Scope
) -> None:
    """A fused sweep: what it makes goes to buffers if ``kept``, and to memory for each of ``stores``."""
    targets = {s.out.name: [p.places[s.out.name]] if s.out.name in kept else [] for s in group}
    if stores:
        p.open("")
    for n, stmt in enumerate(stores):
        targets[stmt.value].append(target_place(p, stmt, scope, f"to_{n}"))
    (emit_row_sweep if sweeps_rows(p, group) else emit_sweep)(p, group, targets, scope)
    if stores:
        p.close()


def _statement(p: Printer, stmt: Stmt, scope: Scope) -> None:
    out = outputs_of(stmt)
    if out is not None:
        p.values[out.name] = out
    match stmt:
        case Load():
            emit_load(p, stmt, scope)
        case Copy():
            emit_copy(p, stmt, scope)
        case View():
            _view(p, stmt)
        case Dot(atom=atom) if atom is not None and atom.unit in ROW_UNITS:
            emit_row_dot(p, stmt, atom, scope)
        case Dot():
            _dot(p, stmt, scope)
        case Store(accumulate=False):
            emit_store(p, stmt, scope)
        case Seq():
            _seq(p, stmt, scope)
        case _:
            raise UnsupportedError(f"cpu: no code for {type(stmt).__name__}")


def _dot(p: Printer, stmt: Dot, scope: Scope) -> None:
    atom = stmt.atom
    if atom is None or atom.lane is None:
        raise IRError(f"cpu: dot {stmt.out.name} has no atom")
    p.lane = atom.lane
    lanes, others = (stmt.a, stmt.b) if atom.lane in p.values[stmt.a].axes else (stmt.b, stmt.a)
    a, b, out = p.places[lanes], p.places[others], p.places[stmt.out.name]
    over = stmt.over[0]
    row = next(x for x in stmt.out.axes if x != atom.lane)
    b_k = b.strides[over] if b.pair == over or atom.unit != PAIRED else f"2 * {b.strides[over]}"
    operands = (
        f"{a.pointer}, {a.strides[over]}, {b.pointer}, {b.strides[row]}, {b_k}, {p.counts[over]}, {p.counts[row]}, "
        f"{p.vectors(atom.lane, scope)}, {stmt.out.name}_done"
    )
    init = ""
    if stmt.init is not None:
        init = expression(p, stmt.init, scope, {atom.lane: "m", row: "n"}) + " + "
    far = _read_once(p, stmt, {atom.lane, row})
    p.open("")
    p.open(f"const auto {stmt.out.name}_{'made' if far else 'done'} = [&](long n, int m, vf x)")
    p.line(f"store({out.pointer} + n * {out.strides[row]} + m * W, {init}x);")
    p.close("};")
    if far:
        p.open(f"const auto {stmt.out.name}_done = fetching({stmt.out.name}_made, [&](long n, int m) INLINE_LAMBDA")
        for place in far:
            p.line(f"fetch_soon({place.pointer}, n * {place.strides[row]}, m * W);")
        p.close("});")
    panel = panels(p.values[lanes])
    tile = f"dot_tile<{_unit(p, stmt, atom.unit, scope)}, {int_text(atom.m)}, {int_text(atom.n)}>"
    fast = f"{tile}({operands}{f', {panel.stride}' if panel else ''});"
    if stmt.zero_skips and stmt.a == lanes:
        p.line(f"if (all_finite({b.pointer}, {b.strides[row]}, {b_k}, {p.counts[over]}, {p.counts[row]}))")
        p.line(f"  {fast}")
        p.line("else")
        p.line(f"  dot_skipping({operands});")
    else:
        p.line(fast)
    p.close()


def _read_once(p: Printer, dot: Dot, axes: set[str]) -> list[Place]:
    """What the initial value of the dot reads from memory, each element once."""
    names = sorted(refs(dot.init) & p.places.keys()) if dot.init is not None else []
    return [p.places[n] for n in names if p.values[n].level == "memory" and axes <= set(p.places[n].strides)]


def _unit(p: Printer, dot: Dot, unit: str, scope: Scope) -> str:
    """That of the atom, or one that adds up a long sum in parts."""
    return f"{unit}_parts<{PART}>" if unit == ALWAYS_F32 and p.tile(dot.over[0], scope) > PART else unit


def _view(p: Printer, view: View) -> None:
    source, old = p.places[view.source], p.values[view.source].axes
    names = dict(zip(old, view.out.axes, strict=True))
    steps = {names[axis]: step for axis, step in source.strides.items()}
    p.places[view.out.name] = Place(source.pointer, source.dtype, steps, source.pair and names[source.pair])


def steps(seq: Seq, scope: Scope, start: str) -> str:
    """The head of the loop; ``start`` is its variable."""
    first, stop = (int_text(x) for x in part_range(seq, scope))
    axis, tile = seq.loop.axis, int_text(seq.loop.tile)
    if seq.reverse:
        last = f"{first} + ceil_div({stop} - {first}, {tile}) * {tile} - {tile}"
        return f"for (long {start} = {last}, {axis}_first = {first}; {start} >= {axis}_first; {start} -= {tile})"
    return f"for (long {start} = {first}, {axis}_stop = {stop}; {start} < {axis}_stop; {start} += {tile})"


def begin(p: Printer, seq: Seq) -> None:
    """The state of the loop before its first step."""
    for c in seq.carry:
        p.values[c.value.name] = c.value
        _initialise(p, c.value, c.init)


def replace_state(p: Printer, seq: Seq) -> None:
    """The end of a step: what replaces the state takes its place."""
    for c in seq.carry:
        _replace_carried(p, c.value, c.next)


def _seq(p: Printer, seq: Seq, scope: Scope) -> None:
    axis, tile = seq.loop.axis, seq.loop.tile
    begin(p, seq)
    start, kept, count = f"{axis}0", set(p.partial), p.counts[axis]
    p.ahead[axis] = ((seq.stages - 1) * tile).evaluate({})
    p.line(f"// {axis}: {seq.part} tiles {seq.side}".rstrip())
    p.open(steps(seq, scope, start))
    p.counts[axis] = int_text(tile)
    p.partial.discard(axis)
    if seq.part != "full":
        p.line(f"const long {axis}_n = std::min<long>({int_text(tile)}, {int_text(needed_end(seq, scope))} - {start});")
        p.counts[axis] = f"{axis}_n"
        p.partial.add(axis)
    if tile == Const(1):
        p.line(f"[[maybe_unused]] const long {axis} = {start};")
    inner = {**scope, axis: Span(Sym(start), tile, scope[axis].extent, tile == Const(1))}
    block(p, seq.body, inner, frozenset(c.next for c in seq.carry))
    replace_state(p, seq)
    p.close()
    p.partial, p.counts[axis] = kept, count


def _initialise(p: Printer, value: Value, init: Scalar) -> None:
    if isinstance(init, Ref) and init.name in p.places:
        _replace_carried(p, value, init.name)
        return
    if not isinstance(init, Lit):
        raise UnsupportedError(
            f"cpu: the carried value {value.name} starts from an expression; only constants are supported"
        )
    p.line(f"std::fill_n({value.name}, {elements(value)}, {literal(init.value).code});")


def _replace_carried(p: Printer, value: Value, new: str) -> None:
    if value.level != LEVEL:
        raise IRError(f"cpu: carried value {value.name} is not in a buffer")
    if p.slots[new] != p.slots[value.name]:
        p.line(f"std::memcpy({value.name}, {new}, {elements(value) * value.dtype.bytes});")
