"""Weights of a recurrent network that do not fit: every other step they must come in again.

    g[t, b, i] += U[i, k] * h[t, b, k];    h[t + 1, b, i] = f(g[t, b, i], ...)

Fix a row b. An element of h[t + 1] is computed from a sum over all of h[t]. So the whole state of a step is needed by
each element of the next, and the whole of U times h[t] by the whole state h[t + 1].

    Claim: loads >= W + (ceil(T / 2) - 1) max(0, W - M) for T steps and W bytes of weights.

Before the first product of step t + 2 some h[t + 2, b, k] is computed, hence all of h[t + 1], hence every product of
step t has been made. The moments of the first products of steps 0, 2, 4, ... thus cut a run into intervals, and in each
of them every weight is an operand. At most M bytes of weights are resident at its beginning, none at the first.

Products may be made again, sums taken in any order. "Every step" in place of every other is false: with the rows of U
taken upwards, h[t + 1, b, k] is ready when a row i > k is loaded, and U[i, k] serves steps t and t + 1; downwards, the
other triangle does. tests/test_resident.py runs that schedule. Where no product of a step is made before the step's
whole state is there, as with a barrier between steps, the first products of all steps cut the run: T for ceil(T / 2).

Heads and layers have weights of their own: their loads add up, each with all of M. Of several rows b one is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flashc.iomodel.accesses import linear
from flashc.iomodel.bound import Env, Json, Moved, listed
from flashc.iomodel.capacity import ORDER
from flashc.iomodel.compulsory import Elements, stored
from flashc.iomodel.derive import described, reference_text, statement_text
from flashc.iomodel.monomial import fast_symbol, positive
from flashc.iomodel.statements import Cascade, Index, Reference, Statement
from flashc.ir.intexpr import Const, IntExpr, add, ceil_div, mul

APART = "no product of a step is made before the whole state that the step reads is computed"
Place = tuple[str, int]
"""One subscript: an index and a number that is added to it."""
Hops = tuple[tuple[Statement, Reference], ...]


@dataclass(frozen=True, slots=True)
class Product:
    """``statement`` multiplies ``weights`` by ``state``, ``hops`` lead from the state back to the statement's target:
    each a statement and the operand that is followed."""

    statement: Statement
    time: str
    state: Reference
    weights: tuple[Reference, ...]
    hops: Hops


@dataclass(frozen=True, slots=True)
class Layer:
    """Products of one state that need each other: ``weights`` bytes in each of ``heads``, ``steps`` times."""

    products: tuple[Product, ...]
    weights: IntExpr
    heads: IntExpr
    steps: IntExpr
    extents: tuple[IntExpr, ...]

    def loads(self, sizes: Env, fast_bytes: float, stride: int) -> float:
        if any(e.evaluate(sizes) <= 0 for e in self.extents):
            return 0.0
        weights, heads = self.weights.evaluate(sizes), self.heads.evaluate(sizes)
        again = -(-self.steps.evaluate(sizes) // stride) - 1
        return float(heads * (weights + again * max(0.0, weights - fast_bytes)))

    def formula(self, stride: int) -> Any:
        import sympy

        weights, heads, M = positive(self.weights), positive(self.heads), fast_symbol()
        again = positive(ceil_div(self.steps, stride)) - 1
        return sympy.Piecewise((heads * (weights + again * (weights - M)), weights > M), (heads * weights, True))


@dataclass(frozen=True, slots=True)
class ResidentWeights:
    """The bound; ``stride`` 2 for any schedule, 1 where the steps do not overlap."""

    rule: str
    assumptions: tuple[str, ...]
    layers: tuple[Layer, ...]
    stride: int
    stored: tuple[Elements, ...]
    context: Json

    def at(self, sizes: Env, fast_bytes: float) -> Moved:
        loads = sum(layer.loads(sizes, fast_bytes, self.stride) for layer in self.layers)
        stores = sum(e.bytes(sizes) for e in self.stored)
        return Moved(loads, stores, loads + stores)

    def formula(self) -> Any:
        import sympy

        return sympy.piecewise_fold(sympy.Add(*(layer.formula(self.stride) for layer in self.layers)))

    def certificate(self) -> Json:
        layers = [[_evidence(p) for p in layer.products] for layer in self.layers]
        evidence = {**self.context, "layers": layers, "stored": [e.json() for e in self.stored]}
        terms = [{"weights": str(x.weights), "heads": str(x.heads), "steps": str(x.steps)} for x in self.layers]
        text = " + ".join("({heads}) * resident({weights}, {steps})".format(**t) for t in terms)
        return {
            "version": 1, "rule": "resident", "assumptions": list(self.assumptions), "evidence": evidence,
            "claim": {"text": text, "terms": terms, "stride": self.stride},
        }  # fmt: skip

    def numbers(self, sizes: Env) -> Json:
        counts = [x for layer in self.layers for x in (layer.weights, layer.heads, layer.steps)]
        counts += [e.count for e in self.stored]
        return {"values": {str(e): int(e.evaluate(sizes)) for e in counts}}


def resident_bounds(cascade: Cascade) -> Iterator[ResidentWeights]:
    """Both forms, over all states that depend on the whole state before them."""
    found = tuple(_layers(cascade))
    if found:
        names = listed([p.statement.name for layer in found for p in layer.products], ", ")
        context = described(cascade, {a.name: a.storage or a.name for a in cascade.arrays})
        yield ResidentWeights(f"weights {names}", (ORDER,), found, 2, stored(cascade), context)
        yield ResidentWeights(f"weights {names}, steps apart", (ORDER, APART), found, 1, stored(cascade), context)


def _layers(cascade: Cascade) -> Iterator[Layer]:
    """Products of the same state, read in the same way; an array of weights counts in the first that reads it."""
    left = [p for s in cascade.statements for p in _products(cascade, s)]
    counted: set[str] = set()
    while left:
        members = [p for p in left if _frame(p) == _frame(left[0])]
        left = [p for p in left if p not in members]
        fresh: list[Product] = []
        for member in members:
            own = tuple(w for w in member.weights if w.array not in counted)
            counted |= {w.array for w in own}
            fresh += [replace(member, weights=own)] if own else []
        if fresh:
            yield _layer(cascade, fresh)


def _layer(cascade: Cascade, products: Sequence[Product]) -> Layer:
    first = products[0]
    sums = [_extents(p.statement) for p in products]
    weights = add(
        *(
            mul(cascade.array(w.array).width, *(of[n] for n in _names(w) if n not in _rows(p)))
            for p, of in zip(products, sums, strict=True)
            for w in p.weights
        )
    )
    heads = mul(1, *(sums[0][n] for n in _names(first.weights[0]) if n in _rows(first)))
    extents = tuple(dict.fromkeys(e for of in sums for e in of.values()))
    return Layer(tuple(products), weights, heads, sums[0][first.time], extents)


def _frame(product: Product) -> Any:
    """What products of one layer have in common: the state, its ranges, and which of its subscripts are heads."""
    places, of = _places(product.state, product.statement), {i.name: i for i in product.statement.indices}
    heads = set(_names(product.weights[0])) & _rows(product)
    rows = _rows(product)
    shape = [(at, of[n].lower, of[n].upper, n == product.time, n in heads, n in rows) for n, at in places or ()]
    return product.state.array, shape


def _products(cascade: Cascade, statement: Statement) -> Iterator[Product]:
    """The statement as a step of a recurrence, at most once."""
    if statement.update == "=" or not _box(statement) or not _computed(cascade, statement.target.array):
        return
    for state in statement.operands:
        for name, _ in _places(state, statement) or ():
            hops = _back(cascade, statement, state, name)
            weights = () if hops is None else _weights(cascade, statement, state, name)
            if hops is not None and weights:
                yield Product(statement, name, state, weights, hops)
                return


def _weights(cascade: Cascade, statement: Statement, state: Reference, time: str) -> tuple[Reference, ...]:
    """Inputs that no index of time selects, with the same heads as the first of them."""
    written = {s.target.array for s in cascade.statements}
    rows = set(_names(state)) & set(_names(statement.target)) - {time}
    found: list[Reference] = []
    for operand in statement.operands:
        array, places = cascade.array(operand.array), _places(operand, statement)
        plain = places is not None and all(at == 0 and n != time for n, at in places)
        if plain and array.role == "in" and not array.storage and operand.array not in written:
            same = not found or set(_names(found[0])) & rows == set(_names(operand)) & rows
            found += [operand] if same and operand.array not in {w.array for w in found} else []
    return tuple(found)


def _back(cascade: Cascade, statement: Statement, state: Reference, time: str) -> Hops | None:
    """From what a product reads back to the sum that an earlier step of it computes; None if that is not one step.

    Only element by element, through statements that alone write their array, over the same ranges and times.
    """
    ranges = {i.name: i for i in statement.indices}
    start = _places(state, statement)
    pending: list[tuple[str, tuple[Place, ...], Hops]] = [(state.array, start, ())] if start else []
    seen: set[tuple[str, tuple[Place, ...]]] = set()
    while pending:
        array, places, hops = pending.pop(0)
        writer = _computed(cascade, array)
        if writer is None or (array, places) in seen:
            continue
        seen.add((array, places))
        bound = _bound_by(writer, places, ranges, time)
        if bound is None:
            continue
        if writer == statement:
            if hops and bound.get(time) == (time, -1) and _whole(statement, state, bound, time):
                return hops
            continue
        for operand in writer.operands if writer.update == "=" else ():
            read = _places(operand, writer)
            if read is not None:
                entry = tuple((bound[n][0], bound[n][1] + at) for n, at in read)
                pending.append((operand.array, entry, (*hops, (writer, operand))))
    return None


def _bound_by(
    writer: Statement, places: tuple[Place, ...], ranges: dict[str, Index], time: str
) -> dict[str, Place] | None:
    """The indices of the statement that writes an element, in terms of the product's; None if it may not write it."""
    target = _places(writer.target, writer)
    needed = set(_names(writer.target)) if writer.update != "=" else {i.name for i in writer.indices}
    if not _box(writer) or target is None or len(target) != len(places) or {n for n, _ in target} != needed:
        return None
    of = {i.name: i for i in writer.indices}
    found: dict[str, Place] = {}
    for (name, at), (source, shift) in zip(target, places, strict=True):
        moved, same = shift - at, (of[name].lower, of[name].upper) == (ranges[source].lower, ranges[source].upper)
        if not same or moved not in ((0, -1) if source == time else (0,)):
            return None
        found[name] = (source, moved)
    return found


