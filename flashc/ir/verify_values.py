"""The rules for values, indices and expressions within one kernel; :mod:`flashc.ir.verify` applies them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from flashc.errors import ExpressionError, IRError
from flashc.ir.intexpr import Add, CeilDiv, Const, FloorDiv, IntExpr, Item, Max, Min, Mul, Sym
from flashc.ir.nodes import Access, Kernel, Loop, Program, Seq, tiled_axis
from flashc.ir.printer import print_value
from flashc.ir.scalar import Coord, Fetch, InDomain, Ref, Scalar, kind_of, walk
from flashc.ir.types import Tensor, Value
from flashc.ir.verify_header import LEGAL, readable


@dataclass(frozen=True, slots=True)
class Scope:
    """What a statement sees: the tile of every looped axis, the enclosing Seq per axis, and the values.

    ``states`` are the values that are the state of a finished loop. ``cut`` are values made outside a loop
    over one of their axes (given), which cannot be read within it.
    """

    tiles: dict[str, IntExpr] = field(default_factory=dict)
    loops: dict[str, Seq] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)
    cut: dict[str, str] = field(default_factory=dict)

    def inside(self, loop: Loop) -> Scope:
        kept = {name: value for name, value in self.values.items() if loop.axis not in value.axes}
        cut = self.cut | dict.fromkeys(self.values.keys() - kept.keys(), loop.axis)
        return Scope({**self.tiles, loop.axis: loop.tile}, dict(self.loops), kept, set(), cut)

    def scalar(self, axis: str) -> bool:
        return self.tiles.get(axis) == Const(1)


class Values:
    """What is known of one kernel; ``line`` is the statement that a failure names.

    ``written`` are the tensors stored so far in the program, ``found`` all values defined so far in it.
    """

    def __init__(self, program: Program, kernel: Kernel, written: set[str]) -> None:
        self.program, self.kernel, self.written = program, kernel, written
        self.axes = frozenset(a.name for a in program.axes)
        self.numbers = frozenset((*program.sizes, *program.tiles))
        self.tensors = {t.name: t for t in program.tensors}
        self.scalars: dict[str, str] = {p.name: p.dtype.kind for p in program.params}
        self.scalars |= dict.fromkeys(self.numbers, "int")
        self.found: dict[str, Value] = {}
        self.line = ""

    def fail(self, problem: str, fix: str) -> NoReturn:
        raise IRError(f"kernel {self.kernel.name}: `{self.line}`: {problem}; {fix}")

    # -- values

    def define(self, value: Value, scope: Scope) -> None:
        name = value.name
        if not readable(name):
            self.fail(f"{name!r} is no name", LEGAL)
        if name in scope.values or name in scope.cut:
            self.fail(f"{name} is defined before", "rename one of them")
        if name in self.scalars:
            self.fail(f"{name} is a size, tile or parameter", "rename the value")
        if self.found.setdefault(name, value) != value:
            other = print_value(self.found[name])
            self.fail(f"a block beside has `{other}`", "rename one of them, or make them equal")
        for axis in value.axes:
            self.axis(axis)
            if scope.scalar(axis):
                self.fail(f"the axis {axis} has tile 1 here, so it is a scalar", f"drop it from {name}")
        if len(set(value.axes)) < len(value.axes):
            self.fail(f"{name} has an axis twice", "name each axis once")
        self.layout(value)
        scope.values[name] = value

    def layout(self, value: Value) -> None:
        if value.layout is None:
            return
        for mode in value.layout.modes:
            self.integer(mode.shape, frozenset())
            self.integer(mode.stride, frozenset())
        if {mode.axis for mode in value.layout.modes} != set(value.axes):
            self.fail("the layout has other axes than the value", f"give modes for {listed(value.axes)}")

    def use(self, name: str, scope: Scope) -> Value:
        if name in scope.cut:
            whole = f"{name} holds all of {scope.cut[name]}, and this loop sees one tile of it"
            self.fail(whole, "define it within the loop")
        if name not in scope.values:
            self.fail(f"{name} is not defined here", f"define it before; defined: {listed(scope.values)}")
        return scope.values[name]

    def axis(self, axis: str) -> None:
        if axis not in self.axes:
            self.fail(f"{axis} is no axis of the program", f"choose of {listed(self.axes)}")

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            self.fail(f"{name} is no tensor of the program", f"choose of {listed(self.tensors)}")
        return self.tensors[name]

    def read(self, name: str) -> Tensor:
        tensor = self.tensor(name)
        if tensor.role != "in" and name not in self.written:
            self.fail(f"{name} is read before anything is stored to it", "store it in an earlier statement")
        return tensor

    # -- integer expressions

    def access(self, access: Access, scope: Scope) -> tuple[str, ...]:
        """The axes of which the access takes a whole tile."""
        self.arity(self.tensor(access.tensor), len(access.index))
        free = frozenset(a for a in self.axes if not scope.scalar(a))
        tiled: list[str] = []
        for expr in access.index:
            self.integer(expr, self.axes)
            axis = tiled_axis(expr, free)
            scalar = expr if axis is None else expr - Sym(axis)
            used = listed(free & scalar.symbols())
            if used != NONE:
                problem = f"the index {expr} computes with the tiled axis {used}"
                self.fail(problem, "use the axis bare, add it to a scalar, or loop over it with tile 1")
            tiled += [axis] if axis is not None else []
        if len(set(tiled)) < len(tiled):
            self.fail("an axis indexes two dimensions", "use each axis once")
        return tuple(tiled)

    def arity(self, tensor: Tensor, count: int) -> None:
        rank = len(tensor.dims)
        if count != rank:
            self.fail(f"{tensor.name} has {rank} dimension(s), the index {count}", "give one for each")

    def integer(self, expr: IntExpr, axes: frozenset[str]) -> None:
        """Symbols are sizes, tiles or ``axes``; tables are integer inputs."""
        unknown = sorted(expr.symbols() - self.numbers - axes)
        if unknown:
            self.fail(f"{unknown[0]} in {expr} is unknown here", f"use {listed(self.numbers | axes)}")
        for item in _items(expr):
            table = self.tensor(item.table)
            self.arity(table, len(item.index))
            if table.dtype.kind != "int" or table.role != "in":
                self.fail(f"{table.name} is no table of integers", "give it an integer type and the role in")

    # -- elementwise expressions

    def elementwise(self, expr: Scalar, out: Value, scope: Scope) -> None:
        """An expression that gives the elements of ``out``."""
        kinds = dict(self.scalars)
        for node in walk(expr):
            self.leaf(node, out, scope, kinds)
        try:
            kind = kind_of(expr, kinds)
        except ExpressionError as error:
            self.fail(str(error), "mend the expression")
        if kind != out.dtype.kind and (kind, out.dtype.kind) != ("int", "float"):
            self.fail(f"{expr} is {kind}, {out.name} is {out.dtype}", "convert it, or change the type")

    def leaf(self, node: Scalar, out: Value, scope: Scope, kinds: dict[str, str]) -> None:
        match node:
            case Coord(axis=axis):
                self.axis(axis)
                self.along({axis}, out, scope, f"@{axis}")
            case Ref(name=name) if name not in self.scalars:
                value = self.use(name, scope)
                self.along(value.axes, out, scope, print_value(value))
                self.kind(name, value.dtype.kind, kinds)
            case Fetch(tensor=name, index=index):
                self.arity(self.read(name), len(index))
                self.kind(name, self.tensors[name].dtype.kind, kinds)
            case InDomain(axis=axis):
                self.along({axis, *self.domain_axes(axis, scope)}, out, scope, str(node))

    def domain_axes(self, axis: str, scope: Scope) -> set[str]:
        """The axes that the bounds of the enclosing loop over ``axis`` vary along."""
        seq = scope.loops.get(axis)
        if seq is None or seq.domain is None:
            self.fail(f"indomain({axis}) outside a seq over {axis} with bounds", "give that seq a where")
        bounds = (*seq.domain.lower, *seq.domain.upper)
        return {s for bound in bounds for s in bound.symbols() if s in self.axes}

    def along(self, axes: Iterable[str], out: Value, scope: Scope, what: str) -> None:
        extra = [a for a in axes if a not in out.axes and not scope.scalar(a)]
        if extra:
            self.fail(f"{what} varies along {listed(extra)}, {out.name} does not", "add the axis to it")

    def kind(self, name: str, kind: str, kinds: dict[str, str]) -> None:
        if kinds.setdefault(name, kind) != kind:
            self.fail(f"{name} names things of different kinds", "rename the value")


def rising(bound: IntExpr, rows: frozenset[str]) -> bool:
    """Whether ``bound`` plainly never falls as the symbols ``rows`` grow."""
    if rows.isdisjoint(bound.symbols()):
        return True
    match bound:
        case Sym():
            return True
        case Add(args=args) | Min(args=args) | Max(args=args):
            return all(rising(arg, rows) for arg in args)
        case Mul(args=(Const(value=factor), rest)):
            return factor >= 0 and rising(rest, rows)
        case FloorDiv(num=num, den=Const(value=divisor)) | CeilDiv(num=num, den=Const(value=divisor)):
            return divisor > 0 and rising(num, rows)
        case _:
            return False


NONE = "none"


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or NONE


def _items(expr: IntExpr) -> Iterator[Item]:
    if isinstance(expr, Item):
        yield expr
    for child in expr.children():
        yield from _items(child)
