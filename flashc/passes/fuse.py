"""Fuse: elementwise statements over the same space are brought together, so that one sweep serves them all.

Within a run of maps and reductions a *group* is a set over the same axes none of which waits for a reduction of the
group. A cheap map that a later group also needs is computed again there instead of being stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flashc.ir.analysis import operands, uses
from flashc.ir.nodes import Map, Par, Program, Reduce, Seq, Stmt
from flashc.ir.rewrite import rewrite_kernels
from flashc.ir.scalar import FUNCTIONS, Call, Fetch, Ref, substitute, walk

Elementwise = Map | Reduce
CHEAP_FLOPS = 6  # a store and a load of a vector cost about as much


def fuse(program: Program) -> Program:
    """Every body with its elementwise runs grouped, cheap maps repeated where they are used, unused ones gone."""
    return rewrite_kernels(program, lambda k: replace(k, body=_drop(_body(k.body), frozenset())))


def _body(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    found: list[Stmt] = []
    run: list[Elementwise] = []
    for stmt in body:
        if isinstance(stmt, Map | Reduce):
            run.append(stmt)
            continue
        found += _regroup(run)
        run = []
        found.append(replace(stmt, body=_body(stmt.body)) if isinstance(stmt, Par | Seq) else stmt)
    return tuple(found + _regroup(run))


def space(stmt: Elementwise) -> frozenset[str]:
    """The axes a statement sweeps."""
    return frozenset(stmt.out.axes) | ({stmt.over} if isinstance(stmt, Reduce) else set())


def sweeps(run: Sequence[Elementwise]) -> list[list[Elementwise]]:
    """A run that ``fuse`` has ordered, cut into its groups: neighbours over the same axes, none waiting for another."""
    found: list[list[Elementwise]] = []
    for stmt in run:
        last = found[-1] if found else []
        reduced = {s.out.name for s in last if isinstance(s, Reduce)}
        if last and space(last[0]) == space(stmt) and reduced.isdisjoint(operands(stmt)):
            last.append(stmt)
        else:
            found.append([stmt])
    return found


def groups(run: Sequence[Elementwise]) -> list[list[Elementwise]]:
    """The run in groups, in an order that respects every dependence."""
    pending = list(run)
    found: list[list[Elementwise]] = []
    while pending:
        group: list[Elementwise] = []
        late: set[str] = set()
        for stmt in pending:
            if space(stmt) == space(pending[0]) and late.isdisjoint(operands(stmt)):
                group.append(stmt)
                late |= {stmt.out.name} if isinstance(stmt, Reduce) else set()
            else:
                late.add(stmt.out.name)
        found.append(group)
        pending = [s for s in pending if s not in group]
    return found


def _regroup(run: Sequence[Elementwise]) -> list[Stmt]:
    cheap: dict[str, tuple[int, Map]] = {}
    found: list[Stmt] = []
    for number, group in enumerate(groups(run)):
        renamed: dict[str, str] = {}
        for stmt in group:
            for name in operands(stmt):
                found += _again(name, number, space(stmt), cheap, renamed)
            stmt = _with_operands(stmt, renamed)
            found.append(stmt)
            if isinstance(stmt, Map) and _cheap(stmt):
                cheap[stmt.out.name] = (number, stmt)
    return found


def _again(
    name: str, number: int, axes: frozenset[str], cheap: dict[str, tuple[int, Map]], renamed: dict[str, str]
) -> list[Stmt]:
    """The cheap map ``name`` of an earlier group over the same axes, repeated here under a new name."""
    if name in renamed or name not in cheap or cheap[name][0] == number or space(cheap[name][1]) != axes:
        return []
    source = cheap[name][1]
    needed = [s for n in operands(source) for s in _again(n, number, axes, cheap, renamed)]
    renamed[name] = f"{name}_{number}"
    clone = _with_operands(source, renamed)
    return [*needed, replace(clone, out=replace(source.out, name=renamed[name]))]


def _with_operands(stmt: Elementwise, renamed: dict[str, str]) -> Elementwise:
    if isinstance(stmt, Reduce):
        return replace(stmt, source=renamed.get(stmt.source, stmt.source))
    return replace(stmt, expr=substitute(stmt.expr, {Ref(a): Ref(b) for a, b in renamed.items()}))


def _cheap(stmt: Map) -> bool:
    nodes = list(walk(stmt.expr))
    calls = [FUNCTIONS[n.fn] for n in nodes if isinstance(n, Call)]
    costly = any(isinstance(n, Fetch) for n in nodes) or any(c.transcendental for c in calls)
    return not costly and sum(c.flops for c in calls) <= CHEAP_FLOPS


def _drop(body: Sequence[Stmt], after: frozenset[str]) -> tuple[Stmt, ...]:
    kept: list[Stmt] = []
    needed = set(after)
    for stmt in reversed(body):
        if isinstance(stmt, Map | Reduce) and stmt.out.name not in needed:
            continue
        if isinstance(stmt, Par | Seq):
            inner = frozenset(c.next for c in stmt.carry) if isinstance(stmt, Seq) else frozenset()
            stmt = replace(stmt, body=_drop(stmt.body, inner))
        needed |= uses(stmt)
        kept.append(stmt)
    return tuple(reversed(kept))
