"""Stage: tiles that an expression gathers element by element are loaded before it, so that they can be transposed."""

from __future__ import annotations

from dataclasses import replace

from flashc.ir.intexpr import Const, IntExpr, Sym
from flashc.ir.nodes import Access, Kernel, Load, Map, Program, Stmt
from flashc.ir.rewrite import rewrite_body
from flashc.ir.scalar import Coord, Fetch, Lit, Ref, Scalar, fetches, substitute
from flashc.ir.types import Value


def stage(program: Program, kernel: Kernel, lane: str) -> Kernel:
    """The kernel with a ``Load`` for every float tensor that a map reads by tiles across the vector lanes.

    A tile is read by one coordinate or constant per dimension, has ``lane`` and another of the map's axes, and lies
    in memory along the other one.
    """

    def rule(stmt: Stmt) -> tuple[Stmt, ...]:
        if not isinstance(stmt, Map):
            return (stmt,)
        across = (f for f in dict.fromkeys(fetches(stmt.expr)) if _across(program, stmt, f, lane))
        tiles = {f: _load(program, stmt, f) for f in across}
        staged = replace(stmt, expr=substitute(stmt.expr, {f: Ref(load.out.name) for f, load in tiles.items()}))
        return (*tiles.values(), staged)

    return replace(kernel, body=rewrite_body(kernel.body, rule))


def _across(program: Program, stmt: Map, fetch: Fetch, lane: str) -> bool:
    axes = _axes(stmt, fetch)
    plain = all(_coordinate(x) is not None for x in fetch.index)
    if not plain or len(axes) != 2 or lane not in axes or program.tensor(fetch.tensor).dtype.kind != "float":
        return False
    return fetch.index[-1] != Coord(lane) and axes[-1] != lane


def _axes(stmt: Map, fetch: Fetch) -> list[str]:
    return [x.axis for x in fetch.index if isinstance(x, Coord) and x.axis in stmt.out.axes]


def _coordinate(index: Scalar) -> IntExpr | None:
    match index:
        case Coord(axis=axis):
            return Sym(axis)
        case Lit(value=value) if value == int(value):
            return Const(int(value))
    return None


def _load(program: Program, stmt: Map, fetch: Fetch) -> Load:
    index = tuple(x for x in map(_coordinate, fetch.index) if x is not None)
    out = Value(f"{fetch.tensor}_{stmt.out.name}", tuple(_axes(stmt, fetch)), program.tensor(fetch.tensor).dtype)
    return Load(out, Access(fetch.tensor, index))
