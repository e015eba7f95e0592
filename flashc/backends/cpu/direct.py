"""Which stores write what a sweep makes in the moment that it is made: such a result needs no buffer.

The cache lines that they miss arrive while the next vectors are computed; a copy after the sweep would wait for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashc.backends.cpu.frame import tensor_strides
from flashc.ir.intexpr import Const, Sym
from flashc.ir.nodes import Loop, Map, Par, Program, Reduce, Seq, Stmt, Store
from flashc.ir.ranges import Scope, enter, whole
from flashc.ir.types import F32, Value


@dataclass(frozen=True, slots=True)
class Within:
    """Where a statement is: the coordinates in scope, and the axes of which a tile may be cut short."""

    program: Program
    scope: Scope
    partial: frozenset[str] = frozenset()

    @staticmethod
    def top(program: Program) -> Within:
        return Within(program, whole(program))

    def inside(self, stmt: Par | Seq) -> Within:
        """Inside a loop of a program that is split."""
        scope, partial = self.scope, self.partial
        for loop in stmt.loops if isinstance(stmt, Par) else (stmt.loop,):
            cut = cut_short(self.program, loop) if isinstance(stmt, Par) else stmt.part != "full"
            scope = enter(scope, loop.axis, Sym(loop.axis), loop.tile)
            partial = partial | {loop.axis} if cut else partial - {loop.axis}
        return Within(self.program, scope, partial)


def cut_short(program: Program, loop: Loop) -> bool:
    """Whether the last tile of a parallel loop may be."""
    extent = program.axis(loop.axis).extent
    whole_tiles = isinstance(extent, Const) and isinstance(loop.tile, Const) and extent.value % loop.tile.value == 0
    return loop.tile != Const(1) and not whole_tiles


def direct_stores(group: Sequence[Map | Reduce], after: Sequence[Stmt], at: Within) -> list[Store]:
    """The stores right after the sweep ``group`` whose values it makes as whole vectors, contiguous in memory."""
    made = {s.out.name: s.out for s in group if isinstance(s, Map)}
    found: list[Store] = []
    for stmt in after:
        if not (isinstance(stmt, Store) and stmt.value in made and _in_vectors(stmt, made[stmt.value], at)):
            break
        found.append(stmt)
    return found


def _in_vectors(stmt: Store, value: Value, at: Within) -> bool:
    tensor, lanes = at.program.tensor(stmt.access.tensor), value.layout.lane_mode() if value.layout else None
    if lanes is None or lanes.axis in at.partial or stmt.accumulate or value.dtype not in (F32, tensor.dtype):
        return False
    steps, size = tensor_strides(tensor, stmt.access, at.scope), at.scope[lanes.axis].size
    whole_vectors = isinstance(size, Const) and size.value % lanes.shape.evaluate({}) == 0
    return whole_vectors and steps.get(lanes.axis) == "1" and steps.keys() == set(value.axes)
