"""Recurrent layers compiled for CPUs: every schedule against float64, any number of threads, emitted source."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from cpu_programs import bound, device, lowered, run, schedule, workload, x86_only

from flashc.backends.cpu import run as cpu_run
from flashc.backends.cpu.emit import emit
from flashc.compiler.verify import random_inputs, relative_error
from flashc.compiler.workload import Workload
from flashc.hwmodels import load_device
from flashc.ir.interp import interpret
from flashc.ir.nodes import Program
from flashc.ir.verify import verify
from flashc.ops import registry

TILES = {"Tb": 8, "Tu": 16, "Tk": 16, "Tt": 16, "Tp": 32, "Ru": 32, "Rk": 32, "Ti": 32, "mr": 1, "nr": 8}
EPSILON = {"fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}
SCHEDULES = ("per_head", "persistent", "per_step")


def given(op: str, **keys: Any) -> Workload:
    return workload(op=op, **{"dtype": "fp32", **keys})


def found_by(work: Workload, name: str, target: Any, inputs: Mapping[str, Any], **tiles: int) -> dict[str, Any]:
    program = bound(schedule(work, name), target, **{**TILES, **tiles})
    verify(program)
    return run(program, target, work, inputs)


def check(op: str, target: Any, names: tuple[str, ...] = (), **keys: Any) -> None:
    """All outputs as near to float64 as the interpreter's run of the algorithm in the element type, times two."""
    tiles = keys.pop("tiles", {})
    work = given(op, **keys)
    operator, spec = registry()[op], work.spec
    inputs = random_inputs(operator, spec, 0)
    sizes, params = {**operator.sizes(spec), "Tb": 8, "Tu": 8, "Rb": 8}, operator.params(spec)
    algorithm = operator.algorithm(spec)
    sizes |= dict.fromkeys(algorithm.tiles, 8)
    exact = interpret(algorithm, inputs, sizes, params, exact=True).tensors
    naive = interpret(algorithm, inputs, sizes, params).tensors
    outputs = [t.name for t in algorithm.tensors if t.role == "out"]
    for name in names or [p.schedule for p in operator.schedules(spec)]:
        found = found_by(work, name, target, inputs, **tiles)
        for out in outputs:
            limit = max(2 * relative_error(naive[out], exact[out]), 4 * EPSILON[keys.get("dtype", "fp32")])
            assert relative_error(found[out], exact[out]) <= limit, (name, out)


# -- emitted source


@pytest.mark.parametrize("name", SCHEDULES)
def test_emitted_lstm(name: str, golden: Callable[[str, str], None]) -> None:
    target = load_device("epyc_9654")
    work = given("recurrent", cell="lstm", batch=16, steps=100, heads=2, head_dim=64)
    program = lowered(schedule(work, name), target, **{**TILES, "mr": 2})
    golden(f"lstm_{name}", emit(program, target.vector.width_bits))


@pytest.mark.parametrize(("units", "whole"), [(32, True), (24, False)])
def test_results_in_whole_vectors_need_no_buffer_on_their_way_to_memory(units: int, whole: bool) -> None:
    target = load_device("epyc_9654")
    work = given("recurrent", cell="lstm", batch=16, steps=100, head_dim=units)
    source = emit(lowered(schedule(work, "per_step"), target, **TILES), target.vector.width_bits)
    assert ("* const new_h = " in source) != whole
    assert ("store(to_0 + b * y_s0 + u_v * W, new_h_v)" in source) == whole


# -- every schedule, cell, type and instruction set


