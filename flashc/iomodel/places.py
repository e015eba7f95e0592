"""Where the tiles of a program lie: tensors, buffers in scratch, and the addresses of their elements per execution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from flashc.errors import UnsupportedError
from flashc.iomodel.segments import (
    NOWHERE,
    READ,
    WRITE,
    Box,
    Grouped,
    Ints,
    Segments,
    boxed,
    picked,
    single,
    spread,
)
from flashc.ir.analysis import Site, sites, tiled_in
from flashc.ir.footprint import replaced_in_place, values_of
from flashc.ir.intexpr import IntExpr, Sym
from flashc.ir.nodes import Access, Alloc, Dot, Kernel, Load, Loop, Program, Seq, Stmt, outputs_of, tiled_axis
from flashc.ir.ranges import Scope, enter
from flashc.ir.scalar import Coord, Fetch, Lit, Ref, Scalar, evaluate
from flashc.ir.types import Tensor, Value

Detail = Literal["slow", "tiles", "elements"]
PAGE = 4096
LINE = 64  # buffers of a lowered program start on lines, as its printer lays them out


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


@dataclass(frozen=True, slots=True)
class Layout:
    """Addresses: tensors one after another, then the scratch of each worker.

    ``tensors``: (address, bytes) by name; ``slots``: (offset in scratch, bytes) by (kernel, value).
    """

    tensors: dict[str, tuple[int, int]]
    slots: dict[tuple[str, str], tuple[int, int]]
    scratch: int
    scratch_bytes: int

    @staticmethod
    def of(program: Program, env: Mapping[str, Any], detail: Detail) -> Layout:
        tensors: dict[str, tuple[int, int]] = {}
        end = 0
        for t in program.tensors:
            size = t.dtype.bytes * int(np.prod([d.evaluate(env) for d in t.dims], dtype=np.int64))
            tensors[t.name] = (end, size)
            end = _up(end + size, PAGE)
        slots: dict[tuple[str, str], tuple[int, int]] = {}
        for kernel in program.kernels if detail != "slow" else ():
            slots |= {(kernel.name, name): slot for name, slot in _slots(program, kernel, env).items()}
        return Layout(tensors, slots, end, _up(max((at + size for at, size in slots.values()), default=0), PAGE))

    def regions(self, workers: int) -> dict[str, tuple[int, int]]:
        """(address, bytes) of every tensor, of scratch, and of the first worker's values as ``kernel.value``."""
        values = {f"{kernel}.{name}": (self.scratch + at, size) for (kernel, name), (at, size) in self.slots.items()}
        return {**self.tensors, "scratch": (self.scratch, self.scratch_bytes * workers), **values}


