"""Split: a loop becomes its PARTIAL tiles on the left, its FULL tiles, and its PARTIAL tiles on the right.

FULL tiles need no predicate and no bounds check on the looped axis. The state flows through the parts in order.
"""

from __future__ import annotations

from dataclasses import replace

from flashc.ir.nodes import Carry, Map, Program, Seq, Stmt
from flashc.ir.rewrite import rewrite_body, rewrite_kernels
from flashc.ir.scalar import InDomain, Lit, Ref, substitute


def split(program: Program) -> Program:
    """Every sequential loop in up to three parts; a part that cannot have tiles is left out."""
    return rewrite_kernels(program, lambda k: replace(k, body=rewrite_body(k.body, _split)))


def _split(stmt: Stmt) -> tuple[Stmt, ...]:
    if not isinstance(stmt, Seq) or stmt.part != "all":
        return (stmt,)
    full_body = rewrite_body(stmt.body, lambda s: (_without_predicate(s, stmt.loop.axis),))
    parts = [replace(stmt, part="full", body=full_body), replace(stmt, part="partial", side="right")]
    if stmt.domain and stmt.domain.lower:
        parts.insert(0, replace(stmt, part="partial", side="left"))
    continued = tuple(Carry(c.value, Ref(c.value.name), c.next) for c in stmt.carry)
    return (parts[0], *(replace(p, carry=continued) for p in parts[1:]))


def _without_predicate(stmt: Stmt, axis: str) -> Stmt:
    if not isinstance(stmt, Map):
        return stmt
    return replace(stmt, expr=substitute(stmt.expr, {InDomain(axis): Lit(True)}))
