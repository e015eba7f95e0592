"""Calls of recurrent layers: checked arguments, the class a call belongs to, and its run.

A class is what is compiled in: cell, element type, units of a head, size of x, and which features are used. Sequences,
steps, heads, lengths and the value of ``clip`` are run-time arguments; whether there are few or many sequences, and one
head or several, decides what sizes the class is tuned for.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np

from flashc.compiler.arguments import TORCH, dtype_name, invocation, is_torch
from flashc.compiler.calls import Repeats, repeat_of
from flashc.compiler.classes import device_of, frozen, kernel_of, thawed
from flashc.compiler.interpreted import Interpreted
from flashc.compiler.kernel import Kernel
from flashc.compiler.workload import load_workload
from flashc.errors import ArgumentError
from flashc.ir.interp import NUMPY
from flashc.ops.recurrent_cells import CELLS, Cell, text_of

TUNED_STEPS = 256
FEW_SEQUENCES = 2  # at most so many: tuned as one
TUNED_BATCH, TUNED_HEADS = {True: 1, False: 16}, {True: 1, False: 8}

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """A call without its arrays: ``cell`` as :func:`frozen` leaves it, ``shape`` (B, T, N, D)."""

    cell: Any
    states: tuple[str, ...]
    shape: tuple[int, int, int, int]
    input_dim: int | None
    dtype: str
    lengths: bool
    resets: bool
    initial_state: bool
    reverse: bool
    clip: float | None
    device: str


def described(
    cell: Any, x: Any, R: Any, b: Any, *, W: Any, states: Sequence[Any] | None, lengths: Any, resets: Any,
    reverse: bool, clip: float | None, device: str | None,
) -> tuple[Layer, Arrays]:
    """The call and its arrays by the operator's names. Raises ArgumentError, and WorkloadError for a wrong cell."""
    text, known = cell_of(cell)
    _ranked("x", x, ("sequences", "steps", *(["size"] if W is not None else ["gates", "heads", "units"])))
    _ranked("R", R, ("gates", "heads", "out", "in"))
    (batch, steps), (heads, units) = map(int, x.shape[:2]), map(int, R.shape[1:3])
    inputs, gates = len(known.inputs), len(known.names)
    shapes = {"R": (len(known.recurrent), heads, units, units), "b": (gates, heads, units)}
    if W is None:
        shapes["x"] = (batch, steps, inputs, heads, units)
    else:
        shapes["W"] = (inputs, heads, units, int(x.shape[2]))
    given = {"x": x, "R": R, "W": W, "b": _zeros(shapes["b"], x) if b is None else b}
    for name, shape in shapes.items():
        _shaped(name, given[name], x, shape, _DIMENSIONS[name])
        _typed(name, given[name], x)
    arrays = {"wx": x} if W is None else {"x": x, "w": W}
    arrays |= {"r": R, "bias": given["b"], **_initial(known, states, x, (batch, heads, units))}
    if lengths is not None:
        arrays["lengths"] = _lengths(lengths, x, batch, steps)
    if resets is not None:
        arrays["reset"] = _table("resets", resets, x, "bool", (batch, steps))
    layer = Layer(
        text, known.states, (batch, steps, heads, units), None if W is None else int(x.shape[2]), dtype_name(x),
        lengths is not None, resets is not None, states is not None, bool(reverse), _limit(clip), device_of(x, device),
    )
    return layer, arrays


