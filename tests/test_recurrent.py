"""Recurrent layers: every schedule against torch in float64, its own layers, and what lengths and resets mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recurrent_reference import CELLS, as_torch, exact_inputs, forward, programs, run, workload

from flashc.compiler.verify import verify as verified
from flashc.compiler.workload import load_workload
from flashc.errors import ExpressionError, WorkloadError
from flashc.ir.interp import interpret
from flashc.ir.nodes import persistent
from flashc.ir.parser import parse_program
from flashc.ir.printer import print_program
from flashc.ir.verify import verify

SMALL = {"batch": 3, "steps": 4, "heads": 2, "head_dim": 8}
SHAPES = [(1, 1, 1, 8), (3, 2, 1, 24), (16, 17, 1, 8), (3, 17, 3, 8), (1, 2, 3, 24)]  # B, T, N, D
FEATURES = [
    {},
    {"initial_state": True},
    {"reverse": True, "initial_state": True},
    {"lengths": [4, 0, 2]},
    {"lengths": [1, 4, 2], "reverse": True, "initial_state": True},
    {"resets": True, "initial_state": True},
    {"resets": True, "lengths": [3, 4, 1], "reverse": True, "input_dim": 6},
    {"input_dim": 6, "initial_state": True, "outputs": ["last"]},
    {"outputs": ["y"], "resets": True},
]
TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}


def check(cell: str, keys: dict[str, Any], tile: int = 5) -> None:
    """All programs of the operator against the cell written out in torch."""
    given = exact_inputs("recurrent", {"cell": cell, **keys})
    y, last = forward(cell, as_torch(given), reverse=keys.get("reverse", False), lengths=keys.get("lengths"))
    expected = {"y": y, **{f"last_{s}": value for s, value in last.items()}}
    for program in programs("recurrent", cell=cell, **keys):
        found = run("recurrent", program, given, tile, cell=cell, **keys)
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name].numpy(), err_msg=f"{program.schedule} {name}", **TOLERANCE)


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize(("b", "t", "n", "d"), SHAPES)
def test_shapes(cell: str, b: int, t: int, n: int, d: int) -> None:
    check(cell, {"batch": b, "steps": t, "heads": n, "head_dim": d, "initial_state": True}, tile=7)


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_features(cell: str, features: dict[str, Any]) -> None:
    check(cell, {**SMALL, **features}, tile=3)


# -- torch's own layers


def torch_layer(cell: str, given: dict[str, np.ndarray]) -> Any:
    """nn.LSTM, nn.GRU or nn.RNN with our weights; its gates are i, f, g, o, those of GRU r, z, n."""
    x, w, r, bias = (given[name] for name in ("x", "w", "r", "bias"))
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}[cell]
    layer = kind(x.shape[2], r.shape[-1], batch_first=True, dtype=torch.float64)
    hidden, inner = r[:, 0], bias[:, 0]
    if cell == "gru":  # ours in the order a, r, z, n: a is R h + b of the candidate
        hidden, own, other = hidden[[1, 2, 0]], inner[1:], np.stack([0 * inner[0], 0 * inner[0], inner[0]])
    else:
        own, other = inner, 0 * inner
    values = {"weight_ih_l0": w[:, 0], "weight_hh_l0": hidden, "bias_ih_l0": own, "bias_hh_l0": other}
    with torch.no_grad():
        for name, value in values.items():
            getattr(layer, name).copy_(torch.from_numpy(value.reshape(getattr(layer, name).shape)))
    return layer


@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
def test_torch_s_layers(cell: str, lengths: list[int] | None) -> None:
    keys: dict[str, Any] = {"cell": cell, "batch": 3, "steps": 5, "head_dim": 8, "input_dim": 6, "initial_state": True}
    keys |= {"lengths": lengths} if lengths else {}
    given = exact_inputs("recurrent", keys)
    layer = torch_layer(cell, given)
    x = torch.from_numpy(given["x"])
    if lengths:
        x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    names = CELLS[cell][1]
    first = [torch.from_numpy(given[f"init_{s}"]).transpose(0, 1).contiguous() for s in names]
    with torch.no_grad():
        y, last = layer(x, tuple(first) if cell == "lstm" else first[0])
    if lengths:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
    states = last if cell == "lstm" else (last,)
    for program in programs("recurrent", **keys):
        found = run("recurrent", program, given, **keys)
        np.testing.assert_allclose(found["y"][:, :, 0], y.numpy(), **TOLERANCE)
        for name, value in zip(names, states, strict=True):
            np.testing.assert_allclose(found[f"last_{name}"][:, 0], value[0].numpy(), **TOLERANCE)


# -- meaning


def test_slstm_does_not_overflow_and_begins_anew_where_n_is_0() -> None:
    keys = {"cell": "slstm", "batch": 2, "steps": 3, "head_dim": 8}
    given = exact_inputs("recurrent", keys)
    given["wx"] = given["wx"] * 300
    given["wx"][0, 0, 0] = -200.0  # a first input gate of exp(-200): the state is still one input
    for program in programs("recurrent", **keys):
        operator, spec = workload("recurrent", **keys)
        sizes = {**operator.sizes(spec), **dict.fromkeys(program.tiles, 3)}
        single = {name: a.astype(np.float32) for name, a in given.items()}
        found = interpret(program, single, sizes).tensors
        assert all(np.isfinite(found[name]).all() for name in ("y", "last_c", "last_n", "last_m"))
        assert (found["last_n"] >= 1).all()


def test_what_lies_beyond_a_length_has_no_effect() -> None:
    keys = {"cell": "lstm", **SMALL, "lengths": [2, 0, 4]}
    given = exact_inputs("recurrent", keys)
    for program in programs("recurrent", **keys):
        clean = run("recurrent", program, given, **keys)
        poisoned = {**given, "wx": given["wx"].copy()}
        poisoned["wx"][0, 2:] = poisoned["wx"][1] = np.nan
        found = run("recurrent", program, poisoned, **keys)
        for name, value in clean.items():
            np.testing.assert_array_equal(found[name], value)
        assert (found["y"][0, 2:] == 0).all()


def test_a_reset_cuts_a_sequence_in_two() -> None:
    keys = {"cell": "gru", "batch": 1, "steps": 6, "head_dim": 8, "initial_state": True}
    given = exact_inputs("recurrent", keys)
    (program, *_) = programs("recurrent", **keys)
    parts = [
        run("recurrent", program, {**given, "wx": given["wx"][:, part]}, **{**keys, "steps": n})["y"]
        for part, n in ((slice(0, 2), 2), (slice(2, 6), 4))
    ]
    reset = np.zeros((1, 6), bool)
    reset[0, 2] = True
    for whole in programs("recurrent", **keys, resets=True):
        found = run("recurrent", whole, {**given, "reset": reset}, **keys, resets=True)
        np.testing.assert_allclose(found["y"], np.concatenate(parts, 1), **TOLERANCE)


def test_states_of_16_bit_layers_stay_fp32() -> None:
    (algorithm, *schedules) = programs("recurrent", cell="lstm", **SMALL, dtype="bf16", outputs=["y", "last", "saved"])
    for program in (algorithm, *schedules):
        types = {t.name: t.dtype.name for t in program.tensors}
        assert types["last_h"] == types["last_c"] == types["before_c"] == "f32"
        assert types["y"] == types["before_h"] == types["pre"] == "bf16"


@pytest.mark.parametrize(("cell", "dtype"), [*((cell, "bf16") for cell in CELLS), ("gru", "fp32"), ("slstm", "fp16")])
def test_every_schedule_is_as_good_as_the_plain_computation(cell: str, dtype: str) -> None:
    keys = {"op": "recurrent", "cell": cell, **SMALL, "dtype": dtype, "input_dim": 6, "resets": True}
    rows = verified(load_workload(keys), "epyc", backend="interpreter")
    assert {row.how.split(",")[0] for row in rows} >= {"per_head", "persistent"}
    assert all(row.ok for row in rows), rows


def test_only_one_schedule_waits_and_only_one_launches_per_step() -> None:
    _, alone, together, stepped = programs("recurrent", cell="lstm", **SMALL)
    assert [any(map(persistent, p.kernels)) for p in (alone, together, stepped)] == [False, True, False]
    assert "seq t: 1\n      par" in print_program(stepped)
    _, alone, together = programs("recurrent", cell="gru_before", **SMALL)  # its products wait for each other
    assert print_program(together).count("sync grid") == 2 and "sync grid" not in print_program(alone)


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_programs_hold_the_rules_and_parse_back(cell: str, dtype: str) -> None:
    keys = {"cell": cell, **SMALL, "dtype": dtype, "lengths": [1, 2, 3], "resets": True, "initial_state": True}
    saving = {"outputs": ["y", "last", "saved"], "reverse": True}
    for op, more in (("recurrent", saving), ("recurrent", {}), ("recurrent_backward", {"clip": 0.5, "input_dim": 6})):
        for program in programs(op, **keys, **more):
            verify(program)
            assert parse_program(print_program(program)) == program


# -- a cell of one's own


MINIMAL = {
    "states": ["h"], "gates": {"f": "both", "n": "input"},
    "step": {"f_": "sigmoid(f)", "h": "f_ * h + (1.0 - f_) * tanh(n)"},
}  # a minimal gated unit


def test_a_new_cell_is_one_block_of_expressions() -> None:
    keys = {"cell": MINIMAL, **SMALL}
    given = exact_inputs("recurrent", keys)
    h, ys = np.zeros((3, 2, 8)), []
    for t in range(4):
        f = 1 / (1 + np.exp(-(given["wx"][:, t, 0] + given["bias"][0] + np.einsum("nuk,bnk->bnu", given["r"][0], h))))
        h = f * h + (1 - f) * np.tanh(given["wx"][:, t, 1] + given["bias"][1])
        ys.append(h)
    for program in programs("recurrent", **keys):
        np.testing.assert_allclose(run("recurrent", program, given, **keys)["y"], np.stack(ys, 1), **TOLERANCE)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"states": ["c", "h"]}, "h first, which R multiplies"),
        ({"gates": {"f": "input", "n": "input"}}, "no gate multiplies h"),
        ({"gates": {"f": "both", "n": "none"}}, "one of both, recurrent, input"),
        ({"gates": {"h": "both"}}, "other names than those of states"),
        ({"gates": {"exp": "both"}}, "names that mean nothing else in expressions"),
        ({"step": {"f_": "sigmoid(f)"}}, "an assignment of every state, h too"),
        ({"step": {"h": "tanh(g)"}}, "unknown name 'g'"),
        ({"gates": {"f": {"of": "n * h"}, "n": "both"}}, "cell.gates.f.of: unknown name 'n'"),
        ({"gates": {"f": {"of": "h < 0.0"}, "n": "both"}}, "its value is bool"),
        ({"gates": {"f": {"of": "h * h"}, "n": "input"}}, "no gate multiplies h"),
        ({"step": {"h": "h < n"}}, "its value is bool"),
        ({"step": {"n": "h", "h": "f"}}, "a gate is given: assign another name"),
        ({"step": {"h": "later", "later": "f"}}, "unknown name 'later'"),
    ],
)
def test_mistakes_in_a_cell(change: dict[str, Any], problem: str) -> None:
    with pytest.raises((WorkloadError, ExpressionError)) as caught:
        load_workload({"op": "recurrent", "cell": {**MINIMAL, **change}, **SMALL, "dtype": "fp32"})
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"lengths": [1, 2]}, "a list of 3, one for each of batch"),
        ({"lengths": [1, 2, 9]}, "0 to steps = 4"),
        ({"cell": "lstn"}, "one of lstm, slstm, gru, gru_before, elman"),
        ({"outputs": []}, "outputs"),
        ({"clip": 1.0}, "unknown key"),
    ],
)
def test_mistakes_in_a_workload(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        load_workload({"op": "recurrent", "cell": "lstm", **SMALL, "dtype": "fp32", **change})
    assert problem in str(caught.value)
