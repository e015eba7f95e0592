"""Workload keys of `op: attention` and what they mean (docs/workload.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashc.ir.scalar import Scalar
from flashc.ops.expression_checks import ExpressionRule, check_captures_used, parse_expression
from flashc.ops.spec_checks import (
    CAPTURES,
    FLOAT_NAMES,
    MAX_SIZE,
    Capture,
    Json,
    Where,
    check_elements,
    dtype,
    expression,
    parse_captures,
    refusal,
    shape,
    size,
)


@dataclass(frozen=True)
class AttentionSpec:
    """One attention operator: q (B, Hq, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, E) -> o (B, Hq, Lq, E).

    The logit of a pair is, in this order: scale, softcap, + bias + ALiBi, the score expression; a pair counts
    where mask, keep, causal, window and lengths all keep it. `i` is the local query row, qpos = i + q_offset.

    q_offset     one for all, one per batch entry, or None: kv_lengths - Lq if there are lengths, else Lk - Lq
    window       (left, right), -1 open: qpos - left <= j <= qpos + right
    scale        None stands for 1 / sqrt(head_dim)
    bias_shape   broadcast to (B, Hq, Lq, Lk) from the right; so is mask_shape
    captures     (name, shape, dtype) of tensors that `score` and `keep` read
    outputs      ('o',) or ('o', 'lse'); lse is (B, Hq, Lq), natural log, f32
    """

    batch: int
    heads_q: int
    heads_kv: int
    seq_q: int
    seq_kv: int
    head_dim: int
    value_dim: int
    dtype: str
    causal: bool = False
    q_offset: int | tuple[int, ...] | None = None
    window: tuple[int, int] | None = None
    scale: float | None = None
    softcap: float | None = None
    bias_shape: tuple[int, ...] | None = None
    bias_dtype: str = "f32"
    mask_shape: tuple[int, ...] | None = None
    kv_lengths: tuple[int, ...] | None = None
    alibi: bool = False
    score: Scalar | None = None
    keep: Scalar | None = None
    captures: tuple[Capture, ...] = ()
    outputs: tuple[str, ...] = ("o",)


# Names that a captured tensor must not take: operands, outputs, parameters, coordinates.
RESERVED = (
    "q", "k", "v", "o", "lse", "bias", "mask", "kv_lengths", "q_offset", "alibi_slopes", "scale", "softcap",
    "score", "b", "h", "i", "j", "qpos", "inf", "true", "false", "and", "or", "not",
    *("min", "max", "sum", "ceil"),  # words of the program text
    *("B", "Hq", "Hkv", "G", "Lq", "Lk", "D", "E", "window_left", "window_right"),  # sizes
    *("Ti", "Tj", "Tk", "Te", "Ri", "Rj", "Re", "stages", "warps", "mr", "nr"),  # tile symbols
    *("partial", "scores", "row_max", "row_sum", "probabilities"),  # workspaces
)


def _pair(least: int, example: int, description: str) -> Json:
    one = {"type": "integer", "minimum": least, "maximum": MAX_SIZE}
    both = {
        "type": "object", "properties": {"q": one, "kv": one}, "required": ["q", "kv"],
        "additionalProperties": False,
    }
    return {
        "anyOf": [one, both], "shorthand": ["q", "kv"],
        "examples": [{"q": example, "kv": example}], "description": description,
    }


def _tensor(properties: Json, description: str) -> Json:
    return {
        "type": "object", "properties": {"shape": shape(1, 4), **properties}, "required": ["shape"],
        "additionalProperties": False, "examples": [{"shape": [1, 32, 4096, 4096]}],
        "description": description,
    }


def _number(limits: Json, example: float, description: str) -> Json:
    return {"type": "number", **limits, "examples": [example], "description": description}


def _flag(description: str) -> Json:
    return {"type": "boolean", "default": False, "examples": [True], "description": description}


_LENGTH: Json = {"type": "integer", "minimum": 0, "maximum": MAX_SIZE}
_OFFSET: Json = {"type": "integer", "minimum": -MAX_SIZE, "maximum": MAX_SIZE}
_REACH: Json = {"type": "integer", "minimum": -1, "maximum": MAX_SIZE}

SCHEMA: Json = {
    "type": "object",
    "properties": {
        "batch": {**size(0, 4, "number of sequences"), "default": 1},
        "heads": _pair(1, 8, "query heads and key/value heads; an int stands for both"),
        "seq": _pair(0, 4096, "query and key lengths; an int stands for both"),
        "head_dim": size(1, 128, "size of a query and key head"),
        "value_dim": size(1, 128, "size of a value head; head_dim if not given"),
        "dtype": dtype(FLOAT_NAMES, "element type of q, k, v and o"),
        "causal": _flag("keep j <= qpos"),
        "q_offset": {
            "anyOf": [_OFFSET, {"type": "array", "items": _OFFSET}], "examples": [0],
            "description": "position of query row 0 among the keys, or one per sequence; "
                           "Lk - Lq, or kv_lengths - Lq, if not given",
        },
        "window": {
            "type": "array", "items": _REACH, "minItems": 2, "maxItems": 2, "examples": [[256, 0]],
            "description": "[left, right], -1 open: keep qpos - left <= j <= qpos + right",
        },
        "scale": _number({"minimum": -1e30, "maximum": 1e30}, 0.125,
                         "factor of the dot products; 1/sqrt(head_dim) if not given"),
        "softcap": _number({"minimum": 1e-30, "maximum": 1e30}, 30.0, "c: scores become c * tanh(score / c)"),
        "bias": _tensor({"dtype": dtype(FLOAT_NAMES, "the workload's dtype if not given")},
                        "added to the scores; broadcast to (B, Hq, Lq, Lk); -inf masks"),
        "mask": _tensor({}, "bool, True keeps; broadcast to (B, Hq, Lq, Lk)"),
        "kv_lengths": {
            "type": "array", "items": _LENGTH, "examples": [[4096, 1024, 17, 0]],
            "description": "valid keys of each sequence",
        },
        "alibi": _flag("subtract slope[h] * |qpos - j|; the slopes are an operand"),
        "score": expression("score - 0.1 * abs(qpos - j)", "the new score; over score, b, h, i, j, qpos"),
        "keep": expression("j <= qpos or j < 4", "pairs to keep; over b, h, i, j, qpos"),
        "captures": CAPTURES,
        "outputs": {
            "enum": [["o"], ["o", "lse"], ["lse", "o"]], "default": ["o"], "examples": [["o", "lse"]],
            "description": "lse is the log of the sum of exponentials per query row, natural log, fp32",
        },
    },
    "required": ["heads", "seq", "head_dim", "dtype"],
    "additionalProperties": False,
}


def parse(data: Mapping[str, Any], where: Where, reserved: Sequence[str] = RESERVED) -> AttentionSpec:
    """The spec of keys that satisfy SCHEMA. Raises WorkloadError for combinations that cannot be.

    ``reserved``: names that no captured tensor may have.
    """
    batch = data.get("batch", 1)
    heads_q, heads_kv = _both(data["heads"])
    seq_q, seq_kv = _both(data["seq"])
    head_dim = data["head_dim"]
    value_dim = data.get("value_dim", head_dim)
    if heads_q % heads_kv:
        fix = f"write {{q: {heads_q - heads_q % heads_kv or heads_kv}, kv: {heads_kv}}}, say"
        raise refusal(where, ("heads",), data["heads"], f"q a multiple of kv = {heads_kv}", fix)
    check_elements(where, "seq", "q", (batch, heads_q, seq_q, max(head_dim, value_dim)))
    check_elements(where, "seq", "k", (batch, heads_kv, seq_kv, max(head_dim, value_dim)))
    element = FLOAT_NAMES[data["dtype"]]
    full = (batch, heads_q, seq_q, seq_kv)
    captures = parse_captures(data, where, reserved)
    extents = {**dict(zip("bhij", full, strict=True)), "qpos": None}
    score = parse_expression(data, where, ExpressionRule("score", "float", extents, "score"), captures)
    keep = parse_expression(data, where, ExpressionRule("keep", "bool", extents), captures)
    check_captures_used(captures, (score, keep), where)
    return AttentionSpec(
        batch=batch, heads_q=heads_q, heads_kv=heads_kv, seq_q=seq_q, seq_kv=seq_kv,
        head_dim=head_dim, value_dim=value_dim, dtype=element,
        causal=data.get("causal", False),
        q_offset=_q_offset(data, where, batch),
        window=_window(data),
        scale=_real(data, "scale"),
        softcap=_real(data, "softcap"),
        bias_shape=_broadcast(data, where, "bias", full),
        bias_dtype=FLOAT_NAMES[data.get("bias", {}).get("dtype", element)],
        mask_shape=_broadcast(data, where, "mask", full),
        kv_lengths=_kv_lengths(data, where, batch, seq_kv),
        alibi=data.get("alibi", False),
        score=score, keep=keep, captures=captures,
        outputs=tuple(sorted(data.get("outputs", ["o"]), reverse=True)),
    )


def _both(value: int | Mapping[str, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value["q"], value["kv"])


def _real(data: Mapping[str, Any], key: str) -> float | None:
    return float(data[key]) if key in data else None


def _window(data: Mapping[str, Any]) -> tuple[int, int] | None:
    left, right = data.get("window", (-1, -1))
    return None if left == right == -1 else (left, right)


def _one_each(data: Mapping[str, Any], where: Where, key: str, batch: int) -> tuple[int, ...]:
    values = data[key]
    if len(values) != batch:
        fix = f"give {batch} instead of {len(values)}, or change batch"
        raise refusal(where, (key,), values, f"a list of {batch}, one for each of batch", fix)
    return tuple(values)


def _q_offset(data: Mapping[str, Any], where: Where, batch: int) -> int | tuple[int, ...] | None:
    offset: int | list[int] | None = data.get("q_offset")
    return _one_each(data, where, "q_offset", batch) if isinstance(offset, list) else offset


def _kv_lengths(data: Mapping[str, Any], where: Where, batch: int, seq_kv: int) -> tuple[int, ...] | None:
    if "kv_lengths" not in data:
        return None
    lengths = _one_each(data, where, "kv_lengths", batch)
    for position, length in enumerate(lengths):
        if length > seq_kv:
            fix = f"shorten it, or write seq: {{.., kv: {length}}}"
            raise refusal(where, ("kv_lengths", position), length, f"0 to seq.kv = {seq_kv}", fix)
    return lengths


def _broadcast(
    data: Mapping[str, Any], where: Where, key: str, full: Sequence[int]
) -> tuple[int, ...] | None:
    """The shape under a tensor key, each dimension 1 or the score's, counted from the right."""
    if key not in data:
        return None
    extents = tuple(data[key]["shape"])
    names = ("batch", "heads.q", "seq.q", "seq.kv")
    for axis, extent in enumerate(extents):
        of = axis - len(extents)
        if extent not in (1, full[of]):
            allowed = f"1 or {names[of]} = {full[of]}; the whole shape must broadcast to {tuple(full)}"
            raise refusal(where, (key, "shape", axis), extent, allowed, f"write 1 or {full[of]}")
    return extents
