"""The two-level model's optimum: the tile sizes with the least traffic among those that fit in M words or bytes.

Fast memory holds M, compute is free, and only what crosses to slow memory counts. A schedule may then work through a
tile one row at a time: in the innermost body of a loop everything that has a coordinate along the row axis, and is not
kept for the next iteration, needs room for one row only, while what all rows read stays. ``whole_tiles`` leaves that
out: every statement runs on its whole tile before the next one starts, as a matrix unit makes a device do.

Both quantities are walked from the tile program (flashc.ir.analysis); nothing here knows an operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isqrt
from typing import Any, Literal

from flashc.autotune.problem import Constraint, Problem, Variable
from flashc.autotune.solve import solve
from flashc.errors import ConstraintError
from flashc.ir.analysis import tiled_loops, traffic_bytes, traffic_words
from flashc.ir.footprint import footprint
from flashc.ir.intexpr import Const, IntExpr, Sum, imin
from flashc.ir.nodes import Dot, Kernel, Load, Loop, Par, Program, Reduce, Seq, Stmt, Store, outputs_of, persistent
from flashc.ir.rewrite import rewrite_body, with_sizes
from flashc.ir.steps import tasks

Objective = Literal["words", "bytes"]
ROUNDS, COSTLY_ROUNDS = (1.04, 1.0), (1.6, 1.1, 1.0)
"""Ratios of neighbouring tile sizes: each search looks closer around the last one's answer, the last at every size. A
traffic that sums over tiles (a triangle) costs far more per point and starts coarser."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best tile sizes, their traffic (words or bytes, as asked) and the room each kernel needs."""

    schedule: str
    tiles: tuple[tuple[str, int], ...]
    traffic: int
    footprints: tuple[tuple[str, int], ...]


def optimum(
    program: Program,
    sizes: Mapping[str, Any],
    fast: int,
    objective: Objective = "words",
    fixed: Mapping[str, int] | None = None,
    whole_tiles: bool = False,
) -> Optimum | None:
    """The least traffic of a tile-stage schedule with ``fast`` words (bytes) of fast memory; None if no tiles fit.

    ``sizes``: values of the program's sizes, run-time tables included. ``fixed``: tile sizes that are given. Nothing is
    in flight (one stage). Raises ConstraintError for a tile symbol that the program does not have.
    """
    given = dict(fixed or {})
    unknown = sorted(given.keys() - set(program.tiles))
    if unknown:
        raise ConstraintError(f"fixed: {unknown[0]!r} is not a tile of {program.schedule}: {', '.join(program.tiles)}")
    extents = {str(loop.tile): program.axis(loop.axis).extent for loop in tiled_loops(program)}
    values = {**dict(program.fixed), **{n: v for n, v in sizes.items() if isinstance(v, int)}, **given}
    in_flight = {t: 1 for t in program.tiles if t not in extents}
    total, needed = _walked(program, tuple(in_flight), objective, whole_tiles)
    traffic, rooms = total.subs(values), {name: room.subs(values) for name, room in needed}
    # A tile that the traffic does not depend on takes the least room at 1.
    idle = {t: 1 for t in extents if t not in traffic.symbols()}
    free = {t: e.subs(values).evaluate({}) for t, e in extents.items() if t not in idle and t not in given}
    rooms = {name: room.subs(idle) for name, room in rooms.items()}
    tables = {n: v for n, v in sizes.items() if not isinstance(v, int)}
    chosen = _least(traffic, rooms, fast, free, tables)
    if chosen is None:
        return None
    env = {**tables, **chosen}
    return Optimum(
        program.schedule,
        tuple(sorted({**in_flight, **idle, **given, **chosen}.items())),
        traffic.evaluate(env),
        tuple((name, room.evaluate(env)) for name, room in rooms.items()),
    )


def forced_tile_cost(
    program: Program, sizes: Mapping[str, Any], fast: int, tiles: Mapping[str, int], objective: Objective = "words"
) -> float | None:
    """Traffic with these tile sizes and whole tiles, as a device runs them, over the least; None if they do not fit."""
    free = optimum(program, sizes, fast, objective)
    forced = optimum(program, sizes, fast, objective, fixed=tiles, whole_tiles=True)
    return None if free is None or forced is None else forced.traffic / free.traffic


