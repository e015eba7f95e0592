"""What the programs of recurrent layers are made of: tensors, loads, one step's statements, and rounding.

Axes: sequence b, step t, head n, unit u, unit k of the previous step, input i, gate g of the projection. Values over
``b, u`` are tiles of sequences by units. Names: ``state_c`` before a step, ``pre_i`` a pre-activation, ``new_c`` after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from flashc.ir.intexpr import Const, IntExpr, Sym
from flashc.ir.nodes import Carry, Kernel, Load, Par, Program, Seq, Stmt, outputs_of
from flashc.ir.rewrite import without_unused
from flashc.ir.scalar import Coord, Fetch, Lit, Ref, Scalar, where
from flashc.ir.types import F32, Axis, DType, Param, Tensor, Value
from flashc.ops.build import Index, cast, dot, elementwise, load, loops, over, store
from flashc.ops.recurrent_cells import definitions
from flashc.ops.recurrent_spec import B, D, Inputs, N, RecurrentSpec, T

ZERO = Lit(0.0)
UNIT: Index = ("b", "n", "u")
ACTIVE = Coord("t") < Fetch("lengths", (Coord("b"),))
RESET = Fetch("reset", (Coord("b"), Coord("t")))
EXCHANGE = "exchange"
STATE_DIMS = (B, N, D)
EVERY_STEP = (B, T, N, D)


def at_step(unit: str = "u") -> Index:
    return ("b", "t", "n", unit)


def rounded(name: str, axes: str, dtype: DType) -> tuple[str, tuple[Stmt, ...]]:
    """The value as an element of ``dtype``: its name, and the statement that rounds it where one is needed."""
    return (name, ()) if dtype == F32 else (f"{name}_w", cast(f"{name}_w", axes, name, dtype))


def stored(tensor: str, index: Index, name: str, dtype: DType) -> tuple[Stmt, ...]:
    """A value over ``b, u`` rounded into a tensor."""
    last, rounding = rounded(name, "bu", dtype)
    return (*rounding, store(tensor, index, last))


def carry(name: str, axes: str, init: Scalar, after: str) -> Carry:
    return Carry(Value(name, tuple(axes), F32), init, after)


def initial(spec: RecurrentSpec, state: str) -> Scalar:
    """The state before the first step, as a tile: ``first_c`` if it is an operand."""
    return Ref(f"first_{state}") if spec.initial_state else ZERO


def initial_loads(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    states = spec.cell.states if spec.initial_state else ()
    return tuple(load(f"first_{s}", "bu", F32, f"init_{s}", UNIT) for s in states)


def matrices(spec: RecurrentSpec, axes: str = "uk") -> tuple[Load, ...]:
    """A recurrent matrix per gate, or a tile of its rows or columns: index (out, in) is ``axes``."""
    gates = enumerate(spec.cell.recurrent)
    return tuple(load(f"r_{g}", axes, spec.element, "r", (n, "n", *axes)) for n, g in gates)


def biases(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    return tuple(load(f"bias_{g}", "u", spec.element, "bias", (n, "n", "u")) for n, g in enumerate(spec.cell.names))


def inputs(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    """The inputs of a step's gates."""
    gates = enumerate(spec.cell.inputs)
    return tuple(load(f"wx_{g}", "bu", spec.element, "wx", ("b", "t", n, "n", "u")) for n, g in gates)


def pre_activations(
    spec: RecurrentSpec, operand: str, shared: Callable[[RecurrentSpec, str], tuple[Stmt, ...]]
) -> tuple[Stmt, ...]:
    """Every gate's pre-activation from h of the previous step over ``b, k``.

    ``shared`` makes ``of_i_k`` over ``b, k`` of ``of_i`` over ``b, u``, what the gate i multiplies in place of h.
    """
    found: list[Stmt] = []
    others = spec.cell.of_others
    for gate in spec.cell.gates:
        name, rest = f"pre_{gate.name}", addend(spec, gate.name)
        if gate.name in others:
            found += [elementwise(f"of_{gate.name}", "bu", others[gate.name]), *shared(spec, gate.name)]
        if gate.recurrent:
            multiplied = f"of_{gate.name}_k" if gate.name in others else operand
            found.append(dot(name, "bu", multiplied, f"r_{gate.name}", "k", rest))
        else:
            found.append(elementwise(name, "bu", rest))
    return tuple(found)


def addend(spec: RecurrentSpec, gate: str) -> Scalar:
    """What a pre-activation has besides its recurrent product."""
    bias: Scalar = Ref(f"bias_{gate}")
    return Ref(f"wx_{gate}") + bias if gate in spec.cell.inputs else bias


