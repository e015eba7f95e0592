"""flashc.nn: a module against torch's own LSTM, GRU and RNN, with the same weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import flashc.nn
from flashc.errors import ArgumentError, UnsupportedError

KINDS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}
INPUT, HIDDEN, STEPS, BATCH = 5, 8, 6, 4
SHAPES: list[dict[str, Any]] = [
    {},
    {"batch_first": True, "bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "batch_first": True},
]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def pair(cell: str, **options: Any) -> tuple[Any, Any]:
    """Torch's module in float64, and ours of its weights in float32."""
    torch.manual_seed(len(options))
    theirs = KINDS[cell](INPUT, HIDDEN, **options)
    return theirs.double(), flashc.nn.from_torch(theirs.float(), device="interpreter")


def close(ours: Any, expected: Any) -> None:
    if isinstance(expected, tuple) and not isinstance(expected, PackedSequence):
        for a, b in zip(ours, expected, strict=True):
            close(a, b)
        return
    np.testing.assert_allclose(ours.detach(), expected.detach(), **CLOSE)


def inputs(theirs: Any, cell: str) -> tuple[Any, Any]:
    """x and initial states in float64."""
    shape = (BATCH, STEPS, INPUT) if theirs.batch_first else (STEPS, BATCH, INPUT)
    count = theirs.num_layers * (2 if theirs.bidirectional else 1)
    h, c = torch.randn(2, count, BATCH, HIDDEN, dtype=torch.float64)
    return torch.randn(shape, dtype=torch.float64), (h, c) if cell == "lstm" else h


def single(states: Any) -> Any:
    return tuple(s.float() for s in states) if isinstance(states, tuple) else states.float()


@pytest.mark.parametrize("cell", list(KINDS))
@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_torch_s_layers(cell: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(cell, **options)
    theirs = theirs.double()
    x, states = inputs(theirs, cell)
    close(ours(x.float()), theirs(x))
    close(ours(x.float(), single(states)), theirs(x, states))


@pytest.mark.parametrize("cell", list(KINDS))
def test_gradients_of_inputs_states_and_parameters(cell: str) -> None:
    theirs, ours = pair(cell, num_layers=2, bidirectional=True)
    theirs = theirs.double()
    x, states = inputs(theirs, cell)
    found = []
    for module, dtype in ((theirs, torch.float64), (ours, torch.float32)):
        own = x.detach().to(dtype).clone().requires_grad_()
        first = [s.detach().to(dtype).clone().requires_grad_() for s in (states if cell == "lstm" else (states,))]
        y, last = module(own, tuple(first) if cell == "lstm" else first[0])
        (y.square().sum() + (last[-1] if cell == "lstm" else last).sum()).backward()
        found.append([own.grad, *(s.grad for s in first)])
    close(tuple(found[1]), tuple(found[0]))
    for end in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        for name, value in flashc.nn._converted(cell, _gradients_of(theirs, end), end).items():
            mine = getattr(ours, name + end).grad
            if name == "b":  # a bias of torch's pair has the gradient of our sum, where both are added
                value = value / 2 if cell != "gru" else torch.cat([value[:1], value[1:3] / 2, value[3:]])
            close(mine, value)


def _gradients_of(module: Any, end: str) -> Any:
    """Something with the module's gradients in place of its parameters."""

    class Gradients:
        hidden_size, bias = HIDDEN, True

    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(Gradients, name + end, getattr(module, name + end).grad)
    return Gradients


@pytest.mark.parametrize("cell", list(KINDS))
@pytest.mark.parametrize("lengths", [[6, 5, 3, 1], [2, 6, 6, 1]])
@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_sequences(cell: str, lengths: list[int], batch_first: bool) -> None:
    theirs, ours = pair(cell, num_layers=2, bidirectional=True, batch_first=batch_first)
    theirs = theirs.double()
    x, states = inputs(theirs, cell)
    ordered = lengths == sorted(lengths, reverse=True)
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=ordered)
    y, last = ours(packed.to(torch.float32), single(states))
    expected, after = theirs(packed, states)
    close(y.data, expected.data)
    close(last, after)
    assert torch.equal(y.batch_sizes, expected.batch_sizes)
    for name in ("sorted_indices", "unsorted_indices"):
        a, b = getattr(y, name), getattr(expected, name)
        assert (a is None) == (b is None) and (b is None or torch.equal(a, b))


def test_lengths_and_resets_beside_a_padded_tensor() -> None:
    _, ours = pair("gru", bidirectional=True)
    x = torch.randn(STEPS, BATCH, INPUT)
    parts = [x[:n, b] for b, n in enumerate([3, 6, 1, 4])]
    _, packed = ours(pack_sequence(parts, enforce_sorted=False))
    y, last = ours(x, lengths=[3, 6, 1, 4])
    assert torch.equal(last, packed) and not y[3:, 0].any()
    forward_only = pair("gru")[1]
    resets = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    resets[2] = True
    close(forward_only(x, resets=resets)[0][2:], forward_only(x[2:])[0])


