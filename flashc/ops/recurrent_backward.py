"""Backward pass of recurrent layers: the pointwise step differentiated symbolically, the loop walked the other way.

The forward pass saves, for every step, the states before it and the pre-activations (``outputs: [.., saved]``). With
g_s the gradient of a state after step t, a step backward is

    d pre, d state = transposed derivative of step(state, pre), applied to g + dy        (pointwise, ``adjoints``)
    g_h            = d state_h + clip(sum over recurrent gates of R_g^T d pre_g)

and after the loop, as one reduction over sequences and steps each, dR_g = sum of d pre_g h^T and db_g = sum of
d pre_g (Poeppel et al. 2024 build them so too). dWx is d pre of the gates with an input; where x is projected here, dW
and dx are two products more. A step beyond a sequence's length passes g on and adds nothing; a step before which the
states were reset gives its g to the initial states. ``clip`` limits the recurrent sum, and nothing else.

Schedules as forward: per_head, persistent (gradients of pre-activations pass through memory, one barrier per step), and
per_step (two launches per step: the pointwise kernel, then the product).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flashc.ir.derivative import derivative, plus, times
from flashc.ir.intexpr import Const, IntExpr, Sym
from flashc.ir.nodes import GRID, Carry, Dot, Kernel, Load, Par, Program, Seq, Stmt, Sync, View
from flashc.ir.scalar import FUNCTIONS, Call, Ref, Scalar, maximum, minimum, refs, substitute, walk, where
from flashc.ir.types import F32, Tensor, Value
from flashc.ops.base import Operator
from flashc.ops.build import Index, dot, elementwise, load, loops, over, reduce, store, syms
from flashc.ops.recurrent_cells import Cell, definitions
from flashc.ops.recurrent_spec import (
    BACKWARD_SCHEMA,
    B,
    D,
    Inputs,
    N,
    RecurrentSpec,
    T,
    examples,
    extras,
    parse,
    reduced,
    sizes,
    tables,
)
from flashc.ops.recurrent_sums import gate_index, input_gradient, result, sums_over_steps, without_input
from flashc.ops.recurrent_terms import (
    ACTIVE,
    EVERY_STEP,
    RESET,
    STATE_DIMS,
    UNIT,
    ZERO,
    at_step,
    carry,
    matrices,
    once,
    program,
    rounded,
    steps,
    stored,
)

Tb, Tu, Tk = syms("Tb Tu Tk")
TILES = (("n", 1), ("b", Tb), ("u", Tu))


# -- the step's derivative


Assignments = tuple[tuple[str, Scalar], ...]


def adjoints(cell: Cell) -> tuple[Assignments, dict[str, Scalar]]:
    """Assignments, and with them the gradients of ``state_c`` and ``pre_i`` by name, given ``grad_c`` of new states.

    The step anew, then reverse accumulation over it. An exponential is a value of its own, which its derivative reads.
    """
    forward = _with_exponentials(definitions(cell))
    made: dict[Scalar, Scalar] = {expr: Ref(name) for name, expr in forward if isinstance(expr, Call)}
    found: list[tuple[str, Scalar]] = []
    into: dict[str, Scalar] = {f"new_{s}": Ref(f"grad_{s}") for s in cell.states}
    for name, expr in reversed(forward):
        gradient = into.pop(name, ZERO)
        if gradient == ZERO:
            continue
        if not isinstance(gradient, Ref):
            found.append((f"d_{name}", gradient))
            gradient = Ref(f"d_{name}")
        for used in sorted(refs(expr)):
            slope = substitute(derivative(expr, used), made)
            into[used] = plus(into.get(used, ZERO), times(gradient, slope))
    return (*forward, *found), into


def _with_exponentials(assigned: Assignments) -> Assignments:
    """The same, with an assignment for each distinct call of exp, tanh and the like before what uses it."""
    names: dict[Scalar, Scalar] = {}
    found: list[tuple[str, Scalar]] = []
    for name, expr in assigned:
        for node in walk(expr):
            if isinstance(node, Call) and FUNCTIONS[node.fn].transcendental and node not in names:
                found.append((f"{node.fn}_{len(names)}", substitute(node, names)))
                names[node] = Ref(found[-1][0])
        found.append((name, substitute(expr, names)))
    return tuple(found)


Product = Callable[[RecurrentSpec, str], tuple[Stmt, ...]]


def _gradients(spec: RecurrentSpec, product: Product | None = None) -> tuple[Stmt, ...]:
    """``dpre_i`` of every gate, stored, and ``past_c`` of every state, from ``grad_c``, ``pre_i`` and ``state_c``.

    ``product`` makes ``dof_i`` of the stored ``dpre_i`` of a gate i that multiplies something else than h.
    """
    assigned, into = adjoints(spec.cell)
    others = spec.cell.of_others
    found: list[Stmt] = [elementwise(name, "bu", expr) for name, expr in assigned]
    for g in reversed(others):
        assert product is not None
        found += [*_gate_gradient(spec, g, into), *product(spec, g)]
        for used in sorted(refs(others[g])):
            more = times(_clipped(spec, Ref(f"dof_{g}")), derivative(others[g], used))
            into[used] = plus(into.get(used, ZERO), more)
    for g in spec.cell.names:
        found += _gate_gradient(spec, g, into) if g not in others else ()
    found += [elementwise(f"past_{s}", "bu", into.get(f"state_{s}", ZERO)) for s in spec.cell.states]
    return tuple(found)


def _gate_gradient(spec: RecurrentSpec, gate: str, into: Mapping[str, Scalar]) -> tuple[Stmt, ...]:
    gradient = into.get(f"pre_{gate}", ZERO)
    gradient = gradient if spec.lengths is None else where(ACTIVE, gradient, ZERO)
    tensor, index = gate_index(spec, gate, "n", "u")
    return (elementwise(f"dpre_{gate}", "bu", gradient), *stored(tensor, index, f"dpre_{gate}", spec.element))


# -- operands and results of a step


def _saved(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    """Pre-activations and states of the step, and the gradient of y."""
    found = [load(f"state_{s}", "bu", spec.saved_type(s), f"before_{s}", at_step()) for s in spec.cell.states]
    found += [
        load(f"pre_{g}", "bu", spec.element, "pre", ("b", "t", n, "n", "u")) for n, g in enumerate(spec.cell.names)
    ]
    return (*found, *((load("dy_h", "bu", spec.element, "dy", at_step()),) if "y" in spec.outputs else ()))


def _incoming(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    """``grad_c`` of the states after the step: what later steps hand back, and for h the gradient of y."""
    found = []
    for s in spec.cell.states:
        gradient: Scalar = Ref(f"after_{s}")
        found.append(elementwise(f"grad_{s}", "bu", gradient + Ref("dy_h") if _sees_y(spec, s) else gradient))
    return tuple(found)


def _sees_y(spec: RecurrentSpec, state: str) -> bool:
    return state == "h" and "y" in spec.outputs


def _through_r(spec: RecurrentSpec, name: str, axes: str, operand: str, contracted: str) -> tuple[Dot, ...]:
    """``name``: the sum over gates that multiply h of R_g^T times the gate's gradient, called by ``operand``."""
    found: list[Dot] = []
    gates = spec.cell.of_h
    for n, g in enumerate(gates):
        out = name if n == len(gates) - 1 else f"{name}_{g}"
        init = Ref(found[-1].out.name) if found else None
        found.append(dot(out, axes, operand.format(g), f"r_{g}", contracted, init))
    return tuple(found)


