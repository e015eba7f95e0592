"""Gradients of recurrent layers: every schedule against torch.autograd on the cell written out, in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from recurrent_reference import CELLS, as_torch, exact_inputs, forward, programs, run, workload

from flashc.compiler.verify import verify as verified
from flashc.compiler.workload import load_workload
from flashc.ir.printer import print_program
from flashc.ops.recurrent_backward import adjoints
from flashc.ops.recurrent_cells import CELLS as OUR_CELLS

SMALL = {"batch": 3, "steps": 4, "heads": 2, "head_dim": 8}
FEATURES: list[dict[str, Any]] = [
    {"initial_state": True},
    {"outputs": ["y"]},
    {"outputs": ["last"], "reverse": True, "initial_state": True},
    {"lengths": [4, 0, 2], "initial_state": True},
    {"lengths": [1, 4, 2], "reverse": True, "initial_state": True, "resets": True},
    {"resets": True, "initial_state": True, "input_dim": 6},
    {"resets": True},
    {"clip": 0.05, "initial_state": True},
    {"clip": 0.05, "lengths": [3, 4, 1], "resets": True, "input_dim": 6, "initial_state": True},
]
TOLERANCE = {"rtol": 1e-7, "atol": 1e-10}


def saved(cell: Any, keys: dict[str, Any], given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the forward pass leaves for the backward pass."""
    shared = {k: v for k, v in keys.items() if k not in ("clip", "outputs")}
    shared |= {"cell": cell, "outputs": ["y", "last", "saved"]}
    (algorithm, *_) = programs("recurrent", **shared)
    return run("recurrent", algorithm, given, **shared)


def case(cell: Any, keys: dict[str, Any], seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs of the forward pass and of the backward pass."""
    plain = {k: v for k, v in keys.items() if k not in ("clip", "outputs")}
    given = exact_inputs("recurrent", {"cell": cell, **plain}, seed)
    incoming = exact_inputs("recurrent_backward", {"cell": cell, **keys}, seed + 1)
    kept = saved(cell, keys, given)
    return given, {name: given.get(name, kept.get(name, value)) for name, value in incoming.items()}


def check(cell: str, keys: dict[str, Any], tile: int = 3) -> None:
    given, incoming = case(cell, keys)
    leaves = as_torch(given, gradients=True)
    y, last = forward(
        cell, leaves, reverse=keys.get("reverse", False), lengths=keys.get("lengths"), clip=keys.get("clip")
    )
    outputs = keys.get("outputs", ["y", "last"])
    loss = (y * torch.from_numpy(incoming["dy"])).sum() if "y" in outputs else 0
    for s, value in last.items():
        loss = loss + ((value * torch.from_numpy(incoming[f"dlast_{s}"])).sum() if "last" in outputs else 0)
    loss.backward()
    for program in programs("recurrent_backward", cell=cell, **keys):
        found = run("recurrent_backward", program, incoming, tile, cell=cell, **keys)
        assert set(found) == {f"d{name}" for name, leaf in leaves.items() if leaf.dtype == torch.float64}
        for name, value in found.items():
            leaf = leaves[name[1:]]
            expected = np.zeros(value.shape) if leaf.grad is None else leaf.grad.numpy()
            np.testing.assert_allclose(value, expected, err_msg=f"{program.schedule} {name}", **TOLERANCE)


@pytest.mark.parametrize(
    ("cell", "features"),
    [  # all of them with two states and where products wait for each other
        *itertools.product(("lstm", "gru_before"), FEATURES),
        *itertools.product(("slstm", "gru", "elman"), (FEATURES[0], FEATURES[4], FEATURES[-1])),
    ],
    ids=str,
)
def test_gradients(cell: str, features: dict[str, Any]) -> None:
    check(cell, {**SMALL, **features})


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize(("b", "t", "n", "d"), [(1, 1, 1, 8), (16, 2, 3, 8), (2, 17, 1, 24)])
def test_shapes(cell: str, b: int, t: int, n: int, d: int) -> None:
    check(cell, {"batch": b, "steps": t, "heads": n, "head_dim": d, "initial_state": True}, tile=9)


OWN = {
    "states": ["h", "v"],
    "gates": {
        "f": "both", "g": "recurrent", "n": "input", "p": {"of": "v * h"}, "q": {"of": "p + g * h", "input": False},
    },
    "step": {
        "f_": "logsigmoid(f)", "v": "max(v, f_) + 0.5 * abs(n) * h + tanh(p * q)",
        "h": "where(n < 0.2, tanh(v) * g, exp2(-v * v)) / (2.0 + v * v)",
    },
}


@pytest.mark.parametrize("cell", [*CELLS, OWN], ids=lambda c: c if isinstance(c, str) else "own")
def test_gradients_are_the_limit_of_differences(cell: Any) -> None:
    """Without torch: the interpreter's forward pass, a little further along one direction."""
    keys = {**SMALL, "initial_state": True, "input_dim": 6}
    given, incoming = case(cell, keys, seed=5)
    rng = np.random.default_rng(1)
    along = {name: rng.standard_normal(a.shape) for name, a in given.items()}
    (algorithm, *_) = programs("recurrent", cell=cell, **keys)

    def loss(step: float) -> float:
        found = run("recurrent", algorithm, {k: a + step * along[k] for k, a in given.items()}, cell=cell, **keys)
        return sum(float((found[name] * incoming[f"d{name}"]).sum()) for name in found)

    h = 1e-5
    expected = (loss(h) - loss(-h)) / (2 * h)
    for program in programs("recurrent_backward", cell=cell, **keys):
        found = run("recurrent_backward", program, incoming, cell=cell, **keys)
        slope = sum(float((found[f"d{name}"] * along[name]).sum()) for name in given)
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-6), program.schedule


