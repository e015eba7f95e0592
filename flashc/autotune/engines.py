"""Runs a problem on the engine asked for, or picks: enumeration for small spaces, CP-SAT for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flashc.autotune import decompose, enumerate
from flashc.autotune.enumerate import Best, Budget, BudgetError
from flashc.autotune.problem import Assignment, Problem
from flashc.autotune.propagate import Domain, propagate
from flashc.errors import ConstraintError, SolverLimitError

Engine = Literal["auto", "enumerate", "cpsat"]
ENGINES = ("auto", "enumerate", "cpsat")
SMALL_SPACE = 4e6
"""Points up to which enumeration is the choice."""
TRIAL_ROWS = 200_000
"""Rows spent on a larger space, whose conditions may leave few of them, before CP-SAT takes over."""
NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Outcome:
    """The k best points in order, whether that is proven, and by whom ("propagation": without a search)."""

    points: tuple[Assignment, ...]
    proven: bool
    engine: str
    candidates: int | None = None
    feasible: int | None = None


def run(problem: Problem, k: int, engine: Engine, deadline: float) -> Outcome:
    """Solve. Raises SolverLimitError when the time ran out before any point was found.

    Without an objective the engine "auto" searches in the order of the ranking first.
    """
    domains = _domains(problem)
    if domains is None:
        return Outcome((), True, "propagation", 0, 0)
    if not domains:
        return Outcome(({},), True, "propagation", 1, 1)
    if _enumerates(engine, domains):
        if problem.objective is None and engine == "auto":
            ordered = _searched(problem, domains, k, Budget(TRIAL_ROWS, deadline))
            if ordered is not None:
                return ordered
        budget = Budget(_rows(engine, domains), deadline)
        outcome = _decomposed(problem, domains, k, Budget(_rows(engine, domains), deadline))
        outcome = outcome or _enumerated(problem, domains, k, budget)
        if outcome.proven or engine == "enumerate" or budget.expired():
            return _answered(outcome)
    # Imported late: OR-Tools takes a third of a second to import, and most spaces are small.
    from flashc.autotune import cpsat

    points, proven = cpsat.best(problem, domains, k, deadline)
    return Outcome(tuple(points), proven, "cpsat")


def satisfiable(problem: Problem, deadline: float) -> bool:
    """Whether any point satisfies every condition. Raises SolverLimitError at the deadline."""
    domains = _domains(problem)
    if domains is None:
        return False
    if _enumerates("auto", domains):
        budget = Budget(_rows("auto", domains), deadline)
        try:
            return enumerate.satisfiable(problem, domains, budget)
        except BudgetError:
            pass  # too many rows: CP-SAT decides below
    from flashc.autotune import cpsat

    return cpsat.satisfiable(problem, domains, deadline)


def refuted(problem: Problem) -> bool:
    """Whether propagation alone shows that there is no solution; quick, and False promises nothing."""
    return _domains(problem) is None


def _domains(problem: Problem) -> dict[str, Domain] | None:
    """Propagated domains, or None where that already shows that there is no solution."""
    if any(not part.symbols() and not part.holds(problem.tables) for part in problem.constraints):
        return None
    domains = propagate(problem)
    return domains if all(domain.size for domain in domains.values()) else None


def _enumerates(engine: Engine, domains: dict[str, Domain]) -> bool:
    wide = [name for name, domain in domains.items() if domain.values is None]
    if engine == "enumerate" and wide:
        domain = domains[wide[0]]
        raise ConstraintError(
            f"engine 'enumerate' cannot list {wide[0]} in {domain.lo}..{domain.hi}; use 'cpsat'"
        )
    return engine != "cpsat" and not wide


def _rows(engine: Engine, domains: dict[str, Domain]) -> int:
    if engine == "enumerate" or enumerate.space(domains) <= SMALL_SPACE:
        return NO_LIMIT
    return TRIAL_ROWS


def _decomposed(problem: Problem, domains: dict[str, Domain], k: int, budget: Budget) -> Outcome | None:
    """The answer by parts; None where the problem does not fall apart, or its parts are too large."""
    found = decompose.split(problem, domains)
    if found is None:
        return None
    try:
        points, solutions = decompose.best(problem, k, found, domains, budget)
    except BudgetError:
        return None
    return Outcome(points, True, "enumerate", budget.rows_used, solutions)


def _searched(problem: Problem, domains: dict[str, Domain], k: int, budget: Budget) -> Outcome | None:
    """The first k points in order; None where that takes too many rows. Out of time: the best of those seen."""
    found = Best(problem, k)
    try:
        enumerate.first(found, domains, budget)
    except BudgetError:
        seen = found.assignments() if budget.expired() else ()
        return Outcome(seen, False, "search", budget.rows_used) if seen else None
    return Outcome(found.assignments(), True, "search", budget.rows_used)


def _enumerated(problem: Problem, domains: dict[str, Domain], k: int, budget: Budget) -> Outcome:
    found = Best(problem, k)
    try:
        enumerate.collect(found, domains, budget)
        proven = True
    except BudgetError:
        proven = False
    return Outcome(found.assignments(), proven, "enumerate", budget.rows_used, budget.feasible)


def _answered(outcome: Outcome) -> Outcome:
    if not outcome.points and not outcome.proven:
        raise SolverLimitError(
            "the time limit ended the enumeration before a solution; raise it or use 'cpsat'"
        )
    return outcome
