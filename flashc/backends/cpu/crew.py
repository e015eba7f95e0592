"""Kernels whose tasks take steps together, in C++: a function for each part of a step, and one that runs them.

A crew of threads walks the loop over steps. In each step a thread runs the part of every task of its own, always the
same ones, so that what a task keeps stays in that thread's caches; then the crew meets. Any number of threads is right.
What a task keeps from part to part lies in memory of its own, all else in its thread's scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flashc.backends.cpu.frame import Printer
from flashc.backends.cpu.moves import emit_load
from flashc.backends.cpu.statements import begin, block, replace_state, steps
from flashc.backends.cpu.tasks import Buffers, emit_buffer, task_count, task_scope
from flashc.errors import UnsupportedError
from flashc.ir.analysis import uses
from flashc.ir.intexpr import Const, Sym
from flashc.ir.nodes import (
    GRID,
    Alloc,
    Kernel,
    Load,
    Par,
    Program,
    Seq,
    Stmt,
    Sync,
    View,
    outputs_of,
    persistent,
    synchronised,
)
from flashc.ir.ranges import enter, whole
from flashc.ir.scalar import refs

Header = Callable[[Printer], None]


def in_steps(kernel: Kernel) -> bool:
    """Whether tasks wait for each other: at barriers, or between the launches of a loop."""
    return isinstance(kernel.body[0], Seq) or persistent(kernel)


@dataclass(frozen=True, slots=True)
class Part:
    """Statements of ``body`` at the positions ``which``, of the tasks of ``par``.

    ``loop``: the loop over steps, if they are in it. ``starts``: they come before it and give its state the first
    value; ``ends``: they are the last of a step.
    """

    name: str
    par: Par
    body: tuple[Stmt, ...]
    which: range
    loop: Seq | None = None
    starts: Seq | None = None
    ends: Seq | None = None

    def names(self) -> set[str]:
        """All values that the part reads or makes, those behind views too."""
        found: set[str] = set()
        for stmt in (self.body[n] for n in self.which):
            out = outputs_of(stmt)
            found |= uses(stmt) | ({out.name} if out else set())
            found |= {c.value.name for c in stmt.carry} if isinstance(stmt, Seq) else set()
        for c in self.starts.carry if self.starts else ():
            found |= {c.value.name, *refs(c.init)}
        for c in self.ends.carry if self.ends else ():
            found |= {c.value.name, c.next}
        return found | {s.source for s in self.body if isinstance(s, View) and s.out.name in found}


def emit_crew(p: Printer, kernel: Kernel, header: Header) -> str:
    """Prints the kernel; returns the statement that runs it."""
    top = kernel.body[0]
    if isinstance(top, Seq):
        parts = [Part(f"{kernel.name}_{n}", par, _body(par), range(len(_body(par))), top)
                 for n, par in enumerate(kernel.pars)]
        loop = top
    else:
        assert isinstance(top, Par)
        loop, parts = _taken_apart(kernel.name, top)
    kept = {par: _kept(par, [x for x in parts if x.par is par]) for par in kernel.pars}
    buffers = {par: Buffers.of(par, slots) for par, slots in kept.items()}
    for part in parts:
        _part(p, part, buffers[part.par], header)
    _crew(p, kernel.name, loop, parts, buffers, header)
    tasks = [task_count(p.program, par.loops) for par in kernel.pars]
    most = tasks[0] if len(tasks) == 1 else f"std::max<long>({{{', '.join(tasks)}}})"
    bytes_kept = " + ".join(f"{n} * {buffers[par].kept_bytes}" for n, par in zip(tasks, kernel.pars, strict=True))
    scratch = max(b.scratch_bytes for b in buffers.values())
    return f"call->together({most}, {kernel.name}_crew, call, {bytes_kept}, {scratch}, call->threads);"


def _body(par: Par) -> tuple[Stmt, ...]:
    return tuple(s for s in par.body if not isinstance(s, Alloc))


def _taken_apart(name: str, par: Par) -> tuple[Seq, list[Part]]:
    """The loop of a persistent kernel, and its parts: before it, in a step between barriers, after it."""
    body = _body(par)
    loops = [n for n, s in enumerate(body) if synchronised(s)]
    loop = body[loops[0]]
    if len(loops) > 1 or not isinstance(loop, Seq) or loop.loop.tile != Const(1):
        raise UnsupportedError(f"cpu: kernel {name} needs one loop with barriers, in steps of 1")
    ends = [n for n, s in enumerate(loop.body) if s == Sync(GRID)]
    cuts = [-1, *ends, len(loop.body)]
    ranges = [range(a + 1, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    segments = [r for r in ranges if r]
    parts = [Part(f"{name}_begin", par, body, range(loops[0]), starts=loop)]
    parts += [
        Part(f"{name}_{n}", par, loop.body, r, loop, ends=loop if r is segments[-1] else None)
        for n, r in enumerate(segments)
    ]
    return loop, [*parts, Part(f"{name}_end", par, body, range(loops[0] + 1, len(body)))]


def _kept(par: Par, parts: Sequence[Part]) -> set[str]:
    """Buffers that more than one part reads or writes."""
    slots = {s.value.name: s.slot for s in par.body if isinstance(s, Alloc)}
    touched = [{slots[name] for name in part.names() if name in slots} for part in parts]
    return {slot for slot in slots.values() if sum(slot in t for t in touched) > 1}


# -- the function of a part


def _part(p: Printer, part: Part, buffers: Buffers, header: Header) -> None:
    p.partial, p.counts = set(), {}
    time = "" if part.loop is None else f", [[maybe_unused]] long {part.loop.loop.axis}"
    p.open(f"static void {part.name}(const Call* call, long task, [[maybe_unused]] char* kept, char* scratch{time})")
    header(p)
    scope = dict(task_scope(p, part.par))
    around = part.par.body if part.loop is None else (*part.par.body, *part.body)
    if part.loop is not None:
        axis = part.loop.loop.axis
        scope = enter(scope, axis, Sym(axis), Const(1))
    names = part.names()
    for stmt in part.par.body:
        if isinstance(stmt, Alloc) and stmt.value.name in names:
            emit_buffer(p, stmt, buffers)
    made = {out.name for n in part.which if (out := outputs_of(part.body[n]))}
    for stmt in around:
        if isinstance(stmt, Load) and stmt.out.name in names - made:
            emit_load(p, stmt, scope)
    carried = frozenset(c.next for c in part.loop.carry) if part.loop else frozenset()
    block(p, part.body, scope, carried, part.which)
    if part.starts:
        begin(p, part.starts)
    if part.ends:
        replace_state(p, part.ends)
    p.close()
    p.line()


# -- the function of a thread


def _crew(
    p: Printer, name: str, loop: Seq, parts: Sequence[Part], buffers: Mapping[Par, Buffers], header: Header
) -> None:
    p.open(f"static void {name}_crew(const Call* call, Member my)")
    header(p)
    scope = whole(p.program)
    inside = [n for n, part in enumerate(parts) if part.loop is not None]
    for part in parts[:inside[0]]:
        _run(p, p.program, part, buffers, "")
    axis = loop.loop.axis
    p.open(steps(loop, scope, axis))
    meets = _meetings(loop, parts)
    for n in inside:
        _run(p, p.program, parts[n], buffers, f", {axis}")
        if meets[n - inside[0]]:
            p.line("my.meet();")
    p.close()
    for part in parts[inside[-1] + 1:]:
        _run(p, p.program, part, buffers, "")
    p.close()
    p.line()


def _meetings(loop: Seq, parts: Sequence[Part]) -> list[bool]:
    """After which parts of a step the crew meets: all launches, or those that a barrier follows."""
    inside = [part for part in parts if part.loop is not None]
    if isinstance(loop.body[0], Par):
        return [True for _ in inside]
    return [part.which.stop < len(loop.body) for part in inside]


def _run(p: Printer, program: Program, part: Part, buffers: Mapping[Par, Buffers], time: str) -> None:
    bytes_kept = buffers[part.par].kept_bytes
    p.line(f"my.each({task_count(program, part.par.loops)}, [&](long task) {{")
    p.line(f"  {part.name}(call, task, my.kept + task * {bytes_kept}, my.scratch{time});")
    p.line("});")
