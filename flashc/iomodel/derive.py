"""The single-statement rule: the least traffic of one affine statement, with its constant.

Take a run, cut its loads from the end into blocks of L = X - M bytes. A block touches at most X bytes of items: what
lies in fast memory at its start and what it loads. If t_j items of access j allow at most prod t_j^s_j points
(``exponents``), a block of X bytes does at most chi(X) = (X / sigma)^sigma prod (s_j / c_j)^s_j of them, where c_j is
the width of an item and sigma = sum s_j; so loads >= |V| (X - M) / chi(X), at the best X = sigma M / (sigma - 1)

    loads >= |V| (sigma - 1)^(sigma - 1) prod_j (c_j / s_j)^s_j / M^(sigma - 1).

The first, shorter block starts with nothing and does not spoil this: chi is convex with chi(0) = 0. What makes it a
bound:

- Accesses to one array may name the same element, so they share one budget and their exponents add up.
- Accumulators that start at zero are not loaded: one load per element of the result is taken off (a partial sum that
  starts anew while another lies in slow memory could have loaded that one instead).
- Operands that the run computes itself may never be loaded: one load per element is taken off, which needs that each
  is computed once.
- If swapping two indices i > j maps accesses of one array to each other, the points and their mirror images are twice
  as many and touch no other items of that array (Beaumont et al. 2022, arXiv 2202.10217, for SYRK and Cholesky). An
  access that counts and is not mapped to another must have both indices: then its mirror image is as large as itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from flashc.iomodel.accesses import Access, access
from flashc.iomodel.bound import Json
from flashc.iomodel.exponents import Point, Row, candidates, covered
from flashc.iomodel.monomial import Term, collected, is_one
from flashc.iomodel.nests import extents, length
from flashc.iomodel.statements import Cascade, Index, Reference, Statement
from flashc.iomodel.values import Values, width
from flashc.ir.intexpr import Const, IntExpr, Sym


@dataclass(frozen=True, slots=True)
class Share:
    """One access with its exponent; accesses with the same ``budget`` draw on the same items of ``width`` bytes."""

    access: Access
    budget: str
    width: Fraction
    exponent: Fraction = Fraction(0)
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """The inequality for one statement. ``uncovered``: indices with their extent and the exponent of 1 / extent;
    ``swap``: two indices that may be exchanged, where every point has a mirror image."""

    statement: Statement
    shares: tuple[Share, ...]
    uncovered: tuple[tuple[str, IntExpr, Fraction], ...] = ()
    swap: tuple[str, str] | None = None

    @property
    def sigma(self) -> Fraction:
        return sum((s.exponent for s in self.shares), Fraction(0))

    def budgets(self) -> dict[str, tuple[Fraction, Fraction]]:
        """Width and exponent of every budget that counts."""
        found: dict[str, tuple[Fraction, Fraction]] = {}
        for s in self.shares:
            found[s.budget] = (s.width, found.get(s.budget, (s.width, Fraction(0)))[1] + s.exponent)
        return {name: pair for name, pair in found.items() if pair[1] > 0}

    def term(self) -> Term:
        sigma = self.sigma
        powers = [(wide / exponent, exponent) for wide, exponent in self.budgets().values()]
        powers += [(sigma - 1, sigma - 1)] if sigma > 1 else []
        if self.swap is not None:
            doubled = sum((s.exponent for s in self.shares if s.mirrored), Fraction(0))
            powers.append((Fraction(2), 1 - doubled))
        factors = [(s.access.reuse, -s.exponent) for s in self.shares if s.exponent > 0 and not is_one(s.access.reuse)]
        factors += [(extent, -exponent) for _, extent, exponent in self.uncovered if exponent > 0]
        constants = [(Fraction(e.value), x) for e, x in factors if isinstance(e, Const) and e.value > 0]
        symbolic = tuple((e, x) for e, x in factors if not isinstance(e, Const))
        return Term(self.statement.points(), collected(*powers, *constants), symbolic, sigma)

    def evidence(self) -> Json:
        """Everything the checker needs to repeat the derivation (docs/bounds.md)."""
        return {
            "name": self.statement.name,
            "statement": statement_text(self.statement),
            "domain": [[i.name, str(i.lower), str(i.upper)] for i in self.statement.indices],
            "points": str(self.statement.points()),
            "counted": self.statement.count is not None,
            "accesses": [
                {
                    "reference": reference_text(s.access.reference),
                    "indices": sorted(s.access.indices),
                    "budget": s.budget,
                    "width": str(s.width),
                    "exponent": str(s.exponent),
                    "reuse": str(s.access.reuse),
                    "mirrored": s.mirrored,
                }
                for s in self.shares
            ],
            "uncovered": [[name, str(extent), str(exponent)] for name, extent, exponent in self.uncovered],
            "swap": list(self.swap) if self.swap else None,
            "sigma": str(self.sigma),
            "constant": [[str(b), str(e)] for b, e in self.term().powers],
            "factors": [[str(x), str(e)] for x, e in self.term().factors],
        }


def statement_text(statement: Statement) -> str:
    right = " * ".join(map(reference_text, statement.operands)) or "0"
    return f"{reference_text(statement.target)} {statement.update} {right}"


def reference_text(reference: Reference) -> str:
    return f"{reference.array}[{', '.join(map(str, reference.subscripts))}]"


def parts(statement: Statement, cascade: Cascade, joined: Values) -> Iterator[Part]:
    """Inequalities for one statement, the one that covers every index first.

    ``joined`` names the value that an array holds, which is its budget (``values``).
    """
    shares = _shares(statement, cascade, joined)
    if not shares:
        return
    owners = {name: at for at, name in enumerate(dict.fromkeys(s.budget for s in shares))}
    rows = {i.name: frozenset(n for n, s in enumerate(shares) if i.name in s.access.indices) for i in statement.indices}
    shape = tuple((owners[s.budget], s.width) for s in shares)
    for point in exponents(tuple(rows.values()), shape):
        part = _part(statement, shares, rows, point)
        if part is not None:
            yield part


@lru_cache(maxsize=256)
def exponents(rows: tuple[Row, ...], shape: tuple[tuple[int, Fraction], ...]) -> tuple[Point, ...]:
    """Exponents worth a bound; ``shape`` gives budget and width of every access. An index in no access is never
    covered.
    """
    groups: dict[int, list[int]] = {}
    for at, (owner, _) in enumerate(shape):
        groups.setdefault(owner, []).append(at)

    def cost(s: Sequence[float]) -> float:
        """The logarithm of 1 / constant (the dual of maximising a box of iterations)."""
        totals = ((sum(s[at] for at in members), float(shape[members[0]][1])) for members in groups.values())
        return sum(x * math.log(x / wide) for x, wide in totals if x > 0)

    return tuple(dict.fromkeys(candidates([r for r in rows if r], len(shape), cost)))


def _shares(statement: Statement, cascade: Cascade, joined: Values) -> tuple[Share, ...]:
    """Operands, and accumulators of a reduction, once each."""
    references = [*statement.operands, *([] if statement.update == "=" else [statement.target])]
    found: list[Share] = []
    for reference in dict.fromkeys(references):
        value = joined[reference.array]
        seen = access(reference, statement)
        if seen is not None and seen.indices:
            found.append(Share(seen, value, Fraction(width(cascade, joined, value))))
    return tuple(found)


def _part(statement: Statement, shares: Sequence[Share], rows: Mapping[str, Row], point: Point) -> Part | None:
    ranges = extents(statement.indices)
    uncovered = tuple(
        (name, length(ranges[name]), 1 - covered(point, row)) for name, row in rows.items() if covered(point, row) < 1
    )
    if any(extent.symbols() & rows.keys() for _, extent, _ in uncovered):
        return None
    part = Part(statement, tuple(replace(s, exponent=e) for s, e in zip(shares, point, strict=True)), uncovered)
    return next(_mirrored(part), part) if not uncovered else part


def _mirrored(part: Part) -> Iterator[Part]:
    """The same inequality with every point counted twice, where swapping two ordered indices allows it."""
    if part.statement.count is not None:
        return
    for larger, smaller, strict in _ordered(part.statement.indices):
        swap = {larger: Sym(smaller), smaller: Sym(larger)}
        shares = tuple(replace(s, mirrored=not _maps_back(s, part.shares, swap)) for s in part.shares)
        doubled = [s for s in shares if s.mirrored and s.exponent > 0]
        gained = 1 - sum((s.exponent for s in doubled), Fraction(0))
        symmetric = all((larger in s.access.indices) == (smaller in s.access.indices) for s in doubled)
        if gained > 0 and symmetric:
            statement = replace(part.statement, indices=strict)
            yield replace(part, statement=statement, shares=shares, swap=(larger, smaller))


def _maps_back(share: Share, shares: Sequence[Share], swap: Mapping[str, IntExpr]) -> bool:
    old = share.access.reference
    new = Reference(old.array, tuple(x.subs(swap) for x in old.subscripts))
    return any(s.access.reference == new and s.budget == share.budget and is_one(s.access.reuse) for s in shares)


def _ordered(indices: tuple[Index, ...]) -> Iterator[tuple[str, str, tuple[Index, ...]]]:
    """Pairs of indices of which one is below the other, with the nest cut to where it is strictly below."""
    for at, index in enumerate(indices):
        for other in indices[:at]:
            gap = index.upper - Sym(other.name)
            if isinstance(gap, Const):
                upper = index.upper if gap.value <= 0 else Sym(other.name)
                yield other.name, index.name, _with(indices, at, Index(index.name, index.lower, upper))
            gap = index.lower - Sym(other.name)
            if isinstance(gap, Const):
                lower = index.lower if gap.value >= 1 else Sym(other.name) + 1
                yield index.name, other.name, _with(indices, at, Index(index.name, lower, index.upper))


def _with(indices: tuple[Index, ...], at: int, index: Index) -> tuple[Index, ...]:
    return (*indices[:at], index, *indices[at + 1 :])


def described(cascade: Cascade, joined: Values) -> Json:
    """The cascade as far as a bound depends on it."""
    arrays = {
        a.name: {"role": a.role, "width": a.width, "storage": a.storage, "value": joined[a.name]}
        for a in cascade.arrays
    }
    return {"arrays": arrays, "statements": [statement_text(s) for s in cascade.statements]}
