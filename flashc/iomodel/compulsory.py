"""Compulsory traffic: every input element that is needed is read once, every element of the result is written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flashc.iomodel.accesses import least_elements
from flashc.iomodel.bound import Env, Json, Moved
from flashc.iomodel.monomial import positive
from flashc.iomodel.statements import Array, Cascade
from flashc.ir.intexpr import Const, IntExpr, imax

NEEDED = "each needed input element is read, each output element is written"
LOADED, STORED = ("in", "inout"), ("out", "inout")


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements of one array (or of several names of the same storage), ``width`` bytes each."""

    array: str
    width: int
    count: IntExpr

    def bytes(self, sizes: Env) -> float:
        return float(self.width * max(self.count.evaluate(sizes), 0))

    def json(self) -> Json:
        return {"array": self.array, "width": self.width, "elements": str(self.count)}


@dataclass(frozen=True, slots=True)
class Compulsory:
    """The bound that holds however large the fast memory is."""

    loaded: tuple[Elements, ...]
    stored: tuple[Elements, ...]
    arrays: Json
    rule: str = "compulsory"
    assumptions: tuple[str, ...] = (NEEDED,)

    def at(self, sizes: Env, fast_bytes: float) -> Moved:
        loads = sum(e.bytes(sizes) for e in self.loaded)
        stores = sum(e.bytes(sizes) for e in self.stored)
        return Moved(loads, stores, loads + stores)

    def formula(self) -> Any:
        import sympy

        return sympy.Add(*(e.width * positive(e.count) for e in (*self.loaded, *self.stored)))

    def certificate(self) -> Json:
        evidence = {
            "arrays": self.arrays,
            "loaded": [e.json() for e in self.loaded],
            "stored": [e.json() for e in self.stored],
        }
        terms = [f"{e.width} * ({e.count})" for e in (*self.loaded, *self.stored)]
        claim = {"text": " + ".join(terms) or "0", "terms": []}
        return {
            "version": 1, "rule": "compulsory", "assumptions": list(self.assumptions), "evidence": evidence, "claim":
            claim,
        }  # fmt: skip

    def numbers(self, sizes: Env) -> Json:
        return {"values": {str(e.count): int(e.count.evaluate(sizes)) for e in (*self.loaded, *self.stored)}}


def compulsory(cascade: Cascade) -> Compulsory:
    """From the counts that the cascade gives, else from the subscripts."""
    arrays = {
        a.name: {"role": a.role, "width": a.width, "value": a.storage or a.name}
        for a in cascade.arrays
        if a.role != "temp"
    }
    return Compulsory(loaded(cascade), stored(cascade), arrays)


def loaded(cascade: Cascade) -> tuple[Elements, ...]:
    """Inputs; names of one storage are the same elements and count once."""
    return _elements(cascade, [a for a in cascade.arrays if a.role in LOADED], reads=True)


def stored(cascade: Cascade) -> tuple[Elements, ...]:
    return _elements(cascade, [a for a in cascade.arrays if a.role in STORED], reads=False)


def _elements(cascade: Cascade, arrays: list[Array], reads: bool) -> tuple[Elements, ...]:
    found: dict[str, Elements] = {}
    for array in arrays:
        count = dict(cascade.elements).get(array.name) or _counted(cascade, array, reads)
        place = _place(array)
        width = array.width
        if place in found:
            count, width = imax(found[place].count, count), min(found[place].width, width)
        found[place] = Elements(place, width, count)
    return tuple(e for e in found.values() if e.count != Const(0))


def _counted(cascade: Cascade, array: Array, reads: bool) -> IntExpr:
    """The largest number of elements that one access of the array is sure to touch.

    What a statement with a ``count`` touches is not known; what is read after (or while) something else is written in
    its place is not what was given.
    """
    counts: list[IntExpr] = []
    for statement in cascade.statements:
        if reads and statement.update == "=" and _place(cascade.array(statement.target.array)) == _place(array):
            break
        updated = statement.update != "=" and array.role == "inout"
        references = [*statement.operands, *([statement.target] if updated else [])] if reads else [statement.target]
        if statement.count is None:
            counts += [least_elements(r, statement.indices) for r in references if r.array == array.name]
    counts = list(dict.fromkeys(c for c in counts if c != Const(0)))
    return Const(0) if not counts else counts[0] if len(counts) == 1 else imax(*counts)


def _place(array: Array) -> str:
    return array.storage or array.name
