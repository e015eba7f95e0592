"""Recurrent layers on Triton: emitted source under its interpreter against torch in float64, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recurrent_reference import as_torch, exact_inputs, forward, programs, workload
from test_recurrent_backward import case as backward_case
from triton_cases import DEVICES, SMALL_TILES, bound

from flashc.backends.base import Invocation
from flashc.backends.triton import BACKEND
from flashc.backends.triton.launching import launches
from flashc.backends.triton.resources import shared_bytes
from flashc.backends.triton.run import interpret_programs
from flashc.backends.triton.source import emit, printed_kernels
from flashc.compiler.tune import tune
from flashc.compiler.workload import load_workload
from flashc.errors import UnsupportedError
from flashc.hwmodels import load_device
from flashc.ir.interp import NUMPY
from flashc.ir.nodes import Program
from flashc.ir.parser import parse_program
from flashc.ir.steps import launched

pytestmark = [pytest.mark.triton, pytest.mark.timeout(600)]
TILES = {**SMALL_TILES, **dict.fromkeys(("Tb", "Tu", "Tk", "Ru", "Rk", "Tt", "Tp", "Ti"), 16)}
SMALL: dict[str, Any] = {"batch": 3, "steps": 4, "heads": 2, "head_dim": 24}
ALL = {"lengths": [4, 0, 2], "resets": True, "initial_state": True}
FORWARD: list[tuple[str, dict[str, Any]]] = [
    ("lstm", {"batch": 18, "steps": 17, "heads": 1, "head_dim": 8, "initial_state": True}),
    ("elman", {"initial_state": True, "outputs": ["last"]}),
    ("slstm", {**ALL, "reverse": True, "input_dim": 6}),
    ("gru", ALL),
    ("gru_before", {**ALL, "reverse": True}),
    ("lstm", {"reverse": True, "outputs": ["y"], "resets": True}),
    ("lstm", {"steps": 0, "initial_state": True, "outputs": ["last"]}),
]
BACKWARD: list[tuple[str, dict[str, Any]]] = [
    ("gru", {"initial_state": True}),
    ("lstm", {**ALL, "clip": 0.05, "input_dim": 6}),
    ("slstm", {**ALL, "reverse": True}),
    ("gru_before", {**ALL, "clip": 0.05, "outputs": ["y"]}),
    ("elman", {"batch": 2, "steps": 17, "heads": 1, "head_dim": 8}),
]
ROUNDED: list[tuple[str, dict[str, Any]]] = [("lstm", {"initial_state": True}), ("gru_before", {"input_dim": 6})]
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
    check("recurrent", ROUNDED, "bf16", 2e-2)
    check("recurrent_backward", ROUNDED[:1], "fp16", 4e-3)


# -- launches


def test_a_call_of_another_length_compiles_nothing() -> None:
    """The same source, and no argument that Triton specialises on says how long a call is or which step it is at."""
    for op in ("recurrent", "recurrent_backward"):
        sizes = [{"steps": 4, "batch": 3, "heads": 2}, {"steps": 16, "batch": 1, "heads": 5}]
        short, long = (emitted(op, "lstm", {**SMALL, **more}) for more in sizes)
        assert [emit(p, "x") for p in short] == [emit(p, "x") for p in long]
        arguments = [a for p in short for k in printed_kernels(p) for a in k.arguments if a.kind in ("size", "step")]
        assert {a.name for a in arguments} >= {"T", "B", "t"}
        assert not any(a.specialised for a in arguments)


@pytest.mark.parametrize(("op", "steps"), [("recurrent", [0, 1, 2]), ("recurrent_backward", [2, 1, 0])])
def test_kernels_of_a_step_are_launched_together(op: str, steps: list[int]) -> None:
    program = next(p for p in emitted(op, "lstm", SMALL) if p.schedule == "per_step")
    order = [(k.kernel, *step.values()) for k, step in launches(printed_kernels(program), {"T": 3})]
    each = ("steps",) if op == "recurrent" else ("steps_0", "steps_1")
    at_steps = [(name, t) for t in steps for name in each]
    assert order[0] == ("begin",)
    assert order[1 : 1 + len(at_steps)] == at_steps
    assert all(len(rest) == 1 for rest in order[1 + len(at_steps) :])


def test_loads_run_ahead_where_no_task_stores_what_they_read() -> None:
    device, (_, *schedules) = load_device("h100_sxm"), programs("recurrent", cell="lstm", **SMALL)
    found = {p.schedule: BACKEND.place(p, device) for p in schedules}
    assert {name: "stages" in p.tiles for name, p in found.items()} == {
        "per_head": True, "persistent": False, "per_step": True,
    }


# -- what is left out


def test_tuning_names_the_schedule_that_triton_has_no_barrier_for() -> None:
    given = {"op": "recurrent", "cell": "lstm", "batch": 16, "steps": 128, "head_dim": 256, "dtype": "bf16"}
    found = tune(load_workload(given), load_device("h100_sxm"))
    left_out = {r.schedule: [m.check.name for m in r.conflict.members] for r in found.rejected}
    assert left_out["persistent"] == ["triton.grid_barriers.steps"]
    assert left_out["per_head"] == ["device.smem.steps"]
    assert found.best.schedule == "per_step"
    assert "def steps(" in BACKEND.emit(found.best.program, found.device)


def test_a_persistent_program_is_not_printed() -> None:
    program = next(p for p in programs("recurrent", cell="elman", **SMALL) if p.schedule == "persistent")
    with pytest.raises(UnsupportedError, match="`sync grid`, and Triton no barrier of all tasks"):
        emit(bound(program, TILES), "x")


def test_a_reversed_loop_over_tiles_is_refused() -> None:
    program = parse_program("""
program sums.backwards (bound)
  sizes N
  axes n: N
  in x: f32[N]
  out y: f32[N]
  kernel all
    par
      seq n: 16 reverse
        xt[n]: f32 = load x[n]
        store y[n] = xt
""")
    with pytest.raises(UnsupportedError, match="the reversed loop over n must have tiles of 1"):
        emit(program, "x")


# -- resources, compiled offline


COMPILED = [
    ("recurrent", "lstm", 64, "sm_80"), ("recurrent", "lstm", 64, "gfx942"), ("recurrent", "gru_before", 24, "sm_90"),
    ("recurrent_backward", "lstm", 16, "sm_90"), ("recurrent_backward", "lstm", 16, "gfx942"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "cell", "head_dim", "target"), COMPILED)
def test_shared_memory_is_never_under_predicted(op: str, cell: str, head_dim: int, target: str) -> None:
    device = load_device(DEVICES[target])
    for small in emitted(op, cell, {**SMALL, "head_dim": head_dim, "dtype": "bf16"}, target):
        kernels = [part for k in small.kernels for part in launched(k)]
        built = BACKEND.build(BACKEND.emit(small, device), small, device)
        for kernel, found in zip(kernels, built.resources, strict=True):
            predicted = shared_bytes(small, kernel, device).evaluate({"warps": TILES["warps"]})
            assert found.shared_bytes is not None and found.shared_bytes <= predicted, (small.schedule, found)
            assert found.spill_bytes == 0, (small.schedule, found)
