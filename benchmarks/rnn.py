"""Recurrent layers on the CPU beside PyTorch: `python benchmarks/rnn.py [-o FILE.json] [--only TEXT] [--repeat N]`.

256 steps, hidden size 768, forward and forward with backward. One head, with the projection of x: beside torch.nn.LSTM
and GRU of the same weights. Several heads, Wx given: beside loops over steps in PyTorch: one matrix product per head
and step, plain and with torch.compile of the step; and one per sequence and head, as FlashRNN's vanilla backend has it
(flashrnn/vanilla/__init__.py, commit 4dda86e). Everything is called as a user calls it, the cost of Python included, in
interleaved rounds; medians count. Results must agree before they are timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import torch
from cpu import machine

import flashc
from flashc.commands.render import Table, factor, percent, print_blocks, progress, seconds, tiles_text
from flashc.compiler.bench import Limit, limit_of, modelled_rates
from flashc.compiler.kernel import Kernel
from flashc.compiler.suite import Case, document
from flashc.compiler.timing import Filled, interleaved, warmed
from flashc.compiler.workload import load_workload
from flashc.errors import UnsupportedError
from flashc.hwmodels import load_device
from flashc.nn import from_torch
from flashc.recurrent_call import described, kernel_for
from flashc.system.files import json_text, write_whole
from flashc.system.units import flops

SECONDS = 0.005  # of one measurement
STEPS, HIDDEN = 256, 768
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLOSE = {"fp32": 1e-4, "bf16": 0.1}  # relative Euclidean norm; bf16 h is rounded in each of 256 steps
LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}

Tensors = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One row: what is run, and whether with its backward pass."""

    cell: str
    batch: int
    heads: int
    dtype: str
    training: bool

    @property
    def group(self) -> str:
        kind = self.cell if self.heads == 1 else f"{self.cell}, several heads"
        return f"{self.dtype} {kind}, {'forward and backward' if self.training else 'forward'}"

    @property
    def document(self) -> Tensors:
        found = {
            "op": "recurrent", "cell": self.cell, "batch": self.batch, "steps": STEPS, "heads": self.heads,
            "head_dim": HIDDEN // self.heads, "dtype": self.dtype,
        }
        return found | ({"input_dim": HIDDEN} if self.heads == 1 else {})

    @cached_property
    def module(self) -> Any:
        torch.manual_seed(0)
        return LAYERS[self.cell](HIDDEN, HIDDEN, batch_first=True).to(DTYPES[self.dtype])

    def tensors(self) -> Tensors:
        """Arguments of flashc.rnn; for one head those of PyTorch's module."""
        torch.manual_seed(1)
        dtype, units = DTYPES[self.dtype], HIDDEN // self.heads
        if self.heads == 1:
            own = from_torch(self.module)
            x = torch.randn(self.batch, STEPS, HIDDEN, dtype=dtype)
            return {"x": x, "R": own.R_l0.detach(), "b": own.b_l0.detach(), "W": own.W_l0.detach()}
        x = torch.randn(self.batch, STEPS, 4, self.heads, units)
        R = torch.randn(4, self.heads, units, units) / units**0.5
        return {"x": x.to(dtype), "R": R.to(dtype), "b": torch.randn(4, self.heads, units).to(dtype)}


def layers() -> Iterator[Layer]:
    for dtype in DTYPES:
        for training in (False, True):
            for batch in (1, 16):
                yield from (Layer(cell, batch, 1, dtype, training) for cell in LAYERS)
                yield from (Layer("lstm", batch, heads, dtype, training) for heads in (6, 12, 48))


# -- the loop that a user writes


def lstm_step(h: Any, c: Any, wx: Any, R: Any, product: Callable[..., Any] = torch.bmm) -> tuple[Any, Any]:
    """h, c (heads, sequences, units); wx with its bias (sequences, gates, heads, units); R (heads, units, 4 units)."""
    heads, batch, units = h.shape
    sums = product(h, R).view(heads, batch, 4, units)
    i, f, z, o = (sums + wx.permute(2, 0, 1, 3)).float().unbind(2)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
    return (torch.sigmoid(o) * torch.tanh(c)).to(h.dtype), c


