"""What a tiling needs of a GPU under Triton, as constraints in the tile symbols.

Shared memory and tensor memory are upper bounds: every staged tile with the buffers Triton's pipeliner keeps,
and the scratch of layout changes. Registers have a hard lower bound (what must be alive) and an estimate,
which is reported. benchmarks/triton_resources.py holds all of them against compiled kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flashc.autotune.problem import Constraint
from flashc.backends.triton.frame import par_of
from flashc.backends.triton.launching import step_loop
from flashc.backends.triton.merging import dimensions, merged_axes
from flashc.backends.triton.place import VECTOR_UNIT, padded
from flashc.hwmodels.model import Device
from flashc.ir.analysis import Site, expressions, operands, sites
from flashc.ir.footprint import live_points, values_of
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imax, imin
from flashc.ir.nodes import Dot, Kernel, Load, Map, Program, Reduce, Seq, Stmt, Store, outputs_of
from flashc.ir.ranges import Scope, enter, whole
from flashc.ir.scalar import coords, fetches, refs
from flashc.ir.steps import launched
from flashc.ir.types import Value
from flashc.ir.views import view_sources

ZERO: IntExpr = Const(0)
ONE: IntExpr = Const(1)
WARPS: IntExpr = Sym("warps")
ADDRESSES = 24  # registers of a thread that hold addresses, strides and loop control whatever the tiles
FIXED = 128  # bytes: barriers of asynchronous copies and products (two of 8 B per buffer), flags, padding
LARGEST_BLOCK = 1 << 20  # elements; tl.TRITON_MAX_TENSOR_NUMEL
FRAGMENTS = (
    512  # registers of FMA operands beyond which compiled kernels spill kilobytes (docs/triton_resources.md)
)
TENSOR_ROWS = 128
DEFAULT_WARPS = 4  # of a program without dots, which has no symbol for them
ASYNCHRONOUS = frozenset({"wgmma", "tcgen05"})  # features: matrix units that read shared memory by themselves


def constraints(placed: Program, device: Device) -> tuple[Constraint, ...]:
    """Named constraints of everything that is launched; see :mod:`flashc.autotune.problem`."""
    limits = device.occupancy
    if limits is None:
        return ()
    found: list[Constraint] = []
    threads = WARPS * limits.threads_per_warp
    registers = imin(Const(limits.regs_per_thread_max), Const(limits.regs_per_sm) // threads) - ADDRESSES
    for kernel in (part for whole_kernel in placed.kernels for part in launched(whole_kernel)):
        name = kernel.name
        found.append(
            Constraint(
                f"device.smem.{name}",
                shared_bytes(placed, kernel, device),
                "<=",
                Const(limits.smem_per_block_max),
                "B",
                "lower stages or the tiles",
            )
        )
        if "warps" in placed.tiles:
            found.append(
                Constraint(
                    f"device.regs_min_live.{name}",
                    min_live(placed, kernel, device),
                    "<=",
                    registers,
                    "registers",
                    "lower the tiles or raise warps",
                )
            )
        if "tcgen05" in device.features:
            found.append(
                Constraint(
                    f"device.tmem.{name}",
                    tensor_bytes(placed, kernel),
                    "<=",
                    Const(device.level("tmem").capacity_bytes or 0),
                    "B",
                    "lower the tiles",
                )
            )
        found += _legality(placed, kernel, device)
    if "warps" not in placed.tiles:
        found = [c.subs({"warps": DEFAULT_WARPS}) for c in found]
    return tuple(found)


def _legality(placed: Program, kernel: Kernel, device: Device) -> Iterator[Constraint]:
    blocks = imax(ONE, *(_elements(v, scope) for v, scope, _ in values_of(placed, kernel).values()))
    yield Constraint(
        f"triton.numel.{kernel.name}", blocks, "<=", Const(LARGEST_BLOCK), "elements", "lower the tiles"
    )
    operands = list(_vector_dots(placed, kernel, device))
    if operands:
        yield Constraint(
            f"triton.fma_operands.{kernel.name}",
            imax(*operands),
            "<=",
            Const(FRAGMENTS),
            "registers",
            "lower the tiles or raise warps",
        )


# -- shared memory


def shared_bytes(placed: Program, kernel: Kernel, device: Device) -> IntExpr:
    """Upper bound of the shared memory of a program of the kernel, which is one launch."""
    par, scope, step = par_of(kernel), whole(placed), step_loop(kernel)
    for loop in (*((step.loop,) if step else ()), *par.loops):
        scope = enter(scope, loop.axis, Sym(loop.axis), loop.tile)
    return _Shared(placed, device).block(par.body, scope, ONE)


class _Shared:
    def __init__(self, placed: Program, device: Device) -> None:
        self.placed, self.device = placed, device
        self.nvidia = device.vendor == "nvidia"
        self.merged = {a: dim for k in placed.kernels for a, dim in merged_axes(placed, k).items()}
        self.held = {v: source for k in placed.kernels for v, source in view_sources(k.body).items()}
        self.made: dict[str, Stmt] = {}
        self.carried: dict[str, Value] = {}

    def block(self, body: Sequence[Stmt], scope: Scope, stages: IntExpr) -> IntExpr:
        """What the body's own tiles hold throughout, and the most that a loop or statement needs on top."""
        self.made.update({out.name: s for s in body if (out := outputs_of(s)) is not None})
        held, passing, between = ZERO, [ZERO], [ZERO]
        in_loop = not any(isinstance(s, Seq) for s in body)
        widest = max((len(s.out.axes) for s in body if isinstance(s, Load)), default=0)
        streams = in_loop and stages != ONE and not any(isinstance(s, Dot) for s in body)
        for stmt in body:
            match stmt:
                case Seq(loop=loop, body=inner, carry=carry):
                    self.carried.update({c.value.name: c.value for c in carry})
                    within = enter(scope, loop.axis, Sym(loop.axis), loop.tile)
                    passing.append(self.block(inner, within, stmt.stages))
                    between.append(self.relaid(stmt, scope, within))
                case Load(out=out) if out.level == "smem" and (in_loop or self.nvidia):
                    held = held + _bytes(out, scope) * self.buffers(out.name, stages)
                case Load(out=out) if streams:  # Triton pipelines every load of a loop without dots
                    held = held + (_bytes(out, scope) * imax(stages - 1, ONE) if self.nvidia else ZERO)
                    passing.append(_bytes(out, scope) if len(out.axes) < widest else ZERO)  # to be broadcast
                case Load(out=out) if in_loop and stages != ONE and _two_dimensional(out):
                    held = held + _bytes(out, scope) * imax(stages - 1, ONE)
                case Load(out=out) if _two_dimensional(out):
                    passing.append(_bytes(out, scope))
                case Store(value=value) if self.nvidia:
                    passing.append(self.converted(value, scope))
                case Reduce(out=out):
                    passing.append(_bytes(out, scope) * WARPS)
                case Map(out=out):
                    held = held + self.gathered(stmt, scope, stages)
                    if self.feeds_dot(out.name):
                        held = held + self.staged(out, scope)
        return imax(held + imax(*passing), *between) + FIXED

    def users(self, name: str) -> list[Site]:
        """The dots of asynchronous matrix units that read a value."""
        if not ASYNCHRONOUS & self.device.features:
            return []
        found = [s for k in self.placed.kernels for s in sites(self.placed, k)]
        return [s for s in found if _on_matrix_unit(s.stmt) and name in self.read(operands(s.stmt))]

    def read(self, names: Sequence[str]) -> set[str]:
        """What holds the elements of these values."""
        return {self.held.get(n, n) for n in names}

    def buffers(self, name: str, stages: IntExpr) -> IntExpr:
        """Tiles in flight per streamed load: asynchronous matrix units read one while the next arrives."""
        kept = [self.whole_units(s.stmt.out, s.scope) for s in self.users(name) if isinstance(s.stmt, Dot)]
        return imax(stages - 1 + imax(ZERO, *kept), ONE)

    def converted(self, value: str, scope: Scope) -> IntExpr:
        """Scratch of the change from a dot's layout to one whose rows can be stored."""
        out = outputs_of(self.made[value]) if value in self.made else self.carried.get(value)
        return _bytes(out, scope) if out is not None and _two_dimensional(out) else ZERO

    def relaid(self, seq: Seq, scope: Scope, within: Scope) -> IntExpr:
        """A loop's buffers and the scratch of its accumulators between its parts. Where a dot has fewer rows than its
        warps take (16 each) Triton lays the others along the columns, and not in every part as many."""
        if not self.nvidia or not any(isinstance(s, Dot) for s in seq.body):
            return ZERO
        loads = [s.out for s in seq.body if isinstance(s, Load) and s.out.level == "smem"]
        total = _sum([_bytes(out, within) * self.buffers(out.name, seq.stages) for out in loads])
        for value in (c.value for c in seq.carry if _two_dimensional(c.value)):
            rows_suffice = imin(ONE, _rows(value, scope, self.merged) // (WARPS * 16))
            total = total + _bytes(value, scope) * (ONE - rows_suffice)
        return total

    def gathered(self, stmt: Map, scope: Scope, stages: IntExpr) -> IntExpr:
        """Blocks of gathered tensor elements, which the pipeliner buffers like loads."""
        total = ZERO
        for expr in expressions(stmt):
            for node in fetches(expr):
                axes = tuple(a for a in coords(node) if not scope[a].scalar)
                tensor = self.placed.tensor(node.tensor)
                if len(axes) > 1:
                    total = total + _bytes(Value("", axes, tensor.dtype), scope) * imax(stages - 1, ONE)
        return total

    def feeds_dot(self, name: str) -> bool:
        return any(
            isinstance(s.stmt, Dot) and name in self.read((s.stmt.a, s.stmt.b))
            for k in self.placed.kernels
            for s in sites(self.placed, k)
        )

    def staged(self, out: Value, scope: Scope) -> IntExpr:
        """A computed operand, passed on through shared memory unless the unit takes it where it was made."""
        if "wgmma" not in self.device.features or not self.users(out.name) or not self.comes_from_dot(out):
            return _bytes(out, scope)
        return _bytes(out, scope) * (ONE - self.whole_units(out, scope))

    def whole_units(self, value: Value, scope: Scope) -> IntExpr:
        """1 where a block is large enough for the asynchronous matrix units (64 rows, 4 warps), else 0."""
        return imin(ONE, _rows(value, scope, self.merged) // 64) * imin(ONE, WARPS // 4)

    def comes_from_dot(self, out: Value) -> bool:
        pending, seen = [out.name], set()
        while pending:
            name = pending.pop()
            stmt = self.made.get(name)
            if name in seen or stmt is None:
                continue
            seen.add(name)
            if isinstance(stmt, Dot) and stmt.out.axes == out.axes:
                return True
            pending += [r for e in expressions(stmt) for r in refs(e)]
        return False


def _two_dimensional(value: Value) -> bool:
    return len(value.axes) > 1


# -- tensor memory


def tensor_bytes(placed: Program, kernel: Kernel) -> IntExpr:
    """Upper bound of the tensor memory: accumulators and computed left operands, in 128 rows each."""
    found, dots = values_of(placed, kernel), _matrix_dots(placed, kernel)
    accumulators, merged = {d.out.name for d in dots}, merged_axes(placed, kernel)
    loaded = {s.stmt.out.name for s in sites(placed, kernel) if isinstance(s.stmt, Load)}
    total = ZERO
    for name in sorted(accumulators | ({d.a for d in dots} - loaded)):
        value, scope, _ = found[name]
        rows = _rows(value, scope, merged)
        total = total + _bytes(value, scope) // rows * ceil_div(rows, TENSOR_ROWS) * TENSOR_ROWS
    return total


def _matrix_dots(placed: Program, kernel: Kernel) -> list[Dot]:
    found = [s.stmt for s in sites(placed, kernel)]
    return [d for d in found if isinstance(d, Dot) and _on_matrix_unit(d)]


def _on_matrix_unit(stmt: Stmt) -> bool:
    return isinstance(stmt, Dot) and stmt.atom is not None and stmt.atom.unit != VECTOR_UNIT


# -- registers


def min_live(placed: Program, kernel: Kernel, device: Device) -> IntExpr:
    """Registers per thread that no compiler can do without: accumulators and state alive together."""
    outs = {s.stmt.out.name for s in sites(placed, kernel) if isinstance(s.stmt, Dot)}
    carried = {
        c.value.name: c.next for s in sites(placed, kernel) if isinstance(s.stmt, Seq) for c in s.stmt.carry
    }
    if "tcgen05" not in device.features:
        return _per_thread(placed, kernel, device, outs | set(carried))
    elsewhere = {d.out.name for d in _matrix_dots(placed, kernel)}  # in tensor memory
    return _per_thread(
        placed, kernel, device, (outs | {n for n, after in carried.items() if after not in outs}) - elsewhere
    )


def estimate_registers(placed: Program, kernel: Kernel, device: Device) -> IntExpr:
    """Registers per thread as compiled kernels mostly need them (fitted: docs/triton_resources.md)."""
    assert device.occupancy is not None
    limits = device.occupancy
    most = imin(
        Const(limits.regs_per_thread_max), Const(limits.regs_per_sm) // (WARPS * limits.threads_per_warp)
    )
    blocks = _per_thread(placed, kernel, device, set(values_of(placed, kernel)))
    line = blocks * 5 // 4 + 64 if device.vendor == "nvidia" else blocks * 3 // 2 + 80
    return imin(most, line)


def _per_thread(placed: Program, kernel: Kernel, device: Device, names: set[str]) -> IntExpr:
    assert device.occupancy is not None
    found = values_of(placed, kernel)
    points = {frozenset(point & names) for point in live_points(kernel.body)}
    maximal = [p for p in points if not any(p < q for q in points)]
    held = imax(
        ZERO, *(_sum([_bytes(*found[n][:2]) for n in sorted(p)]) for p in sorted(maximal, key=sorted))
    )
    return ceil_div(held, WARPS * (device.occupancy.threads_per_warp * 4))


def _vector_dots(placed: Program, kernel: Kernel, device: Device) -> Iterator[IntExpr]:
    """Registers of dots on the vector units: Triton keeps whole rows and columns of operands in them."""
    assert device.occupancy is not None
    for site in sites(placed, kernel):
        dot = site.stmt
        if (
            not isinstance(dot, Dot)
            or dot.atom is None
            or dot.atom.unit != VECTOR_UNIT
            or device.vendor != "nvidia"
        ):
            continue
        depth = ONE
        for axis in dot.over:
            depth = depth * padded(axis, site.scope[axis].size)
        each = _elements(dot.out, site.scope) // (WARPS * device.occupancy.threads_per_warp)
        yield (each // 4 + 4) * depth + each


# -- sizes


def _elements(value: Value, scope: Scope) -> IntExpr:
    total: IntExpr = ONE
    for axis in value.axes:
        total = total * padded(axis, scope[axis].size)
    return total


def _rows(value: Value, scope: Scope, merged: Mapping[str, tuple[str, ...]]) -> IntExpr:
    """Elements along the first dimension of a block."""
    total: IntExpr = ONE
    for axis in dimensions(value.axes, merged)[0]:
        total = total * scope[axis].size
    return total


def _bytes(value: Value, scope: Scope) -> IntExpr:
    return _elements(value, scope) * value.dtype.bytes


def _sum(terms: Sequence[IntExpr]) -> IntExpr:
    total: IntExpr = ZERO
    for term in terms:
        total = total + term
    return total
