"""The front door: solve a problem, check the answer again, and say how it is known."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from flashc.autotune import engines
from flashc.autotune.conflict import Conflict, find_conflict
from flashc.autotune.engines import ENGINES, Engine, Outcome
from flashc.autotune.explain import explain
from flashc.autotune.problem import Assignment, Problem
from flashc.errors import ConstraintError, InfeasibleError

Status = Literal["optimal", "feasible", "infeasible"]


@dataclass(frozen=True, slots=True)
class Stats:
    """Rows that enumeration looked at, solutions among them (None where not all were looked for), and wall time."""

    candidates: int | None
    feasible: int | None
    seconds: float


@dataclass(frozen=True)
class Solution:
    """The k best assignments in order with their objectives (empty where the problem has no objective).

    ``status`` is "feasible" where the time limit ended the search before the proof.
    """

    problem: Problem
    status: Status
    best: tuple[Assignment, ...]
    objectives: tuple[int, ...]
    proof: str
    engine: str
    stats: Stats

    @cached_property
    def conflict(self) -> Conflict | None:
        """For an infeasible problem, a minimal conflicting set; found at the first request."""
        return find_conflict(self.problem) if self.status == "infeasible" else None

    def require(self) -> Assignment:
        """The best assignment. Raises InfeasibleError with the conflicting constraints if there is none."""
        if self.status == "infeasible":
            raise InfeasibleError(f"no values meet these constraints together:\n{self.conflict}")
        return self.best[0]


def solve(
    problem: Problem, *, k: int = 1, engine: Engine = "auto", time_limit: float | None = None
) -> Solution:
    """The ``k`` best points of ``problem``; the same answer from either engine, and on every run.

    ``time_limit`` is in seconds. Raises ConstraintError for a wrong argument or a problem that the engine
    cannot take, IntegerOverflowError where a value leaves int64, and SolverLimitError when the time ran out
    before any point was found.
    """
    if k < 1:
        raise ConstraintError(f"k = {k}: ask for at least one solution")
    if engine not in ENGINES:
        raise ConstraintError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
    started = time.monotonic()
    deadline = started + (float("inf") if time_limit is None else time_limit)
    outcome = engines.run(problem, k, engine, deadline)
    objectives = tuple(_verified(problem, point) for point in outcome.points)
    stats = Stats(outcome.candidates, outcome.feasible, time.monotonic() - started)
    return Solution(
        problem=problem,
        status=_status(outcome),
        best=outcome.points,
        objectives=objectives if problem.objective is not None else (),
        proof=_proof(outcome),
        engine=outcome.engine,
        stats=stats,
    )


def _verified(problem: Problem, point: Mapping[str, int]) -> int:
    """The exact objective, after checking every condition again: a wrong engine must not go unnoticed."""
    broken = [str(found) for found in explain(problem, point) if not found.holds]
    if broken:
        raise AssertionError(f"the engine returned {dict(point)}, which breaks: {'; '.join(broken)}")
    return 0 if problem.objective is None else problem.objective.evaluate({**problem.tables, **point})


def _status(outcome: Outcome) -> Status:
    if not outcome.points:
        return "infeasible"
    return "optimal" if outcome.proven else "feasible"


def _proof(outcome: Outcome) -> str:
    found = len(outcome.points)
    if not outcome.proven:
        return f"no proof: the time limit ended {outcome.engine}; best of what was seen"
    if outcome.engine == "propagation":
        return "bounds and divisibility leave a variable without values" if not found else "nothing to choose"
    if outcome.engine == "search":
        rest = "everything that comes before was ruled out" if found else "every candidate was ruled out"
        return f"searched in order: {outcome.candidates} rows, {rest}"
    if outcome.engine == "enumerate":
        return f"all candidates enumerated: {outcome.candidates} rows, {outcome.feasible} solutions"
    return f"CP-SAT proved optimality of {found} solution(s)" if found else "CP-SAT proved infeasibility"