CASES: list[tuple[str, dict[str, Any]]] = [
    ("epyc_9654", {"cell": "lstm", "batch": 3, "steps": 17, "heads": 2, "head_dim": 24, "initial_state": True}),
    ("epyc_9654", {"cell": "slstm", "batch": 1, "steps": 2, "heads": 3, "head_dim": 8, "dtype": "bf16"}),
    ("epyc_9654", {"cell": "gru_before", "batch": 3, "steps": 4, "heads": 2, "head_dim": 32, "dtype": "bf16",
                   "resets": True, "lengths": [3, 0, 4], "reverse": True, "input_dim": 6, "initial_state": True}),
    ("zen3", {"cell": "gru", "batch": 16, "steps": 17, "head_dim": 64, "resets": True,
              "outputs": ["y", "last", "saved"], "tiles": {"mr": 2, "nr": 4, "Tu": 48}}),
    ("portable", {"cell": "elman", "batch": 3, "steps": 1, "head_dim": 17, "dtype": "fp16"}),
]  # fmt: skip
BACKWARD: list[tuple[str, dict[str, Any]]] = [
    ("epyc_9654", {"cell": "lstm", "batch": 3, "steps": 5, "heads": 2, "head_dim": 24, "resets": True, "clip": 0.5,
                   "lengths": [5, 0, 2], "initial_state": True, "tiles": {"Tt": 32}}),
    ("epyc_9654", {"cell": "gru_before", "batch": 2, "steps": 3, "head_dim": 32, "dtype": "bf16", "input_dim": 6}),
]  # fmt: skip
OTHERS: list[tuple[str, str, str, tuple[int, ...]]] = [  # types that CASES lack on an instruction set; B, T, N, D
    ("epyc_9654", "gru_before", "fp16", (17, 3, 2, 40)),
    ("zen3", "slstm", "bf16", (16, 17, 1, 8)),
    ("zen3", "elman", "fp16", (3, 2, 1, 24)),
    ("portable", "lstm", "fp32", (1, 1, 1, 8)),
    ("portable", "gru", "bf16", (3, 17, 3, 64)),
]


@x86_only
@pytest.mark.parametrize(("device_name", "keys"), CASES, ids=str)
def test_forward(device_name: str, keys: dict[str, Any]) -> None:
    check("recurrent", device(device_name), **keys)


@x86_only
@pytest.mark.parametrize(("device_name", "keys"), BACKWARD, ids=str)
def test_backward(device_name: str, keys: dict[str, Any]) -> None:
    check("recurrent_backward", device(device_name), **keys)


@x86_only
@pytest.mark.slow
@pytest.mark.parametrize(("device_name", "cell", "dtype", "shape"), OTHERS)
def test_further(device_name: str, cell: str, dtype: str, shape: tuple[int, ...]) -> None:
    keys = dict(zip(("batch", "steps", "heads", "head_dim"), shape, strict=True))
    check("recurrent", device(device_name), cell=cell, dtype=dtype, initial_state=True, **keys)


@pytest.mark.parametrize("size", ["batch", "steps"])
def test_nothing_to_do(size: str) -> None:
    keys = {"batch": 2, "steps": 3, "head_dim": 16, size: 0}
    check("recurrent", load_device("native"), ("persistent",), cell="lstm", **keys)


# -- threads


def _programs() -> tuple[Workload, Any, list[Program]]:
    work = given("recurrent", cell="lstm", batch=20, steps=17, heads=1, head_dim=64)
    target = load_device("native")
    return work, target, [bound(schedule(work, name), target, **TILES) for name in ("persistent", "per_step")]


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_any_number_of_threads_gives_the_same(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 tasks on fewer threads, on a number that does not divide them, and on more threads than tasks and cores."""
    work, target, programs = _programs()
    inputs = random_inputs(registry()["recurrent"], work.spec, 0)
    for program in programs:
        monkeypatch.setattr(cpu_run, "_thread_count", lambda: (lambda: 1, 1))
        alone = run(program, target, work, inputs)
        monkeypatch.setattr(cpu_run, "_thread_count", lambda: (lambda: count, count))
        found = run(program, target, work, inputs)
        np.testing.assert_array_equal(found["y"], alone["y"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_waits_for_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_run, "_thread_count", lambda: (lambda: 2, 2))
    work, target, (program, _) = _programs()
    inputs = random_inputs(registry()["recurrent"], work.spec, 0)
    expected = run(program, target, work, inputs)["y"]
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = np.array_equal(run(program, target, work, inputs)["y"], expected)
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
