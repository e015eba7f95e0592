"""Expressions inside one kernel: coordinates, broadcasting by axis name, masks, gathers and offsets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from flashc.backends.triton.arguments import Used
from flashc.backends.triton.frame import AxisInScope, Frame
from flashc.backends.triton.merging import dimensions
from flashc.backends.triton.scalars import ATOM, PRODUCT, Text, elementwise, infix, integer, literal
from flashc.backends.triton.tails import with_masks
from flashc.errors import IRError, UnsupportedError
from flashc.ir.intexpr import IntExpr, Item, Sym
from flashc.ir.nodes import Access, Program, tiled_axis
from flashc.ir.scalar import Coord, Fetch, InDomain, Lit, Ref, Scalar, coords, kind_of, refs, walk
from flashc.ir.types import DType, Value

BLOCK_TYPES = {
    "f64": "tl.float64",
    "f32": "tl.float32",
    "f16": "tl.float16",
    "bf16": "tl.bfloat16",
    "i64": "tl.int64",
    "i32": "tl.int32",
    "bool": "tl.int1",
}


class Expressions:
    """Prints expressions and remembers what they need: arguments, helpers, coordinate vectors, hoisted table
    elements.

    ``mentioned``: names of coordinate vectors, masks and position ranges that were printed. ``hoisted``:
    definitions of elements that depend on the scalar axes of the grid (``fixed_axes``) only. ``merged``: the axes
    of a dimension for every axis that shares one (:mod:`flashc.backends.triton.merging`).
    """

    def __init__(
        self, program: Program, used: Used, names: dict[str, str], merged: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.program, self.used, self.names, self.merged = program, used, names, merged
        self.helpers: set[str] = set()
        self.mentioned: set[str] = set()
        self.hoisted: dict[str, str] = {}
        self.fixed_axes: frozenset[str] = frozenset()
        extents = frozenset[str]().union(
            *(a.extent.symbols() for a in program.axes),
            *(d.symbols() for t in program.tensors for d in t.dims),
        )
        steps = ("", "0", "_first", "_stop", "_full_first", "_full_stop")
        self.nonnegative = extents | {f"{a.name}{step}" for a in program.axes for step in steps}
        self.kinds = {
            **dict.fromkeys(program.sizes, "int"),
            **{p.name: "float" for p in program.params},
            **{t.name: t.dtype.kind for t in program.tensors},
        }

    def mention(self, name: str) -> str:
        self.mentioned.add(name)
        return name

    # -- coordinates and masks

    def vector(self, name: str, axis: str, axes: Sequence[str]) -> Text:
        """A vector along ``axis`` as an operand of blocks over ``axes``."""
        dims, (own,) = self.dims(axes), self.dims([axis])
        if own not in dims:
            raise UnsupportedError(
                f"triton: axis {axis} is used where only {', '.join(axes) or 'scalars'} are in scope"
            )
        self.mention(name)
        return Text(name if len(dims) == 1 else f"{name}[{', '.join(':' if d == own else 'None' for d in dims)}]")

    def dims(self, axes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The dimensions of a block over ``axes``."""
        return dimensions(axes, self.merged)

    def coordinate(self, axis: str, axes: Sequence[str], frame: Frame) -> Text:
        a = frame.axes[axis]
        return Text(a.vector) if a.span.scalar else self.vector(a.vector, axis, axes)

    def masks(self, masked: Collection[str], axes: Sequence[str], frame: Frame) -> str:
        """Which elements of a block over ``axes`` are valid along the masked axes; empty for all."""
        return " & ".join(str(self.vector(frame.axes[a].mask, a, axes)) for a in masked)

    def shape(self, axes: Sequence[str], frame: Frame) -> str:
        return f"[{', '.join(self.length(dim, frame) for dim in self.dims(axes))}]"

    def length(self, dim: Sequence[str], frame: Frame) -> str:
        return " * ".join(self.extent(frame.axes[a]) for a in dim)

    def extent(self, axis: AxisInScope) -> str:
        if axis.block:
            return axis.block
        raise UnsupportedError(
            f"triton: a block along axis {axis.axis}, which is a scalar or bound by another loop"
        )

    # -- integer expressions

    def integer(self, expr: IntExpr, frame: Frame, axes: Sequence[str] | None = None) -> Text:
        """The expression; tiled axes stand for their first coordinate, or with ``axes`` for all of them."""

        def symbol(node: Sym | Item) -> Text:
            if isinstance(node, Item):
                vectors = [
                    a for a in frame.axes if axes is not None and a in node.symbols() and frame.tiled(a)
                ]
                index = [self.integer(x, frame, axes) for x in node.index]
                steady = node.symbols() <= self.fixed_axes | set(self.program.sizes)
                return self.element(node.table, index, vectors, axes or (), steady, frame)
            if node.name not in frame.axes:
                known = node.name in self.program.sizes
                return Text(self.used.scalar(node.name) if known else node.name)
            if axes is not None or frame.axes[node.name].span.scalar:
                return self.coordinate(node.name, axes or (), frame)
            return Text(str(frame.axes[node.name].span.start))

        return integer(expr, symbol, self.nonnegative, self.helpers)

    # -- tensor elements

    def element(
        self,
        tensor: str,
        index: Sequence[Text],
        vectors: Sequence[str],
        axes: Sequence[str],
        steady: bool,
        frame: Frame,
    ) -> Text:
        """``tensor[index]``, loaded; indices along ``vectors`` are blocks, masked where those axes are."""
        held = self.program.tensor(tensor)
        scalars_first = sorted(
            enumerate(index),
            key=lambda item: any(f"{frame.axes[a].vector}[" in str(item[1]) for a in vectors),
        )
        terms = [self.scaled(x, tensor, d) for d, x in scalars_first if str(x) != "0"]
        address = " + ".join([self.used.pointer(tensor), *terms])
        masked = frame.masked(vectors)
        masks = self.masks(masked, axes, frame)
        other = f", mask={masks}, other={'0.0' if held.dtype.kind == 'float' else '0'}" if masks else ""
        text = f"tl.load({address}{other}){_widened(held.dtype)}"
        if steady and held.role == "in":
            return Text(self.hoist(tensor, index, text))
        return (
            infix("ne", Text(f"tl.load({address}{other})"), Text("0"))
            if held.dtype.kind == "bool"
            else Text(text)
        )

    def scaled(self, index: Text, tensor: str, dim: int) -> str:
        if dim == len(self.program.tensor(tensor).dims) - 1:
            return index.within(PRODUCT)
        return f"{index.within(ATOM)} * {self.used.stride(tensor, dim)}"

    def hoist(self, tensor: str, index: Sequence[Text], text: str) -> str:
        """The name of a table element that is loaded once, ahead of everything else."""
        plain = all(str(x).isidentifier() or str(x).isdigit() for x in index)
        name = "_".join([tensor, *map(str, index)]) if plain else f"{tensor}_{len(self.hoisted)}"
        known = next((n for n, line in self.hoisted.items() if line.endswith(f" = {text}")), None)
        if known is None:
            self.hoisted[name] = f"{name} = {text}"
        return known or name

    def offsets(self, access: Access, axes: Sequence[str], frame: Frame) -> tuple[list[str], list[str]]:
        """Terms of a tile's offset: the scalar ones, with the tile's start, and those within the tile."""
        base: list[str] = []
        local: list[str] = []
        for dim, expr in enumerate(access.index):
            first = self.integer(expr, frame)
            base += [] if str(first) == "0" else [self.scaled(first, access.tensor, dim)]
            axis = tiled_axis(expr, [n for n in expr.symbols() if n in frame.axes and frame.tiled(n)])
            if axis is not None:
                self.extent(frame.axes[axis])
                local.append(self.scaled(self.vector(frame.axes[axis].within, axis, axes), access.tensor, dim))
        return base, local

    # -- elementwise expressions

    def block(self, expr: Scalar, out: Value, frame: Frame) -> Text:
        """The expression as a block of the value's axes and element type."""
        expr = with_masks(expr, frame.ends)
        kind = kind_of(expr, self.kinds_in(frame))
        if isinstance(expr, Lit):
            shape, dtype = self.shape(out.axes, frame), BLOCK_TYPES[out.dtype.name]
            return Text(f"tl.full({shape}, {literal(expr.value)}, {dtype})")
        if isinstance(expr, Ref) and expr.name in frame.values and frame.values[expr.name].dtype == out.dtype:
            return self.raw(expr, out, frame)
        text = self.spread(self.scalar_text(expr, out.axes, frame), expr, out, frame)
        if kind == out.dtype.kind and out.dtype.name in ("f32", "bool"):
            return text
        return text.method(f"to({BLOCK_TYPES[out.dtype.name]})")

    def raw(self, expr: Ref, out: Value, frame: Frame) -> Text:
        """An earlier value, element type as it is, over the axes of ``out``."""
        return self.spread(self.value(expr.name, out.axes, frame), expr, out, frame)

    def spread(self, text: Text, expr: Scalar, out: Value, frame: Frame) -> Text:
        found = {a for a in coords(expr) if frame.tiled(a)}
        for name in refs(expr) & frame.values.keys():
            found |= set(frame.values[name].axes)
        found |= {n.axis for n in walk(expr) if isinstance(n, InDomain)}
        if set(self.dims(sorted(found))) >= set(self.dims(out.axes)):
            return text
        return Text(f"tl.broadcast_to({text}, {self.shape(out.axes, frame)})")

    def scalar_text(self, expr: Scalar, axes: Sequence[str], frame: Frame) -> Text:
        kinds = self.kinds_in(frame)

        def leaf(node: Scalar) -> Text:
            match node:
                case Coord(axis=a):
                    return self.coordinate(a, axes, frame)
                case Ref(name=n) if n in frame.values:
                    value = self.value(n, axes, frame)
                    dtype = frame.values[n].dtype
                    return value.method("to(tl.float32)") if _narrow(dtype) else value
                case Ref(name=n):
                    return Text(self.used.scalar(n))
                case Fetch(tensor=t, index=ix):
                    index = [elementwise(x, leaf, kinds, self.helpers) for x in ix]
                    vectors = [a for a in axes if any(self.reads(x, a, frame) for x in ix)]
                    steady = all(
                        coords(x) <= self.fixed_axes and refs(x) <= set(self.program.sizes) for x in ix
                    )
                    return self.element(t, index, vectors, axes, steady and not vectors, frame)
                case InDomain(axis=a) if frame.axes[a].mask:
                    return self.vector(frame.axes[a].mask, a, axes)
            raise IRError(f"no Triton form of {node}")

        return elementwise(expr, leaf, kinds, self.helpers)

    def reads(self, expr: Scalar, axis: str, frame: Frame) -> bool:
        values = [frame.values[n] for n in refs(expr) if n in frame.values]
        return frame.tiled(axis) and (axis in coords(expr) or any(axis in v.axes for v in values))

    def kinds_in(self, frame: Frame) -> dict[str, str]:
        return {**self.kinds, **{n: v.dtype.kind for n, v in frame.values.items()}}

    def value(self, name: str, axes: Sequence[str], frame: Frame) -> Text:
        """An earlier value, its axes brought into the order of ``axes`` and missing ones inserted."""
        have, dims = self.dims(frame.values[name].axes), self.dims(axes)
        if not set(have) <= set(dims):
            raise IRError(f"{name} has axes {frame.values[name].axes}, used where only {tuple(axes)} are in scope")
        text = self.transposed(self.names[name], have, tuple(d for d in dims if d in have))
        if len(have) in (0, len(dims)):
            return Text(text)
        return Text(f"{text}[{', '.join(':' if d in have else 'None' for d in dims)}]")

    def transposed(self, text: str, have: Sequence[tuple[str, ...]], want: Sequence[tuple[str, ...]]) -> str:
        """A block of the dimensions ``have`` in the order ``want``."""
        if tuple(have) == tuple(want):
            return text
        order = [list(have).index(d) for d in want]
        return f"tl.trans({text})" if len(have) == 2 else f"tl.permute({text}, {order})"

    def neutral(self, name: str, over: str, identity: float, frame: Frame) -> Text:
        """A value with ``identity`` beyond the end of ``over``, for an operation along that axis."""
        value, axis = frame.values[name], frame.axes[over]
        if not axis.mask or frame.fills.get((name, over)) == identity:
            return Text(self.names[name])
        mask = self.vector(axis.mask, over, value.axes)
        return Text(f"tl.where({mask}, {self.names[name]}, {literal(identity)})")


def _narrow(dtype: DType) -> bool:
    return dtype.kind == "float" and dtype.bits < 32


def _widened(dtype: DType) -> str:
    if dtype.kind == "bool":
        return " != 0"
    return ".to(tl.float32)" if _narrow(dtype) else ""