def run(layer: Layer, op: str, outputs: tuple[str, ...], arrays: Mapping[str, Any]) -> Arrays:
    """What the operator makes, by its names; of ``arrays`` it takes what it reads."""
    kernel, takes, gives = kernel_for(layer, op, outputs)
    values = [a.detach() if is_torch(a) else a for a in (arrays[name] for name in takes)]
    repeat = _repeats.find((layer, op, outputs), values)
    if repeat is not None:
        results = repeat(values)
        return dict(zip(gives, results if len(gives) > 1 else (results,), strict=True))
    sizes = dict(zip("BTND", layer.shape, strict=True))
    params = {} if layer.clip is None else {"clip": layer.clip}
    given = dict(zip(takes, values, strict=True))
    call = invocation(kernel.program, given, sizes, params, kernel.operator.derive)
    kernel.executable(call)
    _repeats.keep(
        (layer, op, outputs), values, lambda: repeat_of(kernel.executable, kernel.program, call, takes, values)
    )
    return {name: call.tensors[name] for name in gives}


_repeats = Repeats()


@lru_cache(maxsize=4096)
def kernel_for(layer: Layer, op: str, outputs: tuple[str, ...]) -> tuple[Kernel | Interpreted, list[str], list[str]]:
    """The kernel of a call, and the names of what it takes and gives."""
    kernel = kernel_of(_document(layer, op, outputs), layer.device)
    takes, gives = ([t.name for t in kernel.program.tensors if t.role == role] for role in ("in", "out"))
    return kernel, takes, gives


def _document(layer: Layer, op: str, outputs: tuple[str, ...]) -> dict[str, Any]:
    """The workload of the class, on the sizes that it is tuned for."""
    batch, _, heads, units = layer.shape
    tuned = TUNED_BATCH[batch <= FEW_SEQUENCES]
    document: dict[str, Any] = {
        "op": op, "cell": layer.cell, "batch": tuned, "steps": TUNED_STEPS, "heads": TUNED_HEADS[heads == 1],
        "head_dim": units, "dtype": layer.dtype, "resets": layer.resets, "initial_state": layer.initial_state,
        "reverse": layer.reverse, "outputs": list(outputs),
    }
    if layer.input_dim is not None:
        document["input_dim"] = layer.input_dim
    if layer.lengths:
        document["lengths"] = [TUNED_STEPS] * tuned
    if layer.clip is not None and op == "recurrent_backward":
        document["clip"] = 1.0
    return document


# -- arguments


def cell_of(cell: Any) -> tuple[Any, Cell]:
    """The cell as in a workload, frozen, and what it is."""
    if isinstance(cell, str) and cell in CELLS:
        return cell, CELLS[cell]
    if isinstance(cell, Cell | Mapping):
        text = frozen(text_of(cell) if isinstance(cell, Cell) else cell)
        return text, _own_cell(text)
    close = difflib.get_close_matches(cell, CELLS, 1) if isinstance(cell, str) else []
    fix = f"did you mean {close[0]!r}?" if close else "or give a cell of your own, a mapping as in a workload"
    raise ArgumentError(f"rnn: cell is {cell!r}; it must be one of {', '.join(CELLS)}; {fix}")


@lru_cache(maxsize=512)
def _own_cell(text: Any) -> Cell:
    smallest = {"op": "recurrent", "steps": 1, "head_dim": 1, "dtype": "fp32", "cell": thawed(text)}
    cell: Cell = load_workload(smallest).spec.cell
    return cell


_DIMENSIONS = {
    "x": "(sequences, steps, gates with an input, heads, units)", "R": "(gates with a product, heads, out, in)",
    "W": "(gates with an input, heads, units, size of x)", "b": "(gates, heads, units)",
}


def _ranked(name: str, value: Any, dimensions: Sequence[str]) -> None:
    shape = getattr(value, "shape", None)
    if shape is None:
        raise ArgumentError(f"rnn: {name} is a {type(value).__name__}; give a numpy array or a torch tensor")
    if len(shape) != len(dimensions):
        wanted = f"{len(dimensions)} dimensions ({', '.join(dimensions)})"
        also = "; an x that is not projected yet needs W" if name == "x" and len(shape) == 3 else ""
        raise ArgumentError(f"rnn: {name} has shape {tuple(shape)}; it must have {wanted}{also}")


