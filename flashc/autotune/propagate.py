"""Domain propagation: values that cannot be part of any solution are removed before the search.

Each domain is cut into pieces (single values where it is listed, stretches where it is a wide interval); a
piece goes when some condition fails on it whatever the other variables are, by bounds or by divisibility. A
condition on one or two listed variables is checked exactly, pair by pair. This repeats until nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashc.autotune.intervals import Range, possible
from flashc.autotune.problem import Condition, Interval, Mask, Problem, Variable
from flashc.ir.intarith import Ints

LIST_LIMIT = 1 << 16
"""Widest interval that is held as a list of values."""
PAIR_LIMIT = 1 << 14
"""Most combinations of two variables that are checked one by one."""
PIECES = 64
MAX_ROUNDS = 24
"""Rounds after which slow convergence (x < y; y < x over a wide interval) is left to the search."""


@dataclass(frozen=True, slots=True)
class Domain:
    """Sorted values, or every integer of lo..hi where ``values`` is None. Empty when ``size`` is 0."""

    lo: int
    hi: int
    values: Ints | None = None

    @property
    def size(self) -> int:
        return self.hi - self.lo + 1 if self.values is None else len(self.values)

    def range(self) -> Range:
        """The whole domain as one range."""
        step = 1 if self.values is None else int(np.gcd.reduce(self.values))
        return Range(np.asarray(self.lo, np.float64), np.asarray(self.hi, np.float64), np.asarray(step))

    def pieces(self) -> tuple[Ints, Ints]:
        """First and last value of each piece: even cuts, and doubling ones since bounds are often small."""
        if self.values is not None:
            return self.values, self.values
        width = self.hi - self.lo + 1
        cuts = {self.lo + width * i // PIECES for i in range(PIECES)}
        cuts |= {self.lo + 2**i for i in range(width.bit_length()) if 2**i < width}
        first = np.array(sorted(cuts), dtype=np.int64)
        return first, np.append(first[1:] - 1, self.hi)


def listed(values: Ints) -> Domain:
    """The domain of these values, which are distinct and in order."""
    return Domain(int(values[0]), int(values[-1]), values) if len(values) else Domain(0, -1, values)


def spread(lo: int, hi: int) -> Domain:
    """An interval, as a list if it is short."""
    return listed(np.arange(lo, hi + 1, dtype=np.int64)) if hi - lo < LIST_LIMIT else Domain(lo, hi)


def start(variable: Variable) -> Domain:
    domain = variable.domain
    if isinstance(domain, Interval):
        return spread(domain.lo, domain.hi)
    return listed(np.array(sorted(set(domain)), dtype=np.int64))


def propagate(problem: Problem) -> dict[str, Domain]:
    """The domains that are left; when one is empty there is no solution, and the others mean nothing.

    Conditions without variables take no part.
    """
    domains = {variable.name: start(variable) for variable in problem.variables}
    queue = sorted(((part, part.symbols()) for part in problem.constraints), key=lambda entry: len(entry[1]))
    pending = [bool(symbols) for _, symbols in queue]
    for _ in range(MAX_ROUNDS * len(queue)):
        if not any(pending):
            break
        turn = pending.index(True)  # conditions on few variables are the cheapest, so they go first
        pending[turn] = False
        changed = _narrow(queue[turn][0], domains, problem.tables)
        if any(domains[name].size == 0 for name in changed):
            break
        pending = [
            waiting or bool(changed & symbols) for waiting, (_, symbols) in zip(pending, queue, strict=True)
        ]
    return domains


def _narrow(condition: Condition, domains: dict[str, Domain], tables: Mapping[str, Any]) -> set[str]:
    """Shrink the domains of the condition's variables in place; the names of those that changed."""
    names = sorted(condition.symbols(), key=lambda name: domains[name].size)
    listed_all = all(domains[name].values is not None for name in names)
    if listed_all and len(names) <= 2 and np.prod([domains[name].size for name in names]) <= PAIR_LIMIT:
        return _narrow_exactly(condition, names, domains, tables)
    pieces = {name: domains[name].pieces() for name in names}
    ends = np.cumsum([len(pieces[name][0]) for name in names]).tolist()
    rows = {name: slice(end - len(pieces[name][0]), end) for name, end in zip(names, ends, strict=True)}
    env = {name: _column(domains[name], pieces[name], rows[name], ends[-1]) for name in names}
    keep = np.broadcast_to(possible(condition, {**env, **tables}), ends[-1:])
    changed = set()
    for name in names:
        kept = _kept(domains[name], pieces[name], keep[rows[name]])
        if kept.size < domains[name].size:
            domains[name] = kept
            changed.add(name)
    return changed


def _column(domain: Domain, pieces: tuple[Ints, Ints], own: slice, length: int) -> Range:
    """A variable in ``length`` cases: one of its pieces in each of its ``own`` cases, all of it elsewhere."""
    whole = domain.range()
    lo, hi, step = (np.full(length, part) for part in whole)
    first, last = pieces
    lo[own], hi[own] = first, last
    step[own] = np.where(first == last, np.abs(first), 1)
    return Range(lo, hi, step)


def _kept(domain: Domain, pieces: tuple[Ints, Ints], keep: Mask) -> Domain:
    """The domain without the pieces that are not kept (those at the ends only where it is an interval)."""
    if keep.all():
        return domain
    first, last = pieces[0][keep], pieces[1][keep]
    if domain.values is not None or not len(first):
        return listed(first)
    return spread(int(first[0]), int(last[-1]))


def _narrow_exactly(
    condition: Condition, names: list[str], domains: dict[str, Domain], tables: Mapping[str, Any]
) -> set[str]:
    """Keep the values of one or two listed variables that occur in some pair that satisfies the condition."""
    values = [np.asarray(domains[name].values) for name in names]
    grid = np.meshgrid(*values, indexing="ij")
    env = {**tables, **dict(zip(names, grid, strict=True))}
    mask = np.broadcast_to(condition.holds_array(env), grid[0].shape)
    changed = set()
    for axis, name in enumerate(names):
        keep = mask.any(axis=tuple(other for other in range(len(names)) if other != axis))
        if not keep.all():
            domains[name] = listed(values[axis][keep])
            changed.add(name)
    return changed
