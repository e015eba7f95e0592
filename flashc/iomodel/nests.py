"""Nests of loop indices: ranges that hold whatever the outer indices are, and how many points a nest has."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flashc.ir.intexpr import Add, Const, IntExpr, Max, Min, Mul, Sym, imax, imin, isum, mul

Extents = Mapping[str, tuple[IntExpr, IntExpr]]
ONE, ZERO = Const(1), Const(0)


@dataclass(frozen=True, slots=True)
class Index:
    """``lower <= name < upper``."""

    name: str
    lower: IntExpr
    upper: IntExpr


def extents(indices: Sequence[Index]) -> dict[str, tuple[IntExpr, IntExpr]]:
    """For every index a range ``low <= value < high`` that holds whatever the indices before it are."""
    found: dict[str, tuple[IntExpr, IntExpr]] = {}
    for index in indices:
        found[index.name] = (extreme(index.lower, found, False), extreme(index.upper, found, True))
    return found


def length(span: tuple[IntExpr, IntExpr]) -> IntExpr:
    return span[1] - span[0]


def extreme(expr: IntExpr, ranges: Extents, largest: bool) -> IntExpr:
    """A bound of ``expr`` free of the indices in ``ranges``: of each affine term the end that makes it larger
    (smaller).

    The sizes are taken to be non-negative. What is not affine stays as it is and is bounded by the tables it reads.
    """
    if not expr.symbols() & ranges.keys():
        return expr
    if isinstance(expr, Min):
        parts = [x for x in expr.args if not (x.symbols() & ranges.keys() and x.tables())]
        return imin(*(extreme(x, ranges, largest) for x in (parts if largest and parts else expr.args)))
    if isinstance(expr, Max):
        parts = [x for x in expr.args if not (x.symbols() & ranges.keys() and x.tables())]
        return imax(*(extreme(x, ranges, largest) for x in (parts if not largest and parts else expr.args)))
    if isinstance(expr, Add):
        return sum((extreme(x, ranges, largest) for x in expr.args), ZERO)
    if isinstance(expr, Mul) and isinstance(expr.args[0], Const) and expr.args[0].value < 0:
        return -extreme(-expr, ranges, not largest)
    if isinstance(expr, Mul) and sum(bool(x.symbols() & ranges.keys()) for x in expr.args) > 1:
        ends = [(extreme(x, ranges, False), extreme(x, ranges, True)) for x in expr.args]
        return (imax if largest else imin)(*(mul(*chosen) for chosen in itertools.product(*ends)))
    if isinstance(expr, Mul):
        return mul(*(extreme(x, ranges, largest) for x in expr.args))
    if isinstance(expr, Sym):
        low, high = ranges[expr.name]
        return high - 1 if largest else low
    return expr


def nest(indices: Sequence[Index], counted: frozenset[str] | None = None) -> IntExpr:
    """Points of a nest; an index outside ``counted`` adds no points, it only has to have a value."""
    total: IntExpr = ONE
    ranges = extents(indices)
    trips = _trips(indices)
    for index, times in zip(reversed(indices), reversed(trips), strict=True):
        if counted is not None and index.name not in counted:
            least = extreme(times, ranges, largest=False)
            total = total * (ONE if isinstance(least, Const) and least.value > 0 else imin(times, ONE))
        elif index.name in total.symbols():
            total = isum(index.name, times, total.subs({index.name: index.lower + Sym(index.name)}))
        else:
            total = total * times
    return total


def _trips(indices: Sequence[Index]) -> list[IntExpr]:
    """Steps of each index, without max(..., 0) where the ranges of the outer ones show that it changes nothing."""
    ranges = extents(indices)
    found: list[IntExpr] = []
    for index in indices:
        times = index.upper - index.lower
        least = extreme(times, ranges, largest=False)
        plain = isinstance(least, Sym) or (isinstance(least, Const) and least.value >= 0)
        found.append(times if plain else imax(times, ZERO))
    return found
