"""What a kernel is timed against computes the same as the kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashc
from flashc.compiler.verify import random_inputs
from flashc.ops import registry

torch = pytest.importorskip("torch")

SHAPE: dict[str, Any] = {
    "op": "attention", "batch": 2, "heads": {"q": 4, "kv": 2}, "seq": 37, "head_dim": 16, "dtype": "fp32"
}  # fmt: skip
OFFERED: list[dict[str, Any]] = [
    {}, {"causal": True}, {"bias": {"shape": [37, 37]}}, {"mask": {"shape": [4, 37, 37]}}, {"window": [5, 2]},
    {"window": [-1, 3]}, {"window": [9, -1]}, {"causal": True, "window": [5, 0]}, {"seq": {"q": 1, "kv": 37}},
]  # fmt: skip
BEYOND: list[dict[str, Any]] = [
    {"softcap": 3.0}, {"alibi": True}, {"window": [5, 2], "mask": {"shape": [37, 37]}},
    {"window": [5, 2], "seq": {"q": 20, "kv": 37}}, {"outputs": ["o", "lse"]},
]  # fmt: skip


def tensors(spec: Any) -> dict[str, Any]:
    inputs = random_inputs(registry()["attention"], spec, 0)
    return {name: torch.from_numpy(np.asarray(x)) for name, x in inputs.items()}


@pytest.mark.parametrize("keys", OFFERED, ids=str)
def test_peers_give_the_kernels_result(keys: dict[str, Any]) -> None:
    given = flashc.load_workload({**SHAPE, **keys})
    inputs = tensors(given.spec)
    found = flashc.compile(given)(**inputs)
    peers = registry()["attention"].peers(given.spec, inputs)
    assert peers
    for name, run in peers.items():
        torch.testing.assert_close(run().reshape(found.shape), found, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("keys", BEYOND, ids=str)
def test_no_peer_is_named_that_computes_something_else(keys: dict[str, Any]) -> None:
    given = flashc.load_workload({**SHAPE, **keys})
    assert registry()["attention"].peers(given.spec, tensors(given.spec)) == {}
