"""The tasks of a parallel loop in C++: their number, the coordinates of one, and where its buffers lie."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flashc.backends.cpu.direct import cut_short
from flashc.backends.cpu.frame import C_TYPE, Printer, buffer_place
from flashc.backends.cpu.scalars import int_text
from flashc.ir.analysis import longest_last
from flashc.ir.intexpr import Const, Sym
from flashc.ir.nodes import Alloc, Loop, Par, Program
from flashc.ir.ranges import Scope, enter, whole

LINE = 64  # bytes; a buffer starts a cache line
TASKS_PER_THREAD = 4  # with as many tasks, longest first, the last ones are short


@dataclass(frozen=True, slots=True)
class Buffers:
    """Offsets in bytes by slot: in a thread's scratch, or for the slots that a task keeps over its steps in its own."""

    scratch: Mapping[str, int]
    kept: Mapping[str, int]
    scratch_bytes: int
    kept_bytes: int

    @staticmethod
    def of(par: Par, kept: Collection[str] = ()) -> Buffers:
        size: dict[str, int] = {}
        for s in par.body:
            if isinstance(s, Alloc):
                size[s.slot] = max(size.get(s.slot, 0), s.count.evaluate({}) * s.value.dtype.bytes)
        own, own_bytes = _side_by_side({slot: n for slot, n in size.items() if slot not in kept})
        long, long_bytes = _side_by_side({slot: n for slot, n in size.items() if slot in kept})
        return Buffers(own, long, max(own_bytes, LINE), long_bytes)


def _side_by_side(size: Mapping[str, int]) -> tuple[dict[str, int], int]:
    offsets, total = {}, 0
    for slot, count in size.items():
        offsets[slot] = total
        total += (count + LINE - 1) // LINE * LINE
    return offsets, total


def emit_buffer(p: Printer, stmt: Alloc, buffers: Buffers) -> None:
    v, c_type = stmt.value, C_TYPE[stmt.value.dtype.name]
    base = "kept" if stmt.slot in buffers.kept else "scratch"
    offset = buffers.kept[stmt.slot] if stmt.slot in buffers.kept else buffers.scratch[stmt.slot]
    axes = ", ".join(f"{m.axis}:{m.shape}*{m.stride}" for m in v.layout.modes) if v.layout else ""
    p.line(f"{c_type}* const {v.name} = ({c_type}*)({base} + {offset});  // {axes}")
    p.places[v.name], p.slots[v.name] = buffer_place(v), stmt.slot


def task_count(program: Program, loops: Sequence[Loop]) -> str:
    counts = [f"ceil_div({int_text(program.axis(x.axis).extent)}, {int_text(x.tile)})" for x in loops]
    return " * ".join(counts) or "1"


def task_scope(p: Printer, par: Par) -> Scope:
    """Coordinates of this task, the last loop fastest. In the order "longest", axes along which the work of a task
    grows run backwards: fastest too if they alone bring tasks enough for the last ones to be short, else slowest."""
    scope: Scope = whole(p.program)
    late = longest_last(par)
    growing, others = ([x for x in par.loops if (x.axis in late) == grows] for grows in (True, False))
    p.line("long rest = task;")
    if late:
        tiles = task_count(p.program, growing)
        p.line(f"if (const long tiles = {tiles}; tiles >= {TASKS_PER_THREAD} * call->threads)")
        p.line(f"  rest = task % tiles * ({task_count(p.program, others)}) + task / tiles;")
    for loop in reversed([*growing, *others]):
        extent = p.program.axis(loop.axis).extent
        tiles = f"ceil_div({int_text(extent)}, {int_text(loop.tile)})"
        if loop.tile == Const(1):
            p.line(f"const long {loop.axis} = rest % {int_text(extent)}; rest /= {int_text(extent)};")
            scope = enter(scope, loop.axis, Sym(loop.axis), loop.tile)
            continue
        index = f"({tiles} - 1 - rest % {tiles})" if loop.axis in late else f"rest % {tiles}"
        start = f"{loop.axis}0"
        p.line(f"const long {start} = {index} * {int_text(loop.tile)}; rest /= {tiles};")
        p.counts[loop.axis] = int_text(loop.tile)
        if cut_short(p.program, loop):
            p.line(f"const long {loop.axis}_n = std::min<long>({int_text(loop.tile)}, {int_text(extent)} - {start});")
            p.counts[loop.axis] = f"{loop.axis}_n"
            p.partial.add(loop.axis)
        scope = enter(scope, loop.axis, Sym(start), loop.tile)
    for a in p.program.axes:
        p.counts.setdefault(a.name, int_text(a.extent))
    return scope
