"""Interval and divisibility arithmetic: what an expression can be while some of its symbols are open.

A :class:`Range` says that a value lies in lo..hi and is a multiple of ``step``. Ranges are arrays, one entry
per candidate, in float64: exact below EXACT and rounded outwards above it, so that no candidate is ever ruled
out wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flashc.autotune.problem import AllOf, Condition, Constraint, Mask
from flashc.ir.intarith import Arithmetic, Ints
from flashc.ir.intexpr import Sum

Floats = npt.NDArray[np.float64]
EXACT = 2.0**50
ROUNDING = 2.0**-51
"""Relative widening of an inexact bound: four times what one float64 operation can be off."""


class Range(NamedTuple):
    """Bounds and a common divisor; ``step`` 0 means the value is 0."""

    lo: Floats
    hi: Floats
    step: Ints


class Ranges(Arithmetic[Range]):
    """Arithmetic on ranges; ``env`` gives a Range per symbol and an integer array per table."""

    def const(self, value: int) -> Range:
        number: Any = np.float64(value)  # a scalar: cheaper than an array of one, and used like it
        step: Any = np.int64(abs(value))
        return Range(number, number, step) if abs(value) < EXACT else _range(number, number, 1)

    def symbol(self, name: str) -> Range:
        found: Range = self.lookup(name)
        return found

    def item(self, table: str, index: Sequence[Range]) -> Range:
        values = np.asarray(self.lookup(table))
        return _range(np.float64(values.min()), np.float64(values.max()), np.gcd.reduce(values, axis=None))

    def add(self, values: Sequence[Range]) -> Range:
        return reduce(lambda a, b: _join(np.add, a, b), values)

    def mul(self, values: Sequence[Range]) -> Range:
        return reduce(_product, values)

    def floor_div(self, num: Range, den: Range) -> Range:
        ends = np.floor(_corners(np.divide, num, den))
        open_ended = (den.lo <= 0) & (den.hi >= 0)
        lo = np.where(open_ended, -np.inf, ends.min(axis=0))
        hi = np.where(open_ended, np.inf, ends.max(axis=0))
        return _range(lo, hi, np.int64(1))

    def mod(self, num: Range, den: Range) -> Range:
        widest = np.maximum(np.abs(den.lo), np.abs(den.hi))
        positive = den.lo > 0
        unchanged = positive & (num.lo >= 0) & (num.hi < den.lo)
        top = np.where(num.lo >= 0, np.minimum(num.hi, den.hi - 1), den.hi - 1)
        lo = np.where(unchanged, num.lo, np.where(positive, 0.0, -widest))
        hi = np.where(unchanged, num.hi, np.where(positive, top, widest))
        fixed = positive & (num.lo == num.hi) & (den.lo == den.hi) & (np.abs(num.lo) < EXACT)
        rest = np.mod(num.lo, np.where(positive, den.lo, 1.0))
        return _range(np.where(fixed, rest, lo), np.where(fixed, rest, hi), np.gcd(num.step, den.step))

    def minimum(self, values: Sequence[Range]) -> Range:
        return reduce(lambda a, b: _join(np.minimum, a, b), values)

    def maximum(self, values: Sequence[Range]) -> Range:
        return reduce(lambda a, b: _join(np.maximum, a, b), values)

    def sum(self, node: Sum) -> Range:
        count = node.count.value_in(self)
        last = np.maximum(count.hi - 1, 0.0)
        steps = Range(np.zeros_like(last), last, np.ones_like(last, dtype=np.int64))
        body = node.body.value_in(Ranges({**self.env, node.var: steps}))
        clipped = _range(np.maximum(count.lo, 0.0), np.maximum(count.hi, 0.0), np.int64(1))
        total = _product(clipped, body)
        return _range(total.lo, total.hi, body.step)


def fixed(values: Ints) -> Range:
    """The range of symbols whose values are known."""
    numbers = values.astype(np.float64)
    return Range(numbers, numbers, np.abs(values))


def possible(condition: Condition, env: Mapping[str, Any]) -> Mask:
    """False where the condition fails whatever the open symbols are; True does not promise that it holds."""
    if not isinstance(condition, Constraint):
        parts = [possible(part, env) for part in condition.conditions]
        return reduce(np.logical_and if isinstance(condition, AllOf) else np.logical_or, parts)
    ops = Ranges(env)
    with np.errstate(all="ignore"):
        return _RULES[condition.op](condition.left.value_in(ops), condition.right.value_in(ops))


def _at_most(left: Range, right: Range) -> Mask:
    return np.asarray(left.lo <= right.hi)


def _equal(left: Range, right: Range) -> Mask:
    lo, hi = np.maximum(left.lo, right.lo), np.minimum(left.hi, right.hi)
    common = _has_multiple(lo, hi, left.step) & _has_multiple(lo, hi, right.step)
    return np.asarray(_at_most(left, right) & _at_most(right, left) & common)


def _unequal(left: Range, right: Range) -> Mask:
    known = (left.lo == left.hi) & (right.lo == right.hi) & (np.abs(left.lo) < EXACT)
    return np.asarray(~(known & (left.lo == right.lo)))


def _divides(left: Range, right: Range) -> Mask:
    too_large = (left.lo > 0) & (right.lo > left.hi)
    return np.asarray(~too_large & _has_multiple(left.lo, left.hi, right.step))


_RULES = {"<=": _at_most, "==": _equal, "!=": _unequal, "%==0": _divides}


def _has_multiple(lo: Floats, hi: Floats, step: Ints) -> Mask:
    """Whether lo..hi may hold a multiple of ``step`` (of 0: only 0 itself)."""
    undecided = np.maximum(np.abs(lo), np.abs(hi)) >= EXACT
    size = np.maximum(step, 1).astype(np.float64)
    found = np.where(step == 0, (lo <= 0) & (hi >= 0), np.floor(hi / size) * size >= lo)
    return np.asarray(undecided | found)


def _product(a: Range, b: Range) -> Range:
    if a.lo.min(initial=0.0) >= 0 and b.lo.min(initial=0.0) >= 0:
        lo, hi = a.lo * b.lo, a.hi * b.hi
        hi = np.where(np.isnan(hi), 0.0, hi)
    else:
        ends = _corners(np.multiply, a, b)
        lo, hi = ends.min(axis=0), ends.max(axis=0)
    if float(a.step.max(initial=0)) * float(b.step.max(initial=0)) < EXACT:
        return _range(lo, hi, a.step * b.step)
    exact = a.step.astype(np.float64) * b.step.astype(np.float64) < EXACT
    step = np.where(exact, a.step * np.where(exact, b.step, 1), a.step)
    return _range(lo, hi, step)


def _join(operation: np.ufunc, a: Range, b: Range) -> Range:
    """An operation that grows with both operands and keeps their common divisors."""
    return _range(operation(a.lo, b.lo), operation(a.hi, b.hi), np.gcd(a.step, b.step))


def _corners(operation: np.ufunc, a: Range, b: Range) -> Floats:
    """The operation at the four corners of the box; an infinite end times 0 is 0."""
    pairs = ((a.lo, b.lo), (a.lo, b.hi), (a.hi, b.lo), (a.hi, b.hi))
    corners = np.stack(np.broadcast_arrays(*(operation(x, y) for x, y in pairs)))
    return np.where(np.isnan(corners), 0.0, corners)


def _range(lo: Any, hi: Any, step: Any) -> Range:
    """A range rounded outwards where float64 is not exact; a known value is its own step."""
    if lo.min(initial=0.0) <= -EXACT or hi.max(initial=0.0) >= EXACT:
        lo = np.where(np.abs(lo) < EXACT, lo, lo - ROUNDING * np.abs(lo))
        hi = np.where(np.abs(hi) < EXACT, hi, hi + ROUNDING * np.abs(hi))
    known = lo == hi
    if not known.any():
        return Range(lo, hi, step)
    return Range(lo, hi, np.where(known, np.abs(np.where(known, lo, 0.0)).astype(np.int64), step))
