"""Lower bounds of attention's backward pass: S = Q K^T, P, dP = dO V^T, dS; dV = P^T dO, dQ = dS K, dK = dS^T Q.

A pair of dS that is computed inside a block needs whole rows of Q and dO and of K and V there, one of P only rows of Q
and K. With a block's items a, b, f, v of Q, K, dO, V and c pairs, y in all, Cauchy bounds the work by
sqrt(accumulators * (sum over products of pairs * operand items)), and that sum by max(kappa y^3 / d^2, y^2 / 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from flashc.iomodel.attention_shape import Mixing, Operand, Scores, mixing_evidence, score_evidence
from flashc.iomodel.attention_theorems import BlockBound, ComputedOnceBound, Outputs, Term
from flashc.iomodel.bound import Json, LowerBound
from flashc.iomodel.statements import Statement
from flashc.ir.intexpr import Const, add, imin

KAPPA = {
    ("dQ",): Fraction(1, 54),
    ("dK",): Fraction(1, 54),
    ("dK", "dQ"): Fraction(1, 32),
    ("dK", "dV"): Fraction(1, 27),
    ("dK", "dQ", "dV"): Fraction(13, 270),
}
"""The largest (n_q r (1-r)^2 + n_r r^2 (1-r)) / 8 over 0 <= r <= 1, with n_q = 1 for dQ and n_r the number of dK, dV;
the last is 1 / (12 sqrt 3) = 0.04811..., rounded up to 0.04815."""
SHARED = Fraction(7, 10)
"""Weight of dP and dV, whose products share the items of dO: below 1 / sqrt 2, the largest that is proved."""


@dataclass(frozen=True, slots=True)
class Backward:
    """Two score products over the same pairs, and the mixing products by the gradient they give."""

    scores: tuple[Scores, Scores]
    gradients: dict[str, Mixing]
    inputs: dict[str, Operand]


def backward_bounds(found: Sequence[Mixing]) -> tuple[tuple[LowerBound, ...], set[Statement]]:
    """Bounds of the backward passes among mixing products, and the statements they cover."""
    bounds: list[LowerBound] = []
    covered: set[Statement] = set()
    for backward in _recognised(found):
        kept = _provable(backward.gradients)
        bounds.append(_block(backward, kept))
        if len(kept) == 3:
            bounds.append(_computed_once(backward))
        covered |= {backward.gradients[name].statement for name in kept}
    return tuple(bounds), covered


def _recognised(found: Sequence[Mixing]) -> list[Backward]:
    groups: dict[tuple[Statement, ...], list[Mixing]] = {}
    for mixing in found:
        if len(mixing.scores) == 2:
            groups.setdefault(tuple(sorted((s.statement for s in mixing.scores), key=str)), []).append(mixing)
    named = (_named(both, found) for both in groups.values())
    return [b for b in named if b is not None]


def _named(both: Sequence[Mixing], found: Sequence[Mixing]) -> Backward | None:
    """Which score product is Q K^T: the one whose operands dS is multiplied with."""
    first, second = both[0].scores
    for scores, other in ((first, second), (second, first)):
        arrays = {x.storage for x in (*scores.operands, *other.operands)}
        used = {m.other.storage for m in both}
        if len(arrays) == 4 and used <= {x.storage for x in scores.operands}:
            return _roles(both, found, scores, other)
    return None


def _roles(both: Sequence[Mixing], found: Sequence[Mixing], scores: Scores, other: Scores) -> Backward | None:
    """Rows and columns are told apart by the indices each operand shares with the gradients' subscripts."""
    alone = [m for m in found if [s.statement for s in m.scores] == [scores.statement]]
    values = [m for m in alone if m.other.storage in {x.storage for x in other.operands}]
    for q, k in (scores.operands, scores.operands[::-1]):
        for do, v in (other.operands, other.operands[::-1]):
            if not (_same_rows(scores, q, other, do) and _same_rows(scores, k, other, v)):
                continue
            if values and values[0].other.storage != do.storage:
                continue
            gradients = {("dQ" if m.other.storage == k.storage else "dK"): m for m in both}
            if values:
                gradients["dV"] = values[0]
            return Backward((scores, other), gradients, {"q": q, "k": k, "do": do, "v": v})
    return None


