"""An operator on the reference interpreter, called as a compiled kernel is: slow, on any machine, nothing compiled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from flashc.backends.base import Invocation
from flashc.compiler.arguments import is_torch
from flashc.compiler.workload import Workload
from flashc.ir.interp import Array, interpret
from flashc.ir.nodes import Program
from flashc.ops import Operator, registry

INTERPRETER = "interpreter"
ROWS = 64  # rows of a tile


@dataclass(frozen=True)
class Interpreted:
    """The operator's algorithm in the element types of the workload."""

    workload: Workload

    @cached_property
    def operator(self) -> Operator:
        return registry()[self.workload.op]

    @cached_property
    def program(self) -> Program:
        return self.operator.algorithm(self.workload.spec)

    def executable(self, call: Invocation) -> None:
        inputs = {t.name: as_numpy(call.tensors[t.name]) for t in self.program.tensors if t.role == "in"}
        sizes = {**call.sizes, **dict.fromkeys(self.program.tiles, ROWS)}
        found = interpret(self.program, inputs, sizes, call.params).tensors
        for tensor in self.program.tensors:
            if tensor.role == "out":
                as_numpy(call.tensors[tensor.name])[...] = found[tensor.name]


def as_numpy(value: Any) -> Array:
    """An array that shares the memory of an array or of a torch tensor on the CPU."""
    if not is_torch(value):
        return np.asarray(value)
    import torch

    value = value.detach()
    if value.dtype != torch.bfloat16:
        return value.numpy()  # type: ignore[no-any-return]
    return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
