"""Integer expressions as sympy expressions, for closed forms in reports."""

from __future__ import annotations

from typing import Any

import sympy

from flashc.ir.intexpr import Add, CeilDiv, FloorDiv, IntExpr, Item, Max, Min, Mod, Mul, Sum, Sym


def to_sympy(expr: IntExpr) -> Any:
    """The same expression in sympy. Symbols become non-negative integers, sums stay ``sympy.Sum``."""
    if not expr.symbols() and not expr.tables():
        return sympy.Integer(expr.evaluate({}))  # sympy's Min and Max refuse a sum that is a number
    if isinstance(expr, Sym):
        return sympy.Symbol(expr.name, integer=True, nonnegative=True)
    if isinstance(expr, Item):
        return sympy.IndexedBase(expr.table, integer=True)[tuple(map(to_sympy, expr.index))]
    if isinstance(expr, Sum):
        last = to_sympy(expr.count) - 1
        return sympy.Sum(to_sympy(expr.body), (to_sympy(Sym(expr.var)), 0, last))
    return OPERATIONS[type(expr)](*map(to_sympy, expr.children()))


OPERATIONS: dict[type[IntExpr], Any] = {
    Add: sympy.Add,
    Mul: sympy.Mul,
    FloorDiv: lambda num, den: sympy.floor(num / den),
    CeilDiv: lambda num, den: sympy.ceiling(num / den),
    Mod: sympy.Mod,
    Min: sympy.Min,
    Max: sympy.Max,
}
