"""Views put back: a program without ``view`` statements, whose values go by the name of what holds their elements.

Walkers that ask where elements are kept (liveness, footprints, places) look at this program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flashc.ir.nodes import Carry, Copy, Dot, Map, Par, Reduce, Seq, Stmt, Store, View
from flashc.ir.scalar import Ref, Scalar, substitute

Names = Mapping[str, str]


def without_views(body: Sequence[Stmt], names: Names | None = None) -> tuple[Stmt, ...]:
    """``body`` without its views: what they name is called by their source's name. Axes are as before."""
    known = dict(names or {})
    found: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, View):
            known[stmt.out.name] = known.get(stmt.source, stmt.source)
        else:
            found.append(_renamed(stmt, known))
    return tuple(found)


def view_sources(body: Sequence[Stmt]) -> dict[str, str]:
    """For every view in ``body``, loops included, the value that holds its elements."""
    found: dict[str, str] = {}
    for stmt in body:
        if isinstance(stmt, View):
            found[stmt.out.name] = found.get(stmt.source, stmt.source)
        if isinstance(stmt, Par | Seq):
            found |= {name: found.get(source, source) for name, source in view_sources(stmt.body).items()}
    return found


def _renamed(stmt: Stmt, names: Names) -> Stmt:
    """What the statement reads, by other names; a loop's body without its views."""
    match stmt:
        case Par():
            return replace(stmt, body=without_views(stmt.body, names))
        case Seq():
            return _loop(stmt, names)
        case Copy() | Reduce():
            return replace(stmt, source=names.get(stmt.source, stmt.source))
        case Store():
            return replace(stmt, value=names.get(stmt.value, stmt.value))
        case Dot():
            init = None if stmt.init is None else _expression(stmt.init, names)
            return replace(stmt, a=names.get(stmt.a, stmt.a), b=names.get(stmt.b, stmt.b), init=init)
        case Map():
            return replace(stmt, expr=_expression(stmt.expr, names))
        case _:
            return stmt


def _loop(seq: Seq, names: Names) -> Seq:
    inner = {**names, **{s.out.name: names.get(s.source, s.source) for s in seq.body if isinstance(s, View)}}

    def carried(c: Carry) -> Carry:
        return replace(c, init=_expression(c.init, names), next=inner.get(c.next, c.next))

    return replace(seq, carry=tuple(carried(c) for c in seq.carry), body=without_views(seq.body, names))


def _expression(expr: Scalar, names: Names) -> Scalar:
    return substitute(expr, {Ref(new): Ref(old) for new, old in names.items()}) if names else expr
