"""Print a lowered program as C++: one function per kernel, which does one task of the parallel domain.

The printer walks the nodes; what a node costs to execute was decided by place and lower. Tiles in buffers are vectors
of the lane axis; loads stay where they are and are read through their strides.
"""

from __future__ import annotations

from collections.abc import Sequence

from flashc.backends.cpu.frame import C_TYPE, Printer, buffer_place, elements, stride
from flashc.backends.cpu.lower import group_of, stored
from flashc.backends.cpu.moves import emit_copy, emit_load, emit_store
from flashc.backends.cpu.place import LEVEL, PAIRED
from flashc.backends.cpu.place_rows import ROW_UNITS
from flashc.backends.cpu.rowdots import emit_row_dot
from flashc.backends.cpu.rowsweep import emit_row_sweep, sweeps_rows
from flashc.backends.cpu.scalars import int_text, literal
from flashc.backends.cpu.sweep import emit_sweep, expression
from flashc.errors import IRError, UnsupportedError
from flashc.ir.analysis import longest_last
from flashc.ir.intexpr import Const, IntExpr, Item, Sym
from flashc.ir.nodes import (
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
    outputs_of,
)
from flashc.ir.ranges import Scope, Span, enter, part_range, valid_end, whole
from flashc.ir.scalar import Lit, Ref, Scalar
from flashc.ir.types import Value


