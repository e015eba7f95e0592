"""Bounds that fall as the fast memory grows: terms of the derived inequalities, less what need not be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flashc.iomodel.bound import Env, Json, Moved
from flashc.iomodel.compulsory import Elements, stored
from flashc.iomodel.derive import Part, described, parts
from flashc.iomodel.monomial import Term
from flashc.iomodel.statements import Cascade
from flashc.iomodel.values import Values, notes, readings, started

ORDER = "every operation is done (no Strassen), sums in any order"
COUNTED = "{} runs {} times"


@dataclass(frozen=True, slots=True)
class Capacity:
    """``terms`` bound the loads of a run in which the ``free`` elements were loaded too; those are taken off again."""

    rule: str
    assumptions: tuple[str, ...]
    terms: tuple[Term, ...]
    free: tuple[Elements, ...]
    stored: tuple[Elements, ...]
    evidence: tuple[Json, ...]
    context: Json
    kind: str = "statement"
    groups: tuple[Json, ...] = ()
    chosen: tuple[Part, ...] = ()

    def same_as(self, other: Capacity) -> bool:
        """The same numbers for all sizes, however they were found."""
        return self.terms == other.terms and [(e.width, e.count) for e in self.free] == [
            (e.width, e.count) for e in other.free
        ]

    def at(self, sizes: Env, fast_bytes: float) -> Moved:
        free = sum(e.bytes(sizes) for e in self.free)
        loads = max(0.0, sum(t.value(sizes, fast_bytes) for t in self.terms) - free)
        stores = sum(e.bytes(sizes) for e in self.stored)
        return Moved(loads, stores, loads + stores)

    def formula(self) -> Any:
        return sum(t.formula() for t in self.terms)

    def certificate(self) -> Json:
        evidence = {
            **self.context,
            "parts": list(self.evidence),
            "free": [e.json() for e in self.free],
            "stored": [e.json() for e in self.stored],
            **({"groups": list(self.groups)} if self.groups else {}),
        }
        claim = {"text": " + ".join(map(term_text, self.terms)), "terms": [term_json(t) for t in self.terms]}
        return {
            "version": 1, "rule": self.kind, "assumptions": list(self.assumptions), "evidence": evidence, "claim":
            claim,
        }  # fmt: skip

    def numbers(self, sizes: Env) -> Json:
        terms = [x for t in self.terms for x in (t.volume, *(e for e, _ in t.factors))]
        counts = [*terms, *(e.count for e in (*self.free, *self.stored))]
        return {"values": {str(e): int(e.evaluate(sizes)) for e in counts}}


def term_json(term: Term) -> Json:
    return {
        "points": str(term.volume),
        "constant": [[str(b), str(e)] for b, e in term.powers],
        "factors": [[str(x), str(e)] for x, e in term.factors],
        "memory_exponent": str(1 - term.sigma),
    }


def term_text(term: Term) -> str:
    """`(i * j) * (1/2)^(1/2) / M^(1/2)`: the closed form as plain text."""
    factors = [f"({term.volume})"]
    factors += [f"({b})^({e})" for b, e in term.powers]
    factors += [f"({x})^({e})" for x, e in term.factors]
    return " * ".join(factors) + (f" / M^({term.sigma - 1})" if term.sigma != 1 else "")


def statement_bounds(cascade: Cascade) -> Iterator[Capacity]:
    """The single-statement rule on every statement; what the other statements move is not counted."""
    for statement in cascade.statements:
        found: list[Capacity] = []
        for joined in readings(cascade):
            for part in parts(statement, cascade, joined):
                small = ", ".join(name for name, _, _ in part.uncovered)
                rule = f"statement {statement.name}" + (f", small {small}" if small else "")
                bound = capacity(cascade, joined, rule, (part,)) if part.sigma > 1 else None
                if bound is not None and not any(b.same_as(bound) for b in found):
                    found.append(bound)
        yield from found


def capacity(
    cascade: Cascade, joined: Values, rule: str, chosen: tuple[Part, ...], groups: tuple[Json, ...] = ()
) -> Capacity | None:
    """The bound of some inequalities together; None where an element count depends on an index."""
    statements = [p.statement for p in chosen]
    free = started(cascade, joined, statements)
    names = {i.name for s in statements for i in s.indices}
    if any(e.count.symbols() & names for e in free):
        return None
    counted = (COUNTED.format(s.name, s.count) for s in statements if s.count is not None)
    assumptions = (ORDER, *counted, *notes(joined, statements, free))
    terms = tuple(p.term() for p in chosen)
    kind = "sum" if groups else "statement"
    evidence = tuple(p.evidence() for p in chosen)
    context = described(cascade, joined)
    return Capacity(rule, assumptions, terms, free, stored(cascade), evidence, context, kind, groups, chosen)
