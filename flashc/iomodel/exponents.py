"""Exponents of the inequality |E| <= prod_j t_j^s_j, exactly: vertices of the covering polytope and a choice among
them.

Loomis & Whitney 1949 and, in general, Christ, Demmel, Knight, Scanlon, Yelick 2013: a set E of iteration points whose
projection onto the indices A_j has t_j elements obeys the inequality whenever every index i is covered,
sum over {j: i in A_j} of s_j >= 1. An index that is not covered costs the factor N_i^(1 - covered): its projection onto
itself alone has at most N_i values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations

Row = frozenset[int]
Point = tuple[Fraction, ...]
Corners = Sequence[Sequence[float]]
Cost = Callable[[Sequence[float]], float]
ZERO, ONE = Fraction(0), Fraction(1)
DENOMINATORS = (12, 60, 1000)
STEPS = 200


def vertices(rows: Iterable[Row], unknowns: int) -> list[Point]:
    """All points with s >= 0 where ``unknowns`` independent planes of {covered(row) = 1} and {s_j = 0} meet."""
    planes = [([ONE if j in row else ZERO for j in range(unknowns)], ONE) for row in sorted(set(rows), key=sorted)]
    planes += [([ONE if j == at else ZERO for j in range(unknowns)], ZERO) for at in range(unknowns)]
    met = (_meet(chosen, unknowns) for chosen in combinations(planes, unknowns))
    return list(dict.fromkeys(p for p in met if p is not None and min(p, default=ZERO) >= 0))


def _meet(planes: Sequence[tuple[list[Fraction], Fraction]], unknowns: int) -> Point | None:
    """The one point on all planes, by elimination; None where they are dependent."""
    table = [[*left, right] for left, right in planes]
    for column in range(unknowns):
        pivot = next((r for r in range(column, unknowns) if table[r][column] != 0), None)
        if pivot is None:
            return None
        table[column], table[pivot] = table[pivot], table[column]
        lead = table[column][column]
        table[column] = [x / lead for x in table[column]]
        for r in range(unknowns):
            if r != column and table[r][column] != 0:
                factor = table[r][column]
                table[r] = [x - factor * y for x, y in zip(table[r], table[column], strict=True)]
    return tuple(row[-1] for row in table)


def covered(point: Point, row: Row) -> Fraction:
    return sum((point[j] for j in row), ZERO)


def candidates(rows: Sequence[Row], unknowns: int, cost: Cost) -> Iterator[Point]:
    """The best exponents for covering every row first, then for every smaller set of rows that lowers the sum.

    "Best" is the least sum (the least power of the fast memory's size), then the least ``cost``, a convex function. A
    sum of 1 gives no more than compulsory traffic (weighted means), so it is kept for covering everything only.
    """
    distinct = sorted(set(rows), key=sorted)
    corners = vertices(distinct, unknowns)
    least: Fraction | None = None
    for left_out in range(len(distinct) + 1):
        for kept in combinations(distinct, len(distinct) - left_out):
            feasible = [p for p in corners if all(covered(p, row) >= 1 for row in kept)]
            lowest = min((sum(p, ZERO) for p in feasible), default=None)
            if lowest is None or (least is not None and lowest >= least):
                continue
            face = [p for p in feasible if sum(p, ZERO) == lowest]
            if left_out == 0:
                least = lowest
            if lowest > 1 or (lowest == 1 and left_out == 0):
                yield balanced(face, cost) if lowest > 1 else face[0]


def balanced(face: Sequence[Point], cost: Cost) -> Point:
    """A rational point of the convex hull of ``face`` near the least ``cost``: exact where the hull is one point."""
    if len(face) == 1:
        return face[0]
    corners = [[float(x) for x in p] for p in face]
    shares = _minimise(corners, cost)
    reached = cost(_mix(corners, shares))
    rounded = face[0]
    for denominator in DENOMINATORS:
        parts = [Fraction(x).limit_denominator(denominator) for x in shares]
        total = sum(parts, ZERO)
        rounded = tuple(
            sum((w / total * p[j] for w, p in zip(parts, face, strict=True)), ZERO) for j in range(len(face[0]))
        )
        if cost([float(x) for x in rounded]) <= reached + 1e-9:
            break
    return rounded


def _mix(corners: Corners, shares: Sequence[float]) -> list[float]:
    return [sum(w * p[j] for w, p in zip(shares, corners, strict=True)) for j in range(len(corners[0]))]


def _minimise(corners: Corners, cost: Cost) -> list[float]:
    """Shares of the corners: rounds of golden-section search towards or away from each corner."""
    shares = [1.0 / len(corners)] * len(corners)
    for _ in range(STEPS):
        before = list(shares)
        for at in range(len(corners)):
            shares = _towards(corners, shares, at, cost)
        if max(abs(x - y) for x, y in zip(before, shares, strict=True)) < 1e-9:
            break
    return shares


def _towards(corners: Corners, shares: Sequence[float], at: int, cost: Cost) -> list[float]:
    others = 1.0 - shares[at]

    def moved(share: float) -> list[float]:
        keep = (1.0 - share) / others if others > 1e-15 else 0.0
        return [share if n == at else x * keep for n, x in enumerate(shares)]

    if others <= 1e-15:
        return list(shares)
    low, high, golden = 0.0, 1.0, (math.sqrt(5) - 1) / 2
    while high - low > 1e-11:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if cost(_mix(corners, moved(left))) <= cost(_mix(corners, moved(right))):
            high = right
        else:
            low = left
    return moved((low + high) / 2)


def rank(vectors: Sequence[Sequence[int]]) -> int:
    """How many of the vectors are linearly independent."""
    table = [[Fraction(x) for x in v] for v in vectors]
    found = 0
    for column in range(len(table[0]) if table else 0):
        pivot = next((r for r in range(found, len(table)) if table[r][column] != 0), None)
        if pivot is None:
            continue
        table[found], table[pivot] = table[pivot], table[found]
        for r in range(found + 1, len(table)):
            factor = table[r][column] / table[found][column]
            table[r] = [x - factor * y for x, y in zip(table[r], table[found], strict=True)]
        found += 1
    return found
