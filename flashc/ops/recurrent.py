"""Recurrent layers: one schedule of the recurrence for every cell, in three forms.

    pre_g = R_g h + Wx_g + b_g for every gate g;  (h, c, ..) = step(h, c, .., pre)      for each step, head by head

Heads are blocks of a block-diagonal recurrent matrix: they never meet. What a cell is, ``recurrent_cells`` says; Wx
comes in, or is projected from x before the loop by one matrix product. Products accumulate in f32, the step is f32,
states are f32; h is rounded to the element type where it is multiplied or stored. Lengths, resets, initial states and
the direction are in ``recurrent_spec``.

Schedules (B sequences, T steps, D units per head, G gates; elements per head beyond Wx and y, which all read and write
once; Poeppel et al. 2024, FlashRNN, calls the last two fused and alternating):
    per_head     one task has a head and a tile of sequences: R read once per tile, h never leaves the chip
    persistent   a task has a tile of units too, and that tile's rows of R on chip for all steps; h passes through
                 memory, twice B D per step and tile of units, with a barrier of all tasks in each step
    per_step     a launch per step: R passes by once per step and tile of sequences, G D D each; the product and the
                 pointwise step are one kernel, where others launch two
"""

from __future__ import annotations

from collections.abc import Sequence

from flashc.ir.intexpr import Const, Sym
from flashc.ir.nodes import GRID, Kernel, Par, Program, Seq, Stmt, Sync, View
from flashc.ir.scalar import Ref, where
from flashc.ir.types import F32, Tensor, Value
from flashc.ops.base import Operator
from flashc.ops.build import dot, elementwise, load, loops, over, store, syms
from flashc.ops.recurrent_spec import SCHEMA, B, D, N, RecurrentSpec, T, examples, extras, parse, reduced, sizes, tables
from flashc.ops.recurrent_terms import (
    EVERY_STEP,
    EXCHANGE,
    RESET,
    STATE_DIMS,
    UNIT,
    ZERO,
    addend,
    after,
    biases,
    carried,
    carry,
    first_slot,
    initial,
    initial_loads,
    input_tensors,
    inputs,
    kept,
    matrices,
    once,
    pointwise,
    pre_activations,
    program,
    projection,
    reset,
    rounded,
    slot,
    steps,
    stored,
    stores,
)

Tb, Tu, Tk = syms("Tb Tu Tk")
TILES = (("n", 1), ("b", Tb), ("u", Tu))
PROJECTION = " Tt Tp Ti stages"


def _tensors(spec: RecurrentSpec, *temps: Tensor) -> tuple[Tensor, ...]:
    cell, element = spec.cell, spec.element
    gates = (len(cell.recurrent), len(cell.names))
    found = [
        *input_tensors(spec),
        Tensor("r", element, (Const(gates[0]), N, D, D), "in"),
        Tensor("bias", element, (Const(gates[1]), N, D), "in"),
    ]
    if spec.initial_state:
        found += [Tensor(f"init_{s}", F32, STATE_DIMS, "in") for s in cell.states]
    found += extras(spec)
    if "y" in spec.outputs:
        found.append(Tensor("y", element, EVERY_STEP, "out"))
    if "last" in spec.outputs:
        found += [Tensor(f"last_{s}", F32, STATE_DIMS, "out") for s in cell.states]
    if "saved" in spec.outputs:
        found += [Tensor(f"before_{s}", spec.saved_type(s), EVERY_STEP, "out") for s in cell.states]
        found += [Tensor(f"of_{g}", element, EVERY_STEP, "out") for g in cell.of_others]
        found.append(Tensor("pre", element, (B, T, Const(gates[1]), N, D), "out"))
    return (*found, *temps)


def _program(
    spec: RecurrentSpec, schedule: str, tiles: str, *kernels: Kernel, temps: tuple[Tensor, ...] = ()
) -> Program:
    if spec.input_dim is not None:
        temps = (*temps, Tensor("wx", spec.element, (B, T, Const(len(spec.cell.inputs)), N, D), "temp"))
        tiles += PROJECTION if "stages" not in tiles else PROJECTION.replace(" stages", "")
    tensors = _tensors(spec, *temps)
    return program(spec, f"recurrent.{schedule}", tiles, tensors, (*projection(spec), *kernels))


