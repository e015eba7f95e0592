"""Place for cores with explicit memories: staging buffers, accumulators, and the vector unit's buffer.

Which memories a core has is read off the device. Loads that feed a dot are staged in the outermost memory
of the core ("l1" on Ascend); dots accumulate in the accumulator memory if there is one; every other value
is the vector unit's, in its buffer if it has one. Copies are inserted where a value is needed elsewhere
than where it was made, and a dot that rescales what it accumulates becomes a product and an addition on the
vector unit, since accumulators only add.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from flashc.errors import DeviceModelError
from flashc.hwmodels.model import Device
from flashc.ir.analysis import sites
from flashc.ir.intexpr import Const
from flashc.ir.nodes import (
    Atom,
    Carry,
    Copy,
    Dot,
    Kernel,
    Load,
    Map,
    Par,
    Program,
    Reduce,
    Seq,
    Stmt,
    outputs_of,
)
from flashc.ir.rewrite import rewrite_kernels
from flashc.ir.scalar import Ref, refs, substitute
from flashc.ir.steps import refuse_recurrence
from flashc.ir.types import Value

ACCUMULATOR, VECTOR = "l0c", "ub"
LEFT, RIGHT = "l0a", "l0b"


@dataclass(frozen=True, slots=True)
class Memories:
    """Names of a core's explicit memories by what they hold; the same name where one memory holds both."""

    staging: str
    accumulator: str
    vector: str


def memories(device: Device) -> Memories:
    """The explicit memories of a core. Raises DeviceModelError for a device without one."""
    own = [lv.name for lv in device.levels if lv.kind == "explicit" and lv.per == "core"]
    if not own:
        raise DeviceModelError(f"{device.name}: no memory level of kind explicit per core to place tiles in")
    named = {name: name if name in own else own[0] for name in (ACCUMULATOR, VECTOR)}
    return Memories(own[0], named[ACCUMULATOR], named[VECTOR])


def place(program: Program, device: Device) -> Program:
    """The program with a level for every value, an atom for every dot, and the copies between the levels.

    Raises UnsupportedError for a recurrence.
    """
    refuse_recurrence(program, "the ascend backend")
    return rewrite_kernels(program, lambda k: _Placement(k, program, device).placed(), stage="placed")


