"""Small workloads for tests to add keys to."""

from __future__ import annotations

ATTENTION = {
    "op": "attention",
    "batch": "2",
    "heads": "{q: 8, kv: 2}",
    "seq": "{q: 64, kv: 128}",
    "head_dim": "32",
    "dtype": "bf16",
}
GEMM = {"op": "gemm", "m": "16", "n": "24", "k": "32", "dtype": "fp16"}


def text_with(base: dict[str, str], extra: str) -> str:
    """The base workload followed by the lines of `extra`, which replace the base's own for those keys."""
    keys = {line.split(":")[0] for line in extra.splitlines()}
    kept = [f"{key}: {value}" for key, value in base.items() if key not in keys]
    return "\n".join([*kept, extra, ""])