def broadcast_product(h: Any, R: Any) -> Any:
    """h times R for each sequence by itself: PyTorch copies R for every one."""
    return h[:, :, None] @ R[:, None]


def loop(step: Callable[..., tuple[Any, Any]], x: Any, R: Any, b: Any) -> Any:
    """y (sequences, steps, heads, units)."""
    gates, heads, units, _ = R.shape
    matrix = R.permute(1, 3, 0, 2).reshape(heads, units, gates * units)
    h = x.new_zeros(heads, x.shape[0], units)
    c, found, given = h.float(), [], x + b
    for t in range(x.shape[1]):
        h, c = step(h, c, given[:, t], matrix)
        found.append(h)
    return torch.stack(found, 2).permute(1, 2, 0, 3)


def peers(layer: Layer) -> dict[str, Callable[[Tensors], Any]]:
    """What else computes y, from the arguments of flashc.rnn."""
    if layer.heads == 1:
        return {f"torch.nn.{layer.cell.upper()}": lambda given: layer.module(given["x"])[0][:, :, None]}
    torch.compiler.reset()  # of one function it keeps eight shapes, and runs the others uncompiled
    compiled = torch.compile(lstm_step, dynamic=False)
    found = {"loop": lambda given: loop(lstm_step, **given), "compiled loop": lambda given: loop(compiled, **given)}
    if not layer.training:  # autograd would keep every step's copies of R: 6 GB
        found["FlashRNN's loop"] = lambda given: loop(partial(lstm_step, product=broadcast_product), **given)
    return found


# -- a row


def measured(layer: Layer, repeat: int) -> Tensors:
    """A row of the result document. Raises ClickException where results differ."""
    given = layer.tensors()
    ways = {"flashc": lambda g: flashc.rnn(layer.cell, g["x"], g["R"], g["b"], W=g.get("W"))[0], **peers(layer)}
    runs = {name: run_of(layer, given, way, name != "flashc") for name, way in ways.items()}
    ready, refused = warmed(runs)
    expected = ready["flashc"]().double()
    for name, run in ready.items():
        gap = float(torch.linalg.norm(run().double() - expected) / torch.linalg.norm(expected))
        if not gap <= CLOSE[layer.dtype]:
            raise click.ClickException(f"{layer}: flashc and {name} differ by {gap:.1e}")
    times = interleaved(ready, repeat, Filled(SECONDS))
    return row(layer, given, times, refused)


def run_of(layer: Layer, given: Tensors, way: Callable[[Tensors], Any], peer: bool) -> Callable[[], Any]:
    """A forward pass, which gives y; or one with its backward pass, which gives the gradient of x."""

    def forward() -> Any:
        with torch.no_grad():
            return way(given)

    def training() -> Any:
        inputs = [*own.values(), *(layer.module.parameters() if peer and layer.heads == 1 else ())]
        y = way(own)
        return torch.autograd.grad(y, inputs, torch.ones_like(y), allow_unused=True)[0]

    if not layer.training:
        return forward
    own = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
    return training


def row(layer: Layer, given: Tensors, times: dict[str, list[float]], refused: dict[str, str]) -> Tensors:
    kernels, limit = kernels_of(layer, given), limit_of_all(layer)
    medians = {name: statistics.median(t) for name, t in times.items()}
    own = medians.pop("flashc")
    last = kernels[-1]
    return {
        "group": layer.group, "workload": layer.document | ({"op": last.workload.op} if layer.training else {}),
        "schedule": " and ".join(k.choice.schedule for k in kernels), "tiles": dict(last.tiles),
        "predicted": sum(k.choice.picoseconds for k in kernels) * 1e-12, "seconds": own,
        "sigma": statistics.stdev(times["flashc"]) if len(times["flashc"]) > 1 else 0.0,
        "rounds": len(times["flashc"]), "gflops": limit.flops / own / 1e9, "gbs": limit.bytes / own / 1e9,
        "share": limit.share(own), "peers": medians, "refused": refused,
        "ratio": min(medians.values()) / own if medians else None, "shared_memory": [], "spilled": 0,
        "notes": [str(limit), "called through flashc.rnn; predicted is of the sizes that its class is tuned for"],
    }


