"""The tile program: every node on one screen.

A program is a list of kernels; a kernel is a block of statements; a loop holds a block. One node set serves all four
stages (tile, placed, bound, lowered): passes only fill in levels, layouts, atoms, stages and numbers.

Coordinates. An axis bound by a ``Par`` or ``Seq`` loop has a tile of ``Loop.tile`` consecutive coordinates; where the
tile is the constant 1 the axis is a plain scalar. An axis bound by no loop is present whole.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from flashc.ir.intexpr import Add, Const, IntExpr, Sym
from flashc.ir.scalar import Scalar
from flashc.ir.types import Axis, Param, Tensor, Value

Stage = Literal["tile", "placed", "bound", "lowered"]
Part = Literal["all", "partial", "full"]


@dataclass(frozen=True, slots=True)
class Access:
    """``tensor[index]``: one expression per dimension. A tiled axis, alone or plus a scalar, takes its whole tile."""

    tensor: str
    index: tuple[IntExpr, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """``axis`` in steps of ``tile``; ``map`` says which unit runs the steps (grid, serial, ...)."""

    axis: str
    tile: IntExpr
    map: str = "serial"


@dataclass(frozen=True, slots=True)
class Domain:
    """The kept region of an axis: ``max(lower) <= coordinate < min(upper)``.

    Bounds may use scalar coordinates, run-time tables and tiled axes of enclosing loops; in the latter they must not
    fall (checked by the verifier), so a tile's range follows from the first and last row. A tile is absent, PARTIAL
    or FULL; the predicate (``InDomain``) is evaluated on PARTIAL tiles only.
    """

    lower: tuple[IntExpr, ...] = ()
    upper: tuple[IntExpr, ...] = ()


@dataclass(frozen=True, slots=True)
class Carry:
    """One component of a loop's state: its value, its initial element, and the body value that replaces it."""

    value: Value
    init: Scalar
    next: str


@dataclass(frozen=True, slots=True)
class Atom:
    """The unit that executes a dot: a record of the device, and how many units wide (m) and deep (n) a block is.

    ``lane`` names the axis along the vector lanes (None for a matrix unit); ``k`` counts the contraction steps folded
    into one instruction. Along an output axis ``m`` counts vectors, ``n`` rows of the operand that is broadcast. Along
    the contracted axis lanes hold partial sums, of ``m`` rows of the operand without rows of its own by ``n`` rows.
    """

    unit: str
    lane: str | None
    m: IntExpr
    n: IntExpr
    k: int


@dataclass(frozen=True, slots=True)
class Load:
    """``out = tensor[index]``, for the coordinates that the enclosing loops leave; the rest of a tile is zero."""

    out: Value
    access: Access


@dataclass(frozen=True, slots=True)
class Store:
    """``tensor[index] = value``; elements outside the tensor are dropped.

    ``accumulate``: ``tensor[index] += value`` in one indivisible step, so that independent tiles may add to the same
    elements. It moves every element twice, in and out; an earlier store gives the elements their first value.
    """

    access: Access
    value: str
    accumulate: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """``out = source`` at another level, layout or element type: the only node that changes any of them."""

    out: Value
    source: str


@dataclass(frozen=True, slots=True)
class View:
    """``out`` is ``source`` with its axes renamed, position by position: the same elements, and nothing moves.

    So a state over ``u`` becomes the operand over ``k`` of the next step. The renamed axes are whole and equally long.
    """

    out: Value
    source: str


@dataclass(frozen=True, slots=True)
class Dot:
    """``out = init + sum over `over` of a * b``, accumulated in ``out.dtype``.

    ``zero_skips``: a weight of exactly 0 in ``a`` contributes nothing, whatever ``b`` holds, so that NaN in a masked
    row of ``b`` does not leak. Only tiles that apply a predicate need it.
    """

    out: Value
    a: str
    b: str
    over: tuple[str, ...]
    init: Scalar | None = None
    zero_skips: bool = False
    atom: Atom | None = None


@dataclass(frozen=True, slots=True)
class Map:
    """``out = expr`` element by element; operands are broadcast by axis name, the result is rounded to the dtype."""

    out: Value
    expr: Scalar


