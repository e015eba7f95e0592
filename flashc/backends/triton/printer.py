"""Prints one kernel of a bound, split program as a Triton function.

The printer knows statements and named axes, and no operator. Every value is a block whose dimensions are the
axes of its ``Value`` in order, padded to powers of two; broadcasting is written out from the names.
Coordinates beyond an extent are masked in loads and stores, and neutralised where a reduction or a dot would
see them.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from flashc.backends.triton.arguments import Argument, Used
from flashc.backends.triton.expressions import Expressions
from flashc.backends.triton.frame import (
    AxisInScope,
    Frame,
    fits,
    looped_axes,
    number,
    padded,
    par_of,
    value_names,
)
from flashc.backends.triton.launching import Printed, step_loop
from flashc.backends.triton.loops import decoded, limits, starts_whole
from flashc.backends.triton.memory import Memory
from flashc.backends.triton.merging import merged_axes
from flashc.backends.triton.scalars import Text, infix
from flashc.backends.triton.tails import fill_of, masks_elements, with_masks
from flashc.errors import UnsupportedError
from flashc.ir.analysis import sites
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div
from flashc.ir.lift import lift
from flashc.ir.nodes import (
    Carry,
    Copy,
    Dot,
    Kernel,
    Load,
    Loop,
    Map,
    Program,
    Reduce,
    Seq,
    Stmt,
    Store,
    Sync,
    View,
    outputs_of,
)
from flashc.ir.ranges import Span, enter, part_range, row_free, valid_end, whole
from flashc.ir.scalar import Call, Coord, Lit, Ref, Scalar
from flashc.ir.types import Value

INDENT = "    "
WIDTH = 110
DEFAULT_WARPS = 4
IDENTITY = {"max": -math.inf, "min": math.inf, "sum": 0.0}
PART_NOTES = {"full": "tiles wholly inside", "partial": "tiles at the border", "all": "all tiles"}


def print_kernel(program: Program, kernel: Kernel) -> Printed:
    """The Triton function of a kernel. Raises UnsupportedError for what Triton cannot express."""
    return _Printer(program, kernel).printed()


class _Printer:
    def __init__(self, program: Program, kernel: Kernel) -> None:
        self.program, self.kernel, self.par, self.step = program, kernel, par_of(kernel), step_loop(kernel)
        self.sites = [s.stmt for s in sites(program, kernel)]
        outs = [o.name for s in self.sites if (o := outputs_of(s)) is not None]
        carried = [c.value.name for s in self.sites if isinstance(s, Seq) for c in s.carry]
        names = value_names(program, kernel, [*outs, *carried])
        used = Used(program, steps=(self.step.loop.axis,) if self.step else ())
        self.text = Expressions(program, used, names, merged_axes(program, kernel))
        self.memory = Memory(self.text)
        self.blocks: dict[tuple[str, int], str] = {}
        self.looped: list[AxisInScope] = []
        self.stages = 1

    # -- the whole function

    def printed(self) -> Printed:
        body = self.parallel()
        arguments = self.text.used.arguments()
        tiles = [f"{name}: tl.constexpr = {tile}" for (_, tile), name in self.blocks.items()]
        units = [
            f"{a.name} = {a.name} // {a.unit} * {a.unit}"
            for a in arguments
            if a.unit > 1 and a.kind == "stride"
        ]
        if units:
            units.insert(0, "# Exact: callers guarantee these multiples, which let Triton use wide loads.")
        header = [*self.decorator(arguments), f"def {self.kernel.name}(", *self.parameters(arguments), "):"]
        text = "\n".join([*header, *indent([*tiles, *units, *body])])
        return Printed(
            self.kernel.name,
            text + "\n",
            arguments,
            self.programs(),
            self.warps(),
            self.stages,
            frozenset(self.text.helpers),
        )

    def decorator(self, arguments: Sequence[Argument]) -> list[str]:
        names = [repr(a.name) for a in arguments if not a.specialised]
        if not names:
            return ["@triton.jit"]
        return ["@triton.jit(do_not_specialize=[", *_wrapped(names), "])"]

    def parameters(self, arguments: Sequence[Argument]) -> list[str]:
        rows = [[a.annotated for a in arguments if a.kind == "pointer"]]
        rows += [
            [a.annotated for a in arguments if a.kind == "stride" and a.source == t.name]
            for t in self.program.tensors
        ]
        rows += [[a.annotated for a in arguments if a.kind == kind] for kind in ("size", "step", "param")]
        return [line for row in rows if row for line in _wrapped(row)]

    def programs(self) -> IntExpr:
        scope = whole(self.program)
        total: IntExpr = Const(1)
        for loop in self.par.loops:
            total = total * ceil_div(scope[loop.axis].extent, loop.tile)
        return total

    def warps(self) -> int:
        atoms = [s.atom for s in self.sites if isinstance(s, Dot) and s.atom]
        return max((number(a.m, "the number of warps") for a in atoms), default=DEFAULT_WARPS)

    # -- axes

    def block(self, axis: str, tile: int) -> str:
        """The name of a tile size."""
        others = sum(a == axis and t != tile for a, t in self.blocks)
        return self.blocks.setdefault(
            (axis, tile), f"BLOCK_{axis.upper()}" + (f"_{others}" if others else "")
        )

    def whole_axes(self) -> dict[str, AxisInScope]:
        """All axes as they are outside loops; those that no loop binds but a value has are padded blocks."""
        looped = looped_axes(self.kernel.body)
        present = {a for s in self.sites if (o := outputs_of(s)) is not None for a in o.axes} - looped
        return {
            name: self.whole_axis(name, span, name in present) for name, span in whole(self.program).items()
        }

    def whole_axis(self, axis: str, span: Span, present: bool) -> AxisInScope:
        if not present:
            return AxisInScope(axis, span, axis)
        tile = padded(number(span.extent, f"the extent of axis {axis}, which is not tiled,"))
        mask = "" if fits(span.extent, tile) else f"{axis}_ok"
        return AxisInScope(axis, span, axis, axis, self.block(axis, tile), mask, span.extent)

    def tiled_axis(self, frame: Frame, loop: Loop, mask: bool, end: IntExpr) -> AxisInScope:
        axis, tile = loop.axis, number(loop.tile, f"the tile of axis {loop.axis}")
        start = Sym(axis) if tile == 1 else Sym(f"{axis}0")
        span = enter(frame.scope(), axis, start, loop.tile)[axis]
        if span.scalar:
            return AxisInScope(axis, span, axis)
        return AxisInScope(
            axis, span, axis, f"{axis}_in", self.block(axis, tile), f"{axis}_ok" if mask else "", end
        )

    def coordinates(self, frame: Frame, axes: Sequence[AxisInScope]) -> list[str]:
        """Definitions of the coordinate vectors and masks of these axes that the lines printed so far use."""
        lines = []
        for a in axes:
            masked = a.mask in self.text.mentioned and a.end is not None
            if a.within not in (a.vector, "") and (masked or a.vector in self.text.mentioned):
                lines.append(f"{a.vector} = {a.span.start} + {self.text.mention(a.within)}")
            if masked and a.end is not None:
                lines.append(f"{a.mask} = {self.text.mention(a.vector)} < {self.text.integer(a.end, frame)}")
        return lines

    def positions(self, axes: Sequence[AxisInScope]) -> list[str]:
        found = {a.within: self.position(a, axes) for a in axes if a.within in self.text.mentioned}
        return [f"{within} = {position}" for within, position in found.items()]

    def position(self, axis: AxisInScope, axes: Sequence[AxisInScope]) -> str:
        """Where the elements of a dimension are along one of its axes; the last of several runs fastest."""
        (dim,) = self.text.dims([axis.axis])
        blocks = {a.axis: a.block for a in axes}
        found = f"tl.arange(0, {' * '.join(blocks[a] for a in dim)})"
        later = [blocks[a] for a in dim[dim.index(axis.axis) + 1 :]]
        if later:
            found += f" // {later[0]}" if len(later) == 1 else f" // ({' * '.join(later)})"
        return found if axis.axis == dim[0] else f"{found} % {axis.block}"

    # -- loops

    def parallel(self) -> list[str]:
        outer = Frame(self.whole_axes())
        if self.step is not None:
            outer = outer.inside(self.tiled_axis(outer, self.step.loop, False, Const(0)))
        entered = []
        for loop in self.par.loops:
            extent = outer.axes[loop.axis].span.extent
            masked = not fits(extent, number(loop.tile, f"the tile of axis {loop.axis}"))
            entered.append(self.tiled_axis(outer, loop, masked, extent))
        frame = outer.inside(*entered)
        self.text.fixed_axes = frozenset([*(a.axis for a in entered if a.span.scalar), *self.text.used.steps])
        self.memory.wide = {n for a in entered if not a.span.scalar for n in a.span.extent.symbols()}
        body = self.statements(self.par.body, frame)
        present = [*entered, *(a for a in outer.axes.values() if a.block)]
        start = decoded(self.par, list(zip(self.par.loops, entered, strict=True)), frame, self.text)
        vectors = self.coordinates(frame, present)
        return [
            *start,
            *self.positions([*present, *self.looped]),
            *self.text.hoisted.values(),
            *vectors,
            *body,
        ]

    def sequential(self, seq: Seq, frame: Frame) -> list[str]:
        lines = self.initial(seq, frame)
        if seq.side == "left" and starts_whole(seq, frame.scope()):
            return lines
        start, stop = part_range(seq, frame.scope())
        if isinstance(start, Const) and isinstance(stop, Const) and stop.value <= start.value:
            return lines
        axis = self.tiled_axis(frame, seq.loop, seq.part != "full", valid_end(seq, frame.scope()))
        self.looped.append(axis)
        computed, first, last = limits(seq, frame, self.text)
        body = self.loop_body(seq, axis, frame)
        stages = self.pipelined(seq, frame)
        note = f"# {axis.axis}: {PART_NOTES[seq.part]} {seq.side}".rstrip()
        step = axis.block or "1"
        if seq.reverse:
            counted, body = f"{axis.axis}_back", [*self.backwards(seq, axis, first, last), *body]
        else:
            counted = str(axis.span.start)
        loop = f"for {counted} in tl.range({first}, {last}, {step}, num_stages={stages}):"
        return [*lines, *computed, note, loop, *indent(body)]

    def backwards(self, seq: Seq, axis: AxisInScope, first: Text, last: Text) -> list[str]:
        """The coordinate of a loop that runs from its last step to its first."""
        if seq.loop.tile != Const(1) or seq.domain is not None:
            raise UnsupportedError(f"triton: the reversed loop over {axis.axis} must have tiles of 1 and no bounds")
        after = infix("sub", infix("add", first, last) if str(first) != "0" else last, Text("1"))
        return [f"{axis.span.start} = {infix('sub', after, Text(f'{axis.axis}_back'))}"]

    def pipelined(self, seq: Seq, frame: Frame) -> int:
        """Stages of a loop; a border of one tile (bounds equal for all rows) is not worth a pipeline."""
        bounds = (*seq.domain.lower, *seq.domain.upper) if seq.domain else ()
        if seq.part == "partial" and len(row_free(bounds, frame.scope())) == len(bounds):
            return 1
        stages = number(seq.stages, "the number of stages")
        self.stages = max(self.stages, stages)
        return stages

    def initial(self, seq: Seq, frame: Frame) -> list[str]:
        lines = []
        for c in seq.carry:
            if c.init != Ref(c.value.name):
                lines += self.assign(c.value, str(self.text.block(c.init, c.value, frame)), frame)
            frame.values[c.value.name] = c.value
        return lines

    def loop_body(self, seq: Seq, axis: AxisInScope, frame: Frame) -> list[str]:
        inner = frame.inside(axis)
        inner.ends[axis.axis] = self.end_conditions(seq, frame) if axis.mask else frozenset()
        inner.masked_rows[axis.axis] = masks_elements(seq.body, inner.ends)
        outside, self.text.mentioned = self.text.mentioned, set()
        self.memory.repeat(seq.body)
        body = self.statements(seq.body, inner)
        vectors = self.coordinates(inner, [axis])
        self.text.mentioned |= outside
        return [*vectors, *body, *self.carried(seq.carry)] or ["pass"]

    def end_conditions(self, seq: Seq, frame: Frame) -> frozenset[Scalar]:
        """What the split pass wrote into predicates for the axis' end and for bounds equal for all rows."""
        axis, names = seq.loop.axis, {a.name for a in self.program.axes}
        bounds = (*(seq.domain.upper if seq.domain else ()), frame.axes[axis].span.extent)
        free = row_free(bounds, frame.scope())
        return frozenset(Call("lt", (Coord(axis), lift(b, names))) for b in free)

    def carried(self, carry: Sequence[Carry]) -> list[str]:
        """The next state takes the place of the old one, at once where one component becomes another."""
        names = self.text.names
        moves = [(names[c.value.name], names[c.next]) for c in carry if c.value.name != c.next]
        olds = {old for old, _ in moves}
        if any(new in olds for _, new in moves):
            return [f"{', '.join(old for old, _ in moves)} = {', '.join(new for _, new in moves)}"]
        return [f"{old} = {new}" for old, new in moves]

    # -- statements

    def statements(self, body: Sequence[Stmt], frame: Frame) -> list[str]:
        lines: list[str] = []
        for stmt in body:
            if isinstance(stmt, Map):
                stmt = replace(stmt, expr=with_masks(stmt.expr, frame.ends))
            lines += self.statement(stmt, frame)
            out = outputs_of(stmt)
            if out is not None:
                for axis in frame.masked(out.axes):
                    frame.fills[out.name, axis] = fill_of(stmt, axis, frame.fills)
        return lines

    def statement(self, stmt: Stmt, frame: Frame) -> list[str]:
        match stmt:
            case Seq():
                return self.sequential(stmt, frame)
            case Load(out=out, access=access):
                lines, text = self.memory.load(out, access, frame)
                return [*lines, *self.assign(out, text, frame)]
            case Store(access=access, value=value, accumulate=False):
                return self.memory.store(access, value, frame)
            case Copy(out=out, source=source):
                return self.assign(out, str(self.text.block(Ref(source), out, frame)), frame)
            case Map(out=out, expr=expr):
                return self.assign(out, str(self.text.block(expr, out, frame)), frame)
            case View(out=out, source=source):
                return self.view(out, frame.values[source], frame)
            case Reduce():
                return self.reduction(stmt, frame)
            case Dot():
                return self.dot(stmt, frame)
            case Sync(level=level):
                raise UnsupportedError(
                    f"triton: kernel {self.kernel.name} has `sync {level}`, and Triton no barrier of all tasks; take a "
                    "schedule of one task per head, or of a launch per step"
                )
        raise UnsupportedError(f"triton: no form of the statement {type(stmt).__name__} inside a kernel")

    def assign(self, out: Value, text: str, frame: Frame) -> list[str]:
        frame.values[out.name] = out
        return [f"{self.text.names[out.name]} = {text}"]

    def view(self, out: Value, source: Value, frame: Frame) -> list[str]:
        """The same block: its dimensions go by other axes, whose tiles are as long."""
        if len(self.text.dims(out.axes)) != len(out.axes) or len(self.text.dims(source.axes)) != len(out.axes):
            raise UnsupportedError(f"triton: the view {out.name} renames axes that share a dimension of its blocks")
        return self.assign(out, self.text.names[source.name], frame)

    def reduction(self, stmt: Reduce, frame: Frame) -> list[str]:
        source = frame.values[stmt.source]
        text = self.text.neutral(stmt.source, stmt.over, IDENTITY[stmt.op], frame)
        if source.dtype.kind == "float" and source.dtype.bits < 32:
            text = text.method("to(tl.float32)")
        dims, (over,) = self.text.dims(source.axes), self.text.dims([stmt.over])
        if len(over) > 1:
            raise UnsupportedError(
                f"triton: {stmt.source} is reduced along {stmt.over}, which shares a dimension of its blocks with "
                f"{' and '.join(a for a in over if a != stmt.over)}"
            )
        found = f"tl.{stmt.op}({text}, {dims.index(over)})"
        left = tuple(d for d in dims if d != over)
        return self.assign(stmt.out, self.text.transposed(found, left, self.text.dims(stmt.out.axes)), frame)

    def dot(self, stmt: Dot, frame: Frame) -> list[str]:
        left, right, over = self.operands(stmt, frame)
        rows, columns = self.text.dims(stmt.out.axes)
        a = self.operand(left, (rows, (over,)), over, frame)
        b = self.operand(right, ((over,), columns), over, frame)
        exact = frame.values[left].dtype.bits == 32
        skips = stmt.zero_skips and frame.masked_rows.get(over, True)
        init = stmt.init if stmt.init is not None or not skips else Lit(0.0)
        args = [a, b, *([str(self.text.block(init, stmt.out, frame))] if init is not None else [])]
        if skips:
            self.text.helpers.add("dot_zero_skips")
            return self.assign(stmt.out, f"dot_zero_skips({', '.join(args)})", frame)
        precision = ['input_precision="ieee"'] if exact else []
        return self.assign(stmt.out, f"tl.dot({', '.join([*args, *precision])})", frame)

    def operands(self, stmt: Dot, frame: Frame) -> tuple[str, str, str]:
        """Names of the left and right operand of a matrix product, and the summed axis."""
        held = {n: frozenset(self.text.dims(frame.values[n].axes)) for n in (stmt.a, stmt.b)}
        if len(self.text.dims(stmt.out.axes)) == 2 and len(stmt.over) == 1:
            rows, columns, over = *self.text.dims(stmt.out.axes), *self.text.dims(stmt.over)
            for left, right in ((stmt.a, stmt.b), (stmt.b, stmt.a)):
                fits_here = held[left] == {rows, over} and held[right] == {over, columns}
                if fits_here and len(over) == 1 and (left == stmt.a or not stmt.zero_skips):
                    return left, right, over[0]
        raise UnsupportedError(
            f"triton: the dot {stmt.out.name} over {', '.join(stmt.over)} of {stmt.a} {frame.values[stmt.a].axes} "
            f"and {stmt.b} {frame.values[stmt.b].axes} is not a matrix product of two tiles"
        )

    def operand(self, name: str, dims: Sequence[tuple[str, ...]], over: str, frame: Frame) -> str:
        text = self.text.neutral(name, over, 0.0, frame)
        return self.text.transposed(str(text), self.text.dims(frame.values[name].axes), dims)


def indent(lines: Sequence[str]) -> list[str]:
    return [INDENT + line if line else line for line in lines]


def _wrapped(items: Sequence[str]) -> list[str]:
    """The items with commas, in as few lines as fit."""
    return textwrap.wrap(", ".join(items) + ",", WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
