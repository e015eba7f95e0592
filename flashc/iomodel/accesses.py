"""What an access touches: the indices that tell its elements apart, how often an element is reused, how many there are.

An access with subscripts ``i, k`` is a projection of the iteration points onto {i, k}. Where several indices meet in
one subscript (``x + r`` of a convolution, ``c * G + g`` of grouped heads) the access is unfolded: seen as the
projection onto all of them, in which each real element stands for at most ``reuse`` of the unfolded ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from flashc.iomodel.nests import Extents, Index, extents, extreme, length, nest
from flashc.iomodel.statements import Reference, Statement
from flashc.ir.intexpr import Add, Const, IntExpr, Mul, Sym, ceil_div, imax, imin, mul

ONE, ZERO = Const(1), Const(0)


@dataclass(frozen=True, slots=True)
class Linear:
    """``sum of coefficient * index + offset``; neither contains an index."""

    terms: tuple[tuple[str, IntExpr], ...]
    offset: IntExpr


@dataclass(frozen=True, slots=True)
class Access:
    """A reference of a statement as a projection onto ``indices``."""

    reference: Reference
    indices: frozenset[str]
    reuse: IntExpr


def linear(expr: IntExpr, names: frozenset[str]) -> Linear | None:
    """The affine form of ``expr`` in the indices ``names``; None where it is not affine."""
    offset: IntExpr = ZERO
    terms: dict[str, IntExpr] = {}
    for term in expr.args if isinstance(expr, Add) else (expr,):
        factors = term.args if isinstance(term, Mul) else (term,)
        found = [f for f in factors if f.symbols() & names]
        if not found:
            offset = offset + term
        elif len(found) == 1 and isinstance(found[0], Sym):
            rest = mul(*(f for f in factors if f is not found[0]))
            terms[found[0].name] = terms.get(found[0].name, ZERO) + rest
        else:
            return None
    return Linear(tuple((n, c) for n, c in terms.items() if c != ZERO), offset)


def access(reference: Reference, statement: Statement) -> Access | None:
    """The access as a projection; None where a subscript is not affine in the indices."""
    names = frozenset(i.name for i in statement.indices)
    forms = [linear(x, names) for x in reference.subscripts]
    ranges = extents(statement.indices)
    told: set[str] = {f.terms[0][0] for f in forms if f is not None and len(f.terms) == 1}
    reuse: IntExpr = ONE
    for form in sorted((f for f in forms if f is not None), key=lambda f: len(f.terms)):
        open_terms = [(n, c) for n, c in form.terms if n not in told]
        told |= {n for n, _ in open_terms}
        reuse = reuse * _solutions(open_terms, ranges)
    return None if None in forms else Access(reference, frozenset(told), reuse)


def _solutions(terms: Sequence[tuple[str, IntExpr]], ranges: Extents) -> IntExpr:
    """At most so many values of the indices give one value of the sum.

    Of a x + b r = y the solutions lie b/g apart in x and a/g apart in r, where g = gcd(a, b); with three indices or
    more, all but one of them are free.
    """
    if len(terms) < 2:
        return ONE
    sizes = [length(ranges[n]) for n, _ in terms]
    if len(terms) > 2:
        return mul(*sizes[1:])
    (_, a), (_, b) = terms
    if isinstance(a, Const) and isinstance(b, Const):
        common = gcd(a.value, b.value)
        a, b = Const(abs(a.value) // common), Const(abs(b.value) // common)
    elif ONE not in (a, b):
        return imin(*sizes)
    steps = ceil_div(sizes[0], b), ceil_div(sizes[1], a)
    return ONE if ONE in steps else imin(*steps)


def most_elements(reference: Reference, indices: Sequence[Index]) -> IntExpr:
    """Not fewer than the distinct elements of a reference: the points of its own indices, the others wherever worst."""
    names = frozenset(s for x in reference.subscripts for s in x.symbols()) & {i.name for i in indices}
    dropped: dict[str, tuple[IntExpr, IntExpr]] = {}
    kept: list[Index] = []
    for index in indices:
        low, high = extreme(index.lower, dropped, False), extreme(index.upper, dropped, True)
        if index.name in names:
            kept.append(Index(index.name, low, high))
        else:
            dropped[index.name] = (low, high)
    return nest(kept)


def least_elements(reference: Reference, indices: Sequence[Index]) -> IntExpr:
    """Not more than the distinct elements: the others held at their first or at their last value."""
    names = frozenset(i.name for i in indices)
    forms = [linear(x, names) for x in reference.subscripts]
    if any(f is None for f in forms):
        return ZERO
    own = frozenset(n for f in forms if f is not None for n, _ in f.terms)
    clear = [f.terms for f in forms if f is not None]
    if any(len(t) > 1 for t in clear):
        return _sumset([t for t in clear if t], indices) if _is_box(indices) else ZERO
    first = _held(indices, own, False)
    last = _held(indices, own, True)
    return first if first == last else imax(first, last)


def _held(indices: Sequence[Index], own: frozenset[str], last: bool) -> IntExpr:
    """Points of ``own`` with every index outside it that others depend on at one end of its range."""
    fixed: dict[str, IntExpr] = {}
    inner: list[Index] = []
    for at, index in enumerate(indices):
        now = Index(index.name, index.lower.subs(fixed), index.upper.subs(fixed))
        needed = any(index.name in i.lower.symbols() | i.upper.symbols() for i in indices[at + 1 :])
        if index.name not in own and needed:
            fixed[index.name] = now.upper - 1 if last else now.lower
        inner.append(now)
    return nest(inner, own)


def _is_box(indices: Sequence[Index]) -> bool:
    names = {i.name for i in indices}
    return not any((i.lower.symbols() | i.upper.symbols()) & names for i in indices)


def _sumset(forms: Sequence[Sequence[tuple[str, IntExpr]]], indices: Sequence[Index]) -> IntExpr:
    """Distinct subscript tuples over a box: each sum a x + b y has at least as many values as its unit steps reach.

    An index that occurs in two subscripts would couple them; it is then counted in the first one only. A box with an
    empty side has none.
    """
    ranges = extents(indices)
    total: IntExpr = nest(indices, frozenset())
    seen: set[str] = set()
    for terms in forms:
        fresh = [(n, c) for n, c in terms if n not in seen]
        seen |= {n for n, _ in terms}
        sizes = [length(ranges[n]) for n, _ in fresh]
        unit = next((at for at, (_, c) in enumerate(fresh) if c == ONE), None)
        if not fresh:
            continue
        if len(fresh) == 2 and unit is not None:
            other = 1 - unit
            values = (sizes[other] - 1) * imin(_step(fresh[other][1]), sizes[unit]) + sizes[unit]
            total = total * (values if isinstance(fresh[other][1], Const) else imax(values, ZERO))
        else:
            total = total * imax(*sizes)
    return total


def _step(coefficient: IntExpr) -> IntExpr:
    return Const(abs(coefficient.value)) if isinstance(coefficient, Const) else coefficient
