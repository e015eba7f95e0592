"""Workload keys of `op: recurrent` and `op: recurrent_backward`, and what they mean (docs/workload.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashc.ir.types import BOOL, DTYPES, F32, I32, DType, Tensor
from flashc.ops.build import syms
from flashc.ops.recurrent_cells import CELLS, KINDS, Cell, CellError, make_cell
from flashc.ops.spec_checks import FLOAT_NAMES, MAX_SIZE, Json, Where, check_elements, dtype, refusal, size

B, T, N, D, Inputs = syms("B T N D I")


@dataclass(frozen=True)
class RecurrentSpec:
    """A recurrent layer: wx (B, T, inputs, N, D), or x (B, T, I) with w (inputs, N, D, I), r (recurrent, N, D, D) as
    (out, in), bias (gates, N, D) -> y (B, T, N, D), the last states (B, N, D).

    outputs        of ``y``, ``last``, ``saved`` (what the backward pass needs); backward: those with a gradient
    lengths        valid steps of each sequence: beyond them its states stay and y is 0
    resets         whether a bool tensor (B, T) says before which steps the states become the initial ones
    initial_state  whether initial states are operands; they are zeros otherwise
    reverse        from the last step to the first; a sequence with a length starts at its own last step
    clip           backward: every step limits the gradient that comes through r to -clip .. clip, and nothing else
    """

    cell: Cell
    batch: int
    steps: int
    heads: int
    head_dim: int
    dtype: str
    input_dim: int | None = None
    outputs: tuple[str, ...] = ("y", "last")
    lengths: tuple[int, ...] | None = None
    resets: bool = False
    initial_state: bool = False
    reverse: bool = False
    clip: float | None = None

    @property
    def element(self) -> DType:
        return DTYPES[self.dtype]

    @property
    def name_sizes(self) -> tuple[str, ...]:
        return ("B", "T", "N", "D", *(("I",) if self.input_dim is not None else ()))

    def saved_type(self, state: str) -> DType:
        """h is an operand of the matrix unit; other states are f32 everywhere."""
        return self.element if state == self.cell.states[0] else F32


def _flag(description: str) -> Json:
    return {"type": "boolean", "default": False, "examples": [True], "description": description}


def _names(description: str, example: list[str]) -> Json:
    item = {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"}
    return {"type": "array", "items": item, "minItems": 1, "examples": [example], "description": description}


def _outputs(allowed: tuple[str, ...], description: str) -> Json:
    return {
        "type": "array", "items": {"enum": list(allowed)}, "minItems": 1, "maxItems": len(allowed),
        "uniqueItems": True, "default": ["y", "last"], "examples": [["y", "last"]], "description": description,
    }


_CELL_NAMES: Json = {"type": "string", "enum": list(CELLS), "examples": ["lstm"]}
_STEP: Json = {
    "type": "object", "additionalProperties": {"type": "string", "minLength": 1}, "minProperties": 1,
    "propertyNames": {"pattern": "^[a-z][a-z0-9_]*$"},
    "examples": [{"h": "tanh(a)"}], "description": "assignments in order, of states, gates and names of their own",
}
_OF: Json = {
    "type": "object",
    "properties": {"of": {"type": "string", "minLength": 1}, "input": {"type": "boolean"}},
    "required": ["of"], "additionalProperties": False,
}
_GATES: Json = {
    "type": "object", "additionalProperties": {"anyOf": [{"enum": list(KINDS)}, _OF]}, "minProperties": 1,
    "propertyNames": {"pattern": "^[a-z][a-z0-9_]*$"},
    "examples": [{"a": "both"}], "description": "what each pre-activation is the sum of, besides its bias",
}
_CELL: Json = {
    "type": "object",
    "properties": {"states": _names("h first, which R multiplies", ["h", "c"]), "gates": _GATES, "step": _STEP},
    "required": ["states", "gates", "step"],
    "additionalProperties": False,
}

PROPERTIES: Json = {
    "cell": {
        "anyOf": [_CELL_NAMES, _CELL], "examples": ["lstm"],
        "description": f"{', '.join(CELLS)}, or a cell of your own",
    },
    "batch": {**size(0, 16, "number of sequences"), "default": 1},
    "steps": size(0, 1024, "steps of a sequence"),
    "heads": {**size(1, 4, "independent blocks of the recurrent matrix"), "default": 1},
    "head_dim": size(1, 64, "units of a head"),
    "input_dim": size(1, 256, "size of x, which is then projected here; without it wx is an operand"),
    "dtype": dtype(FLOAT_NAMES, "element type of operands and y; states and sums are fp32"),
    "lengths": {
        "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": MAX_SIZE},
        "examples": [[1024, 17]], "description": "valid steps of each sequence",
    },
    "resets": _flag("a bool operand (batch, steps): before which steps the states become the initial ones"),
    "initial_state": _flag("initial states are operands, fp32; zeros if not"),
    "reverse": _flag("from the last step to the first"),
}
_REQUIRED = ["cell", "steps", "head_dim", "dtype"]
SCHEMA: Json = {
    "type": "object",
    "properties": {**PROPERTIES, "outputs": _outputs(("y", "last", "saved"), "saved: for the backward pass")},
    "required": _REQUIRED,
    "additionalProperties": False,
}
BACKWARD_SCHEMA: Json = {
    "type": "object",
    "properties": {
        **PROPERTIES,
        "outputs": _outputs(("y", "last"), "outputs of the forward pass that have a gradient"),
        "clip": {
            "type": "number", "minimum": 1e-30, "maximum": 1e30, "examples": [1.0],
            "description": "limit of each step's gradient through the recurrent product, either sign",
        },
    },
    "required": _REQUIRED,
    "additionalProperties": False,
}


def parse(data: Mapping[str, Any], where: Where) -> RecurrentSpec:
    """The spec of keys that satisfy the schema. Raises WorkloadError, and ExpressionError for a cell's expression."""
    batch, steps, heads, head_dim = data.get("batch", 1), data["steps"], data.get("heads", 1), data["head_dim"]
    cell = _cell(data["cell"], where)
    check_elements(where, "steps", "the pre-activations", (batch, steps, len(cell.names), heads, head_dim))
    check_elements(where, "head_dim", "r", (len(cell.recurrent), heads, head_dim, head_dim))
    outputs = tuple(name for name in ("y", "last", "saved") if name in data.get("outputs", ("y", "last")))
    return RecurrentSpec(
        cell=cell, batch=batch, steps=steps, heads=heads, head_dim=head_dim, dtype=FLOAT_NAMES[data["dtype"]],
        input_dim=data.get("input_dim"), outputs=outputs, lengths=_lengths(data, where, batch, steps),
        resets=data.get("resets", False), initial_state=data.get("initial_state", False),
        reverse=data.get("reverse", False), clip=data.get("clip"),
    )


