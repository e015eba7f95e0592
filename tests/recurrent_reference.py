"""Recurrent layers written out in torch float64, cell by cell, and runs of our programs on the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from flashc.compiler.verify import random_inputs
from flashc.compiler.workload import load_workload
from flashc.ir.interp import interpret
from flashc.ir.nodes import Program
from flashc.ir.verify import verify
from flashc.ops import registry

Tensors = dict[str, Any]


def _lstm(pre: Tensors, s: Tensors) -> Tensors:
    c = torch.sigmoid(pre["f"]) * s["c"] + torch.sigmoid(pre["i"]) * torch.tanh(pre["z"])
    return {"c": c, "h": torch.sigmoid(pre["o"]) * torch.tanh(c)}


def _slstm(pre: Tensors, s: Tensors) -> Tensors:
    """Unscaled where nothing has been seen: the first input gate is the maximum."""
    new = s["n"] == 0
    past = torch.nn.functional.logsigmoid(pre["f"]) + s["m"]
    m = torch.where(new, pre["i"], torch.maximum(pre["i"], past))
    forget = torch.where(new, torch.zeros_like(m), torch.exp(past - m))
    gain = torch.exp(pre["i"] - m)
    c = forget * s["c"] + gain * torch.tanh(pre["z"])
    n = forget * s["n"] + gain
    return {"c": c, "n": n, "m": m, "h": torch.sigmoid(pre["o"]) * c / n}


def _gru(pre: Tensors, s: Tensors) -> Tensors:
    z = torch.sigmoid(pre["z"])
    return {"h": z * s["h"] + (1 - z) * torch.tanh(pre["n"] + torch.sigmoid(pre["r"]) * pre["a"])}


def _gru_before(pre: Tensors, s: Tensors) -> Tensors:
    z = torch.sigmoid(pre["z"])
    return {"h": z * s["h"] + (1 - z) * torch.tanh(pre["n"])}


def _elman(pre: Tensors, s: Tensors) -> Tensors:
    return {"h": torch.tanh(pre["a"])}


# (step, states, gates, recurrent gates, gates with an input)
CELLS: dict[str, tuple[Callable[[Tensors, Tensors], Tensors], str, str, str, str]] = {
    "lstm": (_lstm, "hc", "ifzo", "ifzo", "ifzo"),
    "slstm": (_slstm, "hcnm", "ifzo", "ifzo", "ifzo"),
    "gru": (_gru, "h", "arzn", "arz", "rzn"),
    "gru_before": (_gru_before, "h", "rzn", "rzn", "rzn"),
    "elman": (_elman, "h", "a", "a", "a"),
}


def forward(
    cell: str, given: Tensors, *, reverse: bool = False, lengths: list[int] | None = None, clip: float | None = None,
    element: Any = None,
) -> tuple[Any, Tensors]:
    """y and the last states; ``given`` as the operator takes it, all of one type: float64 for what is exact.

    With ``element`` what products multiply, gradients of pre-activations too, and what a backward pass reads is rounded
    to that type; sums and states are not.
    """
    step, states, gates, recurrent, inputs = CELLS[cell]
    wx = given["wx"] if "wx" in given else torch.einsum("bti,gnui->btgnu", given["x"], given["w"])
    wx = _rounded(wx, element)
    batch, count, _, heads, units = wx.shape
    zero = torch.zeros(batch, heads, units, dtype=wx.dtype)
    matrices, of_step = given["r"].unbind(), wx.unbind(1)
    first = {s: given.get(f"init_{s}", zero) for s in states}
    now, ys = dict(first), [zero] * count
    for t in range(count - 1, -1, -1) if reverse else range(count):
        before = dict(now)
        if "reset" in given:
            before = {s: torch.where(given["reset"][:, t, None, None], first[s], now[s]) for s in states}
        h = _clipped(before["h"], clip)
        pre: Tensors = {}
        for n, g in enumerate(gates):
            pre[g] = given["bias"][n].expand(batch, heads, units)
            if g in recurrent:
                reset = cell == "gru_before" and g == "n"
                operand = _clipped(torch.sigmoid(pre["r"]) * before["h"], clip) if reset else h
                product = torch.einsum("nuk,bnk->bnu", matrices[recurrent.index(g)], _rounded(operand, element))
                pre[g] = pre[g] + product
            pre[g] = pre[g] + of_step[t][:, inputs.index(g)] if g in inputs else pre[g]
            pre[g] = _rounded_gradient(pre[g], element)
        new = step(pre, before) if element is None else _kept(step, pre, before, element)
        active = torch.tensor([t < n for n in lengths] if lengths else [True] * batch)[:, None, None]
        now = {s: torch.where(active, new[s], now[s]) for s in states}
        ys[t] = torch.where(active, new["h"], zero)
    return torch.stack(ys, 1) if ys else wx[:, :, 0], now


def _rounded(value: Any, element: Any) -> Any:
    """Rounded; its gradient is not."""
    return value if element is None else value + (value.to(element).to(value.dtype) - value).detach()


def _kept(step: Callable[[Tensors, Tensors], Tensors], pre: Tensors, before: Tensors, element: Any) -> Tensors:
    """The step; its derivative is taken where pre-activations and h have been rounded, which is how they are kept."""
    kept = step({g: _rounded(a, element) for g, a in pre.items()}, {**before, "h": _rounded(before["h"], element)})
    return {s: kept[s] + (exact - kept[s]).detach() for s, exact in step(pre, before).items()}


def _rounded_gradient(value: Any, element: Any) -> Any:
    """The same, and rounds its gradient."""
    if element is not None and value.requires_grad:
        value.register_hook(lambda g: g.to(element).to(g.dtype))
    return value


def _clipped(operand: Any, clip: float | None) -> Any:
    """The same, and limits the gradient that comes back through it."""
    operand = operand * 1.0
    if clip is not None and operand.requires_grad:
        operand.register_hook(lambda g: g.clamp(-clip, clip))
    return operand


def workload(op: str, **keys: Any) -> tuple[Any, Any]:
    """Operator and spec."""
    return registry()[op], load_workload({"op": op, "dtype": "fp32", **keys}).spec


def exact_inputs(op: str, keys: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    operator, spec = workload(op, **keys)
    found = random_inputs(operator, spec, seed)
    return {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in found.items()}


def programs(op: str, **keys: Any) -> list[Program]:
    operator, spec = workload(op, **keys)
    return [operator.algorithm(spec), *operator.schedules(spec)]


def run(op: str, program: Program, given: Mapping[str, Any], tile: int = 5, **keys: Any) -> dict[str, np.ndarray]:
    """Outputs in float64; every tile symbol is ``tile``."""
    operator, spec = workload(op, **keys)
    verify(program)
    sizes = {**operator.sizes(spec), **dict.fromkeys(program.tiles, tile)}
    found = interpret(program, given, sizes, operator.params(spec), exact=True).tensors
    return {t.name: found[t.name] for t in program.tensors if t.role == "out"}


def as_torch(given: Mapping[str, np.ndarray], *, gradients: bool = False) -> Tensors:
    found = {name: torch.from_numpy(np.array(a)) for name, a in given.items()}
    if gradients:
        for a in found.values():
            if a.dtype == torch.float64:
                a.requires_grad_(True)
    return found