def test_dropout_acts_between_layers_in_training_only() -> None:
    theirs, ours = pair("lstm", num_layers=2, dropout=0.5)
    x = torch.randn(STEPS, BATCH, INPUT)
    close(ours.eval()(x), theirs.float().eval()(x))
    ours.train()
    torch.manual_seed(0)
    first = ours(x)[0]
    torch.manual_seed(0)
    again = ours(x)[0]
    assert torch.equal(first, again) and not torch.equal(first, ours(x)[0])
    assert torch.equal(ours(x)[1][0][0], ours.eval()(x)[1][0][0])  # nothing is dropped before the first layer


def test_bf16_keeps_its_type() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(INPUT, HIDDEN)
    ours = flashc.nn.from_torch(theirs.bfloat16(), device="interpreter")
    x = torch.randn(STEPS, BATCH, INPUT)
    y, (h, c) = ours(x.bfloat16())
    assert y.dtype == h.dtype == c.dtype == torch.bfloat16
    np.testing.assert_allclose(y.detach().float(), theirs.float()(x)[0].detach(), atol=0.03)


@pytest.mark.parametrize("cell", ["slstm", "gru_before", "lstm"])
def test_a_module_of_several_heads_learns(cell: str) -> None:
    torch.manual_seed(0)
    module = flashc.nn.RNN(cell, 3, 8, heads=2, num_layers=2, bidirectional=True, device="interpreter", clip=1.0)
    assert module.R_l1_reverse.shape[1:] == (2, 4, 4) and module.W_l1.shape[-1] == 16
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    x = torch.randn(3, 2, 3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = (module(x)[0] - 0.5).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    copy = flashc.nn.RNN(cell, 3, 8, heads=2, num_layers=2, bidirectional=True, device="interpreter")
    copy.load_state_dict(module.state_dict())
    assert torch.equal(copy(x)[0], module(x)[0])


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (torch.nn.LSTM(3, 8, proj_size=2), "proj_size is 2; only 0"),
        (torch.nn.RNN(3, 8, nonlinearity="relu"), "nonlinearity is 'relu'; only 'tanh'"),
        (torch.nn.Linear(3, 8), "Linear; it takes nn.LSTM, nn.GRU and nn.RNN"),
    ],
)
def test_modules_that_are_refused(module: Any, problem: str) -> None:
    with pytest.raises(UnsupportedError, match=problem):
        flashc.nn.from_torch(module)


def test_wrong_arguments_are_refused() -> None:
    _, ours = pair("lstm", num_layers=2)
    x = torch.randn(STEPS, BATCH, INPUT)
    states = torch.zeros(2, BATCH, HIDDEN)
    for pattern, call in (
        (r"x has shape \(6, 5\); expected \(steps, sequences, 5\)", lambda: ours(x[:, 0])),
        (r"x has shape \(6, 4, 4\)", lambda: ours(x[..., :4])),
        (r"states have shape \(1, 4, 8\); expected \(2, 4, 8\)", lambda: ours(x, (states[:1], states))),
        (r"states is 1 of them; give a tuple of 2: h, c", lambda: ours(x, (states,))),
        ("has its own lengths", lambda: ours(pack_sequence([x[:, 0]]), lengths=[3])),
        ("hidden_size is 8; it must be a multiple of heads = 3", lambda: flashc.nn.RNN("gru", 3, 8, heads=3)),
        ("num_layers is 0", lambda: flashc.nn.RNN("gru", 3, 8, num_layers=0)),
        ("dropout is 2", lambda: flashc.nn.RNN("gru", 3, 8, dropout=2)),
        ("cell is 'gro'", lambda: flashc.nn.RNN("gro", 3, 8)),
    ):
        with pytest.raises(ArgumentError, match=pattern):
            call()


# -- documentation


@pytest.mark.parametrize(("page", "blocks"), [("README.md", 1), ("docs/rnn.md", 2)])
def test_examples_run(page: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashc.recurrent_call.device_of", lambda _array, _device: "interpreter")
    text = (Path(__file__).parents[1] / page).read_text(encoding="utf-8")
    found = re.findall(r"(?m)^(?: {4}import (?:torch|flashc\.nn)\n)+(?:(?: {4}.*)?\n)+", text)
    assert len(found) == blocks
    names: dict[str, Any] = {}
    for block in found:
        exec("\n".join(line[4:] for line in block.splitlines()), names)  # noqa: S102
    assert names["y"].requires_grad and (page == "README.md" or names["R"].grad is not None)
