"""Splitting a problem whose parts share few variables: each part is enumerated alone, then the best are
joined.

Two kernels of one program are such parts: tile sizes of their own, a number of warps in common. With the
shared variables fixed, an objective that is a sum over the parts is least where each part is least, so the
k best points are among the combinations of the k best of every part. That holds for equal objectives too:
the order among them is lexicographic, hence the same within a part whatever the others are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

import numpy as np

from flashc.autotune.enumerate import Best, Budget, Rows, collect
from flashc.autotune.problem import Assignment, Problem
from flashc.autotune.propagate import Domain
from flashc.ir.intarith import Ints, distinct_rows
from flashc.ir.intexpr import Add, IntExpr, add

SHARED_LIMIT = 1 << 12
"""Most combinations of the shared variables."""
Group = tuple[int, ...]


@dataclass(slots=True)
class BestPerGroup(Best):
    """The k best rows for every combination of the variables in ``group``, and how many rows each had."""

    group: tuple[str, ...] = ()
    counts: dict[Group, int] = field(default_factory=dict)

    def count(self, rows: Rows) -> None:
        if not self.group:
            self.counts[()] = self.counts.get((), 0) + len(next(iter(rows.values())))
            return
        columns = [rows[name] for name in self.group]
        first, inverse = distinct_rows(columns)
        for row, number in zip(first, np.bincount(inverse), strict=True):
            key = tuple(int(column[row]) for column in columns)
            self.counts[key] = self.counts.get(key, 0) + int(number)

    def kept(self, rows: Rows, order: Ints) -> Ints:
        """Of rows in rank order, the first k of every group."""
        if not self.group:
            return Best.kept(self, rows, order)
        _, code = distinct_rows([rows[name][order] for name in self.group])
        by_group = np.argsort(code, kind="stable")
        starts = np.flatnonzero(np.diff(code[by_group], prepend=-1))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        return np.asarray(order[np.sort(by_group[rank < self.k])])


@dataclass(frozen=True, slots=True)
class Split:
    """Two or more parts that together are the problem, and the variables they share."""

    shared: tuple[str, ...]
    parts: tuple[Problem, ...]


def split(problem: Problem, domains: dict[str, Domain]) -> Split | None:
    """None where the problem does not fall apart."""
    terms = problem.objective.args if isinstance(problem.objective, Add) else ()
    scopes = [term.symbols() for term in terms]
    shared = frozenset(n for i, a in enumerate(scopes) for b in scopes[i + 1 :] for n in a & b)
    if len(terms) < 2 or prod(domains[name].size for name in shared) > SHARED_LIMIT:
        return None
    scopes += [condition.symbols() for condition in problem.constraints]
    owners = _components([scope - shared for scope in scopes], set(problem.names) - shared)
    if len(owners) < 2:
        return None
    inside = [shared | own for own in owners]
    goals = _goals(terms, inside)
    found = [_restricted(problem, names, goal) for names, goal in zip(inside, goals, strict=True)]
    return Split(tuple(n for n in problem.names if n in shared), tuple(found))


def best(
    problem: Problem, k: int, found: Split, domains: dict[str, Domain], budget: Budget
) -> tuple[tuple[Assignment, ...], int]:
    """The k best points in order, and the number of solutions. Raises BudgetError."""
    tables = []
    for part in found.parts:
        table = BestPerGroup(part, k, group=found.shared)
        collect(table, {name: domains[name] for name in part.names}, budget)
        table.rank()
        tables.append(table)
    joined = list(_joined(found.shared, tables))
    joined.sort(key=lambda entry: (entry[0], [sign * entry[1][name] for name, sign in problem.ranking()]))
    groups = set(tables[0].counts).intersection(*(table.counts for table in tables[1:]))
    solutions = sum(prod(table.counts[group] for table in tables) for group in groups)
    return tuple(point for _, point in joined[:k]), solutions


def _joined(
    shared: tuple[str, ...], tables: Sequence[BestPerGroup]
) -> Iterator[tuple[int, Assignment]]:
    """Every combination of the parts' kept rows that agree on the shared variables, with its objective."""
    lists: list[dict[Group, list[tuple[int, Assignment]]]] = []
    for table in tables:
        rows: dict[Group, list[tuple[int, Assignment]]] = {}
        for cost, point in zip(table.objective.tolist(), table.assignments(), strict=True):
            rows.setdefault(tuple(point[name] for name in shared), []).append((cost, point))
        lists.append(rows)
    for group in lists[0]:
        for chosen in product(*(rows.get(group, ()) for rows in lists)):
            merged = {name: value for _, point in chosen for name, value in point.items()}
            yield sum(cost for cost, _ in chosen), merged


def _components(scopes: Sequence[frozenset[str]], names: set[str]) -> list[frozenset[str]]:
    """Sets of names that no scope connects."""
    left = {name: {name} for name in names}
    for scope in scopes:
        merged = set().union(*(left[name] for name in scope)) if scope else set()
        left.update(dict.fromkeys(merged, merged))
    return [frozenset(c) for c in {id(c): c for c in left.values()}.values()]


def _goals(terms: Sequence[IntExpr], inside: Sequence[frozenset[str]]) -> list[IntExpr]:
    """The objective's terms by part; one on shared variables only goes to the first."""
    goals: list[list[IntExpr]] = [[] for _ in inside]
    for term in terms:
        goals[next(n for n, names in enumerate(inside) if term.symbols() <= names)].append(term)
    return [add(*goal) for goal in goals]


def _restricted(problem: Problem, names: frozenset[str], goal: IntExpr) -> Problem:
    """The problem over some of its variables, with the conditions on those alone."""
    return Problem(
        variables=tuple(v for v in problem.variables if v.name in names),
        constraints=tuple(c for c in problem.constraints if c.symbols() <= names),
        objective=goal,
        tie_break=tuple((name, rule) for name, rule in problem.tie_break if name in names),
        tables=problem.tables,
    )
