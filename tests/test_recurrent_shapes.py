"""flashc.rnn compiled for this CPU, small and large: forward and backward within twice the naive computation's error.

Both are held against torch.autograd in float64. Naive is the same loop over torch operators in fp32. For bf16 its
states and sums are fp32 too; what it multiplies, keeps for the backward pass and gives back is rounded (docs/rnn.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from recurrent_reference import CELLS, forward

import flashc
from flashc.compiler.verify import relative_error

FP32, BF16 = torch.float32, torch.bfloat16
FLOOR = 4 * torch.finfo(FP32).eps


@dataclass(frozen=True)
class Layer:
    """What is compiled once for calls that agree in B > 2 and in N > 1. ``inputs``: size of x, if that is projected."""

    cell: str
    dtype: Any
    units: int
    inputs: int | None = None

    def __str__(self) -> str:
        return f"{self.cell}-{str(self.dtype).removeprefix('torch.')}-{self.units}"


Call = tuple[int, int, int]  # B, T, N
# Between them: B of 1, 3, 16, T of 1, 2, 17, 256, N of 1, 6, 48, D of 8, 24, 64, 100, 256, 768, the first and the last
# of these for every cell, and both types for every cell.
QUICK: list[tuple[Layer, list[Call]]] = [
    (Layer("elman", FP32, 8), [(1, 256, 48), (1, 2, 48)]),
    (Layer("elman", BF16, 24, inputs=40), [(16, 17, 48), (3, 2, 6)]),
    (Layer("gru_before", BF16, 8), [(1, 256, 6), (1, 2, 48)]),
]
LONG: list[tuple[Layer, list[Call]]] = [
    (Layer("lstm", BF16, 8), [(16, 256, 6), (3, 17, 48)]),
    (Layer("slstm", BF16, 8), [(3, 256, 6), (16, 1, 48)]),
    (Layer("gru", BF16, 8), [(16, 256, 1), (3, 1, 1)]),
    (Layer("elman", FP32, 64), [(3, 256, 48), (16, 17, 6)]),
    (Layer("elman", FP32, 100), [(3, 256, 6), (16, 2, 6)]),
    (Layer("elman", FP32, 256, inputs=100), [(3, 256, 1), (16, 17, 1)]),
    (Layer("lstm", FP32, 768), [(16, 17, 1), (3, 2, 1)]),
    (Layer("slstm", FP32, 768), [(1, 17, 1), (1, 1, 1)]),
    (Layer("gru", FP32, 768), [(1, 256, 1), (1, 2, 1)]),
    (Layer("gru_before", FP32, 768), [(16, 17, 1), (3, 1, 1)]),
    (Layer("elman", BF16, 768), [(16, 256, 1), (3, 1, 1)]),
]


def operands(layer: Layer, call: Call) -> tuple[dict[str, Any], list[Any]]:
    """Operands by the operator's names, and gradients of y and the last states: float64, rounded to their types."""
    batch, steps, heads = call
    _, states, gates, recurrent, inputs = CELLS[layer.cell]
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int, dtype: Any = layer.dtype, scale: float = 1.0) -> Any:
        return (torch.randn(shape, generator=draw) * scale).to(dtype).double()

    of_head, of_state = (heads, layer.units), (batch, heads, layer.units)
    if layer.inputs is None:
        given = {"wx": normal(batch, steps, len(inputs), *of_head)}
    else:
        size = layer.inputs
        given = {"x": normal(batch, steps, size), "w": normal(len(inputs), *of_head, size, scale=size**-0.5)}
    given["r"] = normal(len(recurrent), *of_head, layer.units, scale=layer.units**-0.5)
    given["bias"] = normal(len(gates), *of_head)
    given |= {f"init_{s}": 1 + torch.rand(of_state, generator=draw).double() for s in states}  # n of slstm is above 0
    return given, [normal(batch, steps, *of_head), *(normal(*of_state, dtype=FP32) for _ in states)]


def results(given: dict[str, Any], y: Any, last: list[Any], incoming: list[Any]) -> dict[str, Any]:
    """y, the last states, and gradients of all that is given."""
    outputs = (y, *last)
    torch.autograd.backward(outputs, [g.to(o.dtype) for g, o in zip(incoming, outputs, strict=True)])
    found = {"y": y.detach(), **{f"last state {n}": state.detach() for n, state in enumerate(last)}}
    return {**found, **{f"gradient of {name}": tensor.grad for name, tensor in given.items()}}


def by_loop(
    layer: Layer, exact: dict[str, Any], incoming: list[Any], dtype: Any, element: Any = None
) -> dict[str, Any]:
    given = {name: tensor.to(dtype, copy=True).requires_grad_() for name, tensor in exact.items()}
    y, last = forward(layer.cell, given, element=element)
    return results(given, y, list(last.values()), incoming)


def by_kernel(layer: Layer, exact: dict[str, Any], incoming: list[Any]) -> dict[str, Any]:
    states = [name for name in exact if name.startswith("init_")]
    given = {n: t.to(FP32 if n in states else layer.dtype).requires_grad_() for n, t in exact.items()}
    x, w = given.get("x", given.get("wx")), given.get("w")
    initial = tuple(given[name] for name in states)
    y, last = flashc.rnn(layer.cell, x, given["r"], given["bias"], W=w, states=initial, device="native")
    return results(given, y, list(last), incoming)


@pytest.mark.parametrize(
    ("layer", "calls"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG)], ids=str
)
def test_as_good_as_the_naive_computation(layer: Layer, calls: list[Call]) -> None:
    for call in calls:
        exact, incoming = operands(layer, call)
        expected = by_loop(layer, exact, incoming, torch.float64)
        naive = by_loop(layer, exact, incoming, FP32, None if layer.dtype == FP32 else layer.dtype)
        found = by_kernel(layer, exact, incoming)
        for name, value in found.items():
            same_type = naive[name].to(value.dtype)
            limit = max(2 * relative_error(same_type.double(), expected[name]), FLOOR)
            assert relative_error(value.double(), expected[name]) <= limit, (call, name)