def _whole(statement: Statement, state: Reference, bound: dict[str, Place], time: str) -> bool:
    """Whether a step sums over every element of the state's row that it reads."""
    target, read = set(_names(statement.target)), set(_names(state))
    rows = (target & read) - {time}
    kept = all(bound[n] == (n, 0) for n in rows)
    summed = {bound[n][0] for n in target - rows - {time}}
    return kept and bool(summed) and summed == read - target


def _computed(cascade: Cascade, array: str) -> Statement | None:
    """The only statement that writes an array that is not given and has its storage to itself."""
    own = cascade.array(array)
    writers = [s for s in cascade.statements if s.target.array == array]
    return writers[0] if len(writers) == 1 and own.role in ("out", "temp") and not own.storage else None


def _box(statement: Statement) -> bool:
    names = {i.name for i in statement.indices}
    bounds = [b.symbols() for i in statement.indices for b in (i.lower, i.upper)]
    return statement.count is None and not any(symbols & names for symbols in bounds)


def _places(reference: Reference, statement: Statement) -> tuple[Place, ...] | None:
    """Each subscript as an index and a number; None where one is anything else, or an index occurs twice."""
    names = frozenset(i.name for i in statement.indices)
    found: list[Place] = []
    for subscript in reference.subscripts:
        form = linear(subscript, names)
        if form is None or len(form.terms) != 1 or form.terms[0][1] != Const(1) or not isinstance(form.offset, Const):
            return None
        found.append((form.terms[0][0], form.offset.value))
    return tuple(found) if len({n for n, _ in found}) == len(found) else None


def _names(reference: Reference) -> tuple[str, ...]:
    """The indices of a reference whose subscripts are plain."""
    return tuple(sorted({s for x in reference.subscripts for s in x.symbols()}))


def _rows(product: Product) -> set[str]:
    """Indices of the state that the sum does not run over: batch and heads."""
    return set(_names(product.state)) & set(_names(product.statement.target)) - {product.time}


def _extents(statement: Statement) -> dict[str, IntExpr]:
    return {i.name: i.upper - i.lower for i in statement.indices}


def _evidence(product: Product) -> Json:
    return {
        "name": product.statement.name,
        **_described(product.statement),
        "time": product.time,
        "state": reference_text(product.state),
        "weights": [reference_text(w) for w in product.weights],
        "hops": [{**_described(s), "reads": reference_text(r)} for s, r in product.hops],
    }


def _described(statement: Statement) -> Json:
    return {
        "statement": statement_text(statement),
        "domain": [[i.name, str(i.lower), str(i.upper)] for i in statement.indices],
    }
