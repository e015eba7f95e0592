"""flashc.rnn: results and gradients against torch in float64, what is refused, and what a class is."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from recurrent_reference import CELLS, exact_inputs, forward
from test_recurrent import MINIMAL

import flashc
from flashc.errors import ArgumentError, ExpressionError, WorkloadError
from flashc.ops.recurrent_cells import CELLS as OUR_CELLS
from flashc.ops.recurrent_cells import make_cell, text_of

SMALL = {"batch": 3, "steps": 4, "heads": 2, "head_dim": 8}
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
NAMES = {"x": "x", "wx": "x", "w": "W", "r": "R", "bias": "b"}
FEATURES: list[dict[str, Any]] = [
    {},
    {"input_dim": 6, "initial_state": True},
    {"lengths": [4, 0, 2], "initial_state": True, "reverse": True},
    {"resets": True, "input_dim": 6},
    {"resets": True, "initial_state": True, "clip": 0.05},
]
rnn = partial(flashc.rnn, device="interpreter")


def case(cell: str, seed: int = 0, **features: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Float64 operands by the operator's names, and arguments of flashc.rnn in float32."""
    shown = {k: v for k, v in features.items() if k != "clip"}
    given = exact_inputs("recurrent", {"cell": cell, **SMALL, **shown}, seed)
    single = {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in given.items()}
    call = {NAMES[name]: single[name] for name in NAMES if name in single}
    if features.get("initial_state"):
        call["states"] = tuple(single[f"init_{s}"] for s in CELLS[cell][1])
    call |= {"resets": single["reset"]} if "reset" in single else {}
    return given, {"cell": cell, **call, **{k: features[k] for k in ("lengths", "reverse", "clip") if k in features}}


def tensors(call: dict[str, Any], *, gradients: bool = False) -> dict[str, Any]:
    """The call with torch tensors."""

    def converted(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(converted, value))
        if not isinstance(value, np.ndarray):
            return value
        tensor = torch.from_numpy(value.copy())
        return tensor.requires_grad_(gradients and tensor.is_floating_point())

    return {name: converted(value) for name, value in call.items()}


def leaves(call: dict[str, Any]) -> list[Any]:
    flat = [*(call[n] for n in ("x", "W", "R", "b") if n in call), *call.get("states", ())]
    return [t for t in flat if t is not None]


