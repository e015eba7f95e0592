"""Tile sizes of kernels with short rows (see place_rows): which values are tried, and which are legal."""

from __future__ import annotations

from collections.abc import Iterator

from flashc.autotune.problem import Constraint
from flashc.backends.cpu.place_rows import STREAM_BLOCK, row_axes
from flashc.hwmodels.model import Device
from flashc.ir.analysis import sites
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div
from flashc.ir.nodes import Dot, Kernel, Loop, Par, Program, Seq

ROWS = (1, 2, 4, 8, 16)
STREAMED = (16, 32, 64, 128, 256)  # 512 gain less than 1 % of the softmax's work per tile and crowd the second cache
ROW_BLOCKS = (1, 2, 4, 6, 8)
STREAM_BLOCKS = (1, 2, 3, 4, 8, 12)
PANELS = (1, 2, 3, 4, 5, 6, 8, 16)


def domains(placed: Program, kernel: Kernel, device: Device) -> dict[str, tuple[int, ...]]:
    """Values of the kernel's tile symbols; panels divide every streamed row of a known length."""
    width, rows = device.vector.width_bits // 32, row_axes(placed, kernel)
    vectors = [tile.value for tile in _streamed_vectors(placed, kernel, width) if isinstance(tile, Const)]
    found: dict[str, tuple[int, ...]] = {
        "mr": tuple(n for n in PANELS if all(v % n == 0 for v in vectors)), "nr": ROW_BLOCKS,
        STREAM_BLOCK: STREAM_BLOCKS, "stages": (1, 2),
    }  # fmt: skip
    for site in sites(placed, kernel):
        match site.stmt:
            case Par(loops=loops):
                found |= {str(x.tile): ROWS if x.axis in rows else STREAMED for x in loops if isinstance(x.tile, Sym)}
            case Seq(loop=Loop(tile=Sym(name=symbol))):
                found[symbol] = STREAMED
    return found


def constraints(placed: Program, kernel: Kernel, device: Device) -> Iterator[Constraint]:
    """Accumulators, one row of operands and a broadcast fit the registers; blocks are no larger than what is there."""
    width, registers = device.vector.width_bits // 32, Const(device.vector.registers or 16)
    if not any(isinstance(site.stmt, Dot) for site in sites(placed, kernel)):
        return
    mr, nr, kr = Sym("mr"), Sym("nr"), Sym(STREAM_BLOCK)
    along, across = mr * nr + mr + 1, kr * nr + kr + 1
    name = kernel.name
    yield Constraint(f"cpu.registers.{name}", along, "<=", registers, "registers", "lower mr or nr")
    yield Constraint(f"cpu.registers.across.{name}", across, "<=", registers, "registers", "lower kr or nr")
    tiles = {loop.axis: loop.tile for stmt in kernel.body if isinstance(stmt, Par) for loop in stmt.loops}
    rows: IntExpr = Const(1)
    for axis in row_axes(placed, kernel):
        rows = rows * tiles.get(axis, placed.axis(axis).extent)
    yield Constraint(f"cpu.rows.{name}", nr, "<=", rows, "rows", "lower nr")
    for vectors in _streamed_vectors(placed, kernel, width):
        yield Constraint(f"cpu.panels.{name}", vectors, "%==0", mr, "vectors", "lower mr")


def _streamed_vectors(placed: Program, kernel: Kernel, width: int) -> Iterator[IntExpr]:
    """Vectors in a row of every operand that streams along the result."""
    for site in sites(placed, kernel):
        lane = site.stmt.atom.lane if isinstance(site.stmt, Dot) and site.stmt.atom else None
        if isinstance(site.stmt, Dot) and lane is not None and lane in site.stmt.out.axes:
            yield ceil_div(site.scope[lane].size.subs(dict(placed.fixed)), width)
