"""What a lower bound is derived from: a cascade of affine statements, with no tiles, order or memory in it.

    S[i, j] += Q[i, k] * K[j, k]     for 0 <= i < n, 0 <= j < m, 0 <= k < d

Bounds of an index are integer expressions in the sizes and in the indices before it, so a triangle is two indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flashc.iomodel.nests import Index as Index
from flashc.iomodel.nests import nest
from flashc.ir.intexpr import IntExpr

Update = Literal["=", "+=", "max=", "min="]
Role = Literal["in", "out", "inout", "temp"]


@dataclass(frozen=True, slots=True)
class Reference:
    """``array[subscripts]``; each subscript is affine in the statement's indices, with factors that are not 0."""

    array: str
    subscripts: tuple[IntExpr, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """``target update f(operands)`` at every point of the indices; ``target`` is not among the operands.

    ``count`` replaces the number of points where the loop bounds do not tell it (block-sparse areas).
    """

    name: str
    indices: tuple[Index, ...]
    target: Reference
    update: Update
    operands: tuple[Reference, ...]
    count: IntExpr | None = None

    def points(self) -> IntExpr:
        """How many times the statement runs."""
        return points(self.indices) if self.count is None else self.count


@dataclass(frozen=True, slots=True)
class Array:
    """``width``: bytes of one element in slow memory. ``storage``: arrays that share one are the same elements
    (K and V as slices of a latent cache). ``part_of``: the tensor of a program of which it is a fixed part."""

    name: str
    width: int
    role: Role
    storage: str = ""
    part_of: str = ""


@dataclass(frozen=True, slots=True)
class Cascade:
    """Statements in order; a temp is written by one and read by later ones. ``elements``: distinct elements of inputs
    that are read and of outputs that are written, where subscripts alone would not tell."""

    name: str
    sizes: tuple[str, ...]
    arrays: tuple[Array, ...]
    statements: tuple[Statement, ...]
    elements: tuple[tuple[str, IntExpr], ...] = ()

    def array(self, name: str) -> Array:
        return next(a for a in self.arrays if a.name == name)


def points(indices: tuple[Index, ...]) -> IntExpr:
    """Integer points of a nest of indices; an empty range counts nothing."""
    return nest(indices)
