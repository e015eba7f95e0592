"""What the backward pass of a recurrent layer adds up over sequences and steps, once the loop is done.

    dR_g = sum of d pre_g h^T;  db_g = sum of d pre_g;  dW_g = sum of d pre_g x^T;  dx = sum of W_g^T d pre_g
"""

from __future__ import annotations

from collections.abc import Sequence

from flashc.ir.intexpr import Sym
from flashc.ir.nodes import Kernel, Load, Par, Seq, Stmt
from flashc.ir.scalar import Ref
from flashc.ops.build import Index, dot, elementwise, load, loops, over, reduce, store
from flashc.ops.recurrent_spec import RecurrentSpec
from flashc.ops.recurrent_terms import ZERO, at_step, carry, rounded


def _place(spec: RecurrentSpec, gate: str) -> tuple[str, int]:
    """Where a gate's gradient is stored: with its input, or in a workspace where it has none."""
    if gate in spec.cell.inputs:
        return "dwx", spec.cell.inputs.index(gate)
    return "dpre", without_input(spec).index(gate)


def without_input(spec: RecurrentSpec) -> tuple[str, ...]:
    """Gates that have no input."""
    return tuple(g for g in spec.cell.names if g not in spec.cell.inputs)


def gate_index(spec: RecurrentSpec, gate: str, *rest: str) -> tuple[str, Index]:
    """Tensor and index of a gate's gradients at ``rest`` of a step."""
    tensor, number = _place(spec, gate)
    return tensor, ("b", "t", number, *rest)


def sums_over_steps(spec: RecurrentSpec) -> tuple[Kernel, ...]:
    """One kernel per sum."""
    return (_recurrent_weights(spec), _biases(spec), *(_projection(spec) if spec.input_dim is not None else ()))


def _gate_tiles(spec: RecurrentSpec, gates: Sequence[str]) -> tuple[Load, ...]:
    found = []
    for g in gates:
        tensor, index = gate_index(spec, g, "n", "u")
        found.append(load(f"dgate_{g}", "tu", spec.element, tensor, index))
    return tuple(found)


def _over_samples(body: Sequence[Stmt], sums: Sequence[tuple[str, str]]) -> Seq:
    """Sequence by sequence and tile by tile of steps; each of ``sums`` (name, axes) goes from ``x0`` to ``x1``."""
    inner = tuple(carry(f"{name}0", axes, Ref(f"{name}_sum"), f"{name}1") for name, axes in sums)
    steps_of_one = Seq(over("t", Sym("Tt")), tuple(body), inner, law="add", stages=Sym("stages"))
    outer = tuple(carry(f"{name}_sum", axes, ZERO, f"{name}0") for name, axes in sums)
    return Seq(over("b", 1), (steps_of_one,), outer, law="add")


def result(spec: RecurrentSpec, tensor: str, index: Index, name: str, axes: str) -> tuple[Stmt, ...]:
    """The sum ``name_sum`` over ``axes``, rounded into a tensor."""
    last, rounding = rounded(f"{name}_sum", axes, spec.element)
    return (*rounding, store(tensor, index, last))


def _recurrent_weights(spec: RecurrentSpec) -> Kernel:
    gates = spec.cell.recurrent
    others = spec.cell.of_others
    multiplied = {g: f"of_{g}_t" if g in others else "h_t" for g in gates}
    past = [load("h_t", "tk", spec.element, "before_h", at_step("k"))]
    past += [load(f"of_{g}_t", "tk", spec.element, f"of_{g}", at_step("k")) for g in others]
    dots = [dot(f"dr_{g}1", "uk", f"dgate_{g}", multiplied[g], "t", Ref(f"dr_{g}0")) for g in gates]
    loop = _over_samples((*past, *_gate_tiles(spec, gates), *dots), [(f"dr_{g}", "uk") for g in gates])
    ends = [s for n, g in enumerate(gates) for s in result(spec, "dr", (n, "n", "u", "k"), f"dr_{g}", "uk")]
    return Kernel("recurrent_weights", (Par(loops(("n", 1), ("u", Sym("Ru")), ("k", Sym("Rk"))), (loop, *ends)),))


def _biases(spec: RecurrentSpec) -> Kernel:
    gates = spec.cell.names
    sums: list[Stmt] = [reduce(f"part_{g}", "u", "sum", f"dgate_{g}", "t") for g in gates]
    sums += [elementwise(f"db_{g}1", "u", Ref(f"db_{g}0") + Ref(f"part_{g}")) for g in gates]
    loop = _over_samples((*_gate_tiles(spec, gates), *sums), [(f"db_{g}", "u") for g in gates])
    ends = [s for n, g in enumerate(gates) for s in result(spec, "dbias", (n, "n", "u"), f"db_{g}", "u")]
    return Kernel("biases", (Par(loops(("n", 1), ("u", Sym("Ru"))), (loop, *ends)),))


def _projection(spec: RecurrentSpec) -> tuple[Kernel, Kernel]:
    """dW and dx."""
    element, tile = spec.element, ("b", "t", "g", "n", "u")
    xt = load("xt", "ti", element, "x", ("b", "t", "i"))
    gate = load("dgate", "tu", element, "dwx", tile)
    loop = _over_samples((xt, gate, dot("dw1", "ui", "dgate", "xt", "t", Ref("dw0"))), [("dw", "ui")])
    around = loops(("g", 1), ("n", 1), ("u", Sym("Ru")), ("i", Sym("Ti")))
    weights = Kernel("input_weights", (Par(around, (loop, *result(spec, "dw", ("g", "n", "u", "i"), "dw", "ui"))),))

    rows = loops(("b", 1), ("t", Sym("Tt")), ("i", Sym("Ti")))
    return weights, Kernel("inputs", (Par(rows, input_gradient(spec)),))


def input_gradient(spec: RecurrentSpec) -> tuple[Stmt, ...]:
    """dx of a tile: the sum over gates, heads and units."""
    step = (
        load("dgate", "tu", spec.element, "dwx", ("b", "t", "g", "n", "u")),
        load("wt", "ui", spec.element, "w", ("g", "n", "u", "i")),
        dot("dx1", "ti", "dgate", "wt", "u", Ref("dx0")),
    )
    heads = Seq(over("n", 1), step, (carry("dx0", "ti", Ref("dx_sum"), "dx1"),), law="add")
    gates = Seq(over("g", 1), (heads,), (carry("dx_sum", "ti", ZERO, "dx0"),), law="add")
    return (gates, *result(spec, "dx", ("b", "t", "i"), "dx", "ti"))