def _slots(program: Program, kernel: Kernel, env: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(offset, bytes) of every value in scratch; a loop's state and what replaces it share a place."""
    walked = list(sites(program, kernel))
    allocs = [s.stmt for s in walked if isinstance(s.stmt, Alloc)]
    wanted = [(a.value.name, a.slot, a.count.evaluate(env) * a.value.dtype.bytes) for a in allocs]
    if not allocs:
        shared = {new: old for s in walked if isinstance(s.stmt, Seq) for new, old in replaced_in_place(s.stmt).items()}
        for name, (value, scope, _) in values_of(program, kernel).items():
            wanted.append((name, _first(name, shared), _tile_bytes(value, scope, env)))
    need: dict[str, int] = {}
    for _, slot, size in wanted:
        need[slot] = max(need.get(slot, 0), size)
    ends = np.cumsum([_up(size, LINE) for size in need.values()])
    start = dict(zip(need, [0, *ends.tolist()], strict=False))
    return {name: (start[slot], need[slot]) for name, slot, _ in wanted}


def _first(name: str, shared: Mapping[str, str]) -> str:
    """The value whose place ``name`` has: the state of the outermost loop that it becomes part of."""
    while name in shared:
        name = shared[name]
    return name


def _tile_bytes(value: Value, scope: Scope, env: Mapping[str, Any]) -> int:
    sizes = [scope[a].size.evaluate(env) for a in value.axes]
    return int(np.prod(sizes, dtype=np.int64)) * value.dtype.bytes


@dataclass(frozen=True, slots=True)
class Here:
    """Executions of a block, ``count`` of them: where each axis starts and how many coordinates there are.

    ``at`` and ``size`` hold an array with one entry per execution, or one number for all; ``worker`` likewise.
    """

    count: int
    scope: Scope
    at: Mapping[str, Any]
    size: Mapping[str, Any]
    worker: Any

    def picked(self, where: slice | Ints) -> Here:
        """The executions that ``where`` picks, in its order."""
        at, size = ({a: picked(v, where) for a, v in values.items()} for values in (self.at, self.size))
        count = len(np.arange(self.count)[where])
        return Here(count, self.scope, at, size, picked(self.worker, where))

    def entered(self, loop: Loop, parent: Ints, start: Ints, size: Ints) -> Here:
        """Inside a loop: execution n of its body lies in execution ``parent[n]`` of the block around it."""
        outer = self.picked(parent)
        scope = enter(self.scope, loop.axis, Sym(loop.axis), loop.tile)
        return Here(len(parent), scope, {**outer.at, loop.axis: start}, {**outer.size, loop.axis: size}, outer.worker)


@dataclass(frozen=True)
class Places:
    """The tiles of one kernel; every answer is for all executions of a block at once."""

    program: Program
    kernel: Kernel
    env: Mapping[str, Any]
    layout: Layout

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        return tuple(sites(self.program, self.kernel))

    @cached_property
    def values(self) -> dict[str, tuple[Value, Scope, IntExpr]]:
        return values_of(self.program, self.kernel)

    @cached_property
    def loads(self) -> dict[str, Load]:
        return {s.stmt.out.name: s.stmt for s in self.sites if isinstance(s.stmt, Load)}

    @cached_property
    def extents(self) -> dict[str, int]:
        return {a.name: a.extent.evaluate(self.env) for a in self.program.axes}

    @cached_property
    def lowered(self) -> bool:
        return any(isinstance(s.stmt, Alloc) for s in self.sites)

    def number(self, expr: IntExpr, here: Here) -> Any:
        """The value of an expression in sizes, tables and the coordinates of the axes."""
        local = {a: here.at[a] for a in expr.symbols() & here.at.keys()}
        return expr.evaluate_array({**self.env, **local}) if local else expr.evaluate(self.env)

    def known(self, names: Iterable[str]) -> list[str]:
        """Those names that are values with an address (a lowered program keeps some in registers)."""
        found = [n for n in names if n in self.values]
        return [n for n in found if n in self.loads or (self.kernel.name, n) in self.layout.slots]

    # -- boxes

    def tensor(self, access: Access, here: Here) -> Box:
        """The tile of a tensor that an access takes: a whole tile along every tiled axis."""
        tensor = self.program.tensor(access.tensor)
        return self._box(tensor, [self._taken(x, here) for x in access.index])

    def _taken(self, index: IntExpr, here: Here) -> tuple[Any, Any]:
        """Where an access starts along a dimension, and how many elements it takes; None: a single one."""
        axis = tiled_axis(index, tiled_in(here.scope))
        return self.number(index, here), None if axis is None else here.size[axis]

    def _box(self, tensor: Tensor, parts: Sequence[tuple[Any, Any]]) -> Box:
        base: Any = self.layout.tensors[tensor.name][0]
        dims = []
        for (start, size), stride in zip(parts, self._strides(tensor), strict=True):
            base = base + start * stride
            if size is not None:
                dims.append((size, stride))
        return Box(base, tuple(dims), tensor.dtype.bytes)

    def _strides(self, tensor: Tensor) -> list[int]:
        """Bytes from one element to the next along every dimension of a contiguous tensor."""
        strides = [tensor.dtype.bytes]
        for dim in reversed(tensor.dims[1:]):
            strides.insert(0, strides[0] * dim.evaluate(self.env))
        return strides

    def value(self, name: str, here: Here) -> Box:
        """A value where it lies: its tensor for a load, else the bytes of its buffer that are in use."""
        if name in self.loads:
            return self.tensor(self.loads[name].access, here)
        value = self.values[name][0]
        base = self.layout.scratch + here.worker * self.layout.scratch_bytes
        size = self._laid_out(value, here) if self.lowered else self._bytes(value, here)
        return Box(base + self.layout.slots[self.kernel.name, name][0], (), size)

    def _bytes(self, value: Value, here: Here) -> Any:
        size: Any = value.dtype.bytes
        for axis in value.axes:
            size = size * here.size[axis]
        return size

    def _laid_out(self, value: Value, here: Here) -> Any:
        """Bytes in use of a buffer with a layout: valid steps of its outermost mode, all of the inner ones."""
        modes = value.layout.modes if value.layout else ()
        steps = [(m.stride.evaluate(self.env), m) for m in modes]
        outer = max((m for _, m in steps if m.space == "offset"), key=lambda m: m.stride.evaluate(self.env))
        stride = outer.stride.evaluate(self.env)
        if value.layout is not None and outer.axis == value.layout.lane_axis():
            return outer.shape.evaluate(self.env) * stride * value.dtype.bytes
        pairs = 2 if value.layout is not None and outer.axis == value.layout.pair_axis() else 1
        return -(-here.size[outer.axis] // pairs) * stride * value.dtype.bytes

    def mark(self, name: str, copies: IntExpr, kind: int, here: Here) -> Grouped:
        """A value's bytes as held or given up; ``copies`` buffers of a pipelined loop count whole tiles."""
        value, scope, _ = self.values[name]
        count = self.number(copies, here)
        looped = count != 1 or any(a in scope and here.scope[a] != scope[a] for a in value.axes)
        size = _tile_bytes(value, scope, self.env) * count if looped else self._bytes(value, here)
        there = (self.kernel.name, name) in self.layout.slots and name not in self.loads and not looped
        return single(self.value(name, here).base if there else NOWHERE, size, kind, here.count)

    # -- elements

    def products(self, dot: Dot, starts: Sequence[str], here: Here) -> Grouped:
        """A dot's accesses: per element of the result all pairs of its products, the ``starts`` and the element."""
        sizes = [np.broadcast_to(here.size[a], (here.count,)) for a in (*dot.out.axes, *dot.over)]
        inner = np.prod(sizes[len(dot.out.axes):], axis=0, dtype=np.int64)
        each = 2 * inner + len(starts) + 1
        counts = np.prod(sizes[:len(dot.out.axes)], axis=0, dtype=np.int64) * each
        parent, position = spread(counts)
        element, slot = np.divmod(position, each[parent])
        depth = 2 * inner[parent]
        coordinate = _digits(dot.out.axes, sizes, element, parent)
        coordinate |= _digits(dot.over, sizes[len(dot.out.axes):], np.minimum(slot, depth - 1) // 2, parent)
        chosen = [(dot.a, (slot < depth) & (slot % 2 == 0)), (dot.b, (slot < depth) & (slot % 2 == 1))]
        chosen += [(name, slot == depth + n) for n, name in enumerate(starts)]
        chosen.append((dot.out.name, slot == each[parent] - 1))
        address, size = np.empty(len(parent), np.int64), np.empty(len(parent), np.int64)
        for name, mask in chosen:
            at = {a: c[mask] for a, c in coordinate.items()}
            address[mask] = self._element(name, at, parent[mask], here)
            size[mask] = self.values[name][0].dtype.bytes
        kind = np.where(chosen[-1][1], WRITE, READ).astype(np.uint8)
        return Grouped(Segments(address, size, kind), counts)

    def _element(self, name: str, at: Mapping[str, Ints], parent: Ints, here: Here) -> Ints:
        """Addresses of elements of a value at coordinates within the tile."""
        address = np.array(picked(self.value(name, here).base, parent)) + np.zeros(len(parent), np.int64)
        for axis, stride in self.strides(name, here).items():
            address += at[axis] * picked(stride, parent)
        return address

    def strides(self, name: str, here: Here) -> dict[str, Any]:
        """Bytes from one element of a value to the next along each axis; along a paired axis, from pair to pair."""
        value = self.values[name][0]
        if name in self.loads:
            access = self.loads[name].access
            strides = self._strides(self.program.tensor(access.tensor))
            along = [tiled_axis(x, tiled_in(here.scope)) for x in access.index]
            return {a: s for a, s in zip(along, strides, strict=True) if a is not None}
        found: dict[str, Any] = {}
        if value.layout is not None:
            modes = sorted(value.layout.modes, key=lambda m: ("reg", "offset", "lane").index(m.space))
            return {m.axis: m.stride.evaluate(self.env) * value.dtype.bytes for m in modes}
        stride: Any = value.dtype.bytes
        for axis in reversed(value.axes):
            found[axis] = stride
            stride = stride * here.size[axis]
        return found

    # -- gathers

    def fetched(self, node: Fetch, stmt: Stmt, here: Here) -> Grouped:
        """Elements that an expression of ``stmt`` fetches: a box where the index is plain coordinates."""
        axes = [x.axis for x in node.index if isinstance(x, Coord)]
        if all(isinstance(x, Coord | Lit) for x in node.index) and len(set(axes)) == len(axes):
            parts = [(int(x.value), None) if isinstance(x, Lit) else self._span(x, here) for x in node.index]
            return boxed(self._box(self.program.tensor(node.tensor), parts), READ, here.count)
        return self._computed(node, stmt, here)

    def _span(self, node: Scalar, here: Here) -> tuple[Any, Any]:
        assert isinstance(node, Coord)
        return here.at[node.axis], None if here.scope[node.axis].scalar else here.size[node.axis]

    def _computed(self, node: Fetch, stmt: Stmt, here: Here) -> Grouped:
        """Elements at computed indices, one execution after another."""
        out = outputs_of(stmt)
        axes = out.axes if out else ()
        tensor = self.program.tensor(node.tensor)
        strides, base = self._strides(tensor), self.layout.tensors[tensor.name][0]
        found = []
        for n in range(here.count):
            index = self._indices(node, axes, n, here)
            flat = sum(i * step for i, step in zip(index, strides, strict=True))
            found.append(np.asarray(base + flat, np.int64).ravel())
        counts = np.array([len(x) for x in found], np.int64)
        segments = single(np.concatenate(found), tensor.dtype.bytes, READ, int(counts.sum())).segments
        return Grouped(segments, counts)

    def _indices(self, node: Fetch, axes: Sequence[str], n: int, here: Here) -> list[Any]:
        found = (evaluate(x, lambda leaf: self._leaf(leaf, axes, n, here)) for x in node.index)
        return list(np.broadcast_arrays(*found))

    def _leaf(self, node: Scalar, axes: Sequence[str], n: int, here: Here) -> Any:
        match node:
            case Coord(axis=a):
                start, size = (picked(x[a], n) for x in (here.at, here.size))
                if here.scope[a].scalar:
                    return start
                return (start + np.arange(size)).reshape([-1 if x == a else 1 for x in axes])
            case Ref(name=name) if name in self.env:
                return self.env[name]
            case Fetch(tensor=t) if t in self.env:
                return np.asarray(self.env[t])[tuple(self._indices(node, axes, n, here))]
        raise UnsupportedError(f"trace: an index that is computed from `{node}` is known only when the kernel runs")


def _digits(axes: Sequence[str], sizes: Sequence[Ints], position: Ints, group: Ints) -> dict[str, Ints]:
    """Coordinates of positions in row-major order within boxes of ``sizes[axis][group]``."""
    found: dict[str, Ints] = {}
    for n in reversed(range(len(axes))):
        position, found[axes[n]] = np.divmod(position, sizes[n][group])
    return found