def emit(program: Program, width_bits: int) -> str:
    """C++ source of a lowered program, the prelude apart."""
    p = Printer(program, width_bits // 32)
    title = f"// {program.name}, schedule {program.schedule}; {'; '.join(program.notes)}"
    p.lines += [f"#define FLASHC_WIDTH {width_bits}", '#include "prelude.hpp"', "", title, ""]
    for kernel in program.kernels:
        _kernel(p, kernel)
    p.open('extern "C" void flashc_run(void* const* given)')
    p.line("const Call bound = called(given), *const call = &bound;")
    _sizes(p)
    for kernel in program.kernels:
        par = kernel.body[0]
        assert isinstance(par, Par)
        tasks, scratch = _tiles(p, par.loops), _scratch_bytes(par)
        p.line(f"call->parallel({tasks}, {kernel.name}_task, call, {scratch}, call->threads);")
    p.close()
    return "\n".join(p.lines) + "\n"


# -- frame of a kernel


def _sizes(p: Printer) -> None:
    for n, name in enumerate(p.program.sizes):
        value = dict(p.program.fixed).get(name)
        p.line(f"[[maybe_unused]] const long {name} = {f'call->size[{n}]' if value is None else value};")


def _tensors(p: Printer) -> None:
    position = 0
    for n, t in enumerate(p.program.tensors):
        c_type = C_TYPE[t.dtype.name]
        const = "const " if t.role == "in" else ""
        p.line(f"[[maybe_unused]] {const}{c_type}* const {t.name}_ptr = ({const}{c_type}*)call->tensor[{n}];")
        inner = [f"{t.name}_s{d} = call->stride[{position + d}]" for d in range(len(t.dims) - 1)]
        if inner:
            p.line(f"[[maybe_unused]] const long {', '.join(inner)};")
        position += len(t.dims)
    for n, param in enumerate(p.program.params):
        p.line(f"[[maybe_unused]] const float {param.name} = call->param[{n}];")
    for table in sorted(_tables(p.program)):
        tensor = p.program.tensor(table)
        names = [f"i{d}" for d in range(len(tensor.dims))]
        index = " + ".join(f"{a} * {stride(tensor, d)}" for d, a in enumerate(names))
        p.line(
            f"[[maybe_unused]] const auto {table}_at = [&]({', '.join(f'long {a}' for a in names)}) -> long "
            f"{{ return {table}_ptr[{index}]; }};"
        )


def _tables(program: Program) -> set[str]:
    found: set[str] = set()

    def note(expr: IntExpr) -> None:
        if isinstance(expr, Item):
            found.add(expr.table)
        for child in expr.children():
            note(child)

    def visit(body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, Seq) and s.domain:
                for bound in (*s.domain.lower, *s.domain.upper):
                    note(bound)
            if isinstance(s, Load | Store):
                for x in s.access.index:
                    note(x)
            if isinstance(s, Par | Seq):
                visit(s.body)

    for kernel in program.kernels:
        visit(kernel.body)
    return found


def _kernel(p: Printer, kernel: Kernel) -> None:
    if len(kernel.body) != 1 or not isinstance(kernel.body[0], Par):
        raise UnsupportedError(f"cpu: kernel {kernel.name} must be one parallel loop")
    par = kernel.body[0]
    p.places, p.values, p.slots, p.counts, p.partial = {}, {}, {}, {}, set()
    p.open(f"static void {kernel.name}_task(const Call* call, long task, char* scratch)")
    _sizes(p)
    _tensors(p)
    scope = _task_scope(p, par)
    _block(p, par.body, scope)
    p.close()
    p.line()


TASKS_PER_THREAD = 4  # with as many tasks, longest first, the last ones are short


def _tiles(p: Printer, loops: Sequence[Loop]) -> str:
    counts = [f"ceil_div({int_text(p.program.axis(x.axis).extent)}, {int_text(x.tile)})" for x in loops]
    return " * ".join(counts) or "1"


def _task_scope(p: Printer, par: Par) -> Scope:
    """Coordinates of this task, the last loop fastest. In the order "longest", axes along which the work of a task
    grows run backwards: fastest too if they alone bring tasks enough for the last ones to be short, else slowest."""
    scope: Scope = whole(p.program)
    late = longest_last(par)
    order = [*(x for x in par.loops if x.axis in late), *(x for x in par.loops if x.axis not in late)]
    p.line("long rest = task;")
    if late:
        inner, outer = (_tiles(p, [x for x in par.loops if (x.axis in late) == which]) for which in (True, False))
        p.line(f"if (const long tiles = {inner}; tiles >= {TASKS_PER_THREAD} * call->threads)")
        p.line(f"  rest = task % tiles * ({outer}) + task / tiles;")
    for loop in reversed(order):
        extent = p.program.axis(loop.axis).extent
        tiles = f"ceil_div({int_text(extent)}, {int_text(loop.tile)})"
        if loop.tile == Const(1):
            p.line(f"const long {loop.axis} = rest % {int_text(extent)}; rest /= {int_text(extent)};")
            scope = enter(scope, loop.axis, Sym(loop.axis), loop.tile)
            continue
        index = f"({tiles} - 1 - rest % {tiles})" if loop.axis in late else f"rest % {tiles}"
        start = f"{loop.axis}0"
        p.line(f"const long {start} = {index} * {int_text(loop.tile)}; rest /= {tiles};")
        p.line(f"const long {loop.axis}_n = std::min<long>({int_text(loop.tile)}, {int_text(extent)} - {start});")
        p.counts[loop.axis] = f"{loop.axis}_n"
        p.partial.add(loop.axis)
        scope = enter(scope, loop.axis, Sym(start), loop.tile)
    for a in p.program.axes:
        p.counts.setdefault(a.name, int_text(a.extent))
    return scope


# -- statements


def _block(p: Printer, body: Sequence[Stmt], scope: Scope, carried: frozenset[str] = frozenset()) -> None:
    done = 0
    for n, stmt in enumerate(body):
        if n < done:
            continue
        if not isinstance(stmt, Map | Reduce):
            _statement(p, stmt, scope)
            continue
        group = group_of(body, n)
        done = n + len(group)
        p.values.update({s.out.name: s.out for s in group})
        kept = {s.out.name for i, s in enumerate(group, n) if stored(body, i, carried)}
        (emit_row_sweep if sweeps_rows(p, group) else emit_sweep)(p, group, kept, scope)


def _statement(p: Printer, stmt: Stmt, scope: Scope) -> None:
    out = outputs_of(stmt)
    if out is not None:
        p.values[out.name] = out
    match stmt:
        case Alloc():
            _alloc(p, stmt)
        case Load():
            emit_load(p, stmt, scope)
        case Copy():
            emit_copy(p, stmt, scope)
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


def _slot_offsets(par: Par) -> tuple[dict[str, int], int]:
    size: dict[str, int] = {}
    for s in par.body:
        if isinstance(s, Alloc):
            count = s.count.evaluate({}) * s.value.dtype.bytes
            size[s.slot] = max(size.get(s.slot, 0), (count + 63) // 64 * 64)
    offsets, total = {}, 0
    for slot, count in size.items():
        offsets[slot] = total
        total += count
    return offsets, total


def _scratch_bytes(par: Par) -> int:
    return max(_slot_offsets(par)[1], 64)


def _alloc(p: Printer, stmt: Alloc) -> None:
    par = next(k.body[0] for k in p.program.kernels if any(s is stmt for s in _par(k).body))
    assert isinstance(par, Par)
    offset = _slot_offsets(par)[0][stmt.slot]
    v = stmt.value
    c_type = C_TYPE[v.dtype.name]
    axes = ", ".join(f"{m.axis}:{m.shape}*{m.stride}" for m in v.layout.modes) if v.layout else ""
    p.line(f"{c_type}* const {v.name} = ({c_type}*)(scratch + {offset});  // {axes}")
    p.places[v.name], p.slots[v.name] = buffer_place(v), stmt.slot


def _par(kernel: Kernel) -> Par:
    par = kernel.body[0]
    assert isinstance(par, Par)
    return par


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
    p.open("")
    p.open(f"const auto {stmt.out.name}_done = [&](long n, int m, vf x)")
    p.line(f"store({out.pointer} + n * {out.strides[row]} + m * W, {init}x);")
    p.close("};")
    fast = f"dot_tile<{atom.unit}, {int_text(atom.m)}, {int_text(atom.n)}>({operands});"
    if stmt.zero_skips and stmt.a == lanes:
        p.line(f"if (all_finite({b.pointer}, {b.strides[row]}, {b_k}, {p.counts[over]}, {p.counts[row]}))")
        p.line(f"  {fast}")
        p.line("else")
        p.line(f"  dot_skipping({operands});")
    else:
        p.line(fast)
    p.close()


def _seq(p: Printer, seq: Seq, scope: Scope) -> None:
    axis, tile = seq.loop.axis, seq.loop.tile
    first, stop = part_range(seq, scope)
    for c in seq.carry:
        p.values[c.value.name] = c.value
        _initialise(p, c.value, c.init)
    start, kept, count = f"{axis}0", set(p.partial), p.counts[axis]
    p.ahead[axis] = ((seq.stages - 1) * tile).evaluate({})
    p.line(f"// {axis}: {seq.part} tiles {seq.side}".rstrip())
    p.open(
        f"for (long {start} = {int_text(first)}, {axis}_stop = {int_text(stop)}; {start} < {axis}_stop; "
        f"{start} += {int_text(tile)})"
    )
    p.counts[axis] = int_text(tile)
    p.partial.discard(axis)
    if seq.part != "full":
        p.line(f"const long {axis}_n = std::min<long>({int_text(tile)}, {int_text(valid_end(seq, scope))} - {start});")
        p.counts[axis] = f"{axis}_n"
        p.partial.add(axis)
    if tile == Const(1):
        p.line(f"[[maybe_unused]] const long {axis} = {start};")
    inner = {**scope, axis: Span(Sym(start), tile, scope[axis].extent, tile == Const(1))}
    _block(p, seq.body, inner, frozenset(c.next for c in seq.carry))
    for c in seq.carry:
        _replace_carried(p, c.value, c.next)
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