# -- results and gradients


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_results_and_gradients(cell: str, features: dict[str, Any]) -> None:
    given, call = case(cell, **features)
    exact = {n: torch.from_numpy(a).requires_grad_(a.dtype == np.float64) for n, a in given.items()}
    options = {k: features[k] for k in ("lengths", "reverse", "clip") if k in features}
    y, last = forward(cell, exact, **options)
    rng = np.random.default_rng(7)
    dy, dlast = (rng.standard_normal(s.shape) for s in (y, torch.stack(list(last.values()))))
    together = sum((s * torch.from_numpy(d)).sum() for s, d in zip(last.values(), dlast, strict=True))
    ((y * torch.from_numpy(dy)).sum() + together).backward()

    call = tensors(call, gradients=True)
    found, states = rnn(**call)
    np.testing.assert_allclose(found.detach(), y.detach(), **TOLERANCE)
    for state, expected in zip(states, last.values(), strict=True):
        assert state.dtype == torch.float32
        np.testing.assert_allclose(state.detach(), expected.detach(), **TOLERANCE)
    outputs = (found, *states)
    torch.autograd.backward(outputs, [torch.from_numpy(d).float() for d in (dy, *dlast)])
    names = ("x", "wx", "w", "r", "bias", *(f"init_{s}" for s in CELLS[cell][1]))
    by_name = [exact[n].grad for n in names if n in exact]
    assert len(by_name) == len(leaves(call))
    for ours, expected in zip(leaves(call), by_name, strict=True):
        np.testing.assert_allclose(ours.grad, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_numpy_gives_what_torch_gives(features: dict[str, Any]) -> None:
    _, call = case("slstm", **features)
    y, last, saved = rnn(**call, save=True)
    both = tensors(call, gradients=True)
    found, states = rnn(**both)
    np.testing.assert_array_equal(y, found.detach())
    for state, expected in zip(last, states, strict=True):
        np.testing.assert_array_equal(state, expected.detach())
    rng = np.random.default_rng(3)
    dy = rng.standard_normal(y.shape, np.float32)
    dlast = [rng.standard_normal(s.shape, np.float32) for s in last]
    torch.autograd.backward((found, *states), [torch.from_numpy(d) for d in (dy, *dlast)])
    gradients = flashc.rnn_backward(saved, dy, dlast)
    assert list(gradients) == [n for n in ("x", "W", "R", "b", "states") if n in call]
    flat = [g for value in gradients.values() for g in (value if isinstance(value, tuple) else (value,))]
    for gradient, leaf in zip(flat, leaves(both), strict=True):
        np.testing.assert_array_equal(gradient, leaf.grad)


@pytest.mark.parametrize(
    ("cell", "features"),
    [
        ("gru", {"lengths": [4, 0, 2], "reverse": True, "clip": 0.05}),
        pytest.param("lstm", {"resets": True, "initial_state": True, "input_dim": 6}, marks=pytest.mark.slow),
    ],
)
def test_compiled_kernels_give_what_the_interpreter_gives(cell: str, features: dict[str, Any]) -> None:
    _, call = case(cell, **features)
    found = []
    for run in (rnn, flashc.rnn):
        own = tensors(call, gradients=True)
        y, last = run(**own)
        (y.square().sum() + last[0].sum()).backward()
        found.append([y.detach(), *(s.detach() for s in last), *(leaf.grad for leaf in leaves(own))])
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_new_length_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences, steps and heads of a call are its own, within what a class is tuned for."""
    rng = np.random.default_rng(0)

    def call(batch: int, steps: int, heads: int) -> None:
        x = rng.standard_normal((batch, steps, 1, heads, 8), np.float32)
        R = rng.standard_normal((1, heads, 8, 8), np.float32)
        flashc.rnn("elman", x, R, lengths=[steps // 2] * batch)

    def refuse(*_args: Any, **_options: Any) -> None:
        raise AssertionError("something is compiled")

    call(3, 4, 2)
    monkeypatch.setattr("flashc.backends.cpu.run.compile_shared", refuse)
    monkeypatch.setattr("flashc.compiler.kernel.tune", refuse)
    call(17, 1, 5)
    call(5, 9, 3)


def test_a_gradient_of_y_or_of_one_state_alone() -> None:
    _, call = case("lstm", initial_state=True)
    for pick in (lambda y, _last: y, lambda _y, last: last[1]):
        plain, zeroed = tensors(call, gradients=True), tensors(call, gradients=True)
        pick(*rnn(**plain)).sum().backward()
        y, last = rnn(**zeroed)
        (pick(y, last).sum() + 0 * (y.sum() + sum(s.sum() for s in last))).backward()
        for ours, expected in zip(leaves(plain), leaves(zeroed), strict=True):
            np.testing.assert_allclose(ours.grad, expected.grad, rtol=1e-6, atol=1e-7)


def test_only_the_last_states() -> None:
    _, call = case("gru", input_dim=6)
    _, last = rnn(**call)
    y, alone = rnn(**call, every_step=False)
    assert y is None
    np.testing.assert_array_equal(alone[0], last[0])
    leaf = tensors(call, gradients=True)
    nothing, (h,) = rnn(**leaf, every_step=False)
    h.sum().backward()
    assert nothing is None and leaf["R"].grad.abs().sum() > 0


def test_last_states_go_on_as_initial_ones() -> None:
    _, call = case("slstm")
    whole, last = rnn(**call)
    parts, states = [], None
    for part in (slice(0, 1), slice(1, 4)):
        y, states = rnn(**{**call, "x": call["x"][:, part]}, states=states)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-6)
    np.testing.assert_allclose(states, last, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_tensors(dtype: Any) -> None:
    given, call = case("lstm", input_dim=6, initial_state=True)
    call = tensors(call)
    rounded = {n: call[n].to(dtype).requires_grad_() for n in ("x", "W", "R", "b")}
    y, last = rnn(**{**call, **rounded})
    assert y.dtype == dtype and last[1].dtype == torch.float32
    exact = {n: (rounded[NAMES[n]].detach().double() if n in NAMES else torch.from_numpy(a)) for n, a in given.items()}
    leaf = exact["r"].requires_grad_()
    expected, states = forward("lstm", exact)
    tolerance = {"rtol": 0.05, "atol": 0.05}
    np.testing.assert_allclose(y.detach().float(), expected.detach(), **tolerance)
    np.testing.assert_allclose(last[1].detach(), states["c"].detach(), **tolerance)
    y.sum().backward()
    expected.sum().backward()
    assert rounded["R"].grad.dtype == dtype
    gap = torch.linalg.norm(rounded["R"].grad.double() - leaf.grad) / torch.linalg.norm(leaf.grad)
    assert gap < 0.02


def test_bf16_of_numpy() -> None:
    _, call = case("gru")
    half = {n: call[n].astype(ml_dtypes.bfloat16) for n in ("x", "R", "b")}
    y, (h,) = rnn(**{**call, **half})
    assert y.dtype == ml_dtypes.bfloat16 and h.dtype == np.float32
    np.testing.assert_allclose(y.astype(np.float32), rnn(**call)[0], rtol=0.05, atol=0.05)


def test_any_strides_and_no_bias() -> None:
    _, call = case("lstm", input_dim=6)
    expected, _ = rnn(**{**call, "b": np.zeros_like(call["b"])})
    swapped = {**tensors(call), "b": None}
    for name in ("x", "R", "W"):
        swapped[name] = swapped[name].transpose(-1, -2).contiguous().transpose(-1, -2).requires_grad_()
    y, _ = rnn(**swapped)
    np.testing.assert_array_equal(y.detach(), expected)
    y.sum().backward()
    assert all(swapped[n].grad is not None for n in ("x", "R", "W"))


@pytest.mark.parametrize(("batch", "steps"), [(0, 4), (2, 0)])
def test_nothing_to_do(batch: int, steps: int) -> None:
    x = np.zeros((batch, steps, 4, 2, 8), np.float32)
    states = tuple(np.full((batch, 2, 8), value, np.float32) for value in (1.0, 2.0))
    y, last = rnn("lstm", x, np.zeros((4, 2, 8, 8), np.float32), states=states)
    assert y.shape == (batch, steps, 2, 8)
    for state, first in zip(last, states, strict=True):
        np.testing.assert_array_equal(state, first)


# -- backward passes


def test_a_backward_pass_can_be_repeated() -> None:
    _, call = case("lstm", input_dim=6, initial_state=True, resets=True)
    call = tensors(call, gradients=True)
    y, last = rnn(**call)
    loss = y.square().sum() + last[1].sum()
    first = torch.autograd.grad(loss, leaves(call), retain_graph=True)
    again = torch.autograd.grad(loss, leaves(call))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaves(call))


def test_a_second_derivative_is_refused() -> None:
    _, call = case("elman")
    call = tensors(call, gradients=True)
    (slope,) = torch.autograd.grad(rnn(**call)[0].square().sum(), call["R"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_what_was_saved_and_then_changed_is_noticed() -> None:
    _, call = case("elman")
    call = tensors(call, gradients=True)
    y, _ = rnn(**call)
    with torch.no_grad():
        call["R"].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_no_graph_where_none_is_wanted() -> None:
    _, call = case("elman")
    call = tensors(call, gradients=True)
    with torch.no_grad():
        assert not rnn(**call)[0].requires_grad
    one = {**tensors(call), "x": call["x"].detach(), "b": call["b"].detach()}
    rnn(**one)[0].sum().backward()
    assert one["b"].grad is None and call["R"].grad is not None


def test_clip_leaves_the_forward_pass_and_a_small_gradient_alone() -> None:
    _, call = case("gru")
    plain, wide, narrow = (tensors(call, gradients=True) for _ in range(3))
    results = [
        rnn(**plain)[0],
        rnn(**wide, clip=1e6)[0],
        rnn(**narrow, clip=1e-3)[0],
    ]
    for y in results:
        assert torch.equal(y, results[0])
        y.sum().backward()
    assert torch.equal(plain["R"].grad, wide["R"].grad)
    assert not torch.equal(plain["R"].grad, narrow["R"].grad)


# -- cells


def test_a_cell_of_one_s_own_with_gradients() -> None:
    rng = np.random.default_rng(0)
    shapes = {"x": (3, 4, 2, 2, 8), "R": (1, 2, 8, 8), "b": (2, 2, 8)}
    exact = {n: torch.from_numpy(rng.standard_normal(s)).requires_grad_() for n, s in shapes.items()}
    h, ys = torch.zeros(3, 2, 8, dtype=torch.float64), []
    for t in range(4):
        product = torch.einsum("nuk,bnk->bnu", exact["R"][0], h)
        f = torch.sigmoid(product + exact["x"][:, t, 0] + exact["b"][0])
        h = f * h + (1 - f) * torch.tanh(exact["x"][:, t, 1] + exact["b"][1])
        ys.append(h)
    torch.stack(ys, 1).square().sum().backward()
    as_object = make_cell("own", MINIMAL["states"], MINIMAL["gates"], MINIMAL["step"], "own")
    for cell in (MINIMAL, as_object):
        call = {n: a.detach().float().requires_grad_() for n, a in exact.items()}
        y, _ = rnn(cell, **call)
        np.testing.assert_allclose(y.detach(), torch.stack(ys, 1).detach(), **TOLERANCE)
        y.square().sum().backward()
        for name, leaf in call.items():
            np.testing.assert_allclose(leaf.grad, exact[name].grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", list(OUR_CELLS))
def test_a_cell_s_text_makes_the_same_cell(name: str) -> None:
    cell = OUR_CELLS[name]
    text = text_of(cell)
    assert make_cell(name, text["states"], text["gates"], text["step"], "text") == cell


# -- refusals


def refused(pattern: str, error: type[Exception] = ArgumentError, **call: Any) -> None:
    with pytest.raises(error, match=pattern):
        rnn(**call)


def test_wrong_arguments_are_refused() -> None:
    _, call = case("lstm", input_dim=6)
    x, R, W = (call[n] for n in ("x", "R", "W"))
    refused("cell is 'lstn'; .*slstm.*; did you mean 'lstm'", **{**call, "cell": "lstn"})
    refused("cell is 3; .*a mapping as in a workload", **{**call, "cell": 3})
    refused(r"x has shape \(3, 4, 6\); it must have 5 dim.*needs W", **{**call, "W": None})
    refused("x has shape .* 3 dimensions", **{**call, "x": x[0]})
    refused("x is a list", **{**call, "x": [1.0]})
    refused("R is a float; give", **{**call, "R": 0.5})
    refused(r"R has shape \(3, 2, 8, 8\); expected \(4, 2, 8, 8\): .gates with a product", **{**call, "R": R[:3]})
    refused(r"W has shape \(4, 2, 8, 5\); expected \(4, 2, 8, 6\)", **{**call, "W": W[..., :5]})
    refused(r"b has shape \(4, 2, 7\); expected", **{**call, "b": call["b"][..., :7]})
    refused("R is a Tensor beside x, a ndarray", **{**call, "R": torch.from_numpy(R)})
    refused("R has dtype f16, x f32", **{**call, "R": R.astype(np.float16)})
    doubles = {n: call[n].astype(np.float64) for n in ("x", "R", "W", "b")}
    refused('dtype: got "f64"', WorkloadError, **{**call, **doubles})
    refused("clip is 0; it must be a finite number above 0", **call, clip=0)
    refused("clip is nan", **call, clip=float("nan"))
    refused("unknown device 'a10000'", LookupError, **call | {"device": "a10000"})


def test_wrong_states_lengths_and_resets_are_refused() -> None:
    _, call = case("lstm", initial_state=True)
    h, c = call.pop("states")
    refused("states is 1 of them; give a tuple of 2: h, c", **call, states=(h,))
    refused("states is a ndarray; give a tuple of 2: h, c", **call, states=h)
    refused(r"states \(c\) has shape \(3, 2, 7\); expected \(3, 2, 8\)", **call, states=(h, c[..., :7]))
    refused(r"states \(c\) is a Tensor beside x", **call, states=(h, torch.from_numpy(c)))
    refused("lengths has 5; each must be from 0 to the 4 steps", **call, lengths=[1, 2, 5])
    refused("lengths has -1", **call, lengths=[1, 2, -1])
    refused(r"lengths has shape \(2,\); expected \(3,\)", **call, lengths=[1, 2])
    refused("lengths has dtype float64; give integers", **call, lengths=[1.0, 2.0, 3.0])
    refused("resets has dtype int64; give bool", **call, resets=np.zeros((3, 4), np.int64))
    refused(r"resets has shape \(4, 3\); expected \(3, 4\)", **call, resets=np.zeros((4, 3), bool))


def test_wrong_cells_are_refused() -> None:
    _, call = case("elman")
    refused("h first", WorkloadError, **call | {"cell": {**MINIMAL, "states": ["c", "h"]}})
    refused("unknown name 'g'", ExpressionError, **call | {"cell": {**MINIMAL, "step": {"h": "tanh(g)"}}})


def test_wrong_gradients_are_refused() -> None:
    _, call = case("lstm")
    y, last, saved = rnn(**call, save=True)
    for pattern, given in (
        ("neither dy nor dlast is given", {}),
        ("dlast has 1 gradients; give h, c", {"dlast": last[:1]}),
        (r"dy has shape \(3, 3, 2, 8\); expected", {"dy": y[:, 1:]}),
        ("dy has dtype f16", {"dy": y.astype(np.float16)}),
    ):
        with pytest.raises(ArgumentError, match=pattern):
            flashc.rnn_backward(saved, **given)
    refused("save is True and an argument requires grad", **tensors(call, gradients=True), save=True)


def test_importing_flashc_and_calling_with_numpy_leaves_torch_alone() -> None:
    code = """
import sys, numpy as np, flashc
assert flashc.rnn and "torch" not in sys.modules
x, R = np.ones((1, 2, 1, 1, 3), np.float32), np.ones((1, 1, 3, 3), np.float32)
flashc.rnn("elman", x, R, device="interpreter")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