def _cell(given: str | Mapping[str, Any], where: Where) -> Cell:
    if isinstance(given, str):
        return CELLS[given]
    try:
        return make_cell("cell", given["states"], given["gates"], given["step"], f"{where(('cell',))}: cell.")
    except CellError as error:
        path = ("cell", *error.path)
        raise refusal(where, path, error.problem, error.allowed, error.fix) from None


def _lengths(data: Mapping[str, Any], where: Where, batch: int, steps: int) -> tuple[int, ...] | None:
    if "lengths" not in data:
        return None
    lengths = data["lengths"]
    if len(lengths) != batch:
        fix = f"give {batch} instead of {len(lengths)}, or change batch"
        raise refusal(where, ("lengths",), lengths, f"a list of {batch}, one for each of batch", fix)
    for position, length in enumerate(lengths):
        if length > steps:
            raise refusal(where, ("lengths", position), length, f"0 to steps = {steps}", "shorten it, or raise steps")
    return tuple(lengths)


# -- what surrounds a call


def sizes(spec: RecurrentSpec) -> dict[str, int]:
    values = (spec.batch, spec.steps, spec.heads, spec.head_dim, spec.input_dim or 0)
    return dict(zip(spec.name_sizes, values, strict=False))


def tables(spec: RecurrentSpec) -> dict[str, Sequence[int]]:
    return {"lengths": spec.lengths} if spec.lengths is not None else {}


def reduced(spec: RecurrentSpec) -> RecurrentSpec:
    """The same features on at most 5 sequences, 9 steps, 2 heads of 24 units, and 40 inputs."""
    batch, steps = min(spec.batch, 5), min(spec.steps, 9)
    lengths = spec.lengths and tuple(n * steps // max(spec.steps, 1) for n in spec.lengths[:batch])
    return dataclasses.replace(
        spec, batch=batch, steps=steps, heads=min(spec.heads, 2), head_dim=min(spec.head_dim, 24), lengths=lengths,
        input_dim=None if spec.input_dim is None else min(spec.input_dim, 40),
    )


def examples(spec: RecurrentSpec, rng: Any) -> dict[str, Any]:
    """Matrices that keep the size of what they multiply, resets before one step in eight, and states of the past
    between 1 and 2, which every cell takes."""
    cell, shape = spec.cell, (spec.heads, spec.head_dim)
    past = (spec.batch, spec.steps, *shape)
    found = {"r": rng.standard_normal((len(cell.recurrent), *shape, spec.head_dim)) / spec.head_dim**0.5}
    if spec.input_dim is not None:
        found["w"] = rng.standard_normal((len(cell.inputs), *shape, spec.input_dim)) / spec.input_dim**0.5
    if spec.resets:
        found["reset"] = rng.random((spec.batch, spec.steps)) < 0.125
    return {
        **found,
        **{f"init_{s}": 1 + rng.random((spec.batch, *shape)) for s in cell.states},
        **{f"before_{s}": 1 + rng.random(past) for s in cell.states},
    }


# -- operands


def extras(spec: RecurrentSpec) -> tuple[Tensor, ...]:
    """Lengths and resets."""
    lengths = (Tensor("lengths", I32, (B,), "in"),) if spec.lengths is not None else ()
    return (*lengths, *((Tensor("reset", BOOL, (B, T), "in"),) if spec.resets else ()))

