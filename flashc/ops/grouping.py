"""A schedule from another one: neighbours along an axis become rows of one tile and share what they have in common.

Where a program runs over ``h`` one coordinate at a time and reads some tensor at ``h // G``, the G neighbours that
read the same tile can read it once: ``h`` becomes ``h * G + g`` with a tile over ``g``, and every value that differs
between the neighbours gets the axis ``g``. Attention's grouped heads are the case in point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashc.errors import IRError
from flashc.ir.analysis import operands, sites
from flashc.ir.intexpr import FloorDiv, IntExpr, Sym
from flashc.ir.lift import lift
from flashc.ir.nodes import Access, Carry, Dot, Kernel, Load, Loop, Map, Par, Program, Reduce, Seq, Stmt, Store
from flashc.ir.rewrite import rewrite_body, rewrite_kernels
from flashc.ir.scalar import Coord, Scalar, coords, substitute
from flashc.ir.types import Axis, Value


@dataclass(frozen=True, slots=True)
class Grouping:
    """``axis`` counts ``groups`` of ``size`` coordinates each; ``within`` runs inside a group, in tiles of ``tile``."""

    axis: str
    groups: IntExpr
    within: str
    size: IntExpr
    tile: str

    @property
    def position(self) -> IntExpr:
        """The former coordinate."""
        return Sym(self.axis) * self.size + Sym(self.within)


def grouped(program: Program, schedule: str, by: Grouping) -> Program:
    """``program`` with the coordinates of a group side by side in a tile; ``axis`` must be a scalar parallel axis.

    Raises IRError where the bounds of a loop depend on the axis, since neighbours then visit different tiles.
    """
    axes: list[Axis] = []
    for axis in program.axes:
        axes += [Axis(by.axis, by.groups), Axis(by.within, by.size)] if axis.name == by.axis else [axis]
    changed = replace(program, schedule=schedule, axes=tuple(axes), tiles=(by.tile, *program.tiles))
    return rewrite_kernels(changed, lambda k: _kernel(program, k, by))


def _kernel(program: Program, kernel: Kernel, by: Grouping) -> Kernel:
    different = _different(program, kernel, by)

    def widened(value: Value) -> Value:
        return replace(value, axes=(by.within, *value.axes)) if value.name in different else value

    def rule(stmt: Stmt) -> tuple[Stmt, ...]:
        match stmt:
            case Load(out=out, access=access):
                return (Load(widened(out), _access(access, by)),)
            case Store(access=access):
                return (replace(stmt, access=_access(access, by)),)
            case Map(out=out, expr=expr):
                return (Map(widened(out), _expression(expr, by)),)
            case Dot(out=out, init=init):
                return (replace(stmt, out=widened(out), init=None if init is None else _expression(init, by)),)
            case Reduce(out=out):
                return (replace(stmt, out=widened(out)),)
            case Seq(carry=carry):
                return (replace(stmt, carry=tuple(Carry(widened(c.value), c.init, c.next) for c in carry)),)
            case Par():
                return (replace(stmt, loops=_loops(stmt.loops, by)),)
        return (stmt,)

    return replace(kernel, body=rewrite_body(kernel.body, rule))


def _loops(loops: tuple[Loop, ...], by: Grouping) -> tuple[Loop, ...]:
    found: list[Loop] = []
    for loop in loops:
        found.append(loop)
        if loop.axis == by.axis:
            found.append(Loop(by.within, Sym(by.tile), loop.map))
    return tuple(found)


def _different(program: Program, kernel: Kernel, by: Grouping) -> frozenset[str]:
    """The values that are not the same for all coordinates of a group."""
    found: set[str] = set()
    walked = [site.stmt for site in sites(program, kernel)]
    for seq in (s for s in walked if isinstance(s, Seq) and s.domain):
        bounds = (*seq.domain.lower, *seq.domain.upper) if seq.domain else ()
        if any(by.axis in bound.symbols() for bound in bounds):
            raise IRError(f"{program.schedule}: the loop over {seq.loop.axis} has bounds in {by.axis}: no groups")
    while True:
        before = len(found)
        for stmt in walked:
            _note(stmt, by, found)
        if len(found) == before:
            return frozenset(found)


def _note(stmt: Stmt, by: Grouping, found: set[str]) -> None:
    match stmt:
        case Load(out=out, access=access):
            if any(by.within in index.symbols() for index in _access(access, by).index):
                found.add(out.name)
        case Seq(carry=carry):
            found |= {c.value.name for c in carry if c.next in found}
        case Map(out=out) | Dot(out=out) | Reduce(out=out):
            own = stmt.expr if isinstance(stmt, Map) else stmt.init if isinstance(stmt, Dot) else None
            if found & set(operands(stmt)) or (own is not None and by.axis in coords(own)):
                found.add(out.name)


def _access(access: Access, by: Grouping) -> Access:
    """A group's own coordinate stays; everything else moves to the coordinate within the group."""
    shared = FloorDiv(Sym(by.axis), by.size)
    index = (Sym(by.axis) if x == shared else x.subs({by.axis: by.position}) for x in access.index)
    return Access(access.tensor, tuple(index))


def _expression(expr: Scalar, by: Grouping) -> Scalar:
    return substitute(expr, {Coord(by.axis): lift(by.position, (by.axis, by.within))})
