"""What an emitted statement can see: how each axis in scope is named, and the values computed so far."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from dataclasses import dataclass, field

from flashc.errors import UnsupportedError
from flashc.ir.intexpr import Const, IntExpr
from flashc.ir.nodes import Kernel, Par, Program, Seq, Stmt
from flashc.ir.ranges import Span
from flashc.ir.scalar import Scalar
from flashc.ir.types import Value


@dataclass(frozen=True, slots=True)
class AxisInScope:
    """Names of one axis inside a kernel.

    ``vector``: its coordinates (a scalar if ``span.scalar``); ``within``: positions within the tile;
    ``block``: the tile's size; ``mask``: which coordinates are valid, empty where all are; ``end``: the first
    invalid one.
    """

    axis: str
    span: Span
    vector: str
    within: str = ""
    block: str = ""
    mask: str = ""
    end: IntExpr | None = None


@dataclass(slots=True)
class Frame:
    """Axes and values in scope. Copied at each loop, so that what a loop defines ends with it.

    ``fills``: what a value holds beyond the end of an axis, where that is a known constant. ``ends``: for
    each looped axis the conditions that together say "before the end". ``known``: names of expressions
    computed before. ``masked_rows``: whether a loop's tiles exclude single elements, by more than their end.
    """

    axes: dict[str, AxisInScope]
    values: dict[str, Value] = field(default_factory=dict)
    fills: dict[tuple[str, str], float | None] = field(default_factory=dict)
    ends: dict[str, frozenset[Scalar]] = field(default_factory=dict)
    known: dict[str, IntExpr] = field(default_factory=dict)
    masked_rows: dict[str, bool] = field(default_factory=dict)

    def inside(self, *axes: AxisInScope) -> Frame:
        within = {**self.axes, **{a.axis: a for a in axes}}
        return Frame(
            within,
            dict(self.values),
            dict(self.fills),
            dict(self.ends),
            dict(self.known),
            dict(self.masked_rows),
        )

    def scope(self) -> dict[str, Span]:
        """The spans, as flashc.ir.ranges takes them."""
        return {name: a.span for name, a in self.axes.items()}

    def tiled(self, axis: str) -> bool:
        return axis in self.axes and not self.axes[axis].span.scalar

    def masked(self, axes: Sequence[str]) -> list[str]:
        """The axes among these with coordinates beyond their end."""
        return [a for a in axes if self.axes[a].mask]


def padded(extent: int) -> int:
    """The tile that Triton executes: the next power of two, at least 16 as its dots demand."""
    return max(16, 1 << (extent - 1).bit_length())


def fits(extent: IntExpr, tile: int) -> bool:
    """Whether an extent is known to be a multiple of the tile."""
    return isinstance(extent, Const) and extent.value % tile == 0


def number(expr: IntExpr, what: str) -> int:
    """The value of an expression that a bound program has as a constant."""
    if isinstance(expr, Const):
        return expr.value
    raise UnsupportedError(f"triton: {what} is {expr}; it must be a compile-time constant of the kernel")


def par_of(kernel: Kernel) -> Par:
    """The parallel loop that a kernel consists of, or that is launched once per step of a loop around it."""
    if len(kernel.body) == 1 and len(kernel.pars) == 1:
        return kernel.pars[0]
    raise UnsupportedError(
        f"triton: kernel {kernel.name} must be one parallel loop with everything inside it"
    )


def value_names(program: Program, kernel: Kernel, values: Sequence[str]) -> dict[str, str]:
    """A Python name for every value: its own unless that means something else in the kernel."""
    axes = [a.name for a in program.axes]
    taken = {"tl", "triton", "task", *program.sizes, *(p.name for p in program.params), *keyword.kwlist}
    taken |= {
        f"{a}{suffix}"
        for a in axes
        for suffix in ("", "0", "_in", "_ok", "_back", "_first", "_stop", "_full_first", "_full_stop")
    }
    names: dict[str, str] = {}
    for value in dict.fromkeys(values):
        name = value
        while name in taken or name in names.values():
            name += "_"
        names[value] = name
    return names


def looped_axes(body: Sequence[Stmt]) -> set[str]:
    """Axes bound by a loop somewhere in ``body``."""
    found: set[str] = set()
    for stmt in body:
        match stmt:
            case Par(loops=loops, body=inner):
                found |= {x.axis for x in loops} | looped_axes(inner)
            case Seq(loop=loop, body=inner):
                found |= {loop.axis} | looped_axes(inner)
    return found