def pointwise(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    return tuple(elementwise(name, "bu", expr) for name, expr in definitions(spec.cell))


def carried(spec: RecurrentSpec, state: str) -> str:
    """What the loop carries; with resets ``state_c`` is made of it."""
    return f"carry_{state}" if spec.resets else f"state_{state}"


def after(spec: RecurrentSpec, state: str) -> str:
    """What a step leaves behind; beyond a sequence's length that is what it found."""
    return f"kept_{state}" if spec.lengths is not None else f"new_{state}"


def reset(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    """``state_c``, where a loop carries something else."""
    if not spec.resets:
        return ()
    states = spec.cell.states
    return tuple(
        elementwise(f"state_{s}", "bu", where(RESET, initial(spec, s), Ref(f"carry_{s}"))) for s in states
    )


def kept(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    if spec.lengths is None:
        return ()
    states = spec.cell.states
    return tuple(
        elementwise(f"kept_{s}", "bu", where(ACTIVE, Ref(f"new_{s}"), Ref(carried(spec, s)))) for s in states
    )


def stores(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    """What is stored of every step."""
    found: list[Stmt] = []
    if "saved" in spec.outputs:
        for s in spec.cell.states:
            found += stored(f"before_{s}", at_step(), f"state_{s}", spec.saved_type(s))
        for g in spec.cell.of_others:
            found += stored(f"of_{g}", at_step(), f"of_{g}", spec.element)
        for n, g in enumerate(spec.cell.names):
            found += stored("pre", ("b", "t", n, "n", "u"), f"pre_{g}", spec.element)
    if "y" in spec.outputs and spec.lengths is not None:
        found.append(elementwise("y_h", "bu", where(ACTIVE, Ref("new_h"), ZERO)))
    if "y" in spec.outputs:
        found += stored("y", at_step(), "y_h" if spec.lengths is not None else "new_h", spec.element)
    return tuple(found)


def steps(spec: RecurrentSpec, body: Sequence[Stmt], state: Sequence[Carry] = (), *, backward: bool = False) -> Seq:
    """The loop over time."""
    return Seq(over("t", 1), once(body), tuple(state), reverse=spec.reverse != backward)


def once(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """Without repeated definitions: a value that two statements take is rounded once."""
    return tuple(s for n, s in enumerate(body) if outputs_of(s) is None or s not in body[:n])


# -- what other kernels do before and after the loop


def projection(spec: RecurrentSpec) -> tuple[Kernel, ...]:
    """Wx of all steps at once, where x is given."""
    if spec.input_dim is None:
        return ()
    step = (
        load("xt", "ti", spec.element, "x", ("b", "t", "i")),
        load("wt", "ui", spec.element, "w", ("g", "n", "u", "i")),
        dot("sum1", "tu", "xt", "wt", "i", Ref("sum0")),
    )
    slices = Seq(over("i", Sym("Ti")), step, (carry("sum0", "tu", ZERO, "sum1"),), law="add", stages=Sym("stages"))
    last, rounding = rounded("sum0", "tu", spec.element)
    body = (slices, *rounding, store("wx", ("b", "t", "g", "n", "u"), last))
    around = loops(("g", 1), ("n", 1), ("b", 1), ("t", Sym("Tt")), ("u", Sym("Tp")))
    return (Kernel("projection", (Par(around, body),)),)


def slot(step: IntExpr) -> IntExpr:
    """Where the exchange holds the h that a step reads; the step writes the other one."""
    return step % 2


def first_slot(spec: RecurrentSpec) -> IntExpr:
    return slot(T - 1) if spec.reverse else Const(0)


# -- a program


def input_tensors(spec: RecurrentSpec, role: str = "in") -> tuple[Tensor, ...]:
    """wx, or x and w with wx (or its gradient) as a workspace of another name."""
    count = Const(len(spec.cell.inputs))
    if spec.input_dim is None:
        return (Tensor("wx", spec.element, (B, T, count, N, D), "in"),)
    return (
        Tensor("x", spec.element, (B, T, Inputs), "in"),
        Tensor("w", spec.element, (count, N, D, Inputs), "in"),
    )


def program(
    spec: RecurrentSpec, name: str, tiles: str, tensors: Sequence[Tensor], kernels: Sequence[Kernel],
    params: Sequence[str] = (),
) -> Program:
    """A program called OPERATOR.SCHEDULE."""
    operator, _, schedule = name.partition(".")
    gates = Const(len(spec.cell.inputs))
    extents: dict[str, IntExpr] = {"b": B, "t": T, "n": N, "u": D, "k": D}
    if spec.input_dim is not None:
        extents |= {"i": Inputs, "g": gates}
    fixed = {"D": spec.head_dim, **({"I": spec.input_dim} if spec.input_dim is not None else {})}
    return Program(
        name=operator, schedule=schedule, sizes=spec.name_sizes, fixed=tuple(fixed.items()),
        axes=tuple(Axis(a, n) for a, n in extents.items()), params=tuple(Param(p, F32) for p in params),
        tensors=tuple(tensors), tiles=tuple(tiles.split()),
        kernels=tuple(replace(k, body=without_unused(k.body)) for k in kernels),
    )


