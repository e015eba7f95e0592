"""What the workload schemas of several operators share: sizes, element types, captured tensors, refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flashc.errors import WorkloadError

Json = dict[str, Any]
KeyPath = Sequence[str | int]
Where = Callable[[KeyPath], str]
Capture = tuple[str, tuple[int, ...], str]

FLOAT_NAMES = {
    "fp32": "f32", "fp16": "f16", "bf16": "bf16", "f32": "f32", "f16": "f16",
    "float32": "f32", "float16": "f16", "bfloat16": "bf16",
}
CAPTURE_NAMES = {
    **FLOAT_NAMES, "i32": "i32", "i64": "i64", "int32": "i32", "int64": "i64", "bool": "bool",
}
MAX_SIZE = 2**31 - 1  # coordinates are 32-bit ints in the kernels
MAX_ELEMENTS = 2**48  # of one tensor


def size(minimum: int, example: int, description: str) -> Json:
    """Schema of an extent."""
    return {
        "type": "integer", "minimum": minimum, "maximum": MAX_SIZE,
        "examples": [example], "description": description,
    }


def shape(least: int, most: int) -> Json:
    """Schema of a list of extents."""
    item = {"type": "integer", "minimum": 0, "maximum": MAX_SIZE}
    return {"type": "array", "items": item, "minItems": least, "maxItems": most}


def dtype(names: Mapping[str, str], description: str) -> Json:
    """Schema of an element type."""
    return {"enum": list(names), "examples": [next(iter(names))], "description": description}


def expression(example: str, description: str) -> Json:
    """Schema of an expression of docs/expressions.md."""
    return {"type": "string", "minLength": 1, "examples": [example], "description": description}


CAPTURES: Json = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": {
            "shape": {"type": "array", "items": size(1, 32, "extent"), "minItems": 1, "maxItems": 4},
            "dtype": dtype(CAPTURE_NAMES, "element type, fp32 if not given"),
        },
        "required": ["shape"],
        "additionalProperties": False,
    },
    "propertyNames": {"pattern": "^[A-Za-z][A-Za-z0-9_]*$"},
    "examples": [{"slopes": {"shape": [32], "dtype": "fp32"}}],
    "description": "tensors that the expressions read, by name; passed to the kernel beside its operands",
}


def refusal(where: Where, path: KeyPath, value: object, allowed: str, fix: str) -> WorkloadError:
    """The error for one key: file and line, key, value, what is allowed, what to do."""
    return WorkloadError(message(f"{where(path)}: {dotted(path)}: got {shown(value)}", allowed, fix))


def message(found: str, allowed: str, fix: str) -> str:
    """The form of all workload errors."""
    return f"{found}\n  allowed: {allowed}\n  fix: {fix}"


def dotted(path: KeyPath) -> str:
    """`('bias', 'shape', 2)` as `bias.shape[2]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the workload"


def shown(value: object) -> str:
    """A value as YAML would have it, cut to a readable length."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def check_elements(where: Where, key: str, name: str, extents: Sequence[int]) -> None:
    """Refuse a tensor beyond MAX_ELEMENTS."""
    count = math.prod(extents)
    if count > MAX_ELEMENTS:
        found = f"{name} with {' x '.join(map(str, extents))} = {count} elements"
        raise refusal(where, (key,), found, f"at most 2^48 = {MAX_ELEMENTS} per tensor", "reduce the sizes")


def parse_captures(data: Mapping[str, Any], where: Where, reserved: Sequence[str]) -> tuple[Capture, ...]:
    """The captured tensors; their names must not collide with the operator's own tensors and coordinates."""
    found = []
    for name, entry in data.get("captures", {}).items():
        if name in reserved:
            allowed = f"a name other than {', '.join(reserved)}"
            raise refusal(where, ("captures", name), name, allowed, f"rename it, to my_{name} say")
        found.append((name, tuple(entry["shape"]), CAPTURE_NAMES[entry.get("dtype", "fp32")]))
    return tuple(found)
