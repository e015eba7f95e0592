"""volume * constant * factors / M^(sigma - 1): the shape that every derived bound has, with the constant kept exact."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from flashc.iomodel.bound import Env
from flashc.ir.intexpr import Const, IntExpr

Powers = tuple[tuple[Fraction, Fraction], ...]


@dataclass(frozen=True, slots=True)
class Term:
    """Bytes that are loaded: ``volume`` iteration points, the product of ``powers`` (base, exponent) and of ``factors``
    (expression in the sizes, exponent), over M^(sigma - 1)."""

    volume: IntExpr
    powers: Powers
    factors: tuple[tuple[IntExpr, Fraction], ...]
    sigma: Fraction

    def value(self, sizes: Env, fast_bytes: float) -> float:
        """0 where some factor is 0: then there is nothing to do. Less than one byte of memory counts as one."""
        scales = [(expr.evaluate(sizes), float(e)) for expr, e in self.factors]
        if any(x <= 0 for x, _ in scales):
            return 0.0
        scale = math.prod(x**e for x, e in scales) * constant(self.powers)
        return float(self.volume.evaluate(sizes) * scale * max(fast_bytes, 1.0) ** -float(self.sigma - 1))

    def formula(self) -> Any:
        """The leading term as a sympy expression in the sizes and M."""
        import sympy

        result = leading(self.volume)
        for base, exponent in self.powers:
            result *= sympy.Rational(base.numerator, base.denominator) ** _rational(exponent)
        for expr, exponent in self.factors:
            result *= leading(expr) ** _rational(exponent)
        return result / fast_symbol() ** _rational(self.sigma - 1)


def constant(powers: Powers) -> float:
    value = 1.0
    for base, exponent in powers:
        value *= math.pow(base, exponent)
    return value


def collected(*powers: tuple[Fraction, Fraction]) -> Powers:
    """Equal bases together, factors that are 1 left out; 0^0 is 1."""
    total: dict[Fraction, Fraction] = {}
    for base, exponent in powers:
        total[base] = total.get(base, Fraction(0)) + exponent
    return tuple((b, e) for b, e in sorted(total.items()) if b != 1 and e != 0)


def positive(expr: IntExpr) -> Any:
    """In sympy, simplified for sizes of at least 1 (no ``max(n, 0)``), in the symbols of ``IntExpr.to_sympy``."""
    import sympy

    form = expr.to_sympy()
    sizes = {s: sympy.Symbol(s.name, integer=True, positive=True) for s in form.free_symbols if s.is_Symbol}
    simple = form.subs(sizes).replace(sympy.floor, _floored).replace(sympy.Sum, _summed)
    return sympy.expand(simple).subs({new: old for old, new in sizes.items()})


def leading(expr: IntExpr) -> Any:
    """The terms of highest degree in the sizes: how the expression grows. What is no polynomial stays as it is."""
    import sympy

    form = positive(expr)
    for kind, pick in ((sympy.Max, max), (sympy.Min, min)):
        form = form.replace(kind, lambda *args, kind=kind, pick=pick: _dominant(kind, args, pick))
    form = sympy.expand(form)
    symbols = sorted(form.free_symbols, key=str)
    if not symbols or not form.is_polynomial(*symbols):
        return form
    terms = sympy.Poly(form, *symbols).terms()
    degree = max(sum(powers) for powers, _ in terms)
    top = [(powers, factor) for powers, factor in terms if sum(powers) == degree]
    return sympy.Add(*(c * sympy.prod(s**p for s, p in zip(symbols, powers, strict=True)) for powers, c in top))


def _floored(value: Any) -> Any:
    """Without the floor where the polynomial is whole for whole numbers: as on a grid one finer than its degrees."""
    import sympy

    symbols = sorted(value.free_symbols, key=str)
    if not symbols or not value.is_polynomial(*symbols):
        return sympy.floor(value)
    form = sympy.Poly(value, *symbols)
    grid = itertools.product(*(range(form.degree(s) + 1) for s in symbols))
    return value if all(form.eval(at).is_integer for at in grid) else sympy.floor(value)


def _summed(body: Any, *limits: Any) -> Any:
    """A sum in closed form if dropping ``max(0, x)`` for affine x that is never negative in it allows one."""
    import sympy

    for var, low, high in limits:
        zeros = [m for m in body.atoms(sympy.Max) if len(m.args) == 2 and sympy.S.Zero in m.args]
        for found in zeros:
            inner = sympy.Max(*(a for a in found.args if a != 0))
            ends = (inner.subs(var, low), inner.subs(var, high))
            if inner.is_polynomial(var) and sympy.degree(inner, var) < 2 and all(e.is_nonnegative for e in ends):
                body = body.subs(found, inner)
    return sympy.Sum(body, *limits).doit()


def _dominant(kind: Any, args: Any, pick: Any) -> Any:
    """Of arguments that are polynomials in one size the one of highest (lowest) degree, where that is one of them."""
    symbols = {s for a in args for s in a.free_symbols}
    if len(symbols) != 1 or not all(a.is_polynomial(*symbols) for a in args):
        return kind(*args)
    degrees = [a.as_poly(*symbols).degree() if a.free_symbols else 0 for a in args]
    best = pick(degrees)
    if degrees.count(best) > 1:
        return kind(*args)
    return args[degrees.index(best)]


def fast_symbol() -> Any:
    """M, bytes of fast memory; its assumptions tell it from a size that is called M."""
    import sympy

    return sympy.Symbol("M", positive=True)


def _rational(value: Fraction) -> Any:
    import sympy

    return sympy.Rational(value.numerator, value.denominator)


def is_one(expr: IntExpr) -> bool:
    return expr == Const(1)