def _shaped(name: str, value: Any, like: Any, shape: tuple[int, ...], dimensions: str) -> None:
    """Raises ArgumentError unless a value is an array or a tensor as ``like`` is, of the shape."""
    if not hasattr(value, "shape") or is_torch(value) != is_torch(like):
        kinds = f"{type(value).__name__} beside x, a {type(like).__name__}"
        raise ArgumentError(f"rnn: {name} is a {kinds}; give all numpy arrays or all torch tensors")
    if tuple(value.shape) != shape:
        raise ArgumentError(f"rnn: {name} has shape {tuple(value.shape)}; expected {shape}: {dimensions}")


def _typed(name: str, value: Any, like: Any) -> None:
    if dtype_name(value) != dtype_name(like):
        raise ArgumentError(f"rnn: {name} has dtype {dtype_name(value)}, x {dtype_name(like)}; convert one of them")


def _zeros(shape: tuple[int, ...], like: Any) -> Any:
    return like.new_zeros(shape) if is_torch(like) else np.zeros(shape, like.dtype)


def _initial(cell: Cell, states: Sequence[Any] | None, like: Any, shape: tuple[int, ...]) -> Arrays:
    if states is None:
        return {}
    listed = isinstance(states, tuple | list)
    if not listed or len(states) != len(cell.states):
        has = f"{len(states)} of them" if listed else f"a {type(states).__name__}"
        raise ArgumentError(f"rnn: states is {has}; give a tuple of {len(cell.states)}: {', '.join(cell.states)}")
    pairs = zip(cell.states, states, strict=True)
    return {f"init_{name}": single(f"states ({name})", value, like, shape) for name, value in pairs}


def single(name: str, value: Any, like: Any, shape: tuple[int, ...]) -> Any:
    """A state, or the gradient of one, in fp32. Raises ArgumentError."""
    _shaped(name, value, like, shape, "(sequences, heads, units)")
    return value.float() if is_torch(value) else value.astype(np.float32, copy=False)


def output_gradient(value: Any, like: Any, shape: tuple[int, ...]) -> Any:
    """The gradient of y, of its type and shape. Raises ArgumentError."""
    _shaped("dy", value, like, shape, "(sequences, steps, heads, units)")
    _typed("dy", value, like)
    return value


def _lengths(lengths: Any, like: Any, batch: int, steps: int) -> Any:
    """As an array of ints; those of a GPU are not looked at."""
    table = _table("lengths", lengths, like, "i32", (batch,))
    here = not is_torch(table) or table.device.type == "cpu"
    wrong = [int(n) for n in table if not 0 <= n <= steps] if here else []
    if wrong:
        raise ArgumentError(f"rnn: lengths has {wrong[0]}; each must be from 0 to the {steps} steps of x")
    return table


def _table(name: str, value: Any, like: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    """Ints or bools, given as a list too, beside ``like``; numpy's are copied, so that a backward pass finds them."""
    array = value if is_torch(value) else np.array(value)
    wanted = "bool" if dtype == "bool" else "integers"
    found = str(array.dtype).removeprefix("torch.")
    if not found.startswith("bool" if dtype == "bool" else ("int", "uint")):
        raise ArgumentError(f"rnn: {name} has dtype {found}; give {wanted}")
    if tuple(array.shape) != shape:
        raise ArgumentError(f"rnn: {name} has shape {tuple(array.shape)}; expected {shape}")
    if not is_torch(like):
        return np.asarray(array).astype(NUMPY[dtype], copy=False)
    torch = sys.modules["torch"]
    return torch.as_tensor(array).to(like.device, getattr(torch, TORCH[dtype]))


def _limit(clip: float | None) -> float | None:
    if clip is None:
        return None
    if not isinstance(clip, Real) or not 0 < clip < math.inf:
        raise ArgumentError(f"rnn: clip is {clip!r}; it must be a finite number above 0, or None")
    return float(clip)
