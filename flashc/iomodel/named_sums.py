"""Formulas with their sums abbreviated: a count such as the kept pairs of causal attention gets a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def named_sums(expressions: Sequence[Any]) -> Mapping[Any, Any]:
    """A symbol for every sum that occurs in the sympy ``expressions``: N1, N2, ... in order of appearance."""
    import sympy

    taken = {s.name for e in expressions for s in e.free_symbols}
    free = (sympy.Symbol(name) for name in map("N{}".format, range(1, 1000)) if name not in taken)
    sums = dict.fromkeys(s for e in expressions for s in sympy.preorder_traversal(e) if isinstance(s, sympy.Sum))
    return dict(zip(sums, free, strict=False))


def pieces(expression: Any) -> list[tuple[Any, str]]:
    """The cases of a formula with their conditions as text; one without a condition where there are none."""
    import sympy

    if not isinstance(expression, sympy.Piecewise):
        return [(expression, "")]
    return [(value, "otherwise" if when == sympy.true else f"if {when}") for value, when in expression.args]
