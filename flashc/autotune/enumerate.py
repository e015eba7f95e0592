"""The exact engine: vectorised enumeration, one variable at a time.

Partial assignments are rows of integer columns. After each variable the rows are filtered by every condition
whose symbols are all bound, and by what bounds and divisibility say about the conditions still open. Rows are
expanded a chunk at a time and depth first, so memory stays bounded whatever the size of the product.

``collect`` finds every solution. ``first`` is for problems without an objective: it goes through the values in
the order that ranks the solutions and drops partial rows that come after those it has (branch and bound).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import log2, prod

import numpy as np

from flashc.autotune.intervals import Range, fixed, possible
from flashc.autotune.problem import Assignment, Condition, Constraint, Problem
from flashc.autotune.propagate import Domain
from flashc.ir.intarith import Ints
from flashc.ir.intexpr import IntExpr, Item, Sum

CHUNK = 1 << 16
"""Rows expanded at a time."""
FIRST_CHUNK = 1 << 10
"""The same at the start of a search that ends at the first solutions."""
Rows = dict[str, Ints]
Open = Mapping[Condition, frozenset[str]]
"""The variables of each condition that are not bound yet."""


class BudgetError(Exception):
    """The enumeration was given up: too many rows, or out of time. Never leaves the solver."""


@dataclass(slots=True)
class Budget:
    """Rows and seconds that an enumeration may use; ``rows_used`` counts every row that was expanded."""

    rows: int
    deadline: float
    rows_used: int = 0
    feasible: int = 0

    def spend(self, rows: int) -> None:
        self.rows_used += rows
        if self.rows_used > self.rows or self.expired():
            raise BudgetError

    def expired(self) -> bool:
        return time.monotonic() > self.deadline


@dataclass(frozen=True, slots=True)
class Step:
    """One level of the search: bind ``name``, then filter."""

    name: str
    complete: tuple[Condition, ...]
    partial: tuple[Condition, ...]


@dataclass(slots=True)
class Best:
    """The ``k`` best complete rows seen so far, as columns in rank order (rank: objective, then ``keys``)."""

    problem: Problem
    k: int
    rows: Rows = field(default_factory=dict)
    objective: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    waiting: list[Rows] = field(default_factory=list)

    def offer(self, rows: Rows) -> None:
        """Take complete rows; they are ranked once a chunk of them has come together."""
        self.count(rows)
        self.waiting.append(rows)
        if sum(map(_count, self.waiting)) >= CHUNK:
            self.rank()

    def rank(self) -> None:
        if not self.waiting:
            return
        names = self.problem.names
        rows = {name: np.concatenate([part[name] for part in self.waiting]) for name in names}
        self.waiting.clear()
        cost = np.zeros(_count(rows), dtype=np.int64)
        if self.problem.objective is not None:
            env = {**self.problem.tables, **rows}
            cost = np.broadcast_to(self.problem.objective.evaluate_array(env), cost.shape)
        merged = {name: np.concatenate([self.rows.get(name, rows[name][:0]), rows[name]]) for name in names}
        costs = np.concatenate([self.objective, cost])
        keys = [direction * merged[name] for name, direction in reversed(self.problem.ranking())]
        order = self.kept(merged, np.lexsort([*keys, costs]))
        self.rows = {name: column[order] for name, column in merged.items()}
        self.objective = costs[order]

    def count(self, rows: Rows) -> None:
        """Take note of complete rows that are offered."""

    def promising(self, rows: Rows) -> Rows:
        """The partial rows that do not come after the k solutions known so far; there is no objective."""
        if not rows or len(self.objective) < self.k:
            return rows
        before = np.zeros(_count(rows), dtype=np.bool_)
        equal = ~before
        for name, direction in self.problem.ranking():
            if name not in rows:
                break
            column, last = direction * rows[name], direction * self.rows[name][-1]
            before |= equal & (column < last)
            equal &= column == last
        return _kept(rows, before | equal)

    def kept(self, rows: Rows, order: Ints) -> Ints:
        """Which of the rows to keep, given their numbers in rank order."""
        return np.asarray(order[: self.k])

    def assignments(self) -> tuple[Assignment, ...]:
        """The best rows in order."""
        self.rank()
        numbers = range(len(self.objective))
        return tuple({name: int(column[row]) for name, column in self.rows.items()} for row in numbers)


def listable(domains: dict[str, Domain]) -> bool:
    return all(domain.values is not None for domain in domains.values())


def space(domains: dict[str, Domain]) -> float:
    """The number of points in the product of the domains."""
    return prod(float(domain.size) for domain in domains.values())


def collect(found: Best, domains: dict[str, Domain], budget: Budget) -> None:
    """Offer every solution to ``found``. Raises BudgetError; every domain must be listed and not empty."""
    for rows in _solutions(found.problem, plan(found.problem, domains), domains, budget, CHUNK):
        budget.feasible += _count(rows)
        found.offer(rows)


def first(found: Best, domains: dict[str, Domain], budget: Budget) -> None:
    """Offer the first k solutions of a problem without objective, and few others; see ``collect``."""
    steps = plan_in_order(found.problem, domains)
    for rows in _solutions(found.problem, steps, domains, budget, FIRST_CHUNK, found.promising):
        found.offer(rows)
        found.rank()


def satisfiable(problem: Problem, domains: dict[str, Domain], budget: Budget) -> bool:
    """Whether any point satisfies every condition; it stops at the first. Raises BudgetError."""
    found = _solutions(problem, plan(problem, domains), domains, budget, FIRST_CHUNK)
    return next(found, None) is not None


def _solutions(
    problem: Problem,
    steps: tuple[Step, ...],
    domains: dict[str, Domain],
    budget: Budget,
    chunk: int,
    promising: Callable[[Rows], Rows] = lambda rows: rows,
) -> Iterator[Rows]:
    """Complete rows that satisfy every condition, some at a time; all of them but what ``promising`` drops.

    Values are tried in ranking order. Chunks grow from ``chunk`` rows to as many as were looked at so far, so
    that an early end wastes little.
    """
    ranges = {name: domain.range() for name, domain in domains.items()}
    values = {name: np.asarray(domains[name].values)[::direction] for name, direction in problem.ranking()}

    def descend(level: int, rows: Rows) -> Iterator[Rows]:
        if level == len(steps):
            yield rows
            return
        step = steps[level]
        size = min(CHUNK, max(chunk, budget.rows_used))
        for piece in _slices(rows, max(1, size // len(values[step.name]))):
            grown = _bind(promising(piece), step.name, values[step.name])
            budget.spend(_count(grown))
            kept = _filter(problem, step, grown, ranges)
            if _count(kept):
                yield from descend(level + 1, kept)

    yield from descend(0, {})


def plan(problem: Problem, domains: dict[str, Domain]) -> tuple[Step, ...]:
    """Cheapest first: next is the variable that adds fewest rows per condition that it completes."""

    def choose(left: list[str], waiting: Open) -> str:
        return min(left, key=lambda name: _cost(domains[name], name, waiting.values()))

    return _steps(problem, domains, list(problem.names), choose)


def plan_in_order(problem: Problem, domains: dict[str, Domain]) -> tuple[Step, ...]:
    """The order of the ranking, but a variable that an equality determines goes as soon as it does."""

    def choose(left: list[str], waiting: Open) -> str:
        equal = [n for part, n in waiting.items() if isinstance(part, Constraint) and part.op == "=="]
        determined = [name for name in left if domains[name].size == 1 or frozenset({name}) in equal]
        return (determined or left)[0]

    return _steps(problem, domains, [name for name, _ in problem.ranking()], choose)


def _steps(
    problem: Problem, domains: dict[str, Domain], left: list[str], choose: Callable[[list[str], Open], str]
) -> tuple[Step, ...]:
    """Steps for the variables ``left``, in the order that ``choose`` gives. A lone value rules out nothing."""
    waiting = {part: part.symbols() for part in problem.constraints}
    steps: list[Step] = []
    while left:
        name = choose(left, waiting)
        left.remove(name)
        touched = [part for part, names in waiting.items() if name in names]
        waiting = {part: names - {name} for part, names in waiting.items()}
        complete = tuple(part for part in touched if not waiting[part])
        partial = tuple(part for part in touched if waiting[part] and not _costly(part))
        steps.append(Step(name, complete, partial if domains[name].size > 1 else ()))
    return tuple(steps)


def _cost(domain: Domain, name: str, open_names: Iterable[frozenset[str]]) -> float:
    """Bits that binding ``name`` adds, less two for a condition that it completes, and a part for others."""
    gains = (2.0 if len(names) == 1 else 1.0 / len(names) for names in open_names if name in names)
    return log2(max(1, domain.size)) - sum(gains)


def _costly(condition: Condition) -> bool:
    return any(_has_sum(expr) for expr in condition.expressions())


def _has_sum(expr: IntExpr) -> bool:
    return isinstance(expr, (Sum, Item)) or any(_has_sum(child) for child in expr.children())


def _count(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def _slices(rows: Rows, size: int) -> list[Rows]:
    if not rows:
        return [rows]
    starts = range(0, _count(rows), size)
    return [{name: column[start : start + size] for name, column in rows.items()} for start in starts]


def _bind(rows: Rows, name: str, values: Ints) -> Rows:
    """Every row with every value of ``name``."""
    if not rows:
        return {name: values}
    grown = {other: np.repeat(column, len(values)) for other, column in rows.items()}
    return {**grown, name: np.tile(values, _count(rows))}


def _filter(problem: Problem, step: Step, rows: Rows, ranges: dict[str, Range]) -> Rows:
    for part in step.complete:
        rows = _kept(rows, part.holds_array({**problem.tables, **rows}))
    for part in step.partial:
        known = {name: fixed(rows[name]) for name in part.symbols() if name in rows}
        rows = _kept(rows, possible(part, {**problem.tables, **ranges, **known}))
    return rows


def _kept(rows: Rows, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Rows:
    if mask.all():
        return rows
    if mask.ndim == 0:
        return {name: column[:0] for name, column in rows.items()}
    return {name: column[mask] for name, column in rows.items()}
