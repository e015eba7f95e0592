"""Recurrent cells as data: states, gates, and the pointwise step from old states and pre-activations to new states.

A step is a list of assignments in order, as in a program: a name stands for its latest value, so ``c: f * c`` makes
the new ``c`` of the old one, and what follows reads the new one. Every state is assigned once; any other name is an
intermediate value. The first state is h, which the recurrent matrices multiply.

A gate's pre-activation is the sum of its bias, its recurrent product ``R_g h`` and its input ``Wx_g``, of which a gate
may lack one. The n-th gate that has a recurrent product takes the n-th matrix of R, and so do inputs.

A gate may multiply something else than h (``of``): an expression of states and of gates named before it, whose
products it has to wait for.

The gates of LSTM are in the order i, f, z, o (z is often called g or c~). ``gru`` resets after the product, as cuDNN
and PyTorch have it: its candidate needs ``R h + b`` on its own, the gate ``a`` without an input. ``gru_before`` is the
original (Cho et al. 2014), which resets h before the product: two products per step, one after the other.

sLSTM (Beck et al. 2024, xLSTM) keeps c and n scaled by exp(-m), where m is the running maximum of log gates. One rule
holds for each element: n = 0 means that nothing has been seen, so the input gate alone is the maximum and c and n
begin anew; n is not clamped (it is at least 1 from the first step on, where it starts from 0). h does not depend on
m, whatever m is, so the gradient that goes through m adds up to 0 for losses of h; no gradient is stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashc.ir.scalar import FUNCTIONS, Ref, Scalar, kind_of, substitute
from flashc.ir.scalar_parse import parse_scalar
from flashc.ir.scalar_sugar import SUGAR

H = "h"
BOTH = "both"
KINDS = (BOTH, "recurrent", "input")


@dataclass(frozen=True)
class Gate:
    """A pre-activation: whether it takes a recurrent product, and of what if not of h; whether it takes an input."""

    name: str
    recurrent: bool = True
    input: bool = True
    of: Scalar | None = None


@dataclass(frozen=True)
class Cell:
    """``step`` lists assignments (name, expression of :class:`Ref` to states, gates and names assigned before)."""

    name: str
    states: tuple[str, ...]
    gates: tuple[Gate, ...]
    step: tuple[tuple[str, Scalar], ...]

    @property
    def recurrent(self) -> tuple[str, ...]:
        """Gates with a recurrent product, in the order of the matrices of R."""
        return tuple(g.name for g in self.gates if g.recurrent)

    @property
    def of_h(self) -> tuple[str, ...]:
        """Gates whose product is of h."""
        return tuple(g.name for g in self.gates if g.recurrent and g.of is None)

    @property
    def of_others(self) -> dict[str, Scalar]:
        """What other gates multiply, by names as in :func:`definitions`; in order."""
        now = _given(self)
        return {g.name: substitute(g.of, now) for g in self.gates if g.of is not None}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Gates with an input, in the order of Wx."""
        return tuple(g.name for g in self.gates if g.input)

    @property
    def names(self) -> tuple[str, ...]:
        """All gates, in the order of the biases."""
        return tuple(g.name for g in self.gates)


class CellError(ValueError):
    """A cell that cannot be: ``path`` is the key it is about."""

    def __init__(self, path: tuple[str, ...], problem: str, allowed: str, fix: str) -> None:
        super().__init__(problem)
        self.path, self.problem, self.allowed, self.fix = path, problem, allowed, fix


GateText = str | Mapping[str, Any]


def make_cell(
    name: str, states: Sequence[str], gates: Mapping[str, GateText], step: Mapping[str, str], source: str
) -> Cell:
    """A cell from its text; a gate is ``both``, ``recurrent``, ``input``, or a mapping ``{of:, input:}``.

    ``source`` begins the messages of ExpressionError for a mistake in an expression; CellError is raised for others.
    """
    _check_names(states, gates, step)
    known, kinds = list(states), []
    for gate, kind in gates.items():
        kinds.append(_gate(gate, kind, known, source))
        known.append(gate)
    found: list[tuple[str, Scalar]] = []
    for target, text in step.items():
        found.append((target, _float(text, known, ("step", target), f"{source}step.{target}")))
        known += [target] if target not in known else []
    cell = Cell(name, tuple(states), tuple(kinds), tuple(found))
    if not cell.of_h:
        raise CellError(("gates",), "no gate multiplies h", "at least one that is both or recurrent", "h: both, say")
    return cell


