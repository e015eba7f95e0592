"""The two forms of attention bounds, with exact constants. Proofs: docs/attention_bounds.md.

A block of a schedule is a stretch with X - M bytes of loads; it sees items of at most X bytes. If a block does at most
chi(X) multiply-adds of the counted contractions then loads >= work * (X - M) / chi(X) for every X > M.

    BlockBound          chi(X) = max(sqrt(large) X^2 / d, sqrt(small) X^(3/2)): a pair of the block is computed from
                        whole rows of length d inside it, or is an item itself. Scores may be recomputed.
    ComputedOnceBound   every score is computed once, so the score products count as work too:
                        sum over contractions of 2 sqrt(square) work / sqrt(M), less one load per score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from flashc.errors import ArgumentError
from flashc.iomodel.bound import Env, Json, Moved
from flashc.iomodel.monomial import fast_symbol, leading
from flashc.ir.intexpr import IntExpr, add

NO_RECOMPUTE = "scores are computed once"
"""The assumption of theorem B. A report of a schedule that computes a score again must leave such bounds out."""
ELEMENTWISE = (
    "every multiply-add of the statements is done; sums may be taken in any order, products are not regrouped; "
    "a pair that is counted is summed over all its terms"
)
INPUTS = "the operands of the first contraction and the values are inputs, at most copied or mapped element by element"
WIDTHS = "no value is held or moved in fewer bytes than its array's elements have"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Outputs:
    """Bytes of the accumulators (one virtual load each) and of the outputs that must be stored."""

    accumulators: IntExpr
    stored: IntExpr

    def moved(self, capacity: float, sizes: Env) -> Moved:
        """Accumulators start as loads in the proof; the stores of the outputs give those back in the total."""
        started, stored = self.accumulators.evaluate(sizes), self.stored.evaluate(sizes)
        loads = max(capacity - started, 0.0)
        return Moved(loads, float(stored), loads + stored)

    def evidence(self) -> Json:
        return {"accumulator_bytes": str(self.accumulators), "stored_bytes": str(self.stored)}

    def numbers(self, sizes: Env) -> Json:
        return {
            "accumulator_bytes": int(self.accumulators.evaluate(sizes)),
            "stored_bytes": int(self.stored.evaluate(sizes)),
        }


@dataclass(frozen=True, slots=True)
class BlockBound:
    """Loads + stores >= max over X > M of (X - M) work / chi(X) in bytes; ``depth``: d, the length of a row.

    ``roles`` is the evidence that ``large`` and ``small`` are recomputed from.
    """

    rule: str
    work: IntExpr
    depth: IntExpr
    large: Fraction
    small: Fraction
    outputs: Outputs
    roles: tuple[tuple[str, Any], ...]
    assumptions: tuple[str, ...] = (ELEMENTWISE, INPUTS, WIDTHS)

    def at(self, sizes: Env, fast_bytes: float) -> Moved:
        """Bytes. Raises ArgumentError unless ``fast_bytes`` is positive (``math.inf`` is)."""
        return self.outputs.moved(self.capacity(sizes, fast_bytes), sizes)

    def capacity(self, sizes: Env, fast_bytes: float) -> float:
        """Loads if every accumulator were loaded once before its first product."""
        _refuse_empty(fast_bytes)
        work, depth = self.work.evaluate(sizes), self.depth.evaluate(sizes)
        if math.isinf(fast_bytes) or not work or not depth:
            return 0.0
        best = block_size(self.large, self.small, depth, fast_bytes)
        chi = max(math.sqrt(self.large) * best**2 / depth, math.sqrt(self.small) * best**1.5)
        return float((best - fast_bytes) * work / chi)

    def formula(self) -> Any:
        """In sympy: one piece per regime of M (bytes), by where the best block lies."""
        import sympy

        M, work, depth = fast_symbol(), leading(self.work), leading(self.depth)
        large, small = (sympy.sqrt(sympy.Rational(x.numerator, x.denominator)) for x in (self.large, self.small))
        crossing = (small * depth / large) ** 2
        return sympy.Piecewise(
            (work * depth / (4 * large * M), crossing <= 2 * M),
            (2 * work / (sympy.sqrt(27) * small * sympy.sqrt(M)), crossing >= 3 * M),
            ((crossing - M) * work * depth / (large * crossing**2), True),
        )

    def certificate(self) -> Json:
        return {
            "version": VERSION,
            "rule": self.rule,
            "assumptions": list(self.assumptions),
            "evidence": {
                **dict(self.roles),
                "work": str(self.work),
                "depth": str(self.depth),
                "block": {"large": "X = 2 M", "small": "X = 3 M", "between": "X = crossing"},
                **self.outputs.evidence(),
            },
            "claim": {
                "chi": "max(sqrt(large) X^2 / depth, sqrt(small) X^(3/2))",
                "large": str(self.large),
                "small": str(self.small),
                "crossing_per_depth_squared": str(self.small / self.large),
                "total": "max over X > M of (X - M) work / chi(X)",
                "loads": "total - accumulator_bytes",
                "stores": "stored_bytes",
            },
        }

    def numbers(self, sizes: Env) -> Json:
        own = {"work": int(self.work.evaluate(sizes)), "depth": int(self.depth.evaluate(sizes))}
        return {**own, **self.outputs.numbers(sizes)}


@dataclass(frozen=True, slots=True)
class Term:
    """A contraction that counts as work: ``work`` multiply-adds, each worth sqrt(``square``)."""

    name: str
    work: IntExpr
    square: Fraction


@dataclass(frozen=True, slots=True)
class ComputedOnceBound:
    """Loads + stores >= sum of 2 sqrt(square) work / sqrt(M), less what starting every score counts as loads.

    ``pairs``: how many scores each score product has; ``pair_width``: bytes of one.
    """

    rule: str
    terms: tuple[Term, ...]
    pairs: tuple[IntExpr, ...]
    pair_width: int
    outputs: Outputs
    roles: tuple[tuple[str, Any], ...]
    assumptions: tuple[str, ...] = (NO_RECOMPUTE, ELEMENTWISE, INPUTS, WIDTHS)

    def at(self, sizes: Env, fast_bytes: float) -> Moved:
        """Bytes. Raises ArgumentError unless ``fast_bytes`` is positive (``math.inf`` is)."""
        _refuse_empty(fast_bytes)
        work = sum(math.sqrt(t.square) * t.work.evaluate(sizes) for t in self.terms)
        return self.outputs.moved(2 * work / math.sqrt(fast_bytes) - self.started().evaluate(sizes), sizes)

    def started(self) -> IntExpr:
        """Bytes of every score's first partial sum."""
        return add(*self.pairs) * self.pair_width

    def formula(self) -> Any:
        import sympy

        weights = [sympy.sqrt(sympy.Rational(t.square.numerator, t.square.denominator)) for t in self.terms]
        work = sum(w * leading(t.work) for w, t in zip(weights, self.terms, strict=True))
        return 2 * work / sympy.sqrt(fast_symbol()) - leading(self.started())

    def certificate(self) -> Json:
        return {
            "version": VERSION,
            "rule": self.rule,
            "assumptions": list(self.assumptions),
            "evidence": {
                **dict(self.roles),
                "terms": [{"contraction": t.name, "work": str(t.work)} for t in self.terms],
                "score_bytes": str(self.started()),
                "block": "X = 3 M",
                **self.outputs.evidence(),
            },
            "claim": {
                "squares": [str(t.square) for t in self.terms],
                "total": "sum of 2 sqrt(square) work / sqrt(M) - score_bytes",
                "loads": "total - accumulator_bytes",
                "stores": "stored_bytes",
            },
        }

    def numbers(self, sizes: Env) -> Json:
        return {
            "works": [int(t.work.evaluate(sizes)) for t in self.terms],
            "pairs": [int(p.evaluate(sizes)) for p in self.pairs],
            "score_bytes": int(self.started().evaluate(sizes)),
            **self.outputs.numbers(sizes),
        }


def block_size(large: Fraction, small: Fraction, depth: int, fast_bytes: float) -> float:
    """The X that maximises (X - M) / chi(X): 2 M and 3 M where that regime of chi holds, else where they cross."""
    crossing = float(small / large) * depth**2
    return min(max(2 * fast_bytes, crossing), 3 * fast_bytes)


def _refuse_empty(fast_bytes: float) -> None:
    if not fast_bytes > 0:
        raise ArgumentError(f"fast memory of {fast_bytes} bytes: it must be positive (math.inf for everything)")
