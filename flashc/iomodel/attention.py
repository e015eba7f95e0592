"""Lower bounds of exact attention, forward and backward, for any cascade that has its shape.

    attention A            (X - M) work / chi(X), chi(X) = max(X^2 / (16 d_k), (X / 3)^(3/2)) for equal widths, also
                           if scores are recomputed: 4 |E| d_k d_v / M words for M >= 4.74 d_k^2
    attention B            2 |E| (d_k + d_v) / sqrt(M) - |E| words if every score is computed once
    attention backward A   5.65 (dQ), 8 (dK and dV) or 10.52 (all three) |E| d^2 / M words: scores may be recomputed
    attention backward B   6.8 |E| d / sqrt(M) - 2 |E| words if every score is computed once

|E| counts the kept (row, column) pairs: a triangle, a band, blocks. Proofs: docs/attention_bounds.md, after Saha & Ye
2024 (arXiv 2402.07443) and Smith, Lowery, Langou & van de Geijn 2017 (arXiv 1702.02017), with constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from math import prod

from flashc.iomodel.attention_backward import backward_bounds
from flashc.iomodel.attention_shape import Mixing, Operand, mixing_evidence, mixings, score_evidence
from flashc.iomodel.attention_theorems import BlockBound, ComputedOnceBound, Outputs, Term
from flashc.iomodel.bound import Json, LowerBound
from flashc.iomodel.statements import Cascade

QUARTER = Fraction(1, 4)


def attention_bounds(cascade: Cascade) -> tuple[LowerBound, ...]:
    """Every attention bound of the cascade; none where no statements have the shape. Parts are never added."""
    found = mixings(cascade)
    backward, covered = backward_bounds(found)
    left = [m for m in found if m.statement not in covered]
    return (*backward, *(b for m in left for b in forward_bounds(m)))


def forward_bounds(mixing: Mixing) -> tuple[LowerBound, ...]:
    """Theorems A and B for one mixing product (the first of its score products; any one of them gives a bound)."""
    row, column = mixing.scores[0].operands
    once = _computed_once(mixing, row, column)
    return (_block(mixing, row, column), *((once,) if once else ()))


def _block(mixing: Mixing, row: Operand, column: Operand) -> BlockBound:
    """Theorem A. With n operands in one storage and widths w: work <= prod over storages of (n X / (4 w))^(n/2) / d."""
    widths = _storages((row, column, mixing.other))
    roles = Counter(x.storage for x in (row, column, mixing.other))
    large = prod(((QUARTER * n / widths[s]) ** n for s, n in roles.items()), start=QUARTER / mixing.width)
    pair, out = mixing.pair_width, mixing.width
    if max(roles.values()) == 3:
        small = Fraction(4, 81 * widths[row.storage] * pair * out)
    else:
        small = Fraction(1, 27 * widths[mixing.other.storage] * pair * out)
    shares = {s: str(QUARTER * n) for s, n in roles.items()}
    evidence: Json = {
        "items": items(("row", row), ("column", column), ("value", mixing.other)),
        "accumulator_width": out,
        "pair_width": pair,
        "budgets": {**shares, "accumulators": str(QUARTER)},
        **_structure(mixing),
    }
    outputs = Outputs(mixing.accumulators * out, mixing.stored)
    depth = mixing.scores[0].depth
    work = mixing.statement.points()
    return BlockBound("attention A", work, depth, large, small, outputs, tuple(evidence.items()))


def _computed_once(mixing: Mixing, row: Operand, column: Operand) -> ComputedOnceBound | None:
    """Theorem B; not offered where Q and K share storage.

    Where V shares storage with K or Q its items serve both products: each then counts 7/10 (< 1/sqrt 2).
    """
    if row.storage == column.storage:
        return None
    value, pair = mixing.other, mixing.pair_width
    weight = Fraction(7, 10) if value.storage in (row.storage, column.storage) else Fraction(1)
    widths = _storages((row, column, value))
    score = mixing.scores[0]
    terms = (
        Term(score.statement.name, score.statement.points(),
             weight**2 * widths[row.storage] * widths[column.storage] * pair),
        Term(mixing.statement.name, mixing.statement.points(),
             weight**2 * widths[value.storage] * mixing.width * pair),
    )
    evidence: Json = {
        "items": items(("row", row), ("column", column), ("value", value)),
        "accumulator_width": mixing.width,
        "pair_width": pair,
        "weight": str(weight),
        "started": "each score once",
        **_structure(mixing),
    }
    outputs = Outputs(mixing.accumulators * mixing.width, mixing.stored)
    return ComputedOnceBound("attention B", terms, (score.pairs,), pair, outputs, tuple(evidence.items()))


def items(*roles: tuple[str, Operand]) -> Json:
    """The arrays that play each part, as evidence."""
    return {role: {"array": x.array, "storage": x.storage, "width": x.width} for role, x in roles}


def _structure(mixing: Mixing) -> Json:
    return {"scores": score_evidence(mixing.scores[0]), "mixing": mixing_evidence(mixing)}


def _storages(operands: Sequence[Operand]) -> dict[str, int]:
    """The narrowest width with which each storage is read."""
    return reduce(lambda found, x: {**found, x.storage: min(found.get(x.storage, x.width), x.width)}, operands, {})
