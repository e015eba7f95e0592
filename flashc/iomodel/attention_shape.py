"""Attention in a cascade, recognised by the shape of its statements: names play no part.

    scores       S[i, j] += Q[i, k] K[j, k]     a sum of products of two inputs (copied or mapped at most)
    pair maps    P[i, j]  = f(S[i, j], ...)     statements that keep a score's subscripts; row statistics may join
    mixing       O[i, e] += P[i, j] V[j, e]     a sum of products of a pair value and an input

A backward pass is the same with two score products (Q K^T and dO V^T) and up to three mixing ones. Any further
subscripts (batch, heads, h // G) are allowed as long as the counting argument of the proofs covers them: each index of
a mixing statement stands alone in two of its three subscript lists, each index of a score in one of its operands'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from flashc.iomodel.bound import Json
from flashc.iomodel.statements import Array, Cascade, Index, Reference, Statement, points
from flashc.ir.intexpr import Add, Const, IntExpr, Sym


@dataclass(frozen=True, slots=True)
class Operand:
    """An input as a statement reads it. ``width``: the narrowest element it has between the input and the statement."""

    array: str
    storage: str
    width: int
    subscripts: tuple[IntExpr, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """A score product: ``depth`` products are summed for each of ``pairs`` scores."""

    statement: Statement
    operands: tuple[Operand, Operand]
    depth: IntExpr
    pairs: IntExpr


@dataclass(frozen=True, slots=True)
class Mixing:
    """A product of pair values with an input. ``scores``: the score products that a pair value depends on.

    ``width``: bytes of its accumulators, ``pair_width`` of the narrowest pair value, ``stored`` of the output elements
    that leave fast memory (0 where no output follows).
    """

    statement: Statement
    pair: Reference
    scores: tuple[Scores, ...]
    other: Operand
    width: int
    pair_width: int
    accumulators: IntExpr
    stored: IntExpr


def mixings(cascade: Cascade) -> tuple[Mixing, ...]:
    """Every mixing statement of a cascade, in order."""
    split = replace(cascade, statements=tuple(map(_split_radix, cascade.statements)))
    return tuple(m for s in split.statements for m in _mixing(split, s))


def _split_radix(statement: Statement) -> Statement:
    """Subscripts x * N + y with 0 <= y < N (a split axis put together again) as the two subscripts x, y."""
    digits = {i.name: i.upper for i in statement.indices if i.lower == Const(0)}

    def split(subscript: IntExpr) -> tuple[IntExpr, ...]:
        for low in sorted(subscript.symbols() & digits.keys()):
            high = (subscript - Sym(low)) // digits[low]
            if isinstance(subscript, Add) and isinstance(high, Sym) and high * digits[low] + Sym(low) == subscript:
                return (high, Sym(low))
        return (subscript,)

    def spread(reference: Reference) -> Reference:
        return Reference(reference.array, tuple(y for x in reference.subscripts for y in split(x)))

    return replace(statement, target=spread(statement.target), operands=tuple(map(spread, statement.operands)))


def names(subscripts: tuple[IntExpr, ...]) -> frozenset[str]:
    """Indices that stand alone as a subscript."""
    return frozenset(x.name for x in subscripts if isinstance(x, Sym))


def evidence(statement: Statement, **references: tuple[IntExpr, ...]) -> Json:
    """What the counting argument of a statement rests on: its indices and who is subscripted how."""
    nest = [[i.name, str(i.lower), str(i.upper)] for i in statement.indices]
    subscripts = {"target": statement.target.subscripts, **references}
    return {
        "statement": statement.name,
        "indices": nest,
        "count": None if statement.count is None else str(statement.count),
        "subscripts": {role: [str(x) for x in parts] for role, parts in subscripts.items()},
    }


def score_evidence(scores: Scores) -> Json:
    return evidence(scores.statement, row=scores.operands[0].subscripts, column=scores.operands[1].subscripts)


def mixing_evidence(mixing: Mixing) -> Json:
    return evidence(mixing.statement, pair=mixing.pair.subscripts, value=mixing.other.subscripts)


def _mixing(cascade: Cascade, statement: Statement) -> Iterator[Mixing]:
    if statement.update != "+=":
        return
    for pair in statement.operands:
        chain = _pair_chain(cascade, pair.array)
        scores = [s for name in chain for s in _score_product(cascade, name)]
        if not scores or len(chain) == len(scores) or not _plain(pair):
            continue
        for other in statement.operands:
            source = None if other == pair else _input(cascade, other)
            if source is not None and _covered(statement, pair, other):
                widths = [cascade.array(name).width for name in chain]
                yield _described(cascade, statement, pair, source, tuple(scores), min(widths))


def _described(
    cascade: Cascade, statement: Statement, pair: Reference, other: Operand, scores: tuple[Scores, ...], width: int
) -> Mixing:
    after = _written_as(cascade, statement.target.array)
    last = cascade.array(after[-1])
    return Mixing(
        statement,
        pair,
        scores,
        other,
        width=min(cascade.array(a).width for a in after),
        pair_width=width,
        accumulators=_elements(statement),
        stored=_stored(cascade, last) * last.width if last.role == "out" else Const(0),
    )


def _pair_chain(cascade: Cascade, array: str) -> dict[str, None]:
    """The temps between score products and ``array`` whose elements stand for one pair each, itself included.

    A temp with several writers is left out: one of them may make a pair without its score.
    """
    writer = _only_writer(cascade, array)
    if writer is None or writer.update != "=":
        return dict.fromkeys([array] if _score_product(cascade, array) else [])
    before = [o.array for o in writer.operands if o.array != array and _same_element(writer.target, o)]
    found = dict.fromkeys(name for b in before for name in _pair_chain(cascade, b))
    return {array: None, **found} if found else {}


def _score_product(cascade: Cascade, array: str) -> list[Scores]:
    """The score product that computes a temp, as a list of at most one."""
    statement = _only_writer(cascade, array)
    if statement is None or statement.update != "+=" or not _plain(statement.target):
        return []
    summed = {i.name: i for i in statement.indices if i.name not in names(statement.target.subscripts)}
    factors = [o for o in statement.operands if _mentions(o) & summed.keys()]
    sources = [s for s in (_input(cascade, o) for o in factors) if s is not None]
    if len(factors) != 2 or len(sources) != 2 or not summed:
        return []
    depth = _extent(list(summed.values()), {i.name for i in statement.indices})
    bare = [names(o.subscripts) for o in factors]
    if depth is None or any(not summed.keys() <= b for b in bare):
        return []
    if not names(statement.target.subscripts) <= bare[0] | bare[1]:
        return []
    pairs = statement.count // depth if statement.count is not None else _elements(statement)
    return [Scores(statement, (sources[0], sources[1]), depth, pairs)]


def _covered(statement: Statement, pair: Reference, other: Reference) -> bool:
    """Loomis-Whitney with weights 1/2 on pair, operand and accumulator needs each index alone in two of the three."""
    lists = [names(r.subscripts) for r in (pair, other, statement.target)]
    summed = {i.name for i in statement.indices} - _mentions(statement.target)
    return bool(summed) and all(sum(i.name in bare for bare in lists) >= 2 for i in statement.indices)


def _input(cascade: Cascade, reference: Reference) -> Operand | None:
    """The input behind an operand, through statements that compute one element from one element."""
    array, width = cascade.array(reference.array), cascade.array(reference.array).width
    seen: set[str] = set()
    while array.role == "temp" and array.name not in seen:
        seen.add(array.name)
        writer = _only_writer(cascade, array.name)
        same = [o for o in writer.operands if _same_element(writer.target, o)] if writer is not None else []
        if writer is None or writer.update != "=" or not same:
            return None
        array = cascade.array(same[0].array)
        width = min(width, array.width)
    if array.role != "in":
        return None
    return Operand(array.name, array.storage or array.name, width, reference.subscripts)


def _written_as(cascade: Cascade, array: str) -> list[str]:
    """The array and those computed from it one to one, up to an output."""
    found = [array]
    for statement in cascade.statements:
        last = cascade.array(found[-1])
        reads = [o for o in statement.operands if o.array == last.name and _same_element(statement.target, o)]
        if last.role == "temp" and statement.update == "=" and reads:
            found.append(statement.target.array)
    return found


def _stored(cascade: Cascade, output: Array) -> IntExpr:
    """Elements of an output that are certainly written; none where its subscripts do not tell."""
    for name, count in cascade.elements:
        if name == output.name:
            return count
    writer = next(s for s in reversed(cascade.statements) if s.target.array == output.name)
    kept = _target_indices(writer)
    return points(kept) if kept is not None and _plain(writer.target) else Const(0)


def _elements(statement: Statement) -> IntExpr:
    """The elements that a statement writes, or more where its subscripts do not tell."""
    kept = _target_indices(statement)
    return points(statement.indices if kept is None else kept)


def _target_indices(statement: Statement) -> tuple[Index, ...] | None:
    """The indices that the target mentions; None where their ranges depend on others."""
    kept = tuple(i for i in statement.indices if i.name in _mentions(statement.target))
    others = {i.name for i in statement.indices} - {i.name for i in kept}
    dependent = any((i.lower.symbols() | i.upper.symbols()) & others for i in kept)
    return None if dependent else kept


def _extent(summed: list[Index], inner: set[str]) -> IntExpr | None:
    """The product of the indices' ranges, or None where one depends on another index."""
    if any((i.lower.symbols() | i.upper.symbols()) & inner for i in summed):
        return None
    return prod((i.upper - i.lower for i in summed), start=Const(1))


def _only_writer(cascade: Cascade, array: str) -> Statement | None:
    """The statement that computes a temp, if it is the only one."""
    writers = [s for s in cascade.statements if s.target.array == array]
    return writers[0] if len(writers) == 1 and cascade.array(array).role == "temp" else None


def _plain(reference: Reference) -> bool:
    """Whether every subscript is an index of its own."""
    return len(names(reference.subscripts)) == len(reference.subscripts)


def _same_element(target: Reference, operand: Reference) -> bool:
    """Whether elements of the operand and of the target stand for each other one to one."""
    return _plain(target) and _plain(operand) and names(target.subscripts) == names(operand.subscripts)


def _mentions(reference: Reference) -> frozenset[str]:
    return frozenset().union(*(x.symbols() for x in reference.subscripts))
