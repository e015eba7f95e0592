"""Immutable integer expressions: one type for tile sizes, bounds, constraints, traffic and objectives.

Build them with ``Sym("tile")``, the operators ``+ - * // %`` (ints on either side) and the constructors
below, which keep a canonical form: constants folded, sums and products flattened and sorted, like terms
collected. The node classes themselves do not simplify. Simplification keeps the value as long as divisors
are not zero, the count of a sum is not negative, and tiles and extents (``isum``) are positive.

    >>> n, t = Sym("n"), Sym("t")
    >>> str(isum("v", ceil_div(n, t), imin(t, n - Sym("v") * t)))
    'n'
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from flashc.errors import IRError
from flashc.ir.intnodes import (
    CONSTRUCTORS,
    NAME,
    RESERVED,
    Add,
    CeilDiv,
    Const,
    FloorDiv,
    IntExpr,
    IntLike,
    Item,
    Max,
    Min,
    Mod,
    Mul,
    Nary,
    Quotient,
    Sum,
    Sym,
    as_expr,
    check_name,
)

__all__ = [
    "NAME",
    "RESERVED",
    "Add",
    "CeilDiv",
    "Const",
    "FloorDiv",
    "IntExpr",
    "IntLike",
    "Item",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Nary",
    "Quotient",
    "Sum",
    "Sym",
    "add",
    "as_expr",
    "ceil_div",
    "check_name",
    "floor_div",
    "imax",
    "imin",
    "isum",
    "mod",
    "mul",
]
FOLD_LIMIT = 4096
"""Longest sum without free symbols that is replaced by its value."""


def add(*terms: IntLike) -> IntExpr:
    """The sum of the terms, like terms collected, positive terms first, the constant last."""
    constant = 0
    coefficients: dict[IntExpr, int] = {}
    for term in _flat(Add, terms):
        coefficient, factors = _coefficient(term)
        if not factors:
            constant += coefficient
            continue
        rest = factors[0] if len(factors) == 1 else Mul(factors)
        coefficients[rest] = coefficients.get(rest, 0) + coefficient
    kept = [mul(coefficient, rest) for rest, coefficient in coefficients.items() if coefficient]
    kept.sort(key=lambda term: (_coefficient(term)[0] < 0, str(term)))
    if constant or not kept:
        kept.append(Const(constant))
    return kept[0] if len(kept) == 1 else Add(tuple(kept))


def mul(*factors: IntLike) -> IntExpr:
    """The product, constant first and the other factors sorted; a constant is distributed over a sum."""
    flat = list(_flat(Mul, factors))
    constant = prod(factor.value for factor in flat if isinstance(factor, Const))
    rest = sorted((factor for factor in flat if not isinstance(factor, Const)), key=str)
    if constant == 0 or not rest:
        return Const(constant)
    if len(rest) == 1 and constant == 1:
        return rest[0]
    if len(rest) == 1 and isinstance(rest[0], Add):
        return add(*(mul(constant, term) for term in rest[0].args))
    return Mul((*((Const(constant),) if constant != 1 else ()), *rest))


def floor_div(num: IntLike, den: IntLike) -> IntExpr:
    """num // den, as Python's. Raises IRError where ``den`` is the constant 0."""
    top, bottom = as_expr(num), as_expr(den)
    exact = _exact_quotient(top, bottom)
    if exact is not None:
        return exact
    if isinstance(top, Const) and isinstance(bottom, Const):
        return Const(top.value // bottom.value)
    return FloorDiv(top, bottom)


def ceil_div(num: IntLike, den: IntLike) -> IntExpr:
    """The least integer that is not below num / den. Raises IRError where ``den`` is the constant 0."""
    top, bottom = as_expr(num), as_expr(den)
    exact = _exact_quotient(top, bottom)
    if exact is not None:
        return exact
    if isinstance(top, Const) and isinstance(bottom, Const):
        return Const(-(-top.value // bottom.value))
    return CeilDiv(top, bottom)


def mod(num: IntLike, den: IntLike) -> IntExpr:
    """num % den, with the divisor's sign as Python's. Raises IRError where ``den`` is the constant 0."""
    top, bottom = as_expr(num), as_expr(den)
    if _exact_quotient(top, bottom) is not None:
        return Const(0)
    if isinstance(top, Const) and isinstance(bottom, Const):
        return Const(top.value % bottom.value)
    return Mod(top, bottom)


def imin(*args: IntLike) -> IntExpr:
    """The least of the arguments (at least one)."""
    rest, constants = _split_constants(_flat(Min, args))
    kept = (*rest, *((Const(min(constants)),) if constants else ()))
    return kept[0] if len(kept) == 1 else Min(kept)


def imax(*args: IntLike) -> IntExpr:
    """The greatest of the arguments (at least one)."""
    rest, constants = _split_constants(_flat(Max, args))
    kept = (*rest, *((Const(max(constants)),) if constants else ()))
    return kept[0] if len(kept) == 1 else Max(kept)


def isum(var: str, count: IntLike, body: IntLike) -> IntExpr:
    """The sum of ``body`` over ``var`` in range(count), in closed form where that is easy.

    Terms and factors free of ``var`` leave the sum, and tiles clipped at the end of an extent add up to what
    they cover: the sum of min(T, n - v*T) over v < c is min(c*T, n) for every c up to ceil(n / T).
    """
    n, term, position = as_expr(count), as_expr(body), Sym(var)
    if n == Const(0) or term == Const(0):
        return Const(0)
    if var not in term.symbols():
        return mul(n, term)
    if n == Const(1):
        return term.subs({var: 0})
    if isinstance(term, Add):
        return add(*(isum(var, n, part) for part in term.args))
    if isinstance(term, Mul) and any(var not in factor.symbols() for factor in term.args):
        free = [factor for factor in term.args if var not in factor.symbols()]
        return mul(*free, isum(var, n, mul(*(factor for factor in term.args if var in factor.symbols()))))
    if term == position:
        return floor_div(mul(n, add(n, -1)), 2)
    for extent, tile in _coverings(n):
        if var not in n.symbols() and term == imin(tile, extent - position * tile):
            return extent if n == ceil_div(extent, tile) else imin(n * tile, extent)
    whole = Sum(var, n, term)
    if isinstance(n, Const) and n.value <= FOLD_LIMIT and not whole.symbols() and not whole.tables():
        return Const(whole.evaluate({}))
    return whole


def _flat(kind: type[Nary], args: Iterable[IntLike]) -> Iterable[IntExpr]:
    for arg in map(as_expr, args):
        if isinstance(arg, kind):
            yield from _flat(kind, arg.args)
        else:
            yield arg


def _coefficient(term: IntExpr) -> tuple[int, tuple[IntExpr, ...]]:
    """The integer factor of a canonical term, and its other factors."""
    if isinstance(term, Const):
        return term.value, ()
    if not isinstance(term, Mul):
        return 1, (term,)
    if isinstance(term.args[0], Const):
        return term.args[0].value, term.args[1:]
    return 1, term.args


def _split_constants(args: Iterable[IntExpr]) -> tuple[list[IntExpr], list[int]]:
    distinct = sorted(set(args), key=str)
    rest = [arg for arg in distinct if not isinstance(arg, Const)]
    return rest, [arg.value for arg in distinct if isinstance(arg, Const)]


def _coverings(count: IntExpr) -> Iterable[tuple[IntExpr, IntExpr]]:
    """Pairs (extent, tile) of which ``count`` is plainly at most ceil(extent / tile)."""
    if isinstance(count, Min):
        for arg in count.args:
            yield from _coverings(arg)
    if isinstance(count, CeilDiv):
        extents = count.num.args if isinstance(count.num, Min) else (count.num,)
        yield from ((extent, count.den) for extent in extents)


def _exact_quotient(num: IntExpr, den: IntExpr) -> IntExpr | None:
    """num / den where it is plainly an integer expression: den divides each coefficient, or is a factor."""
    if den == Const(0):
        raise IRError(f"division by zero: ({num}) by 0")
    if num == Const(0):
        return num
    terms = num.args if isinstance(num, Add) else (num,)
    parts = []
    for term in terms:
        coefficient, factors = _coefficient(term)
        if isinstance(den, Const) and coefficient % den.value == 0:
            parts.append(mul(coefficient // den.value, *factors))
        elif den in factors:
            at = factors.index(den)
            parts.append(mul(coefficient, *factors[:at], *factors[at + 1 :]))
        else:
            return None
    return add(*parts)


CONSTRUCTORS.update(
    {Add: add, Mul: mul, FloorDiv: floor_div, CeilDiv: ceil_div, Mod: mod, Min: imin, Max: imax, Sum: isum}
)