def _clipped(spec: RecurrentSpec, gradient: Scalar) -> Scalar:
    return gradient if spec.clip is None else maximum(minimum(gradient, Ref("clip")), -Ref("clip"))


def _handed_back(spec: RecurrentSpec, through: Scalar) -> tuple[Stmt, ...]:
    """``back_c``: gradients of the states before the step; ``init1_c`` adds up those of the initial states."""
    found: list[Stmt] = []
    for s in spec.cell.states:
        gradient: Scalar = Ref(f"past_{s}") + through if s == "h" else Ref(f"past_{s}")
        found.append(elementwise(f"total_{s}", "bu", gradient))
        back: Scalar = Ref(f"total_{s}")
        back = where(RESET, ZERO, back) if spec.resets else back
        back = where(ACTIVE, back, Ref(f"after_{s}")) if spec.lengths is not None else back
        found.append(elementwise(f"back_{s}", "bu", back))
        if _counts_resets(spec):
            here = RESET & ACTIVE if spec.lengths is not None else RESET
            found.append(elementwise(f"init1_{s}", "bu", Ref(f"init_{s}") + where(here, Ref(f"total_{s}"), ZERO)))
    return tuple(found)


def _counts_resets(spec: RecurrentSpec) -> bool:
    return spec.resets and spec.initial_state


