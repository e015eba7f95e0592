"""What the printer keeps while it walks a kernel: output lines, where values are, how many coordinates are valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flashc.backends.cpu.scalars import int_text
from flashc.errors import IRError, UnsupportedError
from flashc.ir.analysis import tiled_in
from flashc.ir.intexpr import Const
from flashc.ir.nodes import Access, Program, tiled_axis
from flashc.ir.ranges import Scope
from flashc.ir.types import DType, Mode, Tensor, Value

C_TYPE = {"f32": "float", "bf16": "bf16", "f16": "f16", "i32": "int32_t", "i64": "int64_t", "bool": "bool"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is in the emitted code: a pointer, its element type and the stride of each axis in elements.

    ``pair`` is the axis whose neighbours share a word; its stride then steps from pair to pair.
    """

    pointer: str
    dtype: DType
    strides: dict[str, str]
    pair: str | None = None


Targets = Mapping[str, Sequence[Place]]  # where the vectors of each result go


@dataclass
class Printer:
    """Output lines and what is in scope while a kernel is printed."""

    program: Program
    width: int
    lines: list[str] = field(default_factory=list)
    depth: int = 0
    places: dict[str, Place] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    slots: dict[str, str] = field(default_factory=dict)
    counts: dict[str, str] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)
    lane: str = ""
    ahead: dict[str, int] = field(default_factory=dict)  # coordinates that loads run ahead, by looped axis

    def line(self, text: str = "") -> None:
        self.lines.append("  " * self.depth + text if text else "")

    def open(self, text: str) -> None:
        self.line(f"{text} {{".lstrip())
        self.depth += 1

    def close(self, text: str = "}") -> None:
        self.depth -= 1
        self.line(text)

    def start(self, axis: str, scope: Scope) -> str:
        return axis if scope[axis].scalar else int_text(scope[axis].start)

    def tile(self, axis: str, scope: Scope) -> int:
        size = scope[axis].size
        if not isinstance(size, Const):
            raise UnsupportedError(f"cpu: axis {axis} is whole with run-time extent {size}; tile it or fix its size")
        return size.value

    def vectors(self, axis: str, scope: Scope) -> str:
        """How many vectors hold the valid coordinates of the lane axis."""
        if axis in self.partial:
            return f"ceil_div({self.counts[axis]}, W)"
        return str(-(-self.tile(axis, scope) // self.width))


def buffer_place(value: Value) -> Place:
    """Strides of a laid-out value: an axis steps by its offset mode, the lane axis by its lane mode."""
    layout = value.layout
    if layout is None:
        raise IRError(f"cpu: {value.name} has no layout")
    strides: dict[str, str] = {}
    for mode in sorted(layout.modes, key=lambda m: {"offset": 0, "reg": 1, "lane": 2}[m.space]):
        if mode.space != "reg" or mode.axis not in strides:
            strides[mode.axis] = str(mode.stride)
    return Place(value.name, value.dtype, strides, layout.pair_axis())


def panels(value: Value) -> Mode | None:
    """The mode that steps from panel to panel along the lane axis, of a value that is packed in panels."""
    modes = value.layout.modes if value.layout else ()
    along = [m for m in modes if m.space == "offset" and value.layout and m.axis == value.layout.lane_axis()]
    return along[1] if len(along) > 1 else None


def panel_width(value: Value) -> int:
    """Coordinates of the lane axis in one panel."""
    modes = value.layout.modes if value.layout else ()
    vector, vectors = [m.shape.evaluate({}) for m in modes if value.layout and m.axis == value.layout.lane_axis()][:2]
    return vector * vectors


def stride(tensor: Tensor, dim: int) -> str:
    """The innermost stride is 1: the caller makes it so."""
    return "1" if dim == len(tensor.dims) - 1 else f"{tensor.name}_s{dim}"


def address(p: Printer, access: Access, tensor: Tensor, scope: Scope) -> str:
    terms = [f"{tensor.name}_ptr"]
    for dim, expr in enumerate(access.index):
        axis = tiled_axis(expr, tiled_in(scope))
        start = int_text(expr if axis is None else expr.subs({axis: scope[axis].start}))
        if start != "0":
            terms.append(f"({start}) * {stride(tensor, dim)}")
    return " + ".join(terms)


def tensor_strides(tensor: Tensor, access: Access, scope: Scope) -> dict[str, str]:
    """The stride in memory of every axis of which the access takes a tile."""
    along = {tiled_axis(expr, tiled_in(scope)): stride(tensor, dim) for dim, expr in enumerate(access.index)}
    return {axis: step for axis, step in along.items() if axis is not None}


def elements(value: Value) -> int:
    total = 1
    for mode in value.layout.modes if value.layout else ():
        total *= mode.shape.evaluate({})
    return total