def _same_rows(scores: Scores, x: Operand, other: Scores, y: Operand) -> bool:
    """Whether a pair picks its row of ``x`` and its row of ``y`` by the same subscripts, pairs matched by position."""
    place = {str(s): n for n, s in enumerate(scores.statement.target.subscripts)}
    again = {str(s): n for n, s in enumerate(other.statement.target.subscripts)}
    return _row(x, place) == _row(y, again)


def _row(operand: Operand, place: dict[str, int]) -> list[str]:
    """The subscripts that pick a row, with indices replaced by their position in the pair."""
    renamed = {name: Const(n) for name, n in place.items()}
    rows = [x for x in operand.subscripts if x.symbols() & place.keys() or not x.symbols()]
    return sorted(f"{sorted(place[s] for s in x.symbols() if s in place)} {x.subs(renamed)}" for x in rows)


def _provable(gradients: dict[str, Mixing]) -> tuple[str, ...]:
    """The largest set of gradients that has a proved constant."""
    present = sorted(gradients)
    subsets = (s for n in range(len(present), 0, -1) for s in combinations(present, n))
    return next(s for s in subsets if s in KAPPA)


def _block(backward: Backward, kept: tuple[str, ...]) -> BlockBound:
    """work <= sqrt(t G), G <= max(kappa y^3 / d^2, y^2 / 3), t + y <= X: the maxima at y = 3 X / 4 and 2 X / 3."""
    chosen = [backward.gradients[name] for name in kept]
    width = min(_widths(backward, chosen))
    evidence: Json = {
        "items": {role: {"array": x.array, "storage": x.storage} for role, x in backward.inputs.items()},
        "gradients": list(kept),
        "width": width,
        "kappa": str(KAPPA[kept]),
        "budgets": {"inputs": "3/4", "accumulators": "1/4"},
        **_structure(backward, kept),
    }
    depth = imin(*(s.depth for s in backward.scores))
    return BlockBound(
        "attention backward A",
        add(*(m.statement.points() for m in chosen)),
        depth,
        large=Fraction(27, 256) * KAPPA[kept] / width**4,
        small=Fraction(4, 81) / width**3,
        outputs=_outputs(chosen),
        roles=tuple(evidence.items()),
    )


def _computed_once(backward: Backward) -> ComputedOnceBound:
    """dQ, dK (no items in common) at weight 1, dP and dV (dO in common) at 7/10; S and dP are each started once."""
    x, (scores, other) = backward.inputs, backward.scores
    dq, dk, dv = (backward.gradients[n] for n in ("dQ", "dK", "dV"))
    pair = min(m.pair_width for m in (dq, dk, dv))
    shared = SHARED**2 * pair * x["do"].width
    terms = (
        Term(dq.statement.name, dq.statement.points(), Fraction(x["k"].width * dq.width * pair)),
        Term(dk.statement.name, dk.statement.points(), Fraction(x["q"].width * dk.width * pair)),
        Term(other.statement.name, other.statement.points(), shared * x["v"].width),
        Term(dv.statement.name, dv.statement.points(), shared * dv.width),
    )
    evidence: Json = {
        "items": {role: {"array": o.array, "storage": o.storage, "width": o.width} for role, o in x.items()},
        "accumulator_widths": {"dQ": dq.width, "dK": dk.width, "dV": dv.width},
        "pair_width": pair,
        "weight": str(SHARED),
        "started": "S and dP once per pair",
        **_structure(backward, ("dK", "dQ", "dV")),
    }
    outputs = _outputs([dq, dk, dv])
    pairs = (scores.pairs, other.pairs)
    return ComputedOnceBound("attention backward B", terms, pairs, pair, outputs, tuple(evidence.items()))


def _structure(backward: Backward, kept: Sequence[str]) -> Json:
    return {
        "scores": [score_evidence(s) for s in backward.scores],
        "mixing": {name: mixing_evidence(backward.gradients[name]) for name in kept},
    }


def _outputs(chosen: Sequence[Mixing]) -> Outputs:
    return Outputs(add(*(m.accumulators * m.width for m in chosen)), add(*(m.stored for m in chosen)))


def _widths(backward: Backward, chosen: Sequence[Mixing]) -> list[int]:
    return [x.width for x in backward.inputs.values()] + [w for m in chosen for w in (m.width, m.pair_width)]
