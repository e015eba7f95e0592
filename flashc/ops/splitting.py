"""A schedule from another one: a sequential loop in parts that run in parallel, and a kernel that combines them.

Where a program has fewer tasks than a device has cores, the loop that streams most is cut into parts of some tiles
each. A part starts from the initial state and stores the state it ends with; a second kernel combines the states by
the loop's law and finishes as the program did (for attention: Dao et al. 2023, "Flash-Decoding").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flashc.errors import IRError
from flashc.ir.analysis import uses
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div
from flashc.ir.nodes import Access, Carry, Domain, Kernel, Load, Loop, Map, Par, Program, Seq, Stmt, Store, outputs_of
from flashc.ir.scalar import Lit, Ref, exp2, maximum, where
from flashc.ir.types import Axis, Tensor, Value


@dataclass(frozen=True, slots=True)
class Splitting:
    """The loop over ``axis`` in parts that ``parts`` counts, of ``tiles_per_part`` (a tile symbol) tiles each."""

    axis: str
    parts: str
    tiles_per_part: str


def split_loop(program: Program, schedule: str, by: Splitting) -> Program:
    """``program``, of one kernel with one loop over ``by.axis`` at its top, as a kernel of parts and one that combines.

    Raises IRError where there is no such loop, or where its law says nothing of how two states combine.
    """
    (kernel,) = program.kernels
    (par,) = kernel.body
    assert isinstance(par, Par)
    at = [n for n, s in enumerate(par.body) if isinstance(s, Seq) and s.loop.axis == by.axis]
    if len(at) != 1:
        raise IRError(f"{program.schedule}: {len(at)} loops over {by.axis} at the top of its kernel, not one to split")
    before, seq, after = par.body[: at[0]], par.body[at[0]], par.body[at[0] + 1 :]
    assert isinstance(seq, Seq)
    if seq.law not in LAWS:
        raise IRError(f"{program.schedule}: the law {seq.law} of the loop over {by.axis} combines no states")
    extent = program.axis(by.axis).extent
    size = seq.loop.tile * Sym(by.tiles_per_part)
    count = Axis(by.parts, ceil_div(extent, size))
    temps = {c.value.name: _temp(program, par, c.value, count) for c in seq.carry}
    part = Par(
        (*par.loops, Loop(by.parts, Const(1), "grid")),
        (*before, _bounded(seq, Sym(by.parts) * size, (Sym(by.parts) + 1) * size), *_stored(seq, temps)),
        par.order,
    )
    needed = frozenset().union(*(uses(s) for s in after))
    kept = tuple(s for s in before if (out := outputs_of(s)) is not None and out.name in needed)
    whole = replace(par, body=(*kept, _combining(seq, temps, by.parts), *after), order="natural")
    return replace(
        program,
        schedule=schedule,
        axes=(*program.axes, count),
        tensors=(*program.tensors, *(t for t, _ in temps.values())),
        tiles=(*program.tiles, by.tiles_per_part),
        kernels=(Kernel(f"{kernel.name}_parts", (part,)), Kernel(kernel.name, (whole,))),
    )


def _temp(program: Program, par: Par, value: Value, count: Axis) -> tuple[Tensor, Access]:
    """A workspace for one state per task and part, and where a task finds its own."""
    own = [a for a in value.axes if a not in {x.axis for x in par.loops}]
    axes = [count, *(program.axis(a) for a in (*(x.axis for x in par.loops), *own))]
    tensor = Tensor(f"part_{value.name}", value.dtype, tuple(a.extent for a in axes), "temp")
    return tensor, Access(tensor.name, tuple(Sym(a.name) for a in axes))


def _bounded(seq: Seq, first: IntExpr, stop: IntExpr) -> Seq:
    domain = seq.domain or Domain()
    return replace(seq, domain=Domain((*domain.lower, first), (*domain.upper, stop)))


def _stored(seq: Seq, temps: dict[str, tuple[Tensor, Access]]) -> tuple[Store, ...]:
    return tuple(Store(temps[c.value.name][1], c.value.name) for c in seq.carry)


def _combining(seq: Seq, temps: dict[str, tuple[Tensor, Access]], parts: str) -> Seq:
    """A loop over the parts with the same state; each step takes in the state of one part."""
    loaded = {c.value.name: replace(c.value, name=f"{c.value.name}_part") for c in seq.carry}
    loads = tuple(Load(value, temps[name][1]) for name, value in loaded.items())
    body = (*loads, *LAWS[str(seq.law)](seq.carry, {name: value.name for name, value in loaded.items()}))
    return Seq(Loop(parts, Const(1)), body, seq.carry, law=seq.law, stages=seq.stages)


# -- laws: the state of two runs from the states of both


def _added(carry: Sequence[Carry], other: dict[str, str]) -> tuple[Stmt, ...]:
    return tuple(Map(replace(c.value, name=c.next), Ref(c.value.name) + Ref(other[c.value.name])) for c in carry)


def _softmax(carry: Sequence[Carry], other: dict[str, str]) -> tuple[Stmt, ...]:
    """The first component is a maximum of base-2 logarithms, and the others are sums relative to it."""
    top, *sums = carry
    name, top_value = top.value.name, replace(top.value, name=top.next)
    finite = where(Ref(top.next).eq(Lit(-math.inf)), Lit(0.0), Ref(top.next))
    mine, theirs = (replace(top.value, name=f"{name}_{who}_scale") for who in ("own", "part"))
    found: list[Stmt] = [
        Map(top_value, maximum(Ref(name), Ref(other[name]))),
        Map(mine, exp2(Ref(name) - finite)),
        Map(theirs, exp2(Ref(other[name]) - finite)),
    ]
    for c in sums:
        total = Ref(c.value.name) * Ref(mine.name) + Ref(other[c.value.name]) * Ref(theirs.name)
        found.append(Map(replace(c.value, name=c.next), total))
    return tuple(found)


LAWS: dict[str, Callable[[Sequence[Carry], dict[str, str]], tuple[Stmt, ...]]] = {"add": _added, "softmax": _softmax}
