"""Integer constraint optimisation: named constraints over finite variables, an exact answer and its proof.

The solver knows nothing of kernels. :func:`solve` returns the k best points of a :class:`Problem`, or says
which minimal set of constraints cannot hold together, with both numbers and the knob. In reading order:
problem, language, intervals, propagate, enumerate, cpsat, engines, explain, conflict, solve.
"""

from flashc.autotune.conflict import Conflict, Member, find_conflict
from flashc.autotune.explain import Check, explain, first_violated
from flashc.autotune.language import parse_constraints, parse_problem
from flashc.autotune.problem import (
    AllOf,
    AnyOf,
    Assignment,
    Condition,
    Constraint,
    Interval,
    Problem,
    Variable,
)
from flashc.autotune.propagate import Domain, propagate
from flashc.autotune.solve import Solution, Stats, solve

__all__ = [
    "AllOf",
    "AnyOf",
    "Assignment",
    "Check",
    "Condition",
    "Conflict",
    "Constraint",
    "Domain",
    "Interval",
    "Member",
    "Problem",
    "Solution",
    "Stats",
    "Variable",
    "explain",
    "find_conflict",
    "first_violated",
    "parse_constraints",
    "parse_problem",
    "propagate",
    "solve",
]
