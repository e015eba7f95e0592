"""Gradients of flashc.rnn for torch; this module needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from flashc.recurrent import gradients
from flashc.recurrent_call import Arrays, Layer, run


def differentiable(layer: Layer, outputs: tuple[str, ...], arrays: Mapping[str, Any]) -> Arrays:
    """The forward pass, by the operator's names, with a backward pass behind its outputs."""
    names = _names(layer, outputs)
    return dict(zip(names, _Recurrence.apply(layer, outputs, tuple(arrays), *arrays.values()), strict=True))


def _names(layer: Layer, outputs: tuple[str, ...]) -> tuple[str, ...]:
    return (*(("y",) if "y" in outputs else ()), *(f"last_{s}" for s in layer.states))


def _backward(ctx: Any, *incoming: Any) -> tuple[Any, ...]:
    given = {f"d{name}": g for name, g in zip(ctx.results, incoming, strict=True) if g is not None}
    if not given:
        return (None,) * (3 + len(ctx.names))
    if any(name != "dy" for name in given):
        batch, _, heads, units = ctx.layer.shape
        zero = next(iter(given.values())).new_zeros((batch, heads, units), dtype=torch.float32)
        given = {**{f"dlast_{s}": zero for s in ctx.layer.states}, **given}
    made = gradients(ctx.layer, {**dict(zip(ctx.kept, ctx.saved_tensors, strict=True)), **given})
    return (None, None, None, *(made.get(f"d{name}") for name in ctx.names))


class _Recurrence(torch.autograd.Function):  # type: ignore[misc]
    """Nothing that is saved is written to, so a backward pass can be repeated; it has no derivative of its own."""

    @staticmethod
    def forward(
        ctx: Any, layer: Layer, outputs: tuple[str, ...], names: Sequence[str], *tensors: Any
    ) -> tuple[Any, ...]:
        arrays = dict(zip(names, tensors, strict=True))
        made = run(layer, "recurrent", (*outputs, "saved"), arrays)
        results = _names(layer, outputs)
        kept = {**arrays, **{name: tensor for name, tensor in made.items() if name not in results}}
        ctx.layer, ctx.names, ctx.results, ctx.kept = layer, names, results, tuple(kept)
        ctx.save_for_backward(*kept.values())
        ctx.set_materialize_grads(False)
        return tuple(made[name] for name in results)

    backward = staticmethod(once_differentiable(_backward))