# -- one task alone


def _alone(spec: RecurrentSpec, before: tuple[Stmt, ...], given: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """A head and some sequences: ``before`` the loop, and ``given`` by each step, which makes the gates' inputs."""
    last, rounding = rounded("state_h", "bu", spec.element)
    operand = View(Value("h_k", ("b", "k"), spec.element), last)
    body = (*reset(spec), *rounding, operand, *given, *pre_activations(spec, "h_k", _seen_by_k), *_finish(spec))
    return (*matrices(spec), *biases(spec), *initial_loads(spec), *before, _loop(spec, body), *_last(spec))


def _seen_by_k(spec: RecurrentSpec, gate: str) -> tuple[Stmt, ...]:
    last, rounding = rounded(f"of_{gate}", "bu", spec.element)
    return (*rounding, View(Value(f"of_{gate}_k", ("b", "k"), spec.element), last))


def _finish(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    """From pre-activations to what the step leaves."""
    return (*pointwise(spec), *kept(spec), *stores(spec))


def _loop(spec: RecurrentSpec, body: tuple[Stmt, ...]) -> Seq:
    """The loop over time with the states in it."""
    state = [carry(carried(spec, s), "bu", initial(spec, s), after(spec, s)) for s in spec.cell.states]
    return steps(spec, body, state)


def _last(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    states = spec.cell.states if "last" in spec.outputs else ()
    return tuple(store(f"last_{s}", UNIT, carried(spec, s)) for s in states)


def algorithm(spec: RecurrentSpec) -> Program:
    """Nothing tiled but the sequences; x is projected step by step."""
    before, given = ((), inputs(spec)) if spec.input_dim is None else _projected(spec)
    kernel = Kernel("steps", (Par(loops(("n", 1), ("b", Tb)), _alone(spec, before, given)),))
    return program(spec, "recurrent.algorithm", "Tb", _tensors(spec), (kernel,))


def _projected(spec: RecurrentSpec) -> tuple[tuple[Stmt, ...], tuple[Stmt, ...]]:
    gates = spec.cell.inputs
    before = tuple(load(f"w_{g}", "ui", spec.element, "w", (n, "n", "u", "i")) for n, g in enumerate(gates))
    given: list[Stmt] = [load("xt", "bi", spec.element, "x", ("b", "t", "i"))]
    for g in gates:
        exact = f"wx_{g}" if spec.element == F32 else f"wx_{g}_sum"
        given.append(dot(exact, "bu", "xt", f"w_{g}", "i"))
        given += [elementwise(f"wx_{g}", "bu", Ref(exact), spec.element)] if spec.element != F32 else []
    return before, tuple(given)


def per_head(spec: RecurrentSpec) -> Program:
    """One block per head and tile of sequences."""
    body = _alone(spec, (), inputs(spec))
    return _program(spec, "per_head", "Tb", Kernel("steps", (Par(loops(("n", 1), ("b", Tb)), body),)))


# -- tasks that share a head


def _begin(spec: RecurrentSpec, also: Sequence[Stmt] = ()) -> Kernel:
    """h before the first step, where the others find it."""
    first = elementwise("h0", "bu", initial(spec, "h"), spec.element)
    body = (*initial_loads(spec), first, store(EXCHANGE, (first_slot(spec), *UNIT), "h0"), *also)
    return Kernel("begin", (Par(loops(*TILES), body),))


def _operand(spec: RecurrentSpec) -> tuple[str, tuple[Stmt, ...]]:
    """h before the step over ``b, k``, out of the exchange."""
    found = load("h_x" if spec.resets else "h_k", "bk", spec.element, EXCHANGE, (slot(Sym("t")), "b", "n", "k"))
    if not spec.resets:
        return "h_k", (found,)
    loads = (load("first_k", "bk", F32, "init_h", ("b", "n", "k")),) if spec.initial_state else ()
    start = Ref("first_k") if spec.initial_state else ZERO
    return "h_k", (*loads, found, elementwise("h_k", "bk", where(RESET, start, Ref("h_x")), spec.element))


def _hand_on(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    return stored(EXCHANGE, (slot(Sym("t") + 1), *UNIT), after(spec, "h"), spec.element)


def _passed_on(spec: RecurrentSpec, gate: str) -> tuple[Stmt, ...]:
    """What a gate multiplies in place of h, from all tasks to all tasks; the barrier of the step's end guards it."""
    name = f"operand_{gate}"
    passed = stored(name, UNIT, f"of_{gate}", spec.element)
    return (*passed, Sync(GRID), load(f"of_{gate}_k", "bk", spec.element, name, ("b", "n", "k")))


def _exchange(spec: RecurrentSpec) -> Tensor:
    return Tensor(EXCHANGE, spec.element, (Const(2), *STATE_DIMS), "temp")


def persistent(spec: RecurrentSpec) -> Program:
    """R on chip for all steps, spread over tasks that wait for each other in each step."""
    operand, loads = _operand(spec)
    gates = pre_activations(spec, operand, _passed_on)
    step = (*reset(spec), *loads, *inputs(spec), *gates, *_finish(spec), *_hand_on(spec), Sync(GRID))
    loop = _loop(spec, step)
    body = (*matrices(spec), *biases(spec), *initial_loads(spec), loop, *_last(spec))
    kernel = Kernel("steps", (Par(loops(*TILES), body),))
    others = tuple(Tensor(f"operand_{g}", spec.element, STATE_DIMS, "temp") for g in spec.cell.of_others)
    return _program(spec, "persistent", "Tb Tu", _begin(spec), kernel, temps=(_exchange(spec), *others))


def per_step(spec: RecurrentSpec) -> Program:
    """One launch per step; the states pass through memory."""
    states = spec.cell.states
    operand, loads = _operand(spec)
    gates = spec.cell.recurrent
    sums = tuple(dot(f"next_{g}", "bu", operand, f"r_{g}", "k", Ref(f"sum_{g}")) for g in gates)
    state = tuple(carry(f"sum_{g}", "bu", ZERO, f"next_{g}") for g in gates)
    product = Seq(over("k", Tk), (*loads, *matrices(spec), *sums), state, law="add", stages=Sym("stages"))
    rest = [
        elementwise(f"pre_{g}", "bu", Ref(f"sum_{g}") + addend(spec, g) if g in gates else addend(spec, g))
        for g in spec.cell.names
    ]
    olds = tuple(load(carried(spec, s), "bu", F32, f"last_{s}", UNIT) for s in states)
    first = initial_loads(spec) if spec.resets else ()
    news = tuple(store(f"last_{s}", UNIT, after(spec, s)) for s in states)
    body = (
        product, *biases(spec), *inputs(spec), *rest, *olds, *first, *reset(spec),
        *_finish(spec), *_hand_on(spec), *news,
    )
    everything = Par(loops(*TILES), once(body))
    begin: list[Stmt] = [
        *(elementwise(f"start_{s}", "bu", initial(spec, s)) for s in states),
        *(store(f"last_{s}", UNIT, f"start_{s}") for s in states),
    ]
    temps = () if "last" in spec.outputs else tuple(Tensor(f"last_{s}", F32, STATE_DIMS, "temp") for s in states)
    kernel = Kernel("steps", (steps(spec, (everything,)),))
    return _program(spec, "per_step", "Tb Tu Tk stages", _begin(spec, begin), kernel, temps=(_exchange(spec), *temps))


def schedules(spec: RecurrentSpec) -> tuple[Program, ...]:
    """One launch per step is not offered where a step has products that wait for each other."""
    return (per_head(spec), persistent(spec), *(() if spec.cell.of_others else (per_step(spec),)))


OPERATOR = Operator(
    name="recurrent",
    schema=SCHEMA,
    parse=parse,
    algorithm=algorithm,
    schedules=schedules,
    sizes=sizes,
    params=lambda _spec: {},
    tables=tables,
    defaults=tables,
    examples=examples,
    reduced=reduced,
)
