"""Why a choice and not another: the next tile sizes, the other schedules, and what speaks against each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flashc import backends
from flashc.autotune import Check, solve
from flashc.autotune.explain import check
from flashc.compiler.tune import Choice, Space, Tuning, choice_at, environment, space, spill_cut
from flashc.ir.analysis import traffic_bytes
from flashc.ops import registry

OVERHEAD = "waves, steps and launch"
"""What the modelled time holds beyond the units' work."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A choice with one tile symbol at the next value: slower, or in breach of ``violated``."""

    symbol: str
    tiles: Mapping[str, int]
    choice: Choice | None
    violated: Check | None


def neighbours(tuning: Tuning, spilled: Sequence[Mapping[str, int]] = ()) -> tuple[Neighbour, ...]:
    """The best choice with each tile symbol at the next smaller and the next larger legal value.

    ``spilled`` are tilings that were cut because compiled code spilled.
    """
    best = tuning.best
    found = _space(tuning, best.schedule, spilled)
    env = _environment(tuning)
    moves = [
        (v.name, value) for v in found.problem.variables for value in _next(v.domain, best.tiles[v.name])
    ]
    return tuple(_neighbour(found, symbol, {**best.tiles, symbol: value}, env) for symbol, value in moves)


def other_schedules(tuning: Tuning, spilled: Sequence[Mapping[str, int]] = ()) -> tuple[Choice, ...]:
    """The best tiling of each schedule that is feasible and not among the ranked choices, quickest first."""
    known = {c.schedule for c in tuning.ranked} | {r.schedule for r in tuning.rejected}
    env = _environment(tuning)
    choices = []
    for program in registry()[tuning.workload.op].schedules(tuning.workload.spec):
        if program.schedule in known:
            continue
        found = _space(tuning, program.schedule, spilled)
        solution = solve(found.problem)
        if solution.best:
            choices.append(
                choice_at(found, solution.best[0], env, solution.proof, traffic_bytes(found.placed))
            )
    return tuple(sorted(choices, key=lambda c: c.picoseconds))


def slower_by(choice: Choice, best: Choice) -> tuple[str, int]:
    """The unit whose time grew most from ``best`` to ``choice``, and by how many picoseconds."""
    grown = {unit: time - best.units.get(unit, 0) for unit, time in choice.units.items()}
    unit = max(grown, key=lambda u: grown[u], default=OVERHEAD)
    more = choice.picoseconds - best.picoseconds
    if grown.get(unit, 0) * 4 < more:
        return OVERHEAD, more - sum(max(g, 0) for g in grown.values())
    return unit, grown[unit]


def tightest(choice: Choice) -> Check | None:
    """The limited resource of which the choice leaves the smallest share."""
    limited = [c for c in choice.checks if c.op == "<=" and c.limit > 0]
    return max(limited, key=lambda c: c.needs / c.limit, default=None)


def _environment(tuning: Tuning) -> dict[str, Any]:
    return environment(registry()[tuning.workload.op], tuning.workload.spec)


def _space(tuning: Tuning, schedule: str, spilled: Sequence[Mapping[str, int]]) -> Space:
    """The schedule's search space; of the tilings that spilled, those with its symbols are cut."""
    schedules = registry()[tuning.workload.op].schedules(tuning.workload.spec)
    program = next(p for p in schedules if p.schedule == schedule)
    found = space(program, backends.get(tuning.backend), tuning.device, _environment(tuning))
    own = [tiles for tiles in spilled if set(tiles) == set(found.placed.tiles)]
    cuts = [spill_cut(replace(tuning.best, tiles=tiles), number) for number, tiles in enumerate(own)]
    return replace(found, problem=replace(found.problem, constraints=(*found.problem.constraints, *cuts)))


def _next(domain: Any, value: int) -> list[int]:
    """The neighbours of a value in a domain that lists its values."""
    smaller = [v for v in domain if v < value]
    larger = [v for v in domain if v > value]
    return [*([max(smaller)] if smaller else []), *([min(larger)] if larger else [])]


def _neighbour(found: Space, symbol: str, tiles: Mapping[str, int], env: Mapping[str, Any]) -> Neighbour:
    numbers = {**env, **dict(found.placed.fixed), **tiles}
    for condition in found.problem.constraints:
        if not condition.holds(numbers):
            return Neighbour(symbol, tiles, None, check(condition, numbers))
    choice = choice_at(found, tiles, env, "", traffic_bytes(found.placed))
    return Neighbour(symbol, tiles, choice, None)