def _last_loads(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    states = spec.cell.states if "last" in spec.outputs else ()
    return tuple(load(f"dlast_{s}", "bu", F32, f"dlast_{s}", UNIT) for s in states)


def _last(spec: RecurrentSpec, state: str) -> Scalar:
    return Ref(f"dlast_{state}") if "last" in spec.outputs else ZERO


def _loop(spec: RecurrentSpec, body: Sequence[Stmt], more: Sequence[Carry] = ()) -> Seq:
    state = [carry(f"after_{s}", "bu", _last(spec, s), f"back_{s}") for s in spec.cell.states]
    if _counts_resets(spec):
        state += [carry(f"init_{s}", "bu", ZERO, f"init1_{s}") for s in spec.cell.states]
    return steps(spec, body, (*state, *more), backward=True)


def _initial_gradients(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    """What is left after the first step belongs to the initial states."""
    found: list[Stmt] = []
    for s in spec.cell.states if spec.initial_state else ():
        total: Scalar = Ref(f"after_{s}") + Ref(f"init_{s}") if spec.resets else Ref(f"after_{s}")
        found += [elementwise(f"dinit_{s}", "bu", total), store(f"dinit_{s}", UNIT, f"dinit_{s}")]
    return tuple(found)


# -- one task alone


def _alone(spec: RecurrentSpec, sums: Sequence[Stmt] = (), totals: Sequence[Carry] = ()) -> tuple[Stmt, ...]:
    """A head and some sequences; ``sums`` add to ``totals`` in every step."""
    operand = rounded("dpre_{}", "bu", spec.element)[0]
    through = _through_r(spec, "through_k", "bk", operand, "u")
    view = View(Value("through", ("b", "u"), F32), "through_k")
    body = (
        *_saved(spec), *_incoming(spec), *_gradients(spec, _own_product), *through, view,
        *_handed_back(spec, _clipped(spec, Ref("through"))), *sums,
    )
    return (*matrices(spec), *_last_loads(spec), _loop(spec, body, totals), *_initial_gradients(spec))


def _own_product(spec: RecurrentSpec, gate: str) -> tuple[Stmt, ...]:
    operand = rounded(f"dpre_{gate}", "bu", spec.element)[0]
    product = dot(f"dof_{gate}_k", "bk", operand, f"r_{gate}", "u")
    return (product, View(Value(f"dof_{gate}", ("b", "u"), F32), f"dof_{gate}_k"))


def per_head(spec: RecurrentSpec) -> Program:
    """One block per head and tile of sequences."""
    kernel = Kernel("steps", (Par(loops(("n", 1), ("b", Tb)), _alone(spec)),))
    return _program(spec, "per_head", "Tb stages", kernel, *sums_over_steps(spec))


# -- tasks that share a head


def persistent(spec: RecurrentSpec) -> Program:
    """R on chip for all steps, spread over tasks that wait for each other once per step."""
    gates = [_all_units(spec, g) for g in spec.cell.of_h]
    through = _through_r(spec, "through", "bu", "dgate_{}", "k")
    body = (
        *_saved(spec), *_incoming(spec), *_gradients(spec, _shared_product), Sync(GRID), *gates, *through,
        *_handed_back(spec, _clipped(spec, Ref("through"))),
    )
    inner = (*matrices(spec, "ku"), *_last_loads(spec), _loop(spec, body), *_initial_gradients(spec))
    kernel = Kernel("steps", (Par(loops(*TILES), inner),))
    return _program(spec, "persistent", "Tb Tu stages", kernel, *sums_over_steps(spec))


def _all_units(spec: RecurrentSpec, gate: str) -> Load:
    """A gate's gradients of a step, which all tasks have stored."""
    tensor, index = gate_index(spec, gate, "n", "k")
    return load(f"dgate_{gate}", "bk", spec.element, tensor, index)


def _shared_product(spec: RecurrentSpec, gate: str) -> tuple[Stmt, ...]:
    return (Sync(GRID), _all_units(spec, gate), dot(f"dof_{gate}", "bu", f"dgate_{gate}", f"r_{gate}", "k"))


def per_step(spec: RecurrentSpec) -> Program:
    """Two launches per step; gradients of the states pass through memory."""
    states = spec.cell.states
    counts = _counts_resets(spec)
    kept = [("after", s) for s in states] + ([("init", s) for s in states] if counts else [])
    start = [_last(spec, s) if what == "after" else ZERO for what, s in kept]
    begin = (
        *_last_loads(spec),
        *(elementwise(f"{what}_{s}", "bu", x) for (what, s), x in zip(kept, start, strict=True)),
        *(store(f"{what}_{s}", UNIT, f"{what}_{s}") for what, s in kept),
    )
    olds = tuple(load(f"{what}_{s}", "bu", F32, f"{what}_{s}", UNIT) for what, s in kept)
    pointwise = (
        *olds, *_saved(spec), *_incoming(spec), *_gradients(spec),
        *(store(f"past_{s}", UNIT, f"past_{s}") for s in states),
    )
    slices = [_all_units(spec, g) for g in spec.cell.of_h]
    chain = list(_through_r(spec, "through1", "bu", "dgate_{}", "k"))
    chain[0] = Dot(chain[0].out, chain[0].a, chain[0].b, chain[0].over, Ref("through"))
    product = Seq(
        over("k", Tk), (*slices, *matrices(spec, "ku"), *chain), (carry("through", "bu", ZERO, "through1"),),
        law="add", stages=Sym("stages"),
    )
    pasts = tuple(load(f"past_{s}", "bu", F32, f"past_{s}", UNIT) for s in states)
    names = {"after": "back", "init": "init1"}
    hand_back = (
        product, *olds, *pasts, *_handed_back(spec, _clipped(spec, Ref("through"))),
        *(store(f"{what}_{s}", UNIT, f"{names[what]}_{s}") for what, s in kept),
    )
    each = (Par(loops(*TILES), once(pointwise)), Par(loops(*TILES), hand_back))
    end = (*olds, *_initial_gradients(spec))
    kernels = [Kernel("begin", (Par(loops(*TILES), begin),)), Kernel("steps", (steps(spec, each, backward=True),))]
    kernels += [Kernel("end", (Par(loops(*TILES), end),))] if spec.initial_state else []
    temps = [Tensor(f"{what}_{s}", F32, STATE_DIMS, "temp") for what, s in [*kept, *(("past", s) for s in states)]]
    return _program(spec, "per_step", "Tb Tu stages Tk", *kernels, *sums_over_steps(spec), temps=temps)


# -- programs


def _tensors(spec: RecurrentSpec) -> tuple[Tensor, ...]:
    cell, element = spec.cell, spec.element
    count: dict[str, IntExpr] = {
        "r": Const(len(cell.recurrent)), "bias": Const(len(cell.names)), "wx": Const(len(cell.inputs)),
    }
    shapes: dict[str, tuple[IntExpr, ...]] = {"r": (count["r"], N, D, D), "bias": (count["bias"], N, D)}
    if spec.input_dim is not None:
        shapes |= {"x": (B, T, Inputs), "w": (count["wx"], N, D, Inputs)}
    else:
        shapes["wx"] = (B, T, count["wx"], N, D)
    given = [Tensor(name, element, shapes[name], "in") for name in ("x", "w", "r") if name in shapes]
    given += [Tensor(f"before_{s}", spec.saved_type(s), EVERY_STEP, "in") for s in cell.states]
    given += [Tensor(f"of_{g}", element, EVERY_STEP, "in") for g in cell.of_others]
    given.append(Tensor("pre", element, (B, T, count["bias"], N, D), "in"))
    if "y" in spec.outputs:
        given.append(Tensor("dy", element, EVERY_STEP, "in"))
    if "last" in spec.outputs:
        given += [Tensor(f"dlast_{s}", F32, STATE_DIMS, "in") for s in cell.states]
    made = [Tensor(f"d{name}", element, dims, "out") for name, dims in shapes.items()]
    if spec.initial_state:
        made += [Tensor(f"dinit_{s}", F32, STATE_DIMS, "out") for s in cell.states]
    if spec.input_dim is not None:
        made.append(Tensor("dwx", element, (B, T, count["wx"], N, D), "temp"))
    if without_input(spec):
        made.append(Tensor("dpre", element, (B, T, Const(len(without_input(spec))), N, D), "temp"))
    return (*given, *extras(spec), *made)


def _program(
    spec: RecurrentSpec, schedule: str, tiles: str, *kernels: Kernel, temps: Sequence[Tensor] = ()
) -> Program:
    if schedule != "algorithm":
        tiles += " Ru Rk Tt" + (" Ti" if spec.input_dim is not None else "")
    tensors = (*_tensors(spec), *temps)
    return program(spec, f"recurrent_backward.{schedule}", tiles, tensors, kernels, tuple(params(spec)))


def algorithm(spec: RecurrentSpec) -> Program:
    """Nothing tiled: a head with all its sequences, and the sums over sequences in each step."""
    cell, projected = spec.cell, spec.input_dim is not None
    operand = rounded("dpre_{}", "bu", spec.element)[0]
    sums: list[Stmt] = [View(Value("h_k", ("b", "k"), spec.element), "state_h")]
    sums += [load("xt", "bi", spec.element, "x", ("b", "t", "i"))] if projected else []
    results: list[tuple[str, str, Index]] = []
    for g in cell.of_others:
        sums.append(load(f"of_{g}_u", "bu", spec.element, f"of_{g}", at_step()))
        sums.append(View(Value(f"of_{g}_k", ("b", "k"), spec.element), f"of_{g}_u"))
    for n, g in enumerate(cell.recurrent):
        multiplied = f"of_{g}_k" if g in cell.of_others else "h_k"
        sums.append(dot(f"dr_{g}1", "uk", operand.format(g), multiplied, "b", Ref(f"dr_{g}_sum")))
        results.append((f"dr_{g}", "uk", (n, "n", "u", "k")))
    for n, g in enumerate(cell.inputs if projected else ()):
        sums.append(dot(f"dw_{g}1", "ui", operand.format(g), "xt", "b", Ref(f"dw_{g}_sum")))
        results.append((f"dw_{g}", "ui", (n, "n", "u", "i")))
    for n, g in enumerate(cell.names):
        sums.append(reduce(f"part_{g}", "u", "sum", operand.format(g), "b"))
        sums.append(elementwise(f"dbias_{g}1", "u", Ref(f"dbias_{g}_sum") + Ref(f"part_{g}")))
        results.append((f"dbias_{g}", "u", (n, "n", "u")))
    totals = [carry(f"{name}_sum", axes, ZERO, f"{name}1") for name, axes, _ in results]
    ends = [s for name, axes, index in results for s in result(spec, name.partition("_")[0], index, name, axes)]
    head = (*_alone(spec, sums, totals), *ends)
    if not projected:
        return _program(spec, "algorithm", "", Kernel("gradients", (Par(loops(("n", 1)), head),)))
    rows = Seq(over("b", 1), input_gradient(spec))
    kernels = (Kernel("gradients", (Par((), (Seq(over("n", 1), head),)),)), Kernel("inputs", (Par((), (rows,)),)))
    return _program(spec, "algorithm", "", *kernels)


def schedules(spec: RecurrentSpec) -> tuple[Program, ...]:
    """Those of the forward pass."""
    return (per_head(spec), persistent(spec), *(() if spec.cell.of_others else (per_step(spec),)))


def params(spec: RecurrentSpec) -> dict[str, float]:
    return {"clip": spec.clip} if spec.clip is not None else {}


OPERATOR = Operator(
    name="recurrent_backward",
    schema=BACKWARD_SCHEMA,
    parse=parse,
    algorithm=algorithm,
    schedules=schedules,
    sizes=sizes,
    params=params,
    tables=tables,
    defaults=tables,
    examples=examples,
    reduced=reduced,
)
