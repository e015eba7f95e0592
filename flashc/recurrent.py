"""Recurrent layers as functions of arrays: no workload file, one compiled kernel per class of calls (docs/rnn.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashc.compiler.arguments import is_torch
from flashc.errors import ArgumentError
from flashc.recurrent_call import Arrays, Layer, described, output_gradient, run, single

_GRADIENTS = {"x": ("dx", "dwx"), "W": ("dw",), "R": ("dr",), "b": ("dbias",)}


@dataclass(frozen=True)
class Saved:
    """What a forward pass leaves for the backward pass: the call, its arrays, states and pre-activations."""

    layer: Layer
    arrays: Mapping[str, Any]


def rnn(
    cell: Any, x: Any, R: Any, b: Any = None, *, W: Any = None, states: Sequence[Any] | None = None,
    lengths: Any = None, resets: Any = None, reverse: bool = False, every_step: bool = True,
    clip: float | None = None, save: bool = False, device: str | None = None,
) -> tuple[Any, ...]:
    """A recurrent layer of N heads of D units: y (B, T, N, D) and the last states, a tuple of (B, N, D) in fp32.

    ``cell`` is a name (lstm, slstm, gru, gru_before, elman) or a cell of one's own (docs/workload.md), a mapping or a
    Cell; it says which gates there are, and in which order. ``x`` holds their inputs, (B, T, gates, N, D), or is
    (B, T, I) with ``W`` (gates, N, D, I), which projects it. ``R`` (gates, N, D, D) is indexed (out, in), ``b``
    (gates, N, D) is added. numpy arrays or torch tensors of one dtype (f32, f16, bf16); sums and states are fp32.

    ``states``: initial ones, in the cell's order (h, c for lstm), zeros by default. ``lengths``: steps of each
    sequence, beyond which y is 0 and its states stay. ``resets`` (B, T), bool: before which steps the states become
    the initial ones. ``reverse``: from the last step to the first. Without ``every_step`` y is None. ``clip`` limits,
    in each step of the backward pass, the gradient that comes through R to -clip .. clip, and nothing else. With
    ``save`` a third result is what :func:`rnn_backward` takes. ``device="interpreter"`` compiles nothing and is slow.

    Torch tensors that require grad get gradients; a second derivative is refused by torch.
    Raises ArgumentError for wrong arguments, WorkloadError for a wrong cell, UnsupportedError where no kernel can be
    emitted, DeviceAbsentError where ``device`` is not in this machine.
    """
    layer, arrays = described(
        cell, x, R, b, W=W, states=states, lengths=lengths, resets=resets, reverse=reverse, clip=clip, device=device
    )
    outputs = ("y", "last") if every_step else ("last",)
    if _needs_gradients(arrays):
        from flashc.recurrent_autograd import differentiable

        if save:
            fix = "leave out save, or call it under torch.no_grad()"
            raise ArgumentError(f"rnn: save is True and an argument requires grad, which saves on its own; {fix}")
        made = differentiable(layer, outputs, arrays)
    else:
        made = run(layer, "recurrent", (*outputs, "saved") if save else outputs, arrays)
    results = made.get("y"), tuple(made[f"last_{s}"] for s in layer.states)
    return (*results, Saved(layer, {**arrays, **made})) if save else results


def rnn_backward(saved: Saved, dy: Any = None, dlast: Sequence[Any] | None = None) -> dict[str, Any]:
    """Gradients of ``x``, ``R``, ``b``, and of ``W`` and ``states`` (a tuple, fp32) where they were given, by name.

    ``dy`` (B, T, N, D) is the gradient of y, ``dlast`` those of the last states; at least one of them is given, and
    what a call left out counts as 0. Raises ArgumentError, and UnsupportedError where no kernel can be emitted.
    """
    layer, arrays = saved.layer, saved.arrays
    like = arrays["r"]
    batch, steps, heads, units = layer.shape
    given: Arrays = {}
    if dy is not None:
        given["dy"] = output_gradient(dy, like, layer.shape)
    if dlast is not None:
        if len(dlast) != len(layer.states):
            raise ArgumentError(f"rnn: dlast has {len(dlast)} gradients; give {', '.join(layer.states)}")
        for name, value in zip(layer.states, dlast, strict=True):
            given[f"dlast_{name}"] = single(f"dlast ({name})", value, like, (batch, heads, units))
    if not given:
        raise ArgumentError("rnn_backward: neither dy nor dlast is given; give the gradient of y or of the last states")
    made = gradients(layer, {**arrays, **given})
    found = {name: made[key] for name, keys in _GRADIENTS.items() for key in keys if key in made}
    if layer.initial_state:
        found["states"] = tuple(made[f"dinit_{s}"] for s in layer.states)
    return found


def gradients(layer: Layer, arrays: Mapping[str, Any]) -> Arrays:
    """The backward pass from ``dy`` and ``dlast_*``, of which there is one at least, by the operator's names."""
    outputs = tuple(name for name, key in (("y", "dy"), ("last", "dlast_h")) if key in arrays)
    return run(layer, "recurrent_backward", outputs, arrays)


def _needs_gradients(arrays: Mapping[str, Any]) -> bool:
    tensors = [a for a in arrays.values() if is_torch(a) and a.requires_grad]
    if not tensors:
        return False
    import torch

    return bool(torch.is_grad_enabled())
