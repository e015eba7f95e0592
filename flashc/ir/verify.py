"""The rules of a well-formed tile program (docs/ir.md, "Rules"), checked after every pass.

Names. A value is defined once along any path from the kernel to a statement, so nothing is shadowed; blocks
beside each other may repeat a name for an equal value. A loop's state is defined before its body, whose
values end with it; a later loop beside it may continue the state: ``carry m = m``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flashc.errors import IRError
from flashc.ir.intexpr import Const
from flashc.ir.nodes import (
    GRID,
    Alloc,
    Carry,
    Copy,
    Dot,
    Kernel,
    Load,
    Loop,
    Map,
    Par,
    Program,
    Reduce,
    Seq,
    Stmt,
    Store,
    Sync,
    View,
)
from flashc.ir.printer import headline, print_value
from flashc.ir.scalar import Ref
from flashc.ir.verify_header import verify_header
from flashc.ir.verify_values import Scope, Values, listed, rising


def verify(program: Program) -> None:
    """Raise IRError for the first broken rule: it names kernel, statement, value, problem and fix."""
    verify_header(program)
    written: set[str] = set()
    for kernel in program.kernels:
        _Statements(program, kernel, written).check()
    missing = [t.name for t in program.tensors if t.role == "out" and t.name not in written]
    if missing:
        problem = f"nothing is stored to the out tensor {missing[0]}; store it, or drop the tensor"
        raise IRError(f"program {program.name}.{program.schedule}: {problem}")


class _Statements(Values):
    """Walks the statements of one kernel."""

    def __init__(self, program: Program, kernel: Kernel, written: set[str]) -> None:
        super().__init__(program, kernel, written)
        self.buffers: dict[str, Alloc] = {}
        self.around: tuple[Par | Seq, ...] = ()

    def check(self) -> None:
        self.line = f"kernel {self.kernel.name}"
        self.launches()
        self.block(self.kernel.body, Scope())

    def launches(self) -> None:
        """A kernel is one par, or one seq of pars, each of which is launched once per step."""
        top = self.kernel.body[0] if len(self.kernel.body) == 1 else None
        if isinstance(top, Par):
            return
        if not isinstance(top, Seq) or not top.body or not all(isinstance(stmt, Par) for stmt in top.body):
            self.fail("a kernel is one par, or one seq of pars", "put its statements into one par")
        if top.loop.tile != Const(1) or top.carry or top.domain is not None or top.stages != Const(1):
            self.line = headline(top)
            self.fail("it launches its pars once per step", "give it tile 1, and no state, bounds or stages")

    def block(self, body: Sequence[Stmt], scope: Scope) -> None:
        for stmt in body:
            self.line = headline(stmt)
            self.statement(stmt, scope)

    def statement(self, stmt: Stmt, scope: Scope) -> None:
        match stmt:
            case Par():
                self.par(stmt, scope)
            case Seq():
                self.seq(stmt, scope)
            case Load():
                self.load(stmt, scope)
            case Store():
                self.store(stmt, scope)
            case Copy():
                self.copy(stmt, scope)
            case View():
                self.view(stmt, scope)
            case Dot():
                self.dot(stmt, scope)
            case Map():
                self.elementwise(stmt.expr, stmt.out, scope)
                self.define(stmt.out, scope)
            case Reduce():
                self.reduce(stmt, scope)
            case Alloc():
                self.alloc(stmt)
            case Sync():
                self.sync(stmt)

    # -- loops

    def par(self, par: Par, scope: Scope) -> None:
        if any(isinstance(outer, Par) for outer in self.around):
            self.fail("a par inside another loop", "a kernel has one par; make the inner loop a seq")
        scope = replace(scope, values=dict(scope.values))
        for loop in par.loops:
            self.loop(loop, scope)
            scope = scope.inside(loop)
        self.buffers = {}
        self.within(par, scope)
        self.defined()

    def defined(self) -> None:
        """What a task allocates, it defines."""
        for name, alloc in self.buffers.items():
            self.line = headline(alloc)
            if self.found.get(name) != alloc.value:
                self.fail(f"no statement defines {name} so", "allocate the value that is defined, or nothing")

    def within(self, loop: Par | Seq, scope: Scope) -> None:
        outer, self.around = self.around, (*self.around, loop)
        self.block(loop.body, scope)
        self.around = outer

    def seq(self, seq: Seq, scope: Scope) -> None:
        self.loop(seq.loop, scope)
        self.integer(seq.stages, frozenset())
        if (seq.part == "partial") != (seq.side != ""):
            self.fail(f"part {seq.part} with side {seq.side or 'missing'}", "only a partial part has a side")
        self.domain(seq, scope)
        before = replace(scope, values=dict(scope.values))
        for carry in seq.carry:
            self.line = headline(carry)
            self.carry(carry, seq.loop.axis, scope, before)
        inner = scope.inside(seq.loop)
        inner.loops[seq.loop.axis] = seq
        self.within(seq, inner)
        for carry in seq.carry:
            self.line = headline(carry)
            after = self.use(carry.next, inner)
            if replace(after, name=carry.value.name) != carry.value:
                self.fail(f"it is replaced by `{print_value(after)}`", "make the two alike")
        scope.states.update(c.value.name for c in seq.carry)

    def sync(self, sync: Sync) -> None:
        if sync.level != GRID:
            return
        below = [type(loop) for loop in self.around[-2:]]
        if below != [Par, Seq]:
            self.fail("all tasks take a step together", "put it into the body of a seq right below the par")
        par, seq = self.around[-2:]
        assert isinstance(par, Par) and isinstance(seq, Seq)
        own = {loop.axis for loop in par.loops}
        bounds = (*seq.domain.lower, *seq.domain.upper) if seq.domain else ()
        uneven = next((b for b in bounds if not own.isdisjoint(b.symbols())), None)
        if uneven is not None:
            self.fail(f"the bound {uneven} gives the tasks different steps", "use a bound that all tasks share")

    def carry(self, carry: Carry, axis: str, scope: Scope, before: Scope) -> None:
        """``before`` holds what initial values may read: the values made before the loop."""
        name, value = carry.value.name, carry.value
        if axis in value.axes:
            self.fail(f"{name} has the axis {axis} that its loop runs along", "drop the axis")
        self.elementwise(carry.init, value, before)
        if name in scope.states and carry.init == Ref(name) and scope.values[name] == value:
            return
        self.define(value, scope)

    def loop(self, loop: Loop, scope: Scope) -> None:
        self.axis(loop.axis)
        if loop.axis in scope.tiles:
            self.fail(f"a loop over {loop.axis} encloses it", "declare another axis for the inner tiles")
        if isinstance(loop.tile, Const) and loop.tile.value < 1:
            self.fail(f"the tile is {loop.tile}", "tiles are at least 1")
        if self.program.stage in ("bound", "lowered") and not isinstance(loop.tile, Const):
            self.fail(f"the tile {loop.tile} is not a number", "bind its symbols")
        unknown = sorted(loop.tile.symbols().difference(self.program.tiles, dict(self.program.fixed)))
        if unknown:
            self.fail(f"the tile uses {unknown[0]}", f"list it in tiles ({listed(self.program.tiles)})")

    def domain(self, seq: Seq, scope: Scope) -> None:
        others = self.axes - {seq.loop.axis}
        rows = frozenset(a for a in others if not scope.scalar(a))
        for bound in (*seq.domain.lower, *seq.domain.upper) if seq.domain else ():
            self.integer(bound, others)
            if not rising(bound, rows):
                problem = f"the bound {bound} may fall as {listed(bound.symbols() & rows)} grows"
                self.fail(problem, "use factors >= 0, positive constant divisors, min and max, or tile 1")

    # -- statements that define or store a value

    def load(self, load: Load, scope: Scope) -> None:
        tensor = self.read(load.access.tensor)
        self.define(load.out, scope)
        axes = self.access(load.access, scope)
        if set(axes) != set(load.out.axes):
            self.fail(f"the index takes tiles of {listed(axes)}", "give the value these axes")
        if load.out.dtype != tensor.dtype:
            self.fail(f"{tensor.name} holds {tensor.dtype}", "load that; a copy or map converts")

    def store(self, store: Store, scope: Scope) -> None:
        tensor = self.tensor(store.access.tensor)
        if tensor.role == "in":
            self.fail(f"{tensor.name} is an input", "store to an out or temp tensor")
        axes = self.access(store.access, scope)
        value = self.use(store.value, scope)
        if set(axes) != set(value.axes):
            shape = print_value(value)
            self.fail(f"the index takes tiles of {listed(axes)}", f"index with the axes of {shape}")
        if value.dtype.kind != tensor.dtype.kind:
            self.fail(f"{value.name} is {value.dtype}, the tensor {tensor.dtype}", "convert it with a map")
        if store.accumulate:
            self.read(tensor.name)
        if store.accumulate and tensor.dtype.kind != "float":
            self.fail(f"{tensor.name} holds {tensor.dtype}", "add up numbers of a float type")
        self.written.add(tensor.name)

    def copy(self, copy: Copy, scope: Scope) -> None:
        source = self.use(copy.source, scope)
        if set(source.axes) != set(copy.out.axes) or source.dtype.kind != copy.out.dtype.kind:
            self.fail(f"the source is `{print_value(source)}`", "a copy keeps axes and kind; use a map")
        self.define(copy.out, scope)

    def view(self, view: View, scope: Scope) -> None:
        source, out = self.use(view.source, scope), view.out
        shape = f"the source is `{print_value(source)}`"
        if len(source.axes) != len(out.axes) or (source.dtype, source.level) != (out.dtype, out.level):
            self.fail(shape, "a view renames axes and keeps their number, the type and the level")
        for old, new in zip(source.axes, out.axes, strict=True):
            if old == new:
                continue
            self.axis(new)
            if old in scope.tiles or new in scope.tiles:
                self.fail(f"{shape}, and a loop cuts {old} or {new} into tiles", "rename axes that are whole")
            if self.program.axis(old).extent != self.program.axis(new).extent:
                self.fail(f"{shape}, and {old} and {new} differ in extent", "rename to an axis of the same extent")
        new_names = dict(zip(source.axes, out.axes, strict=True))
        if out.layout != (source.layout and source.layout.renamed(new_names)):
            self.fail(shape, "give the view the same layout, with its axes renamed")
        self.define(out, scope)

    def dot(self, dot: Dot, scope: Scope) -> None:
        a, b = self.use(dot.a, scope), self.use(dot.b, scope)
        operands = f"the operands are `{print_value(a)}` and `{print_value(b)}`"
        out, over = set(dot.out.axes), set(dot.over)
        if not over or not over <= set(a.axes) & set(b.axes):
            self.fail(operands, "sum over axes that both have")
        if out & over or out | over != set(a.axes) | set(b.axes):
            self.fail(operands, "every axis of theirs is either in the result or summed over")
        if "bool" in (a.dtype.kind, b.dtype.kind, dot.out.dtype.kind):
            self.fail(operands, "a dot takes and gives numbers: convert with a map")
        if dot.init is not None:
            self.elementwise(dot.init, dot.out, scope)
        if dot.atom is not None:
            self.integer(dot.atom.m * dot.atom.n, frozenset())
            if dot.atom.lane not in (None, *out, *over):
                self.fail(f"the lane axis {dot.atom.lane} is none of the dot's", f"choose of {listed(out | over)}")
        self.define(dot.out, scope)

    def reduce(self, reduce: Reduce, scope: Scope) -> None:
        source = self.use(reduce.source, scope)
        if reduce.over not in source.axes:
            self.fail(f"{source.name} has no axis {reduce.over}", f"reduce over one of {listed(source.axes)}")
        if set(reduce.out.axes) != set(source.axes) - {reduce.over}:
            self.fail(f"the source is `{print_value(source)}`", "keep all its axes but the reduced one")
        if source.dtype.kind == "bool" or source.dtype.kind != reduce.out.dtype.kind:
            self.fail(f"the source is {source.dtype}", "reduce numbers to numbers of the same kind")
        self.define(reduce.out, scope)

    def alloc(self, alloc: Alloc) -> None:
        name = alloc.value.name
        if self.program.stage != "lowered":
            self.fail(f"an alloc in a {self.program.stage} program", "lower the program first")
        if name in self.buffers:
            self.fail(f"{name} has a buffer already", "allocate it once")
        self.integer(alloc.count, frozenset())
        self.buffers[name] = alloc
