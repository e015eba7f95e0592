"""An operator from outside the package: softmax along the columns of a matrix, its rows scaled by weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashc.ir.intexpr import Sym
from flashc.ir.nodes import Kernel, Par, Program
from flashc.ir.scalar import Ref, exp2
from flashc.ir.types import F32, Axis, Tensor
from flashc.ops import Operator
from flashc.ops.build import elementwise, load, loops, reduce, store

LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class Spec:
    rows: int
    columns: int


def parse(data: Mapping[str, Any], _where: Callable[[Sequence[str | int]], str]) -> Spec:
    return Spec(data["rows"], data["columns"])


def _program(spec: Spec) -> Program:
    body = (
        load("xt", "ij", F32, "x", ("i", "j")),
        load("wt", "i", F32, "w", ("i",)),
        reduce("m", "i", "max", "xt", "j"),
        elementwise("p", "ij", exp2((Ref("xt") - Ref("m")) * LOG2E)),
        reduce("l", "i", "sum", "p", "j"),
        elementwise("out", "ij", Ref("p") * Ref("wt") / Ref("l")),
        store("y", ("i", "j"), "out"),
    )
    rows, columns = Sym("N"), Sym("M")
    return Program(
        name="weighted_softmax", schedule="rows", sizes=("N", "M"),
        axes=(Axis("i", rows), Axis("j", columns)),
        fixed=(("M", spec.columns),), params=(), tiles=("Ti",),
        tensors=(
            Tensor("x", F32, (rows, columns), "in"), Tensor("w", F32, (rows,), "in"),
            Tensor("y", F32, (rows, columns), "out"),
        ),
        kernels=(Kernel("rows", (Par(loops(("i", Sym("Ti"))), body),)),),
    )  # fmt: skip


def _size(example: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": 2**20, "examples": [example], "description": "extent"}


OPERATOR = Operator(
    name="weighted_softmax",
    schema={
        "type": "object",
        "properties": {"rows": _size(300), "columns": _size(40)},
        "required": ["rows", "columns"],
        "additionalProperties": False,
    },
    parse=parse,
    algorithm=_program,
    schedules=lambda spec: (_program(spec),),
    sizes=lambda spec: {"N": spec.rows, "M": spec.columns},
    params=lambda _spec: {},
)
