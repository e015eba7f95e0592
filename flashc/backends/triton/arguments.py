"""What a Triton kernel is called with: pointers, strides, sizes, its step and float parameters, in one fixed order."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from flashc.ir.intexpr import Const, IntExpr, Mul
from flashc.ir.nodes import Program
from flashc.ir.types import Tensor

WIDEST_UNIT = 16  # Triton looks for multiples of 16 and no further

# Element types in Triton's signatures. Bool tensors are passed as the bytes they are stored in.
TRITON_TYPES = {
    "f64": "fp64",
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "i64": "i64",
    "i32": "i32",
    "bool": "i8",
}


@dataclass(frozen=True, slots=True)
class Argument:
    """One kernel argument. ``source`` is the tensor, size, axis of the launch's step, or parameter; ``dim`` and
    ``unit`` belong to strides.

    The kernel takes a stride for a multiple of ``unit`` elements. ``specialised``: Triton compiles another
    version for values that are multiples of 16. Most sizes are not, since a new length must not compile
    anything; those are that mask the contiguous dimension of a block, where loads would else be one element
    wide.
    """

    name: str
    kind: Literal["pointer", "stride", "size", "step", "param"]
    source: str
    dim: int = 0
    unit: int = 1
    specialised: bool = False

    @property
    def annotated(self) -> str:
        """As it stands in the kernel's parameter list: offsets are computed in 64 bits."""
        return f"{self.name}: tl.int64" if self.kind == "stride" else self.name


@dataclass
class Used:
    """Collects the arguments that a kernel's body mentions; ``masking`` sizes end a contiguous dimension.

    ``steps``: axes whose coordinate each launch is given.
    """

    program: Program
    tensors: set[str] = field(default_factory=set)
    strides: set[tuple[str, int]] = field(default_factory=set)
    scalars: set[str] = field(default_factory=set)
    masking: set[str] = field(default_factory=set)
    steps: tuple[str, ...] = ()

    def pointer(self, tensor: str) -> str:
        self.tensors.add(tensor)
        return f"{tensor}_ptr"

    def stride(self, tensor: str, dim: int) -> str:
        self.strides.add((tensor, dim))
        return f"{tensor}_stride_{dim}"

    def scalar(self, name: str) -> str:
        self.scalars.add(name)
        return name

    def arguments(self) -> tuple[Argument, ...]:
        """Pointers and strides in the order of the program's tensors, then sizes, steps and parameters."""
        tensors = [t for t in self.program.tensors if t.name in self.tensors]
        pointers = [Argument(f"{t.name}_ptr", "pointer", t.name, specialised=True) for t in tensors]
        strides = [
            Argument(f"{t.name}_stride_{d}", "stride", t.name, d, stride_unit(t, d), stride_unit(t, d) == 1)
            for t in tensors
            for d in range(len(t.dims))
            if (t.name, d) in self.strides
        ]
        sizes = [
            Argument(n, "size", n, specialised=n in self.masking)
            for n in self.program.sizes
            if n in self.scalars
        ]
        steps = [Argument(axis, "step", axis) for axis in self.steps]
        params = [Argument(p.name, "param", p.name) for p in self.program.params if p.name in self.scalars]
        return (*pointers, *strides, *sizes, *steps, *params)


def stride_unit(tensor: Tensor, dim: int) -> int:
    """Power of two, at most 16, that divides the stride of a dimension whenever the tensor is contiguous."""
    factors: Collection[IntExpr] = tensor.dims[dim + 1 :]
    constant = math.prod(_constant_factor(f) for f in factors)
    return math.gcd(constant, WIDEST_UNIT)


def _constant_factor(extent: IntExpr) -> int:
    if isinstance(extent, Const):
        return extent.value
    if isinstance(extent, Mul) and isinstance(extent.args[0], Const):
        return extent.args[0].value
    return 1