@dataclass(frozen=True, slots=True)
class Reduce:
    """``out = op of source along over``. max and min pass over NaN, as maximumNumber of IEEE 754; a sum keeps it."""

    out: Value
    op: Literal["max", "sum", "min"]
    source: str
    over: str


@dataclass(frozen=True, slots=True)
class Alloc:
    """A lowered program's buffer: ``count`` elements of the value at its level; ``slot`` is shared by dead tiles."""

    value: Value
    count: IntExpr
    slot: str


@dataclass(frozen=True, slots=True)
class Sync:
    """All workers that share ``level`` have finished their earlier accesses to it.

    ``grid``: all tasks of the ``Par``, with their stores to slow memory. It stands in the body of a ``Seq`` right
    below the ``Par``, whose steps all tasks take together. All tasks then run at the same time: the kernel is
    *persistent*, and what its tasks made before the loop stays on chip.
    """

    level: str


@dataclass(frozen=True, slots=True)
class Par:
    """Independent tiles. ``order``: "longest" starts the tiles with the most work first."""

    loops: tuple[Loop, ...]
    body: tuple[Stmt, ...]
    order: Literal["natural", "longest"] = "natural"


@dataclass(frozen=True, slots=True)
class Seq:
    """An ordered loop with carried state. ``law`` names how two workers' states combine.

    ``stages`` buffers are kept per streamed load (1 = none in flight). ``part`` restricts the loop to the FULL or the
    PARTIAL tiles of its domain once a pass has split it; ``side`` says which PARTIAL ones. ``reverse``: the last tile
    comes first.
    """

    loop: Loop
    body: tuple[Stmt, ...]
    carry: tuple[Carry, ...] = ()
    domain: Domain | None = None
    law: str | None = None
    stages: IntExpr = field(default_factory=lambda: Const(1))
    part: Part = "all"
    side: Literal["", "left", "right"] = ""
    reverse: bool = False


Stmt = Load | Store | Copy | View | Dot | Map | Reduce | Alloc | Sync | Par | Seq


@dataclass(frozen=True, slots=True)
class Kernel:
    """A single ``Par``, which is launched once, or a single ``Seq`` of ``Par``, each launched once per step."""

    name: str
    body: tuple[Stmt, ...]

    @property
    def pars(self) -> tuple[Par, ...]:
        """What is launched, in order."""
        top = self.body[0].body if isinstance(self.body[0], Seq) else self.body
        return tuple(p for p in top if isinstance(p, Par))


@dataclass(frozen=True, slots=True)
class Program:
    """A schedule of an operator: kernels run in order, workspaces between them.

    ``sizes`` are the integer symbols of a call; ``fixed`` binds those that are compile-time constants of the kernel.
    ``tiles`` are the free tile sizes; a bound program has none.
    """

    name: str
    schedule: str
    axes: tuple[Axis, ...]
    sizes: tuple[str, ...]
    fixed: tuple[tuple[str, int], ...]
    params: tuple[Param, ...]
    tensors: tuple[Tensor, ...]
    tiles: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    stage: Stage = "tile"
    notes: tuple[str, ...] = ()

    def axis(self, name: str) -> Axis:
        return next(a for a in self.axes if a.name == name)

    def tensor(self, name: str) -> Tensor:
        return next(t for t in self.tensors if t.name == name)


def tiled_axis(index: IntExpr, tiled: Collection[str]) -> str | None:
    """The one of the ``tiled`` axes that ``index`` steps along by 1, as ``h * G + g`` does along g; None: a scalar."""
    terms = index.args if isinstance(index, Add) else (index,)
    return next((t.name for t in terms if isinstance(t, Sym) and t.name in tiled), None)


GRID = "grid"


def synchronised(stmt: Stmt) -> bool:
    """Whether all tasks take the steps of this loop together."""
    return isinstance(stmt, Seq) and Sync(GRID) in stmt.body


def persistent(kernel: Kernel) -> bool:
    """Whether all tasks of a launch must run at the same time."""
    return any(synchronised(stmt) for par in kernel.pars for stmt in par.body)


def outputs_of(stmt: Stmt) -> Value | None:
    """The value a statement defines, if it defines one."""
    match stmt:
        case Load(out=v) | Copy(out=v) | View(out=v) | Dot(out=v) | Map(out=v) | Reduce(out=v) | Alloc(value=v):
            return v
        case _:
            return None
