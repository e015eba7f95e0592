"""Stencils iterated in time, and every other statement that reads its own results at constant distances.

    A[t + 1, i] = f(A[t, i - 1], A[t, i], A[t, i + 1])          distances (1, 1), (1, 0), (1, -1)

Let E be the points that a block computes, D the items it did not compute: at most X / w of them. From a point of E step
back along a distance: the chain leaves E at an item of D. Take n independent distances as axes; then E and D lie in
Z^n, and below every point of E there is a point of D on each line parallel to an axis.

    Claim: |E| <= kappa_n |D|^(n / (n - 1)),   kappa_n = ((n - 1)!)^(n / (n - 1)) / n!

Cut E and D into slices across the last axis, S_z the number of items below slice z. Each point of E_z has its own item
below it: |E_z| <= S_z. For n = 2 a slice with points also has D_z >= 1 items, so |E| <= sum D_z S_z <= |D|^2 / 2.
For n > 2 |E_z| <= kappa_(n-1) D_z^g with g = (n - 1) / (n - 2) by induction, and the weighted mean of the two bounds
gives |E| <= kappa_(n-1)^(1/g) sum D_z S_z^(1 - 1/g) <= kappa_(n-1)^(1/g) |D|^(n/(n-1)) (n - 1) / n. A simplex attains
it.

Recomputing is allowed: E holds every point that the block computes. The classical path argument (IOLB, Olivry et al.
2020, arXiv 1911.06664) has kappa_n = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from flashc.iomodel.accesses import linear
from flashc.iomodel.bound import Json
from flashc.iomodel.capacity import COUNTED, ORDER, Capacity
from flashc.iomodel.compulsory import stored
from flashc.iomodel.derive import described, reference_text, statement_text
from flashc.iomodel.exponents import rank
from flashc.iomodel.monomial import Term, collected
from flashc.iomodel.statements import Cascade, Reference, Statement
from flashc.iomodel.values import apart
from flashc.iomodel.values import width as narrowest
from flashc.ir.intexpr import Const

Distance = tuple[int, ...]
DISTINCT = "what {} reads and no statement writes are distinct inputs"


def recurrence_bounds(cascade: Cascade) -> Iterator[Capacity]:
    """The rule on every statement whose distances to its own results span two dimensions or more.

    It must be the only one that writes them: boundary values that another statement computes need not be loaded.
    """
    values = apart(cascade)
    for statement in cascade.statements:
        written = [s for s in cascade.statements if values[s.target.array] == values[statement.target.array]]
        chosen = _independent([d for _, d in distances(statement)]) if written == [statement] else []
        if len(chosen) >= 2:
            width = narrowest(cascade, values, values[statement.target.array])
            sigma, powers = constants(len(chosen), width)
            term = Term(statement.points(), collected(*powers), (), sigma)
            counted = () if statement.count is None else (COUNTED.format(statement.name, statement.count),)
            assumptions = (ORDER, *counted, DISTINCT.format(statement.name))
            evidence = _evidence(statement, chosen, width, term)
            rule = f"recurrence {statement.name}"
            context = described(cascade, values)
            yield Capacity(rule, assumptions, (term,), (), stored(cascade), (evidence,), context, "recurrence")


def constants(dimensions: int, width: int) -> tuple[Fraction, list[tuple[Fraction, Fraction]]]:
    """sigma and the constant (sigma - 1)^(sigma - 1) / sigma^sigma / kappa * width^sigma as powers."""
    sigma = Fraction(dimensions, dimensions - 1)
    kappa = [(Fraction(math.factorial(dimensions - 1)), -sigma), (Fraction(math.factorial(dimensions)), Fraction(1))]
    return sigma, [(sigma - 1, sigma - 1), (sigma, -sigma), *kappa, (Fraction(width), sigma)]


def distances(statement: Statement) -> list[tuple[Reference, Distance]]:
    """Reads of the statement's own results, with the constant distance to the point that wrote them."""
    names = [i.name for i in statement.indices]
    written = _offsets(statement.target, names)
    found: list[tuple[Reference, Distance]] = []
    for operand in statement.operands if statement.update == "=" else ():
        read = _offsets(operand, names)
        if written is not None and read is not None and operand.array == statement.target.array:
            found.append((operand, tuple(written[n] - read[n] for n in names)))
    return found


def _offsets(reference: Reference, names: Sequence[str]) -> dict[str, int] | None:
    """Constant added to each index, where every subscript is one index and a number and every index occurs once."""
    found: dict[str, int] = {}
    for subscript in reference.subscripts:
        form = linear(subscript, frozenset(names))
        if form is None or len(form.terms) != 1 or form.terms[0][1] != Const(1) or not isinstance(form.offset, Const):
            return None
        found[form.terms[0][0]] = form.offset.value
    return found if len(reference.subscripts) == len(names) and found.keys() == set(names) else None


def _independent(vectors: Sequence[Distance]) -> list[Distance]:
    chosen: list[Distance] = []
    for vector in vectors:
        if rank([*chosen, vector]) > len(chosen):
            chosen.append(vector)
    return chosen


def _evidence(statement: Statement, chosen: Sequence[Distance], width: int, term: Term) -> Json:
    return {
        "name": statement.name,
        "statement": statement_text(statement),
        "domain": [[i.name, str(i.lower), str(i.upper)] for i in statement.indices],
        "points": str(term.volume),
        "counted": statement.count is not None,
        "reads": [reference_text(o) for o, d in distances(statement) if d in chosen],
        "distances": [list(d) for d in chosen],
        "width": str(width),
        "sigma": str(term.sigma),
        "constant": [[str(b), str(e)] for b, e in term.powers],
    }
