"""Workload keys of `op: gemm` and what they mean (docs/workload.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashc.ir.scalar import Scalar
from flashc.ops.expression_checks import ExpressionRule, check_captures_used, parse_expression
from flashc.ops.spec_checks import (
    CAPTURES,
    FLOAT_NAMES,
    Capture,
    Json,
    Where,
    check_elements,
    dtype,
    expression,
    parse_captures,
    size,
)


@dataclass(frozen=True)
class GemmSpec:
    """c[b, i, j] = epilogue(sum over k of a[b, i, k] * b[b, k, j]), accumulated in f32.

    a is (batch, m, k), stored (batch, k, m) if transpose_a; b is (batch, k, n), stored (batch, n, k) if
    transpose_b; c is (batch, m, n) in out_dtype. The epilogue sees the sum as `acc`, the coordinates b, i, j
    and the captures.
    """

    m: int
    n: int
    k: int
    dtype: str
    out_dtype: str
    batch: int = 1
    transpose_a: bool = False
    transpose_b: bool = False
    epilogue: Scalar | None = None
    captures: tuple[Capture, ...] = ()


# Names that a captured tensor must not take: operands, output, coordinates and the sum.
RESERVED = (
    *("a", "b", "c", "i", "j", "k", "acc", "out", "inf", "true", "false", "and", "or", "not"),
    *("min", "max", "sum", "ceil"),  # words of the program text
    *("B", "M", "N", "K", "Ti", "Tj", "Tk", "stages", "warps", "mr", "nr"),  # sizes and tile symbols
)


def _flag(description: str) -> Json:
    return {"type": "boolean", "default": False, "examples": [True], "description": description}


SCHEMA: Json = {
    "type": "object",
    "properties": {
        "batch": {**size(0, 8, "number of independent products"), "default": 1},
        "m": size(0, 4096, "rows of the result"),
        "n": size(0, 4096, "columns of the result"),
        "k": size(0, 4096, "length of the sums"),
        "transpose_a": _flag("a is stored (batch, k, m)"),
        "transpose_b": _flag("b is stored (batch, n, k)"),
        "dtype": dtype(FLOAT_NAMES, "element type of a and b"),
        "out_dtype": dtype(FLOAT_NAMES, "element type of c; dtype if not given"),
        "epilogue": expression("max(acc + shift[j], 0)", "the result; over acc, b, i (row), j (column)"),
        "captures": CAPTURES,
    },
    "required": ["m", "n", "k", "dtype"],
    "additionalProperties": False,
}


def parse(data: Mapping[str, Any], where: Where) -> GemmSpec:
    """The spec of keys that satisfy SCHEMA. Raises WorkloadError for combinations that cannot be."""
    batch, m, n, k = data.get("batch", 1), data["m"], data["n"], data["k"]
    check_elements(where, "m", "a", (batch, m, k))
    check_elements(where, "n", "b", (batch, k, n))
    check_elements(where, "m", "c", (batch, m, n))
    captures = parse_captures(data, where, RESERVED)
    rule = ExpressionRule("epilogue", "float", {"b": batch, "i": m, "j": n}, "acc")
    epilogue = parse_expression(data, where, rule, captures)
    check_captures_used(captures, (epilogue,), where)
    return GemmSpec(
        m=m, n=n, k=k, batch=batch,
        dtype=FLOAT_NAMES[data["dtype"]],
        out_dtype=FLOAT_NAMES[data.get("out_dtype", data["dtype"])],
        transpose_a=data.get("transpose_a", False),
        transpose_b=data.get("transpose_b", False),
        epilogue=epilogue, captures=captures,
    )