@dataclass
class _Placement:
    kernel: Kernel
    program: Program
    device: Device
    values: dict[str, Value] = field(default_factory=dict)

    def placed(self) -> Kernel:
        self.memories = memories(self.device)
        walked = [s.stmt for s in sites(self.program, self.kernel)]
        dots = [s for s in walked if isinstance(s, Dot)]
        self.operands = {n for d in dots for n in (d.a, d.b)}
        self.accumulating = {d.out.name: d for d in dots}
        inner_first = [c for s in reversed(walked) if isinstance(s, Seq) for c in s.carry]
        for c in inner_first:  # the state of an outer loop continues in that of an inner one
            if c.next in self.accumulating:
                self.accumulating[c.value.name] = self.accumulating[c.next]
        return replace(self.kernel, body=self._body(self.kernel.body, {}))

    def _body(self, body: Sequence[Stmt], outer: dict[tuple[str, str], str]) -> tuple[Stmt, ...]:
        """``copies``: the name of each value's copy at another level, as far as it is in scope."""
        copies = dict(outer)
        found: list[Stmt] = []
        for stmt in body:
            found += self._statement(stmt, copies)
        return tuple(found)

    def _statement(self, stmt: Stmt, copies: dict[tuple[str, str], str]) -> list[Stmt]:
        match stmt:
            case Par():
                return [replace(stmt, body=self._body(stmt.body, copies))]
            case Seq():
                return _hoisted(self._loop(stmt, copies))
            case Load(out=out):
                level = self.memories.staging if out.name in self.operands else self.memories.vector
                return [replace(stmt, out=self._at(out, level))]
            case Map(out=out, expr=expr):
                before, names = self._brought(refs(expr), self.memories.vector, copies)
                renamed = substitute(expr, {Ref(old): Ref(new) for old, new in names.items()})
                return [*before, replace(stmt, out=self._at(out, self.memories.vector), expr=renamed)]
            case Reduce(out=out, source=source):
                before, names = self._brought([source], self.memories.vector, copies)
                return [*before, replace(stmt, out=self._at(out, self.memories.vector), source=names[source])]
            case Dot():
                return self._dot(stmt, copies)
        return [stmt]

    def _loop(self, seq: Seq, copies: dict[tuple[str, str], str]) -> Seq:
        carried = []
        for c in seq.carry:
            dot = self.accumulating.get(c.next)
            adds = dot is not None and self._adds_only(dot)
            level = self.memories.accumulator if adds else self.memories.vector
            carried.append(Carry(self._at(c.value, level), c.init, c.next))
        return replace(seq, carry=tuple(carried), body=self._body(seq.body, copies))

    def _dot(self, dot: Dot, copies: dict[tuple[str, str], str]) -> list[Stmt]:
        before, names = self._brought([dot.a, dot.b], self.memories.staging, copies)
        atom = self._atom(self.values[dot.a].dtype.name)
        product = replace(dot, a=names[dot.a], b=names[dot.b], atom=atom)
        if self._adds_only(dot):
            return [*before, replace(product, out=self._at(dot.out, self.memories.accumulator))]
        assert dot.init is not None
        part = self._at(replace(dot.out, name=f"{dot.out.name}_part"), self.memories.accumulator)
        total = Map(dot.out, dot.init + Ref(part.name))
        return [*before, replace(product, out=part, init=None), *self._statement(total, copies)]

    def _adds_only(self, dot: Dot) -> bool:
        apart = self.memories.accumulator != self.memories.vector
        return dot.init is None or isinstance(dot.init, Ref) or not apart

    def _atom(self, dtype: str) -> Atom | None:
        """The largest matrix unit for the type that accumulates in f32; None: the vector unit multiplies."""
        fitting = [u for u in self.device.matrix_units if (u.operand, u.accumulator) == (dtype, "f32")]
        unit = max(fitting, key=lambda u: (u.peak_tflops, u.m * u.n * u.k), default=None)
        return Atom(unit.name, None, Const(unit.m), Const(unit.n), unit.k) if unit else None

    def _at(self, value: Value, level: str) -> Value:
        self.values[value.name] = replace(value, level=level)
        return self.values[value.name]

    def _brought(
        self, names: Iterable[str], level: str, copies: dict[tuple[str, str], str]
    ) -> tuple[list[Stmt], dict[str, str]]:
        """Copies that bring the named values to ``level``, and the name under which each is there."""
        made: list[Stmt] = []
        found: dict[str, str] = {}
        for name in names:
            value = self.values.get(name)
            if value is None or value.level == level:  # a parameter, or there already
                found[name] = name
                continue
            if (name, level) not in copies:
                copy = Copy(self._at(replace(value, name=self._free(f"{name}_{level}")), level), name)
                copies[name, level] = copy.out.name
                made.append(copy)
            found[name] = copies[name, level]
        return made, found

    def _free(self, name: str) -> str:
        own = {o.name for s in sites(self.program, self.kernel) if (o := outputs_of(s.stmt))}
        taken = own | self.values.keys()
        while name in taken:
            name += "_"
        return name


def _hoisted(seq: Seq) -> list[Stmt]:
    """The loop after the copies in its body that are the same in every iteration."""
    loops = [seq, *(s for s in seq.body if isinstance(s, Seq))]
    local = {o.name for s in seq.body if (o := outputs_of(s))}
    local |= {c.value.name for x in loops for c in x.carry}
    invariant = [s for s in seq.body if isinstance(s, Copy) and s.source not in local]
    body = tuple(s for s in seq.body if not any(s is x for x in invariant))
    return [*invariant, replace(seq, body=body)]
