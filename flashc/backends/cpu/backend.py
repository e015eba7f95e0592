"""The CPU's lowering profile and its printer, behind the common backend interface."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from flashc.autotune.problem import Constraint
from flashc.backends.base import Built, Executable, part_domains
from flashc.backends.cpu import emit, lower, place, place_rows, run
from flashc.errors import DeviceAbsentError
from flashc.hwmodels.model import Device
from flashc.ir.analysis import footprint, sites, tiled_loops
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div
from flashc.ir.nodes import Dot, Kernel, Par, Program

ROW_BLOCKS = (
    1,
    2,
    3,
    4,
    6,
    8,
    12,
)  # more than 12 row pointers with run-time strides spill (measured: 188 -> 135 GFLOP/s)
PANELS = (1, 2, 3, 4)
STREAM_PANELS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
SHORT_ROWS = (1, 2, 4, 8, 16, 32)
TILES = (16, 32, 64, 128, 256, 512)


class CpuBackend:
    name = "cpu"
    kinds = ("cpu",)

    def missing(self, device: Device) -> str | None:
        if device.cpu_isa is None:
            return f"{device.name} is not a CPU that C++ can be emitted for"
        return None

    def place(self, program: Program, device: Device) -> Program:
        return place.place(program, device)

    def domains(self, placed: Program, device: Device, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Lane tiles are multiples of the vector; the others powers of two, none beyond the extent's next power."""
        width = device.vector.width_bits // 32
        lanes = {place.lane_axis(placed, k) for k in placed.kernels}
        rows: set[str] = set()
        found: dict[str, tuple[int, ...]] = {"mr": PANELS, "nr": ROW_BLOCKS, "stages": (1,)}
        for kernel in placed.kernels:
            if place_rows.has_short_rows(placed, kernel):
                rows |= place_rows.row_axes(placed, kernel)
                lanes |= place_rows.lane_axes(placed, kernel)
                found |= {"mr": STREAM_PANELS, place_rows.STREAM_BLOCK: STREAM_PANELS, "stages": (1, 2)}
        lanes -= rows
        for loop in tiled_loops(placed):
            symbol = str(loop.tile)
            extent = placed.axis(loop.axis).extent.evaluate(dict(sizes))
            values = sorted({width * n for n in (1, 2, 3, 4, 6, 8, 12, 16)}) if loop.axis in lanes else list(TILES)
            values = list(SHORT_ROWS) if loop.axis in rows else values
            reach = next((v for v in values if v >= extent), values[-1])
            found[symbol] = tuple(v for v in values if v <= max(reach, values[0]))
        found |= part_domains(placed, sizes, found)
        return {t: found[t] for t in placed.tiles}

    def constraints(self, placed: Program, device: Device) -> tuple[Constraint, ...]:
        width = device.vector.width_bits // 32
        mr, nr = Sym("mr"), Sym("nr")
        registers = device.vector.registers or 16
        cache = device.level(place.LEVEL).capacity_bytes or 0
        short = {k.name for k in placed.kernels if place_rows.has_short_rows(placed, k)}
        found = [
            Constraint("cpu.registers", mr * nr + mr + 1, "<=", Const(registers), "registers", "lower mr or nr"),
        ]
        if short:
            kr = Sym(place_rows.STREAM_BLOCK)
            need = kr * nr + kr + 1
            limit = Const(registers)
            found.append(Constraint("cpu.registers.across", need, "<=", limit, "registers", "lower kr or nr"))
        if len(short) < len(placed.kernels):
            found.append(Constraint("cpu.latency", Const(8), "<=", mr * nr, "accumulators", "raise mr or nr"))
        if len(short) < len(placed.kernels) and not device.features & {"avx512f"}:
            found.append(Constraint("cpu.load_bound", Const(2), "<=", mr, "vectors", "raise mr"))
        for kernel in placed.kernels:
            need = footprint(placed, kernel, place.LEVEL)
            if kernel.name in short:  # what is fetched ahead passes through this cache
                need = need + footprint(placed, kernel, "memory")
                found.append(_block_of_rows(placed, kernel))
            found.append(
                Constraint(f"device.{place.LEVEL}.{kernel.name}", need, "<=", Const(cache), "B", "lower the tiles")
            )
            for site in sites(placed, kernel):
                lane = site.stmt.atom.lane if isinstance(site.stmt, Dot) and site.stmt.atom else None
                if isinstance(site.stmt, Dot) and lane is not None and lane in site.stmt.out.axes:
                    tile = site.scope[lane].size
                    if kernel.name in short:
                        tile = ceil_div(tile, width) * width
                    found.append(
                        Constraint(
                            f"cpu.panels.{kernel.name}.{site.stmt.out.name}",
                            tile,
                            "%==0",
                            mr * width,
                            "rows",
                            f"make the {lane} tile a multiple of mr vectors",
                        )
                    )
        return tuple(found)

    def padded(self, axis: str, extent: IntExpr) -> IntExpr:
        return extent

    def lower(self, bound: Program) -> Program:
        return lower.lower(bound)

    def emit(self, bound: Program, device: Device) -> str:
        return run.whole_source(emit.emit(self.lower(bound), device.vector.width_bits))

    def build(self, source: str, bound: Program, device: Device) -> Built:
        return run.build(source, bound, device)

    def load(self, built: Built, bound: Program, device: Device) -> Executable:
        absent = self.absent(device)
        if absent:
            raise DeviceAbsentError(absent)
        return run.load(built, bound)

    def absent(self, device: Device) -> str | None:
        """Why code for the device cannot run on this machine, or None."""
        here = machine_features()
        needed = {f for f in device.features if f in _CHECKED} if device.cpu_isa else set()
        same = run.machine_of(device.arch) == run.machine_of(platform.machine())
        if device.name == "native" or (needed <= here and same):
            return None
        lacking = ", ".join(sorted(needed - here)) or "that architecture"
        return f"this machine cannot run code for {device.name} ({device.arch}); it lacks {lacking}"


def _block_of_rows(placed: Program, kernel: Kernel) -> Constraint:
    """A register block has no more rows than there are."""
    tiles = {loop.axis: loop.tile for stmt in kernel.body if isinstance(stmt, Par) for loop in stmt.loops}
    rows: IntExpr = Const(1)
    for axis in place_rows.row_axes(placed, kernel):
        rows = rows * tiles.get(axis, placed.axis(axis).extent)
    return Constraint(f"cpu.rows.{kernel.name}", Sym("nr"), "<=", rows, "rows", "lower nr")


_CHECKED = frozenset({"avx2", "avx512f", "avx512_bf16", "f16c", "neon", "sve"})


def machine_features() -> frozenset[str]:
    """Instruction-set flags that the kernel reports for this machine."""
    try:
        with open("/proc/cpuinfo") as f:
            lines = [line.split(":", 1)[1] for line in f if line.startswith(("flags", "Features"))]
    except OSError:
        return frozenset()
    flags = set(lines[0].split()) if lines else set()
    return frozenset(flags | ({"neon"} if "asimd" in flags else set()))


BACKEND = CpuBackend()
