"""Types of the tile IR: element types, memory levels, layouts, tiles and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from flashc.ir.intexpr import IntExpr

Role = Literal["in", "out", "temp"]


@dataclass(frozen=True, slots=True)
class DType:
    """An element type. ``bits`` is its size in memory; ``kind`` decides which arithmetic applies."""

    name: str
    bits: int
    kind: Literal["float", "int", "bool"]

    @property
    def bytes(self) -> int:
        return max(1, self.bits // 8)

    def __str__(self) -> str:
        return self.name


DTYPES: dict[str, DType] = {
    t.name: t
    for t in (
        DType("f64", 64, "float"),
        DType("f32", 32, "float"),
        DType("f16", 16, "float"),
        DType("bf16", 16, "float"),
        DType("i64", 64, "int"),
        DType("i32", 32, "int"),
        DType("bool", 8, "bool"),
    )
}
F64, F32, F16, BF16 = (DTYPES[n] for n in ("f64", "f32", "f16", "bf16"))
I64, I32, BOOL = (DTYPES[n] for n in ("i64", "i32", "bool"))


@dataclass(frozen=True, slots=True)
class Mode:
    """One (axis, shape, stride) of a layout: ``shape`` steps of ``axis``, ``stride`` apart in ``space``."""

    axis: str
    shape: IntExpr
    stride: IntExpr
    space: Literal["lane", "reg", "offset"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each element of a tile sits: the modes of one axis, fastest first, compose to its coordinate.

    ``swizzle`` is (bits, base, shift) of an xor of the offset, as matrix units and shared-memory banks want it.
    """

    modes: tuple[Mode, ...]
    swizzle: tuple[int, int, int] | None = None

    def renamed(self, axes: Mapping[str, str]) -> Layout:
        """The same layout under other axis names."""
        return replace(self, modes=tuple(replace(m, axis=axes.get(m.axis, m.axis)) for m in self.modes))

    def lane_mode(self) -> Mode | None:
        """The mode that runs along the lanes of a vector, if any."""
        return next((m for m in self.modes if m.space == "lane"), None)

    def lane_axis(self) -> str | None:
        """The axis that runs along the vector lanes, if any."""
        lanes = self.lane_mode()
        return lanes.axis if lanes else None

    def pair_axis(self) -> str | None:
        """The axis whose neighbours share a 32-bit word (bf16 pairs), if any."""
        return next((m.axis for m in self.modes if m.space == "reg"), None)


@dataclass(frozen=True, slots=True)
class Value:
    """A tile: element type x named axes, and after placement a memory level and a layout."""

    name: str
    axes: tuple[str, ...]
    dtype: DType
    level: str | None = None
    layout: Layout | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """A named iteration axis of a program; ``extent`` is an expression in the program's sizes."""

    name: str
    extent: IntExpr


@dataclass(frozen=True, slots=True)
class Tensor:
    """An operand in the slowest memory. A ``temp`` is a workspace that lives for one call."""

    name: str
    dtype: DType
    dims: tuple[IntExpr, ...]
    role: Role


@dataclass(frozen=True, slots=True)
class Param:
    """A run-time scalar: an integer size or offset, or a float factor."""

    name: str
    dtype: DType
