"""Recurrent layers on Triton: emitted source under its interpreter against torch in float64, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recurrent_reference import CELLS, as_torch, exact_inputs, forward, programs, workload
from test_recurrent_backward import case as backward_case
from triton_cases import SMALL_TILES, bound

from flashc.backends.base import Invocation
from flashc.backends.triton.run import interpret_programs
from flashc.ir.interp import NUMPY
from flashc.ir.nodes import Program

pytestmark = [pytest.mark.triton, pytest.mark.timeout(600)]
TILES = {**SMALL_TILES, **dict.fromkeys(("Tb", "Tu", "Tk", "Ru", "Rk", "Tt", "Tp", "Ti"), 16)}
SMALL: dict[str, Any] = {"batch": 3, "steps": 4, "heads": 2, "head_dim": 24}
ALL = {"lengths": [4, 0, 2], "resets": True, "initial_state": True}
FORWARD: list[tuple[str, dict[str, Any]]] = [
    *((cell, {"initial_state": True}) for cell in CELLS),
    ("lstm", {"batch": 18, "steps": 17, "heads": 1, "head_dim": 8}),
    ("slstm", {**ALL, "reverse": True, "input_dim": 6}),
    ("gru", {**ALL, "outputs": ["last"]}),
    ("gru_before", {**ALL, "reverse": True}),
    ("lstm", {"reverse": True, "outputs": ["y"], "resets": True}),
    ("lstm", {"steps": 0, "initial_state": True, "outputs": ["last"]}),
]
BACKWARD: list[tuple[str, dict[str, Any]]] = [
    *((cell, {"initial_state": True}) for cell in CELLS),
    ("lstm", {**ALL, "clip": 0.05, "input_dim": 6}),
    ("slstm", {**ALL, "reverse": True}),
    ("gru_before", {**ALL, "clip": 0.05, "outputs": ["y"]}),
    ("elman", {"batch": 2, "steps": 17, "heads": 1, "head_dim": 8}),
]
Results = dict[str, dict[str, Any]]


def emitted(op: str, cell: str, keys: dict[str, Any], target: str = "sm_80") -> list[Program]:
    """What Triton has source for, bound to small tiles."""
    found = [p for p in programs(op, cell=cell, **keys)[1:] if p.schedule != "persistent"]
    return [bound(p, TILES, target) for p in found]


def call_of(op: str, cell: str, keys: dict[str, Any], program: Program, given: dict[str, Any]) -> Invocation:
    """Inputs rounded to the program's types, with its tables."""
    operator, spec = workload(op, cell=cell, **keys)
    held = {**given, **operator.tables(spec)}
    tensors = {t.name: np.asarray(held[t.name]).astype(NUMPY[t.dtype.name]) for t in program.tensors if t.role == "in"}
    return Invocation(tensors, operator.sizes(spec), operator.params(spec))


def expected_forward(cell: str, keys: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    y, last = forward(cell, as_torch(given), reverse=keys.get("reverse", False), lengths=keys.get("lengths"))
    return {"y": y, **{f"last_{s}": value for s, value in last.items()}}


def expected_backward(cell: str, keys: dict[str, Any], given: dict[str, Any], incoming: dict[str, Any]) -> Any:
    leaves = as_torch(given, gradients=True)
    options = {"reverse": keys.get("reverse", False), "lengths": keys.get("lengths"), "clip": keys.get("clip")}
    y, last = forward(cell, leaves, **options)
    outputs = keys.get("outputs", ["y", "last"])
    loss = (y * torch.from_numpy(incoming["dy"])).sum() if "y" in outputs else 0
    for s, value in last.items() if "last" in outputs else ():
        loss = loss + (value * torch.from_numpy(incoming[f"dlast_{s}"])).sum()
    loss.backward()
    return {f"d{n}": a.grad for n, a in leaves.items() if a.dtype == torch.float64 and a.grad is not None}


def compare(program: Program, found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    outputs = [t.name for t in program.tensors if t.role == "out"]
    for name in (n for n in outputs if n in expected):
        wanted = expected[name].detach().numpy()
        error = np.linalg.norm(found[name].astype(np.float64) - wanted) / max(np.linalg.norm(wanted), 1e-30)
        assert error <= tolerance, (program.schedule, name, error)
    assert set(outputs) & set(expected)


def check(op: str, given: list[tuple[str, dict[str, Any]]], dtype: str, tolerance: float) -> None:
    """Every case in every schedule, in one interpreter process."""
    runs, answers = [], []
    for n, (cell, more) in enumerate(given):
        keys = {**SMALL, **more}
        if op == "recurrent":
            held = exact_inputs(op, {"cell": cell, **keys}, n)
            answer = expected_forward(cell, keys, held)
        else:
            inputs, held = backward_case(cell, keys, n)
            answer = expected_backward(cell, keys, inputs, held)
        for program in emitted(op, cell, {**keys, "dtype": dtype}):
            runs.append((program, call_of(op, cell, {**keys, "dtype": dtype}, program, held)))
            answers.append(answer)
    for (program, _), found, answer in zip(runs, interpret_programs(runs), answers, strict=True):
        compare(program, found, answer, tolerance)


def test_forward() -> None:
    check("recurrent", FORWARD, "fp32", 2e-6)


def test_backward() -> None:
    check("recurrent_backward", BACKWARD, "fp32", 1e-5)


def test_operands_of_16_bits() -> None:
    """Rounded inputs and products: the relative error is of the order of bf16's 2^-8 and fp16's 2^-11."""
    check("recurrent", FORWARD[:5], "bf16", 2e-2)
    check("recurrent_backward", BACKWARD[:1], "fp16", 4e-3)
