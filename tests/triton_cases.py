"""Small workloads that between them use every feature, with inputs, for the tests of the Triton backend."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from flashc.backends.base import Invocation
from flashc.backends.triton import BACKEND
from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device
from flashc.ir.interp import NUMPY, interpret
from flashc.ir.nodes import Program
from flashc.ops import registry
from flashc.passes.bind import bind

DEVICES = {
    "sm_80": "a100_sxm_80gb",
    "sm_90": "h100_sxm",
    "sm_100": "b200_sxm",
    "sm_120": "rtx5090",
    "gfx90a": "mi250x",
    "gfx942": "mi300x",
}
SMALL_TILES = {
    "Tg": 2,
    "Tn": 1,
    "Ti": 32,
    "Tj": 16,
    "Tk": 16,
    "Te": 16,
    "Ri": 16,
    "Rj": 32,
    "Re": 16,
    "stages": 2,
    "warps": 4,
}
TOLERANCE = {"f32": 1e-6, "f16": 1e-3, "bf16": 1e-2}  # of differently ordered sums, rounded to the type

ATTENTION: dict[str, Any] = {
    "op": "attention",
    "batch": 1,
    "heads": {"q": 2, "kv": 1},
    "seq": {"q": 37, "kv": 45},
    "head_dim": 16,
    "dtype": "fp16",
}
GEMM: dict[str, Any] = {"op": "gemm", "m": 37, "n": 45, "k": 41, "dtype": "fp32"}

FEATURES: dict[str, dict[str, Any]] = {
    "plain_fp32": {**ATTENTION, "dtype": "fp32"},
    "causal_lse": {**ATTENTION, "causal": True, "outputs": ["o", "lse"]},
    "rows_without_keys": {
        **ATTENTION,
        "causal": True,
        "seq": {"q": 45, "kv": 20},
        "dtype": "fp32",
        "outputs": ["o", "lse"],
    },
    "window": {**ATTENTION, "window": [9, 4], "dtype": "fp32"},
    "window_left_causal": {**ATTENTION, "window": [9, 0], "causal": True, "dtype": "bf16"},
    "lengths": {**ATTENTION, "batch": 2, "kv_lengths": [45, 7], "causal": True, "dtype": "bf16"},
    "empty_length": {**ATTENTION, "batch": 2, "kv_lengths": [0, 33], "outputs": ["o", "lse"]},
    "mask": {**ATTENTION, "mask": {"shape": [1, 2, 37, 45]}, "outputs": ["o", "lse"]},
    "bias": {**ATTENTION, "bias": {"shape": [2, 1, 45], "dtype": "fp16"}, "dtype": "fp32"},
    "alibi": {**ATTENTION, "alibi": True, "causal": True, "dtype": "fp32"},
    "softcap": {**ATTENTION, "softcap": 2.0, "dtype": "fp32"},
    "score": {
        **ATTENTION,
        "score": "score + gain[h] * tanh(score) + where(abs(j - i) < 4, table[j - i + 3], 0)",
        "captures": {"gain": {"shape": [2], "dtype": "fp32"}, "table": {"shape": [7], "dtype": "fp16"}},
        "dtype": "fp32",
    },
    "keep": {
        **ATTENTION,
        "keep": "(j - i) % 5 != 2 and (j - 3 * i) // 7 < 4",
        "causal": True,
        "dtype": "fp32",
    },
    "wide_values": {**ATTENTION, "head_dim": 40, "value_dim": 24, "causal": True, "q_offset": 3},
    "offsets": {**ATTENTION, "batch": 2, "q_offset": [20, 2], "causal": True, "dtype": "fp32"},
    "gemm": GEMM,
    "gemm_a": {**GEMM, "transpose_a": True, "dtype": "fp16", "batch": 2},
    "gemm_b": {**GEMM, "transpose_b": True, "dtype": "bf16", "out_dtype": "fp32"},
    "gemm_ab": {**GEMM, "transpose_a": True, "transpose_b": True, "dtype": "fp32"},
    "gemm_epilogue": {
        **GEMM,
        "epilogue": "max(acc + shift[j], 0) * where(i < j, 2, 1)",
        "captures": {"shift": {"shape": [45]}},
        "dtype": "fp16",
    },
}


@dataclass(frozen=True)
class Case:
    """A bound program of one feature with a call of it, and what the reference interpreter makes of that."""

    feature: str
    bound: Program
    call: Invocation
    expected: dict[str, np.ndarray[Any, Any]]

    @property
    def name(self) -> str:
        return f"{self.feature}-{self.bound.schedule}"

    @property
    def tolerance(self) -> float:
        narrowest = min(
            (t.dtype for t in self.bound.tensors if t.dtype.kind == "float"),
            key=lambda t: (t.bits, t.name != "bf16"),
        )
        return TOLERANCE[narrowest.name]


def programs(workload: dict[str, Any]) -> list[Program]:
    loaded = load_workload(workload)
    return list(registry()[loaded.op].schedules(loaded.spec))


def bound(program: Program, tiles: dict[str, int], target: str = "sm_80") -> Program:
    placed = BACKEND.place(program, load_device(DEVICES[target]))
    return bind(placed, {t: tiles[t] for t in placed.tiles})


@cache
def cases(feature: str) -> tuple[Case, ...]:
    """One case per schedule, with garbage where nothing may be read from."""
    workload = load_workload(FEATURES[feature])
    operator = registry()[workload.op]
    sizes, params = operator.sizes(workload.spec), operator.params(workload.spec)
    found = []
    for program in programs(FEATURES[feature]):
        inputs = _inputs(workload, operator, program, np.random.default_rng(7))
        expected = interpret(program, inputs, {**sizes, **SMALL_TILES}, params).tensors
        found.append(
            Case(feature, bound(program, SMALL_TILES), Invocation(inputs, sizes, params), dict(expected))
        )
    return tuple(found)


def _inputs(
    workload: Any, operator: Any, program: Program, rng: np.random.Generator
) -> dict[str, np.ndarray[Any, Any]]:
    sizes = {**operator.sizes(workload.spec), **dict(program.fixed)}
    special = (
        {**operator.examples(workload.spec, rng), **operator.tables(workload.spec)}
        if operator.examples
        else {}
    )
    found: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in program.tensors:
        if tensor.role == "in":
            shape = tuple(d.evaluate(sizes) for d in tensor.dims)
            values = special[tensor.name] if tensor.name in special else rng.standard_normal(shape)
            found[tensor.name] = np.array(np.broadcast_to(values, shape)).astype(NUMPY[tensor.dtype.name])
    return _with_garbage(found)


def _with_garbage(inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """NaN in keys and values past the lengths, and in a value row that a mask hides from every query."""
    if "kv_lengths" in inputs:
        for b, length in enumerate(inputs["kv_lengths"]):
            inputs["k"][b, :, length:] = np.nan
            inputs["v"][b, :, length:] = np.inf
    if "mask" in inputs:
        inputs["mask"][..., 5] = False
        inputs["v"][:, :, 5] = np.nan
    return inputs
