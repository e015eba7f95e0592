"""How a program steps through time: its launches, the barriers of its persistent kernels, and who cannot read those.

A recurrence is a sequential loop around the ``Par`` of a kernel (one launch per step), or a loop within it whose body
has a grid-wide barrier (one launch in all, all tasks at the same time), or a loop that one task runs alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from flashc.errors import UnsupportedError
from flashc.ir.analysis import Site, sites
from flashc.ir.intexpr import Const, IntExpr, ceil_div
from flashc.ir.nodes import GRID, Kernel, Par, Program, Seq, Sync, View


def launched(kernel: Kernel) -> tuple[Kernel, ...]:
    """The kernel once for every ``Par`` it launches, each with the loop around it."""
    top = kernel.body[0]
    if not isinstance(top, Seq) or len(kernel.pars) == 1:
        return (kernel,)
    return tuple(Kernel(f"{kernel.name}_{n}", (replace(top, body=(par,)),)) for n, par in enumerate(kernel.pars))


def launches(program: Program, kernel: Kernel) -> IntExpr:
    """How often something is launched for the kernel in a call."""
    return sum((s.count(()) for s in sites(program, kernel) if isinstance(s.stmt, Par)), Const(0))


def barriers(program: Program, kernel: Kernel) -> IntExpr:
    """How often all tasks of the kernel wait for each other in a call."""
    waits = (s for s in sites(program, kernel) if s.stmt == Sync(GRID))
    return sum((_once_per_task(s).count(()) for s in waits), Const(0))


def _once_per_task(site: Site) -> Site:
    return replace(site, trips=tuple(t for t in site.trips if not t.parallel))


def tasks(program: Program, par: Par) -> IntExpr:
    """Tasks of one launch."""
    count: IntExpr = Const(1)
    for loop in par.loops:
        count = count * ceil_div(program.axis(loop.axis).extent, loop.tile)
    return count


def recurrent_parts(program: Program) -> tuple[str, ...]:
    """What of a recurrence the program spells out, each kind once: views, loops in reverse, barriers, launch loops."""
    return tuple(dict.fromkeys(part for kernel in program.kernels for part in _parts(program, kernel)))


def _parts(program: Program, kernel: Kernel) -> Iterator[str]:
    if isinstance(kernel.body[0], Seq):
        yield "one launch per step"
    for site in sites(program, kernel):
        match site.stmt:
            case View():
                yield "view"
            case Seq(reverse=True):
                yield "seq .. reverse"
            case Sync(level=level) if level == GRID:
                yield "sync grid"


def refuse_recurrence(program: Program, who: str) -> None:
    """Raises UnsupportedError for a program that ``who`` cannot read because it spells out a recurrence."""
    found = recurrent_parts(program)
    if found:
        name = f"{program.name}.{program.schedule}"
        raise UnsupportedError(f"{who} does not read {name} yet: it has `{'`, `'.join(found)}`; run it on the "
                               "interpreter (flashc verify --backend interpreter)")
