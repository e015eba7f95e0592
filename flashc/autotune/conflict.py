"""Why a problem has no solution: a minimal set of named conditions that cannot hold together.

Deletion filtering (Chinneck and Dravnieks 1991, "Locating minimal infeasible constraint sets in linear
programs"): each condition is dropped in turn and stays out if the rest is still infeasible. Conditions without
a knob are tried first, so that what remains is something the reader can change.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from flashc.autotune import engines
from flashc.autotune.explain import Check, check
from flashc.autotune.problem import Assignment, Condition, Problem
from flashc.errors import SolverLimitError


@dataclass(frozen=True, slots=True)
class Member:
    """A condition of the set, and its numbers where the others hold and it is violated least."""

    condition: Condition
    check: Check
    at: Assignment


@dataclass(frozen=True, slots=True)
class Conflict:
    """Conditions that cannot hold together; ``minimal``: without any one of them, the others can.

    ``minimal`` is False only where the time limit ended the search for a smaller set. A member whose least
    violation was not found in time shows the numbers of some point of the domains.
    """

    members: tuple[Member, ...]
    minimal: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.condition.name for member in self.members)

    def __str__(self) -> str:
        return "\n".join(str(member.check) for member in self.members)


def find_conflict(problem: Problem, time_limit: float = 10.0) -> Conflict:
    """A minimal conflicting set of an infeasible problem (its objective plays no part)."""
    deadline = time.monotonic() + time_limit
    kept = list(problem.constraints)
    minimal = True
    for part in sorted(problem.constraints, key=lambda part: bool(part.knob)):
        rest = [other for other in kept if other is not part]
        try:
            feasible = engines.satisfiable(_restricted(problem, rest), deadline)
        except SolverLimitError:
            feasible, minimal = True, False
        kept = kept if feasible else rest
    return Conflict(tuple(_member(problem, part, kept, deadline) for part in kept), minimal)


def _restricted(problem: Problem, conditions: Collection[Condition], also: Collection[str] = ()) -> Problem:
    """The problem of only these conditions, on only their variables: the others are free."""
    used = frozenset(also).union(*(part.symbols() for part in conditions))
    variables = tuple(variable for variable in problem.variables if variable.name in used)
    return Problem(variables, tuple(conditions), tables=problem.tables)


def _member(
    problem: Problem, condition: Condition, conflict: Collection[Condition], deadline: float
) -> Member:
    others = [part for part in conflict if part is not condition]
    relaxed = replace(_restricted(problem, others, condition.symbols()), objective=condition.violation())
    try:
        at = engines.run(relaxed, 1, "auto", deadline).points[0]
    except SolverLimitError:
        at = {variable.name: variable.lowest for variable in relaxed.variables}
    return Member(condition, check(condition, {**problem.tables, **at}), at)