@lru_cache(maxsize=64)
def _walked(
    program: Program, in_flight: tuple[str, ...], objective: Objective, whole_tiles: bool
) -> tuple[IntExpr, tuple[tuple[str, IntExpr], ...]]:
    """Traffic, and the room of each kernel, with one buffer per streamed tile."""
    plain = with_sizes(program, dict.fromkeys(in_flight, 1))
    traffic = (traffic_words if objective == "words" else traffic_bytes)(plain)
    rooms = ((k, _room(plain, k, objective, whole_tiles)) for k in plain.kernels)
    return traffic, tuple((k.name, room * _at_once(plain, k)) for k, room in rooms)


def _at_once(program: Program, kernel: Kernel) -> IntExpr:
    """Tasks that share the memory at the same time: of a persistent kernel all."""
    return tasks(program, kernel.pars[0]) if persistent(kernel) else Const(1)


def _least(
    traffic: IntExpr, rooms: Mapping[str, IntExpr], fast: int, free: Mapping[str, int], tables: Mapping[str, Any]
) -> dict[str, int] | None:
    fits = tuple(Constraint(name, room, "<=", Const(fast)) for name, room in rooms.items())
    domains = {name: _useful(extent) for name, extent in free.items()}
    best: dict[str, int] = {}
    for ratio in COSTLY_ROUNDS if _sums(traffic) else ROUNDS:
        grid = {name: _thinned(domain, ratio) for name, domain in domains.items()}
        variables = tuple(Variable(name, values) for name, values in grid.items())
        found = solve(Problem(variables, fits, traffic, tables=tables))
        if found.status == "infeasible":
            return None
        best = dict(found.require())
        domains = {name: _around(domains[name], grid[name], best[name]) for name in domains}
    return best


def _sums(expr: IntExpr) -> bool:
    return isinstance(expr, Sum) or any(_sums(child) for child in expr.children())


def _useful(extent: int) -> tuple[int, ...]:
    """The least tile for every number of tiles, in rising order: sizes between them take room and save no tile."""
    root = isqrt(extent)
    return tuple(sorted({-(-extent // count) for count in range(1, root + 2)} | set(range(1, root + 1))))


def _thinned(domain: Sequence[int], ratio: float) -> tuple[int, ...]:
    """The ends of the domain, and values between them that are ``ratio`` apart."""
    kept = [domain[0]]
    for value in domain[1:]:
        if value >= ratio * kept[-1] or value == domain[-1]:
            kept.append(value)
    return tuple(kept)


def _around(domain: Sequence[int], grid: Sequence[int], best: int) -> tuple[int, ...]:
    at = grid.index(best)
    low, high = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    return tuple(x for x in domain if low <= x <= high)


# -- room in fast memory


def _room(program: Program, kernel: Kernel, objective: Objective, whole_tiles: bool) -> IntExpr:
    """The least room over the axes that a kernel's innermost bodies may be worked through along."""
    axes = () if whole_tiles else tuple(a.name for a in program.axes)
    orders = dict.fromkeys((kernel.body, *(_by_rows(kernel.body, axis) for axis in axes)))
    rooms = [footprint(program, replace(kernel, body=body), None, words=objective == "words") for body in orders]
    return imin(*rooms)


def _by_rows(body: Sequence[Stmt], axis: str) -> tuple[Stmt, ...]:
    """Innermost loops load what all rows share first, then take the coordinates along ``axis`` one by one."""

    def rule(stmt: Stmt) -> tuple[Stmt, ...]:
        if not isinstance(stmt, Seq) or not _independent(stmt, axis):
            return (stmt,)
        shared = tuple(s for s in stmt.body if isinstance(s, Load) and axis not in s.out.axes)
        rest = tuple(s for s in stmt.body if s not in shared)
        return (replace(stmt, body=(*shared, Par((Loop(axis, Const(1)),), rest))),)

    return rewrite_body(body, rule)


def _independent(loop: Seq, axis: str) -> bool:
    """Whether rows along ``axis`` of an innermost loop's body take no part in each other."""
    stored = {s.access.tensor for s in loop.body if isinstance(s, Store)}
    for stmt in loop.body:
        match stmt:
            case Par() | Seq():
                return False
            case Load(out=out, access=access) if axis not in out.axes:
                if access.tensor in stored:
                    return False
            case Dot(over=over) if axis in over:
                return False
            case Reduce(over=axis_summed) if axis_summed == axis:
                return False
            case _:
                out_value = outputs_of(stmt)
                if out_value is not None and axis not in out_value.axes:
                    return False
    return True
