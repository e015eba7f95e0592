"""Place for Triton: which tiles are staged in shared memory, which unit does each dot, which tile sizes are
legal.

Triton's compiler chooses layouts, so values get a level only: loads that feed a dot are staged through shared
memory ("smem"), everything else lives in registers ("reg"). Sizes that are compile-time constants are put in
as numbers, so that the padded tile of a head dimension is one. The number of warps of a program is the ``m``
of its dots' atoms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from flashc.backends.base import part_domains
from flashc.backends.triton.merging import SMALLEST, merged_axes
from flashc.errors import UnsupportedError
from flashc.hwmodels.model import Device, MatrixUnit
from flashc.ir.analysis import sites, tiled_loops
from flashc.ir.footprint import values_of
from flashc.ir.intexpr import Const, IntExpr, Sym
from flashc.ir.nodes import Atom, Carry, Copy, Dot, Kernel, Load, Map, Program, Reduce, Seq, Stmt, Store, View
from flashc.ir.rewrite import rewrite_body, rewrite_kernels, with_sizes
from flashc.ir.types import Value
from flashc.ir.views import view_sources

VECTOR_UNIT = "fma_f32"
LARGEST = 256
POWERS = tuple(1 << n for n in range(LARGEST.bit_length()))
WARPS = (1, 2, 4, 8, 16)
DEEP, SHALLOW = (1, 2, 3, 4, 5), (1, 2)


def place(program: Program, device: Device) -> Program:
    """The program with levels for values, atoms for dots, buffers for the loads of loops, and ``warps``."""
    fixed = with_sizes(program, dict(program.fixed))
    placed = rewrite_kernels(fixed, lambda k: _placed(fixed, k, device), stage="placed")
    walked = [s.stmt for k in placed.kernels for s in sites(placed, k)]
    streams = any(isinstance(s, Seq) and s.stages == Sym("stages") for s in walked)
    has_dots = any(isinstance(s, Dot) for s in walked)
    tiles = (*program.tiles, *(("stages",) if streams else ()), *(("warps",) if has_dots else ()))
    return replace(placed, tiles=tuple(dict.fromkeys(tiles)))


def _placed(program: Program, kernel: Kernel, device: Device) -> Kernel:
    held = view_sources(kernel.body)
    dots = [s.stmt for s in sites(program, kernel) if isinstance(s.stmt, Dot)]
    operands = {held.get(n, n) for dot in dots for n in (dot.a, dot.b)}
    staged = {s.stmt.out.name for s in sites(program, kernel) if isinstance(s.stmt, Load)} & operands
    types = {name: value.dtype.name for name, (value, _, _) in values_of(program, kernel).items()}

    def rule(stmt: Stmt) -> tuple[Stmt, ...]:
        match stmt:
            case Load(out=out):
                return (replace(stmt, out=replace(out, level="smem" if out.name in staged else "reg")),)
            case View(out=out):
                return (replace(stmt, out=replace(out, level="smem" if held[out.name] in staged else "reg")),)
            case Map(out=out) | Reduce(out=out) | Copy(out=out):
                return (replace(stmt, out=_in_registers(out)),)
            case Dot(out=out, a=a):
                return (replace(stmt, out=_in_registers(out), atom=_atom(device, types[a])),)
            case Seq(carry=carry):
                state = tuple(Carry(_in_registers(c.value), c.init, c.next) for c in carry)
                return (replace(stmt, carry=state, stages=Sym("stages") if _streams(stmt) else stmt.stages),)
        return (stmt,)

    return replace(kernel, body=rewrite_body(kernel.body, rule))


def _streams(seq: Seq) -> bool:
    """Whether the loads of a loop can run ahead of its dots: none reads what the loop stores or another task does."""
    loaded = {s.access.tensor for s in seq.body if isinstance(s, Load)}
    stored = {s.access.tensor for s in seq.body if isinstance(s, Store)}
    dots = any(isinstance(s, Dot) for s in seq.body)
    return seq.stages == Const(1) and dots and bool(loaded) and not loaded & stored


def _in_registers(value: Value) -> Value:
    return replace(value, level="reg")


def _atom(device: Device, dtype: str) -> Atom:
    """The device's fastest matrix unit for the type that accumulates in f32, or else the vector units."""
    unit = matrix_unit(device, dtype)
    return Atom(unit.name if unit else VECTOR_UNIT, None, Sym("warps"), Const(1), unit.k if unit else 1)


def matrix_unit(device: Device, dtype: str) -> MatrixUnit | None:
    units = [u for u in device.matrix_units if (u.operand, u.accumulator) == (dtype, "f32")]
    return max(units, key=lambda u: (u.peak_tflops, u.m * u.n * u.k), default=None)


def padded(axis: str, extent: IntExpr) -> IntExpr:
    """A tile as Triton executes it: a power of two, at least 16. Tile symbols only take such values."""
    if not isinstance(extent, Const):
        return extent
    return Const(max(SMALLEST, 1 << (extent.value - 1).bit_length()))


def domains(placed: Program, device: Device, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Powers of two up to the one that covers the extent; pipelining as deep as the copy engines allow.

    Tiles are at least 16, but for axes that share a dimension, whose tiles are so together: where the extents do not
    suffice for that, the first axis has the rows that are missing.
    """
    found: dict[str, tuple[int, ...]] = {
        "warps": _warps(device),
        "stages": DEEP if _copies_async(device) else SHALLOW,
    }
    merged = {axis: dim for k in placed.kernels for axis, dim in merged_axes(placed, k).items()}
    for loop in tiled_loops(placed):
        dim = merged.get(loop.axis, (loop.axis,))
        covers = {a: _cover(placed.axis(a).extent.evaluate(dict(sizes))) for a in dim}
        missing_rows = SMALLEST // math.prod(covers[a] for a in dim[1:]) if loop.axis == dim[0] else 1
        least = SMALLEST if len(dim) == 1 else 1
        values = tuple(t for t in POWERS if least <= t <= max(covers[loop.axis], missing_rows))
        known = found.get(str(loop.tile), values)
        found[str(loop.tile)] = values if len(values) > len(known) else known
    found |= part_domains(placed, sizes, found)
    missing = [t for t in placed.tiles if t not in found]
    if missing:
        raise UnsupportedError(
            f"triton: tile symbol(s) {', '.join(missing)} of {placed.schedule} bind no loop"
        )
    return {t: found[t] for t in placed.tiles}


def _cover(extent: int) -> int:
    """The smallest power of two that an extent fits, the largest tile at most."""
    return min(1 << max(extent - 1, 0).bit_length(), LARGEST)


def _warps(device: Device) -> tuple[int, ...]:
    limits = device.occupancy
    if limits is None:
        return WARPS
    return tuple(w for w in WARPS if w * limits.threads_per_warp <= limits.max_threads_per_block)


def _copies_async(device: Device) -> bool:
    """Whether loads can go to shared memory while the program computes (cp.async and its successors)."""
    return device.vendor == "nvidia" and any(f in device.features for f in ("cp_async", "tma"))