def _gate(name: str, kind: GateText, known: Sequence[str], source: str) -> Gate:
    if isinstance(kind, str):
        return Gate(name, kind != "input", kind != "recurrent")
    of = _float(kind["of"], known, ("gates", name, "of"), f"{source}gates.{name}.of")
    return Gate(name, True, kind.get("input", True), of)


def _float(text: str, known: Sequence[str], path: tuple[str, ...], source: str) -> Scalar:
    expr = parse_scalar(text, coords=(), refs=known, tensors={}, source=source)
    kind = kind_of(expr, dict.fromkeys(known, "float"))
    if kind != "float":
        raise CellError(path, f"`{text}`: its value is {kind}", "a float expression", "compute with floats: 1.0")
    return expr


def _check_names(states: Sequence[str], gates: Mapping[str, GateText], step: Mapping[str, str]) -> None:
    if H not in states[:1]:
        fix = f"write [{', '.join((H, *states))}]"
        raise CellError(("states",), f"{list(states)}", "h first, which R multiplies", fix)
    for key, names in (("states", states), ("gates", gates), ("step", step)):
        for name in names:
            if name in (*FUNCTIONS, *SUGAR, "inf", "true", "false", "and", "or", "not"):
                allowed = "names that mean nothing else in expressions"
                raise CellError((key,), name, allowed, f"rename it, to {name}_, say")
    for name in gates:
        if name in states:
            raise CellError(("gates",), name, "other names than those of states", f"rename it, to {name}_gate, say")
        if name in step:
            raise CellError(("step", name), name, "states and new names", "a gate is given: assign another name")
    for name in states:
        if name not in step:
            raise CellError(("step",), str(list(step)), f"an assignment of every state, {name} too", f"add {name}: ..")


_TEXTS: dict[str, tuple[Sequence[str], Mapping[str, GateText], Mapping[str, str]]] = {
    "lstm": (
        ("h", "c"),
        dict.fromkeys("ifzo", BOTH),
        {"c": "sigmoid(f) * c + sigmoid(i) * tanh(z)", "h": "sigmoid(o) * tanh(c)"},
    ),
    "slstm": (
        ("h", "c", "n", "m"),
        dict.fromkeys("ifzo", BOTH),
        {
            "past": "logsigmoid(f) + m",
            "top": "where(n == 0.0, i, max(i, past))",
            "decay": "where(n == 0.0, 0.0, exp(past - top))",
            "gain": "exp(i - top)",
            "c": "decay * c + gain * tanh(z)",
            "n": "decay * n + gain",
            "m": "top",
            "h": "sigmoid(o) * c / n",
        },
    ),
    "gru": (
        ("h",),
        {"a": "recurrent", "r": BOTH, "z": BOTH, "n": "input"},
        {"keep": "sigmoid(z)", "h": "keep * h + (1.0 - keep) * tanh(n + sigmoid(r) * a)"},
    ),
    "gru_before": (
        ("h",),
        {"r": BOTH, "z": BOTH, "n": {"of": "sigmoid(r) * h"}},
        {"keep": "sigmoid(z)", "h": "keep * h + (1.0 - keep) * tanh(n)"},
    ),
    "elman": (("h",), {"a": BOTH}, {"h": "tanh(a)"}),
}
CELLS = {name: make_cell(name, *text, source=f"cell {name}: ") for name, text in _TEXTS.items()}


def text_of(cell: Cell) -> dict[str, Any]:
    """The cell as a workload has it."""
    gates = {g.name: _gate_text(g) for g in cell.gates}
    return {"states": list(cell.states), "gates": gates, "step": {name: str(expr) for name, expr in cell.step}}


def _gate_text(gate: Gate) -> GateText:
    if gate.of is not None:
        return {"of": str(gate.of), "input": gate.input}
    return BOTH if gate.recurrent and gate.input else "recurrent" if gate.recurrent else "input"


def definitions(cell: Cell) -> tuple[tuple[str, Scalar], ...]:
    """The step with a name of its own for every value, so that each is assigned once.

    Old states are called ``state_h``, pre-activations ``pre_i``, new states ``new_h`` and the rest ``mid_name``.
    """
    now = _given(cell)
    found = []
    for name, expr in cell.step:
        made = f"new_{name}" if name in cell.states else f"mid_{name}"
        found.append((made, substitute(expr, now)))
        now[Ref(name)] = Ref(made)
    return tuple(found)


def _given(cell: Cell) -> dict[Scalar, Scalar]:
    """Names of the old states and the pre-activations."""
    states: dict[Scalar, Scalar] = {Ref(s): Ref(f"state_{s}") for s in cell.states}
    return {**states, **{Ref(g): Ref(f"pre_{g}") for g in cell.names}}
