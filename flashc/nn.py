"""Recurrent layers as a torch module: several layers, both directions, packed sequences; this module needs torch.

Conventions are PyTorch's: (steps, sequences, size) unless ``batch_first``, states (layers * directions, sequences,
hidden), a state alone where the cell has one, a tuple where it has several.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from flashc.errors import ArgumentError, UnsupportedError
from flashc.recurrent import rnn
from flashc.recurrent_call import cell_of

REVERSE = ("", "_reverse")


class RNN(torch.nn.Module):  # type: ignore[misc]
    """Layers of any cell of :func:`flashc.rnn`, each projecting its input; ``hidden_size`` = ``heads`` times units.

    Parameters are ``W_l0`` (gates with an input, heads, units, size), ``R_l0`` (gates with a product, heads, units,
    units), ``b_l0`` (gates, heads, units), for every layer, and the same with ``_reverse``. They start uniform in
    ±1/sqrt(units), as PyTorch's. ``dropout`` acts between layers in training. ``clip`` and ``device`` as in
    :func:`flashc.rnn`; ``dtype`` is that of the parameters. Raises ArgumentError for wrong arguments.
    """

    def __init__(
        self, cell: Any, input_size: int, hidden_size: int, *, heads: int = 1, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, clip: float | None = None,
        device: str | None = None, dtype: Any = None,
    ) -> None:
        super().__init__()
        if heads < 1 or hidden_size < 1 or hidden_size % heads:
            raise ArgumentError(f"RNN: hidden_size is {hidden_size}; it must be a multiple of heads = {heads}")
        if num_layers < 1:
            raise ArgumentError(f"RNN: num_layers is {num_layers}; it must be at least 1")
        if not 0 <= dropout <= 1:
            raise ArgumentError(f"RNN: dropout is {dropout}; it is a probability, from 0 to 1")
        _, known = cell_of(cell)
        self.cell, self.clip, self.device, self.several = cell, clip, device, len(known.states) > 1
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.heads, self.batch_first, self.dropout, self.bidirectional = heads, batch_first, dropout, bidirectional
        units = hidden_size // heads
        for layer in range(num_layers):
            size = input_size if layer == 0 else hidden_size * self.directions
            shapes: dict[str, tuple[int, ...]] = {"b": (len(known.names), heads, units)} if bias else {}
            shapes |= {"W": (len(known.inputs), heads, units, size), "R": (len(known.recurrent), heads, units, units)}
            for name, end in ((n, e) for e in REVERSE[: self.directions] for n in shapes):
                values = torch.empty(shapes[name], dtype=dtype).uniform_(-(units**-0.5), units**-0.5)
                self.register_parameter(f"{name}_l{layer}{end}", torch.nn.Parameter(values))

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def extra_repr(self) -> str:
        name = self.cell if isinstance(self.cell, str) else "own cell"
        return f"{name}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"

    def forward(self, x: Any, states: Any = None, *, lengths: Any = None, resets: Any = None) -> tuple[Any, Any]:
        """y, in the form of ``x`` (a tensor or a PackedSequence) and the last states.

        ``lengths`` (one per sequence) and ``resets`` (in the order of x's first two dimensions) as in
        :func:`flashc.rnn`. Raises ArgumentError.
        """
        if not isinstance(x, PackedSequence):
            return self._padded(x, states, lengths, resets)
        if lengths is not None or resets is not None:
            raise ArgumentError("RNN: x is a PackedSequence, which has its own lengths; give a tensor for resets")
        padded, lengths = pad_packed_sequence(x, batch_first=self.batch_first)
        y, last = self._padded(padded, states, lengths, None)
        if x.sorted_indices is not None:
            y, lengths = y.index_select(0 if self.batch_first else 1, x.sorted_indices), lengths[x.sorted_indices.cpu()]
        packed = pack_padded_sequence(y, lengths, self.batch_first)
        return PackedSequence(packed.data, x.batch_sizes, x.sorted_indices, x.unsorted_indices), last

    def _padded(self, x: Any, states: Any, lengths: Any, resets: Any) -> tuple[Any, Any]:
        if x.dim() != 3 or x.shape[2] != self.input_size:
            order = "sequences, steps" if self.batch_first else "steps, sequences"
            raise ArgumentError(f"RNN: x has shape {tuple(x.shape)}; expected ({order}, {self.input_size})")
        if not self.batch_first:
            x, resets = x.transpose(0, 1), None if resets is None else resets.transpose(0, 1)
        first = self._first(states, x.shape[0])
        last = []
        for layer in range(self.num_layers):
            x = torch.nn.functional.dropout(x, self.dropout, self.training) if layer and self.dropout else x
            found = []
            for end in REVERSE[: self.directions]:
                y, after = self._layer(f"_l{layer}{end}", x, next(first), lengths, resets, reverse=bool(end))
                found.append(y.flatten(2))
                last.append([s.flatten(1).to(x.dtype) for s in after])
            x = torch.cat(found, 2) if len(found) > 1 else found[0]
        stacked = tuple(torch.stack(s) for s in zip(*last, strict=True))
        return x if self.batch_first else x.transpose(0, 1), stacked if self.several else stacked[0]

    def _layer(self, end: str, x: Any, first: Any, lengths: Any, resets: Any, *, reverse: bool) -> tuple[Any, ...]:
        W, R, b = (getattr(self, name + end, None) for name in "WRb")
        states = first and tuple(s.unflatten(-1, (self.heads, -1)) for s in first)
        return rnn(
            self.cell, x, R, b, W=W, states=states, lengths=lengths, resets=resets, reverse=reverse, clip=self.clip,
            device=self.device,
        )

    def _first(self, states: Any, batch: int) -> Iterator[Any]:
        """The initial states of each layer and direction in turn."""
        count = self.num_layers * self.directions
        if states is None:
            return iter([None] * count)
        given = tuple(states) if self.several else (states,)
        shape = (count, batch, self.hidden_size)
        for state in given:
            found = tuple(getattr(state, "shape", ()))
            if found != shape:
                raise ArgumentError(f"RNN: states have shape {found}; expected {shape}")
        return zip(*given, strict=True)


# -- PyTorch's own layers


def from_torch(module: Any, *, clip: float | None = None, device: str | None = None) -> RNN:
    """An :class:`RNN` of the same function as an nn.LSTM, nn.GRU or nn.RNN (tanh), with a copy of its weights.

    Gates of torch's LSTM are i, f, g, o, those of its GRU r, z, n. Its two biases become one where they are added;
    GRU's b_hh of n stays apart, since r multiplies it. Raises UnsupportedError for other modules, proj_size and relu.
    """
    cell = _CELLS.get(type(module))
    if cell is None:
        raise UnsupportedError(f"from_torch: {type(module).__name__}; it takes nn.LSTM, nn.GRU and nn.RNN")
    if getattr(module, "proj_size", 0):
        raise UnsupportedError(f"from_torch: proj_size is {module.proj_size}; only 0, h without a projection")
    if cell == "elman" and module.nonlinearity != "tanh":
        fix = "write the cell: {states: [h], gates: {a: both}, step: {h: 'max(a, 0.0)'}}"
        raise UnsupportedError(f"from_torch: nonlinearity is {module.nonlinearity!r}; only 'tanh'; {fix}")
    made = RNN(
        cell, module.input_size, module.hidden_size, num_layers=module.num_layers, bias=module.bias,
        batch_first=module.batch_first, dropout=float(module.dropout), bidirectional=module.bidirectional, clip=clip,
        device=device, dtype=module.weight_hh_l0.dtype,
    ).to(module.weight_hh_l0.device)
    with torch.no_grad():
        for end in (f"_l{n}{e}" for n in range(module.num_layers) for e in REVERSE[: made.directions]):
            for name, value in _converted(cell, module, end).items():
                getattr(made, name + end).copy_(value)
    return made.train(module.training)  # type: ignore[no-any-return]


_CELLS = {torch.nn.LSTM: "lstm", torch.nn.GRU: "gru", torch.nn.RNN: "elman"}


def _converted(cell: str, module: Any, end: str) -> dict[str, Any]:
    """W, R and b of a layer and direction, in our order of gates; the only head is the second dimension."""
    units = module.hidden_size
    parts = {n: getattr(module, f"{n}{end}").unflatten(0, (-1, 1, units)) for n in ("weight_ih", "weight_hh")}
    found = {"W": parts["weight_ih"], "R": parts["weight_hh"]}
    if cell == "gru":
        found["R"] = found["R"][[2, 0, 1]]
    if not module.bias:
        return found
    own, other = (getattr(module, f"bias_{n}{end}").unflatten(0, (-1, 1, units)) for n in ("ih", "hh"))
    found["b"] = own + other if cell != "gru" else torch.cat([other[2:], (own + other)[:2], own[2:]])
    return found
