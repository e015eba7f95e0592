"""Split: a loop becomes its PARTIAL tiles on the left, its FULL tiles, and its PARTIAL tiles on the right.

FULL tiles need no predicate and no bounds check on the looped axis; PARTIAL ones get the predicate written out, the end
of the axis included. The state flows through the parts in order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from flashc.ir.intexpr import Const
from flashc.ir.lift import inside
from flashc.ir.nodes import Carry, Domain, Dot, Map, Par, Program, Seq, Stmt
from flashc.ir.rewrite import rewrite_body, rewrite_kernels
from flashc.ir.scalar import Call, InDomain, Lit, Ref, Scalar, substitute, walk


def split(program: Program) -> Program:
    """Every sequential loop in up to three parts; a part that cannot have tiles is left out."""
    extents = {a.name: a.extent for a in program.axes}

    def rule(stmt: Stmt) -> tuple[Stmt, ...]:
        if not isinstance(stmt, Seq) or stmt.part != "all":
            return (stmt,)
        axis, domain = stmt.loop.axis, stmt.domain or Domain()
        bounded = replace(domain, upper=(*domain.upper, extents[axis]))
        return _parts(stmt, _with_predicate(stmt.body, axis, inside(bounded, axis, extents)))

    return rewrite_kernels(program, lambda k: replace(k, body=rewrite_body(k.body, rule)))


def _parts(stmt: Seq, partial_body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    full_body = _without_skips(_with_predicate(stmt.body, stmt.loop.axis, Lit(True)), stmt.loop.axis)
    parts = [replace(stmt, part="full", body=full_body)]
    if stmt.loop.tile != Const(1) or stmt.domain:
        parts.append(replace(stmt, part="partial", side="right", body=partial_body))
    if stmt.domain and stmt.domain.lower:
        parts.insert(0, replace(stmt, part="partial", side="left", body=partial_body))
    continued = tuple(Carry(c.value, Ref(c.value.name), c.next) for c in stmt.carry)
    return (parts[0], *(replace(p, carry=continued) for p in parts[1:]))


def _with_predicate(body: Sequence[Stmt], axis: str, kept: Scalar) -> tuple[Stmt, ...]:
    def rule(stmt: Stmt) -> tuple[Stmt, ...]:
        if not isinstance(stmt, Map):
            return (stmt,)
        return (replace(stmt, expr=substitute(stmt.expr, {InDomain(axis): kept})),)

    return rewrite_body(body, rule)


def _without_skips(body: tuple[Stmt, ...], axis: str) -> tuple[Stmt, ...]:
    """Where no predicate is left, no weight is 0 because it was masked: dots along the axis need not skip zeros."""
    if any(isinstance(s, Map) and _masks(s.expr) for s in _flat(body)):
        return body
    return rewrite_body(body, lambda s: (replace(s, zero_skips=False) if isinstance(s, Dot) and axis in s.over else s,))


def _masks(expr: Scalar) -> bool:
    excluded = (Lit(-math.inf), Lit(0.0))
    return any(isinstance(n, Call) and n.fn == "where" and n.args[2] in excluded for n in walk(expr))


def _flat(body: Sequence[Stmt]) -> list[Stmt]:
    return [s for stmt in body for s in ((stmt, *_flat(stmt.body)) if isinstance(stmt, Par | Seq) else (stmt,))]
