"""Named intermediate values inside an integer expression, so that one used many times is worked out once.

Without them an expression is a tree: a value used twice at each of ten levels is evaluated a thousand times.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field

from flashc.ir.intarith import Arithmetic, V
from flashc.ir.intexpr import IntExpr, IntLike, Sym


@dataclass(frozen=True, slots=True)
class Let(IntExpr):
    """``body`` with the symbol ``name`` standing for ``value``; ``name`` is bound in ``body`` only.

    Names are made by :class:`Names`: unlike those of sizes, tiles and loop variables, so that nothing is
    captured, and different in all parts of an expression.
    """

    name: str
    value: IntExpr
    body: IntExpr

    def children(self) -> tuple[IntExpr, ...]:
        return (self.value, self.body)

    def rebuild(self, children: tuple[IntExpr, ...]) -> IntExpr:
        return Let(self.name, *children)

    def value_in(self, ops: Arithmetic[V]) -> V:
        inner = copy(ops)  # sums that were worked out already stay known
        inner.env = {**ops.env, self.name: self.value.value_in(ops)}
        return self.body.value_in(inner)

    def symbols(self) -> frozenset[str]:
        return self.value.symbols() | (self.body.symbols() - {self.name})

    def subs(self, mapping: Mapping[str, IntLike]) -> IntExpr:
        return Let(self.name, self.value.subs(mapping), self.body.subs(mapping))

    def __str__(self) -> str:
        return f"let({self.name} = {self.value}: {self.body})"


@dataclass(slots=True)
class Names:
    """Collects named values in order; ``close`` puts them around an expression that uses them.

    ``prefix`` must differ between parts of one expression.
    """

    prefix: str
    values: list[tuple[str, IntExpr]] = field(default_factory=list)

    def name(self, label: str, value: IntExpr) -> IntExpr:
        """A symbol for ``value``; a value that is a constant or a symbol already is itself."""
        if not value.children():
            return value
        symbol = Sym(f"_{self.prefix}.{label}")
        self.values.append((symbol.name, value))
        return symbol

    def close(self, body: IntExpr) -> IntExpr:
        for name, value in reversed(self.values):
            body = Let(name, value, body)
        return body
