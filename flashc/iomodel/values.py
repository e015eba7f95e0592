"""Which arrays name one value per element, and how often such a value starts in fast memory without being loaded.

    X[i, j] = f(S[i, j], m[i]);  P[i, j] = g(X[i, j])

S, X and P may take turns in one place: whoever needs P[i, j] has that word, or computes it from S[i, j]. Counting an
element of all three as one item lets statements that write S and read P share a budget; counting them apart charges for
starting each. Both readings give bounds.
"""

from __future__ import annotations

from collections.abc import Iterable

from flashc.iomodel.accesses import most_elements
from flashc.iomodel.compulsory import Elements
from flashc.iomodel.statements import Cascade, Reference, Statement

Values = dict[str, str]
ONCE = "each element of {} is computed once"


def readings(cascade: Cascade) -> list[Values]:
    """The value (named after its first array) of every array, joined and apart; one where that is the same."""
    joined = _joined(cascade)
    return [joined] if joined == apart(cascade) else [joined, apart(cascade)]


def apart(cascade: Cascade) -> Values:
    """Every array a value of its own, but for shared storage."""
    return {a.name: a.storage or a.name for a in cascade.arrays}


def _joined(cascade: Cascade) -> Values:
    found = apart(cascade)
    for statement in cascade.statements:
        for operand in statement.operands:
            if _in_place(statement, operand):
                old, new = found[statement.target.array], found[operand.array]
                found = {name: new if value == old else value for name, value in found.items()}
    return found


def _in_place(statement: Statement, operand: Reference) -> bool:
    names = {i.name for i in statement.indices}
    told = {s for x in operand.subscripts for s in x.symbols()} & names
    return statement.update == "=" and operand.subscripts == statement.target.subscripts and told == names


def width(cascade: Cascade, joined: Values, value: str) -> int:
    """Bytes of one element: the narrowest of its arrays."""
    return min(a.width for a in cascade.arrays if joined[a.name] == value)


def started(cascade: Cascade, joined: Values, chosen: Iterable[Statement]) -> tuple[Elements, ...]:
    """Elements of the values used by ``chosen`` that come into being in fast memory, once each: sums that start at zero
    and results of statements that read no array of the same value."""
    used = dict.fromkeys(joined[r.array] for s in chosen for r in (*s.operands, *_summed(s)))
    found: list[Elements] = []
    for value in used:
        wide = width(cascade, joined, value)
        where = [(s.target, s) for s in _origins(cascade, joined, value)]
        if not where and all(cascade.array(a).role in ("out", "temp") for a, v in joined.items() if v == value):
            where = [(r, s) for s in chosen for r in s.operands if joined[r.array] == value]
        found += [Elements(r.array, wide, most_elements(r, s.indices)) for r, s in where]
    return tuple(found)


def notes(joined: Values, chosen: Iterable[Statement], free: Iterable[Elements]) -> tuple[str, ...]:
    """Values that a statement reads and a run may compute must not be computed twice; sums that are results may."""
    read = {joined[r.array] for s in chosen for r in s.operands}
    return tuple(dict.fromkeys(ONCE.format(e.array) for e in free if joined[e.array] in read))


def _origins(cascade: Cascade, joined: Values, value: str) -> list[Statement]:
    found = []
    for s in cascade.statements:
        given = cascade.array(s.target.array).role in ("in", "inout")
        continues = s.update == "=" and any(joined[o.array] == value for o in s.operands)
        if joined[s.target.array] == value and not continues and not (given and s.update != "="):
            found.append(s)
    return found


def _summed(statement: Statement) -> tuple[Reference, ...]:
    return () if statement.update == "=" else (statement.target,)
