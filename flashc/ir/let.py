"""Named intermediate values inside an integer expression, so that one used many times is worked out once.

Without them an expression is a tree: a value used twice at each of ten levels would be evaluated a thousand times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flashc.ir.intarith import Arithmetic, V
from flashc.ir.intexpr import IntExpr, IntLike, Sym


@dataclass(frozen=True, slots=True)
class Let(IntExpr):
    """``body`` with the symbol ``name`` standing for ``value``; ``name`` is bound in ``body`` only.

    Names start with an underscore, which no size, tile or loop variable does, so that nothing is captured.
    """

    name: str
    value: IntExpr
    body: IntExpr

    def children(self) -> tuple[IntExpr, ...]:
        return (self.value, self.body)

    def rebuild(self, children: tuple[IntExpr, ...]) -> IntExpr:
        return Let(self.name, *children)

    def value_in(self, ops: Arithmetic[V]) -> V:
        inner = type(ops)({**ops.env, self.name: self.value.value_in(ops)})
        return self.body.value_in(inner)

    def symbols(self) -> frozenset[str]:
        return self.value.symbols() | (self.body.symbols() - {self.name})

    def subs(self, mapping: Mapping[str, IntLike]) -> IntExpr:
        return Let(self.name, self.value.subs(mapping), self.body.subs(mapping))

    def __str__(self) -> str:
        return f"let({self.name} = {self.value}: {self.body})"


@dataclass(slots=True)
class Names:
    """Collects named values in order; ``close`` puts them around an expression that uses them."""

    values: list[tuple[str, IntExpr]] = field(default_factory=list)

    def name(self, label: str, value: IntExpr) -> Sym:
        symbol = Sym(f"_{label}_{len(self.values)}")
        self.values.append((symbol.name, value))
        return symbol

    def close(self, body: IntExpr) -> IntExpr:
        for name, value in reversed(self.values):
            body = Let(name, value, body)
        return body
