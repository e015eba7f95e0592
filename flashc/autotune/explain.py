"""The numbers of each condition at a point: what it needs, its limit, whether it holds, and the knob."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashc.autotune.problem import AllOf, Assignment, Condition, Constraint, Op, Problem
from flashc.errors import ConstraintError


@dataclass(frozen=True, slots=True)
class Check:
    """One condition at one point. ``slack`` is what is left (``<=``), or minus how far it is from holding.

    A disjunction shows the numbers of the branch that comes nearest to holding.
    """

    name: str
    holds: bool
    op: Op
    needs: int
    limit: int
    slack: int
    unit: str = ""
    knob: str = ""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        words = {
            "<=": f"needs {self.needs}{unit}, limit {self.limit}{unit}",
            "==": f"is {self.needs}{unit}, must equal {self.limit}{unit}",
            "!=": f"is {self.needs}{unit}, must differ from {self.limit}{unit}",
            "%==0": f"is {self.needs}{unit}, must be a multiple of {self.limit}{unit}",
        }
        return f"{self.name}: {words[self.op]}" + (f"; {self.knob}" if self.knob else "")


def explain(problem: Problem, assignment: Assignment) -> tuple[Check, ...]:
    """Every condition at ``assignment``, in the problem's order.

    Raises ConstraintError when a variable is missing or has a value outside its domain.
    """
    for variable in problem.variables:
        if variable.name not in assignment:
            raise ConstraintError(f"the assignment has no value for {variable.name}")
        if not variable.allows(assignment[variable.name]):
            raise ConstraintError(f"{variable.name} = {assignment[variable.name]} is outside its domain")
    env = {**problem.tables, **assignment}
    return tuple(check(part, env) for part in problem.constraints)


def first_violated(problem: Problem, assignment: Assignment) -> Check | None:
    """The first condition that fails at ``assignment``, or None. Raises what :func:`explain` raises."""
    return next((found for found in explain(problem, assignment) if not found.holds), None)


def check(condition: Condition, env: Mapping[str, Any]) -> Check:
    """One condition where ``env`` gives every symbol and table."""
    if isinstance(condition, Constraint):
        return _check_constraint(condition, env)
    parts = [check(part, env) for part in condition.conditions]
    order = sorted(range(len(parts)), key=lambda i: condition.conditions[i].violation().evaluate(env))
    shown = parts[order[-1 if isinstance(condition, AllOf) else 0]]
    name = f"{condition.name} ({shown.name})" if shown.name != condition.name else condition.name
    knob = condition.knob or shown.knob
    return Check(
        name, condition.holds(env), shown.op, shown.needs, shown.limit, shown.slack, shown.unit, knob
    )


def _check_constraint(condition: Constraint, env: Mapping[str, Any]) -> Check:
    needs, limit = condition.left.evaluate(env), condition.right.evaluate(env)
    holds = condition.holds(env)
    slack = limit - needs if condition.op == "<=" else -condition.violation().evaluate(env)
    return Check(condition.name, holds, condition.op, needs, limit, slack, condition.unit, condition.knob)
