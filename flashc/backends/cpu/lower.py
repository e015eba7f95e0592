"""Lower for a CPU: split the loops, fuse the sweeps, and give every stored tile a buffer.

A value that is read only inside its own fused sweep stays in registers. Carried values and what replaces them share a
slot where the old value is dead by then; so do a tile and the one computed from it in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flashc.backends.cpu.direct import Within, direct_stores
from flashc.ir.analysis import operands, uses
from flashc.ir.intexpr import Const, IntExpr
from flashc.ir.nodes import Alloc, Kernel, Map, Par, Program, Reduce, Seq, Stmt, Store, View, outputs_of
from flashc.ir.rewrite import rewrite_kernels
from flashc.ir.types import Value
from flashc.passes.fuse import fuse, sweeps
from flashc.passes.split import split


def lower(program: Program) -> Program:
    """A bound program with its loops in parts, its sweeps grouped and an ``Alloc`` per stored value."""
    fused = fuse(split(program))
    return rewrite_kernels(fused, lambda kernel: _allocate(fused, kernel), stage="lowered")


def elements(value: Value) -> IntExpr:
    """Elements of the buffer that a laid-out value needs."""
    total: IntExpr = Const(1)
    for mode in value.layout.modes if value.layout else ():
        total = total * mode.shape
    return total


def _allocate(program: Program, kernel: Kernel) -> Kernel:
    def with_buffers(stmt: Stmt, at: Within) -> Stmt:
        assert isinstance(stmt, Par | Seq)
        inner = at.inside(stmt)
        if isinstance(stmt, Seq):
            return replace(stmt, body=tuple(with_buffers(s, inner) for s in stmt.body))
        found: dict[str, Alloc] = {}
        _collect(stmt.body, frozenset(), inner, {}, found)
        return replace(stmt, body=(*found.values(), *stmt.body))

    return replace(kernel, body=tuple(with_buffers(s, Within.top(program)) for s in kernel.body))


def _collect(
    body: Sequence[Stmt], after: frozenset[str], at: Within, slots: dict[str, str], found: dict[str, Alloc]
) -> None:
    for n, stmt in enumerate(body):
        if isinstance(stmt, Seq):
            for c in stmt.carry:
                _add(c.value, c.value.name, slots, found)
            dead = {c.next: c.value for c in stmt.carry if _dead_when_replaced(c.value.name, c.next, stmt.body)}
            for new, old in dead.items():
                slots[new] = slots[old.name]
            _collect(stmt.body, frozenset(c.next for c in stmt.carry), at.inside(stmt), slots, found)
        else:
            _statement(body, n, after, at, slots, found)


def _statement(
    body: Sequence[Stmt], n: int, after: frozenset[str], at: Within, slots: dict[str, str], found: dict[str, Alloc]
) -> None:
    stmt = body[n]
    out = outputs_of(stmt)
    if out is None or out.layout is None or isinstance(stmt, View):
        return
    if isinstance(stmt, Map | Reduce) and out.name not in buffered(body, n, after, at):
        return
    if out.name not in slots and isinstance(stmt, Map):
        slots.update(_in_place(body, n, stmt, after, slots, found))
    _add(out, slots.get(out.name, out.name), slots, found)


def _add(value: Value, slot: str, slots: dict[str, str], found: dict[str, Alloc]) -> None:
    slots[value.name] = slot
    found.setdefault(value.name, Alloc(value, elements(value), slot))


def group_of(body: Sequence[Stmt], n: int) -> list[Map | Reduce]:
    """The fused sweep that the elementwise statement at ``n`` belongs to."""
    first = n
    while first > 0 and isinstance(body[first - 1], Map | Reduce):
        first -= 1
    run: list[Map | Reduce] = []
    for stmt in body[first:]:
        if not isinstance(stmt, Map | Reduce):
            break
        run.append(stmt)
    return next(g for g in sweeps(run) if any(s is body[n] for s in g))


def direct(body: Sequence[Stmt], n: int, at: Within) -> list[Store]:
    """The stores that the fused sweep of the elementwise statement at ``n`` does itself."""
    group = group_of(body, n)
    last = next(i for i, s in enumerate(body) if s is group[-1])
    return direct_stores(group, body[last + 1:], at)


def buffered(body: Sequence[Stmt], n: int, after: frozenset[str], at: Within) -> frozenset[str]:
    """What the fused sweep of the elementwise statement at ``n`` makes for others: more than it or its stores read."""
    group = group_of(body, n)
    own = (*group, *direct(body, n, at))
    readers = frozenset().union(*(uses(s) for s in body if not any(s is g for g in own)))
    return frozenset(s.out.name for s in group) & (readers | after)


def _dead_when_replaced(old: str, new: str, body: Sequence[Stmt]) -> bool:
    """True where nothing reads the carried value after the sweep or dot that makes its replacement."""
    names = {old, *_views(old, body)}
    at = next(n for n, s in enumerate(body) if new in _defines(s))
    stmt = body[at]
    same = group_of(body, at) if isinstance(stmt, Map | Reduce) else [stmt]
    return not any(names & uses(s) for s in body[at + 1:] if not any(s is g for g in same))


def _views(name: str, body: Sequence[Stmt]) -> set[str]:
    """The names under which statements of ``body`` read the value's elements."""
    return {s.out.name for s in body if isinstance(s, View) and s.source == name}


def _in_place(
    body: Sequence[Stmt], n: int, stmt: Map, after: frozenset[str], slots: dict[str, str], found: dict[str, Alloc]
) -> dict[str, str]:
    """The slot of a tile of the same layout that dies in this sweep, if there is one."""
    group = group_of(body, n)
    reads = {name for s in group for name in operands(s)}
    rest = after.union(*(uses(s) for s in body[n + 1:] if not any(s is g for g in group)))
    rest |= {s.source for s in body if isinstance(s, View) and s.out.name in rest}
    local = {name for s in body[:n] for name in _defines(s)}
    taken = {slots[name] for name in rest & local & slots.keys()}
    for name in sorted(reads & found.keys() & local):
        old, new = found[name].value, stmt.out
        if slots[name] not in taken and (old.dtype, old.layout, old.axes) == (new.dtype, new.layout, new.axes):
            return {stmt.out.name: slots[name]}
    return {}


def _defines(stmt: Stmt) -> list[str]:
    out = outputs_of(stmt)
    carried = [c.value.name for c in stmt.carry] if isinstance(stmt, Seq) else []
    return [*carried, *([out.name] if out else [])]
