"""The engine for large spaces: the problem translated for OR-Tools CP-SAT, one worker and a fixed seed.

A subexpression that is not linear and depends on few values becomes a table of all its values; sums and table
elements always do. Other products, quotients, minima and maxima become CP-SAT's own constraints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from flashc.autotune.problem import AllOf, AnyOf, Assignment, Condition, Constraint, Problem
from flashc.autotune.propagate import Domain
from flashc.errors import ConstraintError, IntegerOverflowError, SolverLimitError
from flashc.ir.intexpr import Add, CeilDiv, Const, FloorDiv, IntExpr, Item, Max, Min, Mod, Mul, Sum, Sym
from flashc.ir.let import Let

LIMIT = 2**60
"""Largest magnitude of any term: CP-SAT adds such terms in int64."""
SMALL_TABLE = 1 << 10
LARGE_TABLE = 1 << 17
"""Most rows of a table, where another form exists and where none does."""
PACK_LIMIT = 2**40
NO_TIME_LIMIT = 1e6
TIMED_OUT = "the time limit ended CP-SAT before an answer; raise it or narrow the domains"


class Term(NamedTuple):
    """A linear expression of the model, and bounds of its value."""

    value: Any
    lo: int
    hi: int


class Encoder:
    """Builds the model: a variable per problem variable, every condition posted."""

    def __init__(self, problem: Problem, domains: dict[str, Domain]) -> None:
        self.problem = problem
        self.domains = domains
        self.model = cp_model.CpModel()
        self.variables = {
            name: self.model.new_int_var_from_domain(_cp_domain(domain), name)
            for name, domain in domains.items()
        }
        self.terms: dict[IntExpr, Term] = {}
        self.named: dict[str, Term] = {}
        for condition in problem.constraints:
            self.post(condition, None)

    def post(self, condition: Condition, literal: Any) -> None:
        """Require the condition, under ``literal`` if there is one."""
        if isinstance(condition, AllOf):
            for part in condition.conditions:
                self.post(part, literal)
        elif isinstance(condition, AnyOf):
            branches = [self.model.new_bool_var("") for _ in condition.conditions]
            for part, branch in zip(condition.conditions, branches, strict=True):
                self.post(part, branch)
            self._require(self.model.add_bool_or(branches), literal)
        elif isinstance(condition, Constraint):
            self._post_constraint(condition, literal)

    def _post_constraint(self, condition: Constraint, literal: Any) -> None:
        if not condition.symbols():
            holds = condition.holds(self.problem.tables)
            self._require(self.model.add_bool_or([self.model.new_constant(int(holds))]), literal)
            return
        if condition.op == "%==0":
            self._require(self.model.add(self.term(condition.left % condition.right).value == 0), literal)
            return
        left, right = self.term(condition.left).value, self.term(condition.right).value
        relation = left <= right if condition.op == "<=" else left == right
        self._require(self.model.add(left != right if condition.op == "!=" else relation), literal)

    def _require(self, constraint: Any, literal: Any) -> None:
        if literal is not None:
            constraint.only_enforce_if(literal)

    def term(self, expr: IntExpr) -> Term:
        if expr not in self.terms:
            self.terms[expr] = _checked(self._encode(expr))
        return self.terms[expr]

    def _encode(self, expr: IntExpr) -> Term:
        if isinstance(expr, Const):
            return Term(expr.value, expr.value, expr.value)
        if isinstance(expr, Let):
            self.named[expr.name] = self.term(expr.value)
            return self.term(expr.body)
        if isinstance(expr, Sym) and expr.name in self.named:
            return self.named[expr.name]
        if isinstance(expr, Sym):
            domain = self.domains[expr.name]
            return Term(self.variables[expr.name], domain.lo, domain.hi)
        if isinstance(expr, Add):
            parts = [self.term(arg) for arg in expr.args]
            return Term(sum(p.value for p in parts), sum(p.lo for p in parts), sum(p.hi for p in parts))
        if isinstance(expr, Mul) and isinstance(expr.args[0], Const) and len(expr.args) == 2:
            return _scaled(self.term(expr.args[1]), expr.args[0].value)
        found = [self.domains.get(name) for name in expr.symbols()]  # None for a named value
        rows = prod(LARGE_TABLE if domain is None else domain.size for domain in found)
        listed = all(domain is not None and domain.values is not None for domain in found)
        if listed and rows <= SMALL_TABLE:
            return self._table(expr)
        if isinstance(expr, (Sum, Item)):
            if not listed or rows > LARGE_TABLE:
                fix = "narrow the domains or use engine='enumerate'"
                raise ConstraintError(
                    f"CP-SAT needs a table of {rows} rows for {expr}, over {LARGE_TABLE}; {fix}"
                )
            return self._table(expr)
        return _ENCODERS[type(expr)](self, expr)

    def _table(self, expr: IntExpr) -> Term:
        """A variable tied to ``expr`` by listing its value for every combination of its symbols."""
        names = sorted(expr.symbols())
        grid = np.meshgrid(*(np.asarray(self.domains[name].values) for name in names), indexing="ij")
        columns = [axis.ravel() for axis in grid]
        env = {**self.problem.tables, **dict(zip(names, columns, strict=True))}
        values = np.broadcast_to(expr.evaluate_array(env), columns[0].shape if columns else (1,))
        result = self._fresh(int(values.min()), int(values.max()))
        rows = np.column_stack([*columns, values]).tolist()
        self.model.add_allowed_assignments([*(self.variables[name] for name in names), result.value], rows)
        return result

    def _fresh(self, lo: int, hi: int) -> Term:
        _checked(Term(None, lo, hi))
        return Term(self.model.new_int_var(lo, hi, ""), lo, hi)

    def product(self, a: Term, b: Term) -> Term:
        if a.lo == a.hi or b.lo == b.hi:
            return _scaled(a, b.lo) if b.lo == b.hi else _scaled(b, a.lo)
        ends = [x * y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
        result = self._fresh(min(ends), max(ends))
        self.model.add_multiplication_equality(result.value, [a.value, b.value])
        return result

    def multiply(self, expr: Mul) -> Term:
        result = self.term(expr.args[0])
        for factor in expr.args[1:]:
            result = self.product(result, self.term(factor))
        return result

    def divide(self, expr: FloorDiv | Mod) -> tuple[Term, Term]:
        """Quotient and remainder: num = quotient * den + remainder with 0 <= remainder < den."""
        num, den = self.term(expr.num), self.term(expr.den)
        if den.lo <= 0:
            raise ConstraintError(f"the divisor of {expr} can be {den.lo}; CP-SAT needs divisors above 0")
        ends = [x // y for x in (num.lo, num.hi) for y in (den.lo, den.hi)]
        quotient, remainder = self._fresh(min(ends), max(ends)), self._fresh(0, den.hi - 1)
        self.model.add(num.value == self.product(quotient, den).value + remainder.value)
        self.model.add(remainder.value <= den.value - 1)
        return quotient, remainder

    def extreme(self, expr: Min | Max) -> Term:
        choose: Callable[..., int] = min if isinstance(expr, Min) else max
        parts = [self.term(arg) for arg in expr.args]
        result = self._fresh(choose(part.lo for part in parts), choose(part.hi for part in parts))
        tie = self.model.add_min_equality if isinstance(expr, Min) else self.model.add_max_equality
        tie(result.value, [part.value for part in parts])
        return result


_ENCODERS: dict[type[IntExpr], Callable[[Encoder, Any], Term]] = {
    Mul: Encoder.multiply,
    FloorDiv: lambda encoder, expr: encoder.divide(expr)[0],
    CeilDiv: lambda encoder, expr: _scaled(encoder.divide(FloorDiv(-expr.num, expr.den))[0], -1),
    Mod: lambda encoder, expr: encoder.divide(expr)[1],
    Min: Encoder.extreme,
    Max: Encoder.extreme,
}


def _checked(term: Term) -> Term:
    reach = max(abs(term.lo), abs(term.hi))
    if reach > LIMIT:
        raise IntegerOverflowError(
            f"a term can reach {reach}, beyond 2^60; use a coarser unit or narrower domains"
        )
    return term


def _scaled(term: Term, factor: int) -> Term:
    ends = (term.lo * factor, term.hi * factor)
    return Term(term.value * factor, min(ends), max(ends))


def _cp_domain(domain: Domain) -> cp_model.Domain:
    if domain.values is None:
        return cp_model.Domain(domain.lo, domain.hi)
    return cp_model.Domain.from_values(domain.values.tolist())


def satisfiable(problem: Problem, domains: dict[str, Domain], deadline: float) -> bool:
    """Whether any point satisfies every condition. Raises SolverLimitError at the deadline."""
    point, proven = _minimise(Encoder(problem, domains), None, deadline)
    if point is None and not proven:
        raise SolverLimitError(TIMED_OUT)
    return point is not None


def best(
    problem: Problem, domains: dict[str, Domain], k: int, deadline: float
) -> tuple[list[Assignment], bool]:
    """Up to k best points in order, and whether that is proven (False when the time ran out).

    Raises SolverLimitError when the time ran out before any point was found.
    """
    found: list[Assignment] = []
    while len(found) < k:
        point, proven = _next_best(problem, domains, found, deadline)
        if point is not None:
            found.append(point)
        if not proven and not found:
            raise SolverLimitError(TIMED_OUT)
        if point is None or not proven:
            return found, proven
    return found, True


def _next_best(
    problem: Problem, domains: dict[str, Domain], excluded: list[Assignment], deadline: float
) -> tuple[Assignment | None, bool]:
    """The best point that is not excluded, and whether it is proven.

    The objective is minimised first, and held at its least value while ties are broken.
    """
    encoder = Encoder(problem, domains)
    if excluded:
        rows = [tuple(point[name] for name in domains) for point in excluded]
        encoder.model.add_forbidden_assignments(list(encoder.variables.values()), rows)
    goals = [encoder.term(problem.objective).value] if problem.objective is not None else []
    best_so_far: Assignment | None = None
    for goal in goals + _packed_ranking(encoder):
        point, proven = _minimise(encoder, goal, deadline)
        if point is None or not proven:
            return point or best_so_far, proven
        best_so_far = point
    return best_so_far, True


def _packed_ranking(encoder: Encoder) -> list[Any]:
    """Few goals that order like the variables of the ranking one after another (mixed radix)."""
    goals: list[Any] = []
    goal: Any = 0
    radix = 1
    for name, direction in encoder.problem.ranking():
        domain = encoder.domains[name]
        width = domain.hi - domain.lo + 1
        if radix * width > PACK_LIMIT and radix > 1:
            goals.append(goal)
            goal, radix = 0, 1
        goal, radix = goal * width + direction * encoder.variables[name], radix * width
    return [*goals, goal]


def _minimise(encoder: Encoder, goal: Any, deadline: float) -> tuple[Assignment | None, bool]:
    """The point of least ``goal``, which is then held at that value, and whether it is proven.

    No point and True: there is none. No point and False: the time ran out before any was found.
    """
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        return None, False
    model = encoder.model
    free = goal is None or isinstance(goal, int)
    if not free:
        model.minimize(goal)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = min(remaining, NO_TIME_LIMIT)
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return None, True
    if status == cp_model.MODEL_INVALID:
        raise ConstraintError(f"CP-SAT refuses the model: {model.validate()}")
    if status == cp_model.UNKNOWN:
        return None, False
    if not free:
        model.add(goal <= solver.value(goal))
    model.clear_hints()
    for variable in encoder.variables.values():
        model.add_hint(variable, solver.value(variable))
    point = {name: solver.value(variable) for name, variable in encoder.variables.items()}
    return point, status == cp_model.OPTIMAL
