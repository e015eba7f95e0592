"""When values on chip come and go: what each statement of a block holds from then on, and what it gives up.

The rules are those of ``ir.analysis.footprint``: elementwise statements and stores work in place, a dot and a copy do
not (but a dot's initial value is replaced in place), a loop's state and what replaces it share one place where nothing
reads the old state any more, and a pipelined loop keeps its buffers from its start to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flashc.ir.analysis import operands, uses
from flashc.ir.footprint import replaced_in_place
from flashc.ir.intexpr import Const, IntExpr
from flashc.ir.nodes import Copy, Dot, Load, Par, Seq, Stmt, outputs_of
from flashc.ir.scalar import refs

Held = tuple[str, IntExpr]  # a value's name and how many buffers of it


@dataclass(frozen=True, slots=True)
class Step:
    """One statement: values given up before it writes, held by it, given up after it; the steps of its body."""

    before: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()
    after: tuple[Held, ...] = ()
    body: tuple[Step, ...] = ()


ONE = Const(1)


def lifetimes(
    body: Sequence[Stmt], needed: frozenset[str] = frozenset(), elsewhere: frozenset[str] = frozenset()
) -> tuple[Step, ...]:
    """One step per statement. ``needed``: values that outlive the block; ``elsewhere``: those whose place the loop
    around the block holds."""
    alive: set[str] = set()
    found = []
    for n, stmt in enumerate(body):
        later = needed.union(*(uses(s) for s in body[n + 1:]))
        made = _loop if isinstance(stmt, Par | Seq) else _plain
        step = made(stmt, later, alive, elsewhere)
        alive |= {name for name, _ in step.held}
        alive -= {*step.before, *(name for name, _ in step.after)}
        found.append(step)
    return tuple(found)


def _plain(stmt: Stmt, later: frozenset[str], alive: set[str], elsewhere: frozenset[str]) -> Step:
    out = outputs_of(stmt)
    dying = {name for name in alive if name not in later}
    late = dying & _apart(stmt)
    held = [out.name] if out is not None and out.name not in elsewhere else []
    unused = [name for name in held if name not in later]
    after = tuple((name, ONE) for name in (*sorted(late), *unused))
    return Step(tuple(sorted(dying - late)), tuple((name, ONE) for name in held), after)


def _apart(stmt: Stmt) -> set[str]:
    """Operands that must still be there while the result is written."""
    if isinstance(stmt, Dot):
        return set(operands(stmt)) - set(refs(stmt.init) if stmt.init is not None else ())
    return set(operands(stmt)) if isinstance(stmt, Copy) else set()


def _loop(stmt: Stmt, later: frozenset[str], alive: set[str], elsewhere: frozenset[str]) -> Step:
    if not isinstance(stmt, Seq):
        return Step(body=lifetimes(stmt.body) if isinstance(stmt, Par) else ())
    state = [c.value.name for c in stmt.carry if c.value.name not in elsewhere]
    rings = [] if stmt.stages == ONE else [s.out.name for s in stmt.body if isinstance(s, Load | Copy)]
    nexts = frozenset(c.next for c in stmt.carry)
    in_place = replaced_in_place(stmt)
    body = lifetimes(stmt.body, nexts, frozenset((*in_place, *rings)))
    apart = sorted(nexts - in_place.keys() - set(state))
    if apart:
        body = (*body[:-1], replace(body[-1], after=(*body[-1].after, *((name, ONE) for name in apart))))
    held = tuple((name, ONE) for name in state if name not in alive) + tuple((name, stmt.stages) for name in rings)
    over = sorted(name for name in {*alive, *state} if name not in later)
    return Step((), held, (*((name, ONE) for name in over), *((name, stmt.stages) for name in rings)), body)