def kernels_of(layer: Layer, given: Tensors) -> list[Kernel]:
    """The kernels that the calls use."""
    options = dict.fromkeys(("states", "lengths", "resets", "clip", "device"))
    call, _ = described(layer.cell, given["x"], given["R"], given["b"], W=given.get("W"), reverse=False, **options)
    if not layer.training:
        return [kernel_for(call, "recurrent", ("y", "last"))[0]]
    forward = kernel_for(call, "recurrent", ("y", "last", "saved"))[0]
    return [forward, kernel_for(call, "recurrent_backward", ("y",))[0]]


def limit_of_all(layer: Layer) -> Limit:
    device = load_device("native")
    plain = load_workload(layer.document)
    rates = modelled_rates(plain, device)
    if not layer.training:
        return limit_of(plain, rates)
    saving = load_workload(layer.document | {"outputs": ["y", "last", "saved"]})
    back = load_workload(layer.document | {"op": "recurrent_backward", "outputs": ["y"]})
    first, second = limit_of(saving, rates), limit_of(back, rates)
    return Limit(first.flops + second.flops, first.bytes + second.bytes, rates)


def table(rows: list[Tensors]) -> Table:
    names = list(dict.fromkeys(name for r in rows for name in (*r["peers"], *r["refused"])))
    others = (f"{n}, per step" for n in names)
    columns = ("workload", "flashc", "per step", "useful", "of limit", *others, "ratio", "tiles")
    body = tuple(
        (
            f"{r['group']}: {Case(r['group'], r['workload']).label}", seconds(r["seconds"]), micro(r["seconds"]),
            flops(r["gflops"] * 1e9, "FLOP/s"), percent(r["share"]),
            *(micro(r["peers"][n]) if n in r["peers"] else "-" for n in names),
            factor(r["ratio"]) if r["ratio"] else "-", f"{r['schedule']} {tiles_text(r['tiles'])}",
        )
        for r in rows
    )
    note = "ratio: to the fastest of the others; of limit: of the peak, or of the bandwidth where that takes longer"
    return Table(f"Recurrent layers, {STEPS} steps", columns, body, frozenset(columns[1:-1]), note)


def micro(duration: float) -> str:
    return f"{duration / STEPS * 1e6:.1f} us"


@click.command(help=__doc__)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the results as JSON.")
@click.option("--only", default="", help="Only the groups whose name contains this.")
@click.option("--repeat", type=click.IntRange(min=1), default=9, show_default=True, help="Interleaved rounds.")
def main(output: Path | None, only: str, repeat: int) -> None:
    rows, failed = [], []
    for layer in (found for found in layers() if only in found.group):
        with progress(f"{layer.group}: batch {layer.batch}, {layer.heads} heads"):
            try:
                rows.append(measured(layer, repeat))
            except UnsupportedError as problem:
                failed.append({"what": f"{layer.group}, batch {layer.batch}, {layer.heads} heads", "why": str(problem)})
    print_blocks([table(rows)])
    if output is not None:
        result = document("rnn", machine(), repeat, {"rows": rows}, failed=failed)
        write_whole(output, json_text(result, indent=1) + "\n")
    if failed:
        raise click.ClickException(f"{len(failed)} did not run; the first: {failed[0]['what']}: {failed[0]['why']}")


if __name__ == "__main__":
    main()
