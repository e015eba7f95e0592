"""Workload keys of `op: attention_backward`: those of attention, less what has no derivative (docs/workload.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashc.errors import UnsupportedError
from flashc.ops import attention_spec
from flashc.ops.attention_spec import AttentionSpec
from flashc.ops.spec_checks import Json, Where, message, shown

RESERVED = (
    *attention_spec.RESERVED,
    *("do", "dq", "dk", "dv", "dq_sum", "dk_sum", "dv_sum", "delta", "dprobabilities", "dscores"),  # tensors
    *("c", "g", "Di"),  # axes and a tile symbol
)
UNDERIVED = {
    "bias": "the gradient of a bias is not implemented",
    "score": "the derivative of a score expression is not implemented",
}


PROPERTIES = attention_spec.SCHEMA["properties"]
SCHEMA: Json = {
    **attention_spec.SCHEMA,
    "properties": {
        **{key: rule for key, rule in PROPERTIES.items() if key != "outputs"},  # every gradient is given
        **{key: {**PROPERTIES[key], "description": f"refused: {why}"} for key, why in UNDERIVED.items()},
    },
}


def parse(data: Mapping[str, Any], where: Where) -> AttentionSpec:
    """The spec of keys that satisfy the schema. Raises WorkloadError, and UnsupportedError for a missing derivative."""
    for key, problem in UNDERIVED.items():
        if key in data:
            found = f"{where((key,))}: {key}: got {shown(data[key])}: {problem}"
            allowed = "scale, softcap, causal, window, kv_lengths, mask, keep, alibi (its slopes as constants)"
            raise UnsupportedError(message(found, allowed, f"remove {key}"))
    return attention_spec.parse(data, where, RESERVED)
