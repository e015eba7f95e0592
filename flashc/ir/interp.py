"""Reference interpreter: runs a tile program on numpy arrays and counts every element that crosses a memory level.

In native precision each value is rounded to its own element type (loads, maps) and dots accumulate in fp32; with
``exact=True`` everything is float64 and nothing is rounded, which makes an algorithm program its own oracle.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from flashc.errors import IRError
from flashc.ir.analysis import SLOW, reads_of, writes_of
from flashc.ir.intexpr import Const, IntExpr, Sym
from flashc.ir.nodes import (
    GRID,
    Access,
    Alloc,
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
    Store,
    Sync,
    View,
    synchronised,
    tiled_axis,
)
from flashc.ir.ranges import enter, part_range, valid_end, whole
from flashc.ir.scalar import Coord, Fetch, InDomain, Ref, Scalar, evaluate
from flashc.ir.types import DType, Tensor, Value

Array = np.ndarray[Any, np.dtype[Any]]
NUMPY: dict[str, Any] = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "i64": np.int64,
    "i32": np.int32,
    "bool": np.bool_,
}
_REDUCE: dict[str, Callable[..., Any]] = {"max": np.fmax.reduce, "sum": np.sum, "min": np.fmin.reduce}
_IDENTITY = {"max": -math.inf, "sum": 0.0, "min": math.inf}


@dataclass
class Traffic:
    """Elements and bytes per tensor that crossed from slow memory (loads) and back (stores).

    ``levels``: bytes by (level, "read" or "write"), slow memory included; iomodel.closed_form says what counts.
    """

    loads: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    stores: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    load_bytes: int = 0
    store_bytes: int = 0
    levels: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def load(self, tensor: Tensor, elements: int) -> None:
        self.loads[tensor.name] += elements
        self.load_bytes += elements * tensor.dtype.bytes
        self.levels[SLOW, "read"] += elements * tensor.dtype.bytes

    def store(self, tensor: Tensor, elements: int) -> None:
        self.stores[tensor.name] += elements
        self.store_bytes += elements * tensor.dtype.bytes
        self.levels[SLOW, "write"] += elements * tensor.dtype.bytes

    @property
    def words(self) -> int:
        return sum(self.loads.values()) + sum(self.stores.values())

    @property
    def bytes(self) -> int:
        return self.load_bytes + self.store_bytes


@dataclass(frozen=True)
class Result:
    """Tensors by name (outputs and workspaces; elements nobody stored are NaN), and the traffic that made them."""

    tensors: Mapping[str, Array]
    traffic: Traffic


def interpret(
    program: Program,
    inputs: Mapping[str, Array],
    sizes: Mapping[str, int],
    params: Mapping[str, float] | None = None,
    *,
    exact: bool = False,
    select: Callable[[Mapping[str, int]], bool] = lambda _task: True,
) -> Result:
    """Run a program whose tile sizes are bound (in ``sizes`` or as constants).

    ``inputs`` holds every "in" tensor; ``select`` may skip tasks of a kernel by their scalar coordinates and tile
    starts. Raises IRError for a missing input or an unbound tile size.
    """
    missing = [t.name for t in program.tensors if t.role == "in" and t.name not in inputs]
    if missing:
        raise IRError(f"program {program.name}: no input given for {', '.join(missing)}")
    machine = _Machine(program, dict(inputs), {**dict(program.fixed), **sizes}, dict(params or {}), exact, select)
    for kernel in program.kernels:
        machine.run_kernel(kernel)
    return Result({t.name: machine.tensors[t.name] for t in program.tensors if t.role != "in"}, machine.traffic)


class _Frame:
    """What a statement can see: coordinate ranges per axis and the values defined so far."""

    def __init__(
        self, spans: dict[str, tuple[int, int]], scalar: frozenset[str], values: dict[str, tuple[Value, Array]]
    ):
        self.spans, self.scalar, self.values = spans, scalar, values

    def inside(self, axis: str, start: int, stop: int, scalar: bool) -> _Frame:
        return _Frame(
            {**self.spans, axis: (start, stop)}, self.scalar | ({axis} if scalar else set()), dict(self.values)
        )

    def coordinates(self) -> dict[str, int]:
        return {a: s for a, (s, _) in self.spans.items()}


class _Machine:
    def __init__(
        self,
        program: Program,
        tensors: dict[str, Array],
        sizes: dict[str, int],
        params: dict[str, float],
        exact: bool,
        select: Callable[[Mapping[str, int]], bool],
    ) -> None:
        self.program, self.tensors, self.params, self.exact, self.select = program, tensors, params, exact, select
        tables = {t.name: np.asarray(tensors[t.name]) for t in program.tensors if t.name in tensors}
        self.env: dict[str, Any] = {**{n: a for n, a in tables.items() if a.dtype.kind == "i"}, **sizes}
        self.float = np.float64 if exact else np.float32
        self.traffic = Traffic()
        self.domain: dict[str, Seq] = {}
        self.scope = whole(program)
        for tensor in program.tensors:
            if tensor.role != "in":
                shape = tuple(d.evaluate(self.env) for d in tensor.dims)
                dtype = np.float64 if exact and tensor.dtype.kind == "float" else NUMPY[tensor.dtype.name]
                self.tensors[tensor.name] = np.full(shape, np.nan, dtype=dtype)

    # -- control flow

    def run_kernel(self, kernel: Kernel) -> None:
        extents = {a.name: a.extent.evaluate(self.env) for a in self.program.axes}
        frame = _Frame({n: (0, e) for n, e in extents.items()}, frozenset(), {})
        self.block(kernel.body, frame)

    def block(self, body: tuple[Stmt, ...], frame: _Frame) -> None:
        for stmt in body:
            self.step(stmt, frame)

    def step(self, stmt: Stmt, frame: _Frame) -> None:
        if isinstance(stmt, Seq):
            self.run_steps(stmt, [frame])
            return
        self.count("read", frame, reads_of(stmt))
        match stmt:
            case Par():
                self.run_par(stmt, (t for t in self.tasks(stmt, frame, 0) if self.select(t.coordinates())))
            case Load():
                self.define(frame, stmt.out, self.load(stmt, frame))
            case Store():
                self.store(stmt, frame)
            case Copy():
                self.define(frame, stmt.out, self.aligned(frame, stmt.source, stmt.out.axes))
            case View():
                self.define(frame, stmt.out, frame.values[stmt.source][1])
            case Dot():
                self.define(frame, stmt.out, self.dot(stmt, frame))
            case Map():
                self.define(frame, stmt.out, self.elementwise(stmt.expr, stmt.out.axes, frame))
            case Reduce():
                self.define(frame, stmt.out, self.reduce(stmt, frame))
            case Alloc() | Sync():
                pass
        self.count("write", frame, (v.name for v in writes_of(stmt)))

    def tasks(self, par: Par, frame: _Frame, depth: int) -> Iterator[_Frame]:
        if depth == len(par.loops):
            yield frame
            return
        loop = par.loops[depth]
        tile, (_, extent) = self.number(loop.tile, frame), frame.spans[loop.axis]
        for start in range(0, extent, tile):
            inner = frame.inside(loop.axis, start, min(start + tile, extent), loop.tile == Const(1))
            yield from self.tasks(par, inner, depth + 1)

    def run_par(self, par: Par, tasks: Iterator[_Frame]) -> None:
        """Task after task; where they take the steps of a loop together, statement after statement."""
        if not any(synchronised(stmt) for stmt in par.body):
            for task in tasks:
                self.block(par.body, task)
            return
        alive = list(tasks)
        for stmt in par.body:
            if isinstance(stmt, Seq) and synchronised(stmt):
                self.run_steps(stmt, alive)
                continue
            for task in alive:
                self.step(stmt, task)

    def run_steps(self, seq: Seq, tasks: Sequence[_Frame]) -> None:
        """The steps of a loop that ``tasks`` take together; between two barriers one task runs after the other."""
        for task in tasks:
            self.count("read", task, reads_of(seq))
            for c in seq.carry:
                self.define(task, c.value, self.elementwise(c.init, c.value.axes, task))
            self.count("write", task, (v.name for v in writes_of(seq)))
        outer, self.domain = self.domain, {**self.domain, seq.loop.axis: seq}
        for start, stop in self.starts(seq, tasks[0]) if tasks else ():
            scalar = seq.loop.tile == Const(1)
            inside = [task.inside(seq.loop.axis, start, stop, scalar) for task in tasks]
            for segment in _between_barriers(seq.body):
                for inner in inside:
                    self.block(segment, inner)
            for task, inner in zip(tasks, inside, strict=True):
                for c in seq.carry:
                    task.values[c.value.name] = (c.value, inner.values[c.next][1])
        self.domain = outer

    def starts(self, seq: Seq, frame: _Frame) -> list[tuple[int, int]]:
        """Coordinates from and to, of every tile in order."""
        first, stop, end = self.seq_range(seq, frame)
        tile = self.number(seq.loop.tile, frame)
        tiles = [(start, min(start + tile, end)) for start in range(first, stop, tile)]
        return tiles[::-1] if seq.reverse else tiles

    def seq_range(self, seq: Seq, frame: _Frame) -> tuple[int, int, int]:
        scope = self.symbolic_scope(frame)
        first, stop = part_range(seq, scope)
        end = valid_end(seq, scope)
        return self.number(first, frame), self.number(stop, frame), self.number(end, frame)

    def symbolic_scope(self, frame: _Frame) -> dict[str, Any]:
        scope = dict(self.scope)
        for axis, (start, stop) in frame.spans.items():
            if axis in frame.scalar:
                scope = enter(scope, axis, Sym(axis), Const(1))
            elif start or stop != self.number(scope[axis].extent, frame):
                scope = enter(scope, axis, Const(start), Const(stop - start))
        return scope

    def number(self, expr: IntExpr, frame: _Frame) -> int:
        return expr.evaluate({**self.env, **frame.coordinates()})

    # -- data movement

    def count(self, direction: str, frame: _Frame, names: Iterable[str]) -> None:
        """Bytes of whole values read or written at their levels; slow memory is counted by loads and stores."""
        for value, array in (frame.values[n] for n in names if n in frame.values):
            if value.level not in (None, SLOW):
                self.traffic.levels[str(value.level), direction] += array.size * value.dtype.bytes

    def define(self, frame: _Frame, value: Value, array: Array) -> None:
        shape = tuple(frame.spans[a][1] - frame.spans[a][0] for a in value.axes)
        frame.values[value.name] = (value, np.broadcast_to(self.rounded(array, value.dtype), shape))

    def rounded(self, array: Array, dtype: DType) -> Array:
        if dtype.kind != "float":
            return array
        if self.exact:
            return array.astype(np.float64)
        return array.astype(NUMPY[dtype.name]).astype(np.float32)

    def slices(self, access: Access, frame: _Frame) -> tuple[list[int | slice], list[str]]:
        index: list[int | slice] = []
        axes: list[str] = []
        for expr in access.index:
            axis, first = tiled_axis(expr, frame.spans.keys() - frame.scalar), self.number(expr, frame)
            if axis is None:
                index.append(first)
                continue
            start, stop = frame.spans[axis]
            index.append(slice(first, first + stop - start))
            axes.append(axis)
        return index, axes

    def load(self, stmt: Load, frame: _Frame) -> Array:
        index, axes = self.slices(stmt.access, frame)
        block = np.asarray(self.tensors[stmt.access.tensor])[tuple(index)]
        block = block.astype(self.float) if block.dtype.kind not in "biu" else block
        self.traffic.load(self.program.tensor(stmt.access.tensor), block.size)
        return np.transpose(block, [axes.index(a) for a in stmt.out.axes])

    def store(self, stmt: Store, frame: _Frame) -> None:
        index, axes = self.slices(stmt.access, frame)
        block = self.aligned(frame, stmt.value, tuple(axes))
        target = self.tensors[stmt.access.tensor]
        tensor = self.program.tensor(stmt.access.tensor)
        if stmt.accumulate:
            block = target[tuple(index)].astype(self.float) + block
            self.traffic.load(tensor, block.size)
        target[tuple(index)] = block.astype(target.dtype)
        self.traffic.store(tensor, block.size)

    # -- arithmetic

    def aligned(self, frame: _Frame, name: str, axes: tuple[str, ...]) -> Array:
        """The value with dimensions in the order of ``axes``; 1 where it lacks an axis."""
        value, array = frame.values[name]
        extra = [a for a in value.axes if a not in axes]
        if extra:
            raise IRError(f"{name} has axes {value.axes}, used where only {axes} are in scope")
        order = sorted(range(len(value.axes)), key=lambda n: axes.index(value.axes[n]))
        array = np.transpose(array, order)
        shape = [array.shape[sorted(value.axes, key=axes.index).index(a)] if a in value.axes else 1 for a in axes]
        return array.reshape(shape)

    def elementwise(self, expr: Scalar, axes: tuple[str, ...], frame: _Frame) -> Array:
        def along(axis: str) -> Array:
            if axis in frame.scalar:
                return np.asarray(frame.spans[axis][0])
            shape = [-1 if a == axis else 1 for a in axes]
            return np.arange(*frame.spans[axis]).reshape(shape)

        def leaf(node: Scalar) -> Any:
            match node:
                case Coord(axis=a):
                    return along(a)
                case Ref(name=n) if n in frame.values:
                    return self.aligned(frame, n, axes)
                case Ref(name=n):
                    return self.params[n] if n in self.params else self.env[n]
                case Fetch(tensor=t, index=ix):
                    return self.gather(t, [evaluate(x, leaf, self.float) for x in ix])
                case InDomain(axis=a):
                    return self.predicate(a, along, frame)
            raise IRError(f"no value for {node}")

        return evaluate(expr, leaf, self.float)

    def gather(self, name: str, index: list[Array]) -> Array:
        found = np.asarray(self.tensors[name])[tuple(np.broadcast_arrays(*index))]
        self.traffic.load(self.program.tensor(name), found.size)
        return found if found.dtype.kind in "biu" else np.asarray(found.astype(self.float))

    def predicate(self, axis: str, along: Callable[[str], Array], frame: _Frame) -> Array:
        domain = self.domain[axis].domain
        kept: Array = np.asarray(True)

        def value(bound: IntExpr) -> Array:
            return bound.evaluate_array({**self.env, **{a: along(a) for a in bound.symbols() & frame.spans.keys()}})

        for bound in domain.lower if domain else ():
            kept = kept & (along(axis) >= value(bound))
        for bound in domain.upper if domain else ():
            kept = kept & (along(axis) < value(bound))
        return kept

    def reduce(self, stmt: Reduce, frame: _Frame) -> Array:
        axes = (*stmt.out.axes, stmt.over)
        block = self.aligned(frame, stmt.source, axes)
        with np.errstate(all="ignore"):
            found: Array = _REDUCE[stmt.op](block, axis=-1, initial=_IDENTITY[stmt.op])
        return found

    def dot(self, stmt: Dot, frame: _Frame) -> Array:
        axes = (*stmt.out.axes, *stmt.over)
        letters = {a: chr(97 + n) for n, a in enumerate(dict.fromkeys(axes))}
        (va, a), (vb, b) = frame.values[stmt.a], frame.values[stmt.b]
        spec = "{},{}->{}".format(*("".join(letters[x] for x in names) for names in (va.axes, vb.axes, stmt.out.axes)))
        with np.errstate(all="ignore"):
            product = _product(spec, a, b) if not stmt.zero_skips else _product_skipping(spec, a, b)
        if stmt.init is None:
            return product
        return self.elementwise(stmt.init, stmt.out.axes, frame) + product


def _between_barriers(body: tuple[Stmt, ...]) -> list[tuple[Stmt, ...]]:
    cuts = [n for n, stmt in enumerate(body) if stmt == Sync(GRID)]
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def _product(spec: str, a: Array, b: Array) -> Array:
    found: Array = np.einsum(spec, a, b, optimize=True)
    return found


def _product_skipping(spec: str, a: Array, b: Array) -> Array:
    """The product where a weight of exactly 0 ignores what it multiplies."""
    finite = np.isfinite(b)
    if finite.all():
        return _product(spec, a, b)
    total = _product(spec, a, np.where(finite, b, b.dtype.type(0)))
    for special in (np.nan, np.inf, -np.inf):
        hits = np.isnan(b) if np.isnan(special) else b == special
        for sign in (1.0, -1.0):
            weight = _product(spec, (a * sign > 0).astype(a.dtype), hits.astype(b.dtype))
            total = np.where(weight > 0, total + special * sign, total)
    return np.asarray(total)
