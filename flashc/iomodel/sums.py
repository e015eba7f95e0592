"""The sum rule: bounds of several statements with the same sigma add up, for they divide the items of a block.

A block of X bytes gives X_n to statement n. chi_n(Y) = kappa_n Y^sigma is convex with chi_n(0) = 0, so the parts of the
block satisfy sum over n of work_n / chi_n(X) <= 1, and loads >= (X - M) sum over n of |V_n| / chi_n(X). An item that
several statements use breaks the division. Three ways out, for statements that are connected by shared values; in all
of them y_v is the share of X that value v takes, and work_n / chi_n(X) = prod_v (sigma y_v / s_v)^s_v:

- pairs: three values with exponent 1/2 in each statement, one of them, u_n, in no other statement. The other two are an
  edge of a graph, no edge twice, and the graph has two sides. With the Cauchy inequality,
  sum sqrt(u_n y_v y_w) <= sqrt(sum u_n) sqrt(sum y_v y_w) <= sqrt(sum u_n) (sum over v of y_v) / 2 <= (1/3)^(3/2):
  the division holds with every item counted once. Chains of products and attention are of this kind.
- common: a value that every statement of the group uses with one exponent, the other exponents of each statement adding
  up to at least 1: the common value counts once (Hoelder's inequality), any other shared value is divided.
- divided: each of the m users of a value gets items of 1/m of their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from flashc.iomodel.bound import Json, listed
from flashc.iomodel.capacity import Capacity, capacity
from flashc.iomodel.derive import Part, parts
from flashc.iomodel.statements import Cascade
from flashc.iomodel.values import readings

HALF = Fraction(1, 2)
Group = list[Part]


def sum_bounds(cascade: Cascade) -> Iterator[Capacity]:
    """One bound per sigma > 1 that at least two statements have, and per reading of the values."""
    found: list[Capacity] = []
    for joined in readings(cascade):
        whole = [next(parts(s, cascade, joined), None) for s in cascade.statements]
        covering = [p for p in whole if p is not None and not p.uncovered and p.sigma > 1]
        for sigma in sorted({p.sigma for p in covering}):
            chosen = [p for p in covering if p.sigma == sigma]
            divisions = [_divided(g) for g in _connected(chosen)]
            together = tuple(p for members, _ in divisions for p in members)
            rule = "sum " + listed([p.statement.name for p in together], " + ")
            groups = tuple(group for _, group in divisions)
            bound = capacity(cascade, joined, rule, together, groups) if len(chosen) > 1 else None
            if bound is not None and not any(b.same_as(bound) for b in found):
                found.append(bound)
    yield from found


def _connected(chosen: Sequence[Part]) -> list[Group]:
    """Groups that share no value with each other."""
    found: list[Group] = []
    for part in chosen:
        touching = [g for g in found if any(set(part.budgets()) & set(p.budgets()) for p in g)]
        merged = [p for g in touching for p in g] + [part]
        found = [g for g in found if g not in touching] + [merged]
    return found


def _divided(group: Group) -> tuple[Group, Json]:
    """The group's inequalities with the width of shared items divided where needed, and how that was done."""
    names = [p.statement.name for p in group]
    own = _own_values(group)
    sides = _two_sides([set(p.budgets()) - {u} for p, u in zip(group, own, strict=True)]) if own else None
    if sides is not None:
        return group, {"way": "pairs", "statements": names, "own": own, "sides": sides}
    users = {v: sum(v in p.budgets() for p in group) for p in group for v in p.budgets()}
    common = _common(group)
    divisors = {v: count for v, count in users.items() if count > 1 and v not in common}
    narrowed = [
        replace(p, shares=tuple(replace(s, width=s.width / divisors.get(s.budget, 1)) for s in p.shares)) for p in group
    ]
    way = "common" if common else "divided"
    return narrowed, {"way": way, "statements": names, "common": sorted(common), "divisors": divisors}


def _own_values(group: Group) -> list[str]:
    """For every statement a value that no other one has; empty where some statement has none or another shape."""
    if any(sorted(s for _, s in p.budgets().values()) != [HALF] * 3 for p in group):
        return []
    lists = [[v for v in p.budgets() if not any(v in o.budgets() for o in group if o is not p)] for p in group]
    return [values[0] for values in lists] if all(lists) else []


def _two_sides(edges: list[set[str]]) -> dict[str, int] | None:
    """A side, 0 or 1, for every value so that each edge joins both; None where an edge is repeated or that fails."""
    if any(edges.count(e) > 1 for e in edges):
        return None
    sides: dict[str, int] = {}
    for start in sorted({v for e in edges for v in e}):
        pending = [start] if start not in sides else []
        sides.setdefault(start, 0)
        while pending:
            value = pending.pop()
            for other in (w for e in edges if value in e for w in e - {value}):
                if other not in sides:
                    pending.append(other)
                if sides.setdefault(other, 1 - sides[value]) == sides[value]:
                    return None
    return sides


def _common(group: Group) -> set[str]:
    """Values that may count once for the whole group."""
    if len(group) == 1:
        return set(group[0].budgets())
    first, *others = (p.budgets() for p in group)
    same = {name for name, (_, s) in first.items() if all(name in o and o[name][1] == s for o in others)}
    rest = group[0].sigma - sum((first[name][1] for name in same), Fraction(0))
    return same if rest >= 1 else set()