def test_padding_and_what_is_not_a_number_in_it_gives_no_gradient() -> None:
    keys = {**SMALL, "lengths": [2, 0, 4], "initial_state": True}
    given, incoming = case("lstm", keys)
    poisoned = {**given, "wx": given["wx"].copy()}
    poisoned["wx"][0, 2:] = poisoned["wx"][1] = np.nan
    left = {**incoming, **{k: v for k, v in saved("lstm", keys, poisoned).items() if k in incoming}}
    left["dy"] = incoming["dy"].copy()
    left["dy"][0, 2:] = np.nan
    for program in programs("recurrent_backward", cell="lstm", **keys):
        clean, found = (run("recurrent_backward", program, x, cell="lstm", **keys) for x in (incoming, left))
        for name, value in clean.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{program.schedule} {name}")
        assert (found["dwx"][0, 2:] == 0).all() and (found["dwx"][1] == 0).all()
        np.testing.assert_array_equal(found["dinit_c"][1], incoming["dlast_c"][1])


def test_a_wide_clip_changes_nothing_and_the_forward_pass_knows_none() -> None:
    given, incoming = case("gru", SMALL)
    for wide, plain in zip(
        programs("recurrent_backward", cell="gru", **SMALL, clip=1e6),
        programs("recurrent_backward", cell="gru", **SMALL),
        strict=True,
    ):
        found = run("recurrent_backward", wide, incoming, cell="gru", **SMALL, clip=1e6)
        expected = run("recurrent_backward", plain, incoming, cell="gru", **SMALL)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    assert "clip" not in workload("recurrent", cell="gru", **SMALL)[0].schema["properties"]


def test_the_stabiliser_of_slstm_gets_no_gradient_from_h() -> None:
    """h = c / n does not change when m grows and c and n shrink to match; by torch's count too."""
    keys = {**SMALL, "initial_state": True, "outputs": ["y"]}
    given, incoming = case("slstm", keys)
    weight = given["init_c"], given["init_n"]
    for program in programs("recurrent_backward", cell="slstm", **keys):
        found = run("recurrent_backward", program, incoming, cell="slstm", **keys)
        balance = found["dinit_c"] * weight[0] + found["dinit_n"] * weight[1]
        np.testing.assert_allclose(found["dinit_m"], balance, rtol=1e-9, atol=1e-12)


def test_each_exponential_is_made_once() -> None:
    assigned, into = adjoints(OUR_CELLS["elman"])
    assert [(name, str(expr)) for name, expr in assigned] == [("tanh_0", "tanh(pre_a)"), ("new_h", "tanh_0")]
    assert {name: str(expr) for name, expr in into.items()} == {"pre_a": "grad_h * (1.0 - tanh_0 * tanh_0)"}
    for cell, count in (("lstm", 5), ("gru", 3), ("slstm", 6)):
        program = programs("recurrent_backward", cell=cell, **SMALL)[1]
        text = print_program(program)
        assert sum(text.count(f"{fn}(") for fn in ("tanh", "exp", "log")) == count


def test_what_nothing_reads_is_not_made() -> None:
    text = print_program(programs("recurrent_backward", cell="lstm", **SMALL)[1])
    assert "new_c[" in text and "new_h[" not in text and "state_h[" not in text


@pytest.mark.parametrize(("cell", "dtype"), [*((cell, "bf16") for cell in CELLS), ("gru", "fp32")])
def test_every_schedule_is_as_good_as_the_plain_computation(cell: str, dtype: str) -> None:
    keys = {"op": "recurrent_backward", "cell": cell, **SMALL, "dtype": dtype, "input_dim": 6, "initial_state": True}
    rows = verified(load_workload(keys), "epyc", backend="interpreter")
    assert {row.how.split(",")[0] for row in rows} >= {"per_head", "persistent"}
    assert all(row.ok for row in rows), rows
