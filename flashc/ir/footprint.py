"""What a kernel holds at a level at once: its values, where each is alive, and the bytes of those alive together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flashc.ir.analysis import ZERO, Pad, operands, uses
from flashc.ir.intexpr import Const, IntExpr, Sym, add, imax
from flashc.ir.nodes import (
    Copy,
    Dot,
    Kernel,
    Load,
    Par,
    Program,
    Seq,
    Stmt,
    Sync,
    outputs_of,
)
from flashc.ir.ranges import Scope, enter, whole
from flashc.ir.scalar import refs
from flashc.ir.types import Value
from flashc.ir.views import without_views

LivePoint = frozenset[str]


def live_points(body: Sequence[Stmt], after: frozenset[str] = frozenset()) -> Iterator[LivePoint]:
    """Sets of values that are alive together, one per statement; elementwise statements work in place.

    A loop's carried value and a value that replaces it in place share one place, under the carried name; a view is
    its source.
    """
    body = without_views(body)
    defined: set[str] = set()
    for n, stmt in enumerate(body):
        later = frozenset(after).union(*(uses(s) for s in body[n + 1:]))
        out = outputs_of(stmt)
        before = {d for d in defined if d in later or d in uses(stmt)}
        if isinstance(stmt, Par | Seq):
            carried = {c.value.name for c in stmt.carry} if isinstance(stmt, Seq) else set()
            nexts = {c.next for c in stmt.carry} if isinstance(stmt, Seq) else set()
            replaced = replaced_in_place(stmt) if isinstance(stmt, Seq) else {}
            inside = frozenset(nexts) | {d for d in defined if d in uses(stmt)}
            rings = _rings(stmt)
            for point in live_points(stmt.body, inside):
                yield frozenset({replaced.get(p, p) for p in point} | before | carried | rings)
            defined |= carried
        elif out is not None:
            held = {out.name} | {d for d in before if d in later}
            reads = set(operands(stmt)) & before if isinstance(stmt, Dot | Copy) else set()
            in_place = _in_place(stmt)
            yield frozenset(held | (reads - in_place))
            yield frozenset(before)
            defined.add(out.name)
    yield frozenset(defined & after)


def replaced_in_place(loop: Seq) -> dict[str, str]:
    """State by the value that takes its place: nothing reads the old state once the new one is there.

    A value that is state itself takes no other's place.
    """
    state = {c.value.name for c in loop.carry}
    found: dict[str, str] = {}
    for c in loop.carry:
        made = next((n for n, s in enumerate(loop.body) if c.next in _defined(s)), len(loop.body))
        late = any(c.value.name in uses(s) for s in loop.body[made + 1:])
        if c.next not in state and not late:
            found[c.next] = c.value.name
    return found


def _defined(stmt: Stmt) -> set[str]:
    out = outputs_of(stmt)
    state = {c.value.name for c in stmt.carry} if isinstance(stmt, Seq) else set()
    return state | ({out.name} if out is not None else set())


def _rings(stmt: Par | Seq) -> set[str]:
    """Streamed values of a pipelined loop: while one iteration uses them the next ones' are on their way."""
    if isinstance(stmt, Par) or stmt.stages == Const(1):
        return set()
    return {s.out.name for s in stmt.body if isinstance(s, Load | Copy)}


def _in_place(stmt: Stmt) -> set[str]:
    if isinstance(stmt, Dot) and stmt.init is not None:
        return set(refs(stmt.init))
    return set()


def values_of(program: Program, kernel: Kernel) -> dict[str, tuple[Value, Scope, IntExpr]]:
    """Every value of a kernel with the scope it lives in and the number of buffers it has in flight."""
    found: dict[str, tuple[Value, Scope, IntExpr]] = {}
    _values(kernel.body, whole(program), Const(1), found)
    return found


def _values(
    body: Sequence[Stmt], scope: Scope, stages: IntExpr, found: dict[str, tuple[Value, Scope, IntExpr]]
) -> None:
    for stmt in body:
        match stmt:
            case Par():
                inner = dict(scope)
                for loop in stmt.loops:
                    inner = enter(inner, loop.axis, Sym(loop.axis), loop.tile)
                _values(stmt.body, inner, stages, found)
            case Seq():
                for c in stmt.carry:
                    found[c.value.name] = (c.value, scope, Const(1))
                inner = enter(scope, stmt.loop.axis, Sym(stmt.loop.axis), stmt.loop.tile)
                _values(stmt.body, inner, stmt.stages, found)
            case Sync():
                pass
            case _:
                out = outputs_of(stmt)
                if out is not None:
                    found[out.name] = (out, scope, stages if isinstance(stmt, Load | Copy) else Const(1))


def footprint(
    program: Program, kernel: Kernel, level: str | None, pad: Pad | None = None, words: bool = False
) -> IntExpr:
    """Largest number of bytes (``words``: elements) that values at ``level`` (None: every value) occupy together."""
    held = {
        name: tile_elements(value, scope, pad) * stages * (1 if words else value.dtype.bytes)
        for name, (value, scope, stages) in values_of(program, kernel).items()
        if level is None or value.level == level
    }
    points = {frozenset(p & held.keys()) for p in live_points(kernel.body)}
    maximal = [p for p in points if not any(p < q for q in points)]
    return imax(ZERO, *(add(*(held[n] for n in sorted(p))) for p in sorted(maximal, key=sorted)))


def tile_elements(value: Value, scope: Scope, pad: Pad | None = None) -> IntExpr:
    """Elements of a whole tile in its scope."""
    total: IntExpr = Const(1)
    for axis in value.axes:
        size = scope[axis].size
        total = total * (pad.rule(axis, size) if pad else size)
    return total

