"""Why a problem has no solution: a minimal set of named conditions that cannot hold together.

Deletion filtering (Chinneck and Dravnieks 1991, "Locating minimal infeasible constraint sets in linear
programs"): each condition is dropped in turn and stays out if the rest is still infeasible. Conditions
without a knob are tried first, so that what remains is something the reader can change.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from flashc.autotune import engines
from flashc.autotune.explain import Check, check
from flashc.autotune.problem import Assignment, Condition, Problem
from flashc.errors import ConstraintError, IntegerOverflowError, SolverLimitError

UNDECIDED = (SolverLimitError, IntegerOverflowError, ConstraintError)
"""An engine gave up: a part of a problem can be looser, hence larger, than the whole."""


@dataclass(frozen=True, slots=True)
class Member:
    """A condition of the set, and its numbers where the others hold and it is violated least.

    ``check`` and ``at`` are None where that point was not found: out of time, or beyond the engines.
    """

    condition: Condition
    check: Check | None
    at: Assignment | None

    def __str__(self) -> str:
        return str(self.check or f"{self.condition.name}: {self.condition}")


@dataclass(frozen=True, slots=True)
class Conflict:
    """Conditions that cannot hold together; ``minimal``: without any one of them, the others can.

    ``minimal`` is False only where the time limit or an engine's limits ended the search for a smaller set.
    """

    members: tuple[Member, ...]
    minimal: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.condition.name for member in self.members)

    def __str__(self) -> str:
        return "\n".join(map(str, self.members))


def find_conflict(problem: Problem, time_limit: float = 10.0) -> Conflict:
    """A minimal conflicting set of an infeasible problem (its objective plays no part)."""
    deadline = time.monotonic() + time_limit
    kept = _propagation_core(problem)
    minimal = True
    for part in sorted(kept, key=lambda part: bool(part.knob)):
        rest = [other for other in kept if other is not part]
        try:
            feasible = engines.satisfiable(_restricted(problem, rest), deadline)
        except UNDECIDED:
            feasible, minimal = True, False
        kept = kept if feasible else rest
    return Conflict(tuple(_member(problem, part, kept, deadline) for part in kept), minimal)


def _propagation_core(problem: Problem) -> list[Condition]:
    """All conditions, or fewer where propagation alone refutes the problem: then it can drop most of them."""
    kept = list(problem.constraints)
    if not engines.refuted(problem):
        return kept
    for part in sorted(problem.constraints, key=lambda part: bool(part.knob)):
        rest = [other for other in kept if other is not part]
        if engines.refuted(_restricted(problem, rest)):
            kept = rest
    return kept


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
        outcome = engines.run(relaxed, 1, "auto", deadline)
    except UNDECIDED:
        return Member(condition, None, None)
    if not outcome.proven or not outcome.points:
        return Member(condition, None, None)
    at = outcome.points[0]
    return Member(condition, check(condition, {**problem.tables, **at}), at)
