"""The CPU's lowering profile and its printer, behind the common backend interface."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence

from flashc.autotune.problem import Constraint
from flashc.backends.base import Built, Executable, part_domains
from flashc.backends.cpu import emit, lower, place, place_resident, place_rows, rowspace, run
from flashc.errors import DeviceAbsentError
from flashc.hwmodels.model import Device
from flashc.ir.analysis import Pad, sites, tiled_loops
from flashc.ir.footprint import footprint
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imin
from flashc.ir.nodes import Dot, Program

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
TILES = (16, 32, 64, 128, 256, 512)
VECTORS = (1, 2, 3, 4, 6, 8, 12, 16)
RESIDENT_ROWS = (4, 8, *TILES)  # every row passes over the whole matrix anyway
RESIDENT_VECTORS = (*VECTORS, 24, 32, 48, 64)  # a thread has one tile; of those that make as many tasks, the most even


class CpuBackend:
    name = "cpu"
    kinds = ("cpu",)
    pad = Pad(lambda _axis, extent: extent, whole=False)

    def missing(self, device: Device) -> str | None:
        if device.cpu_isa is None:
            return f"{device.name} is not a CPU that C++ can be emitted for"
        return None

    def place(self, program: Program, device: Device) -> Program:
        return place.place(program, device)

    def domains(self, placed: Program, device: Device, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Lane tiles are multiples of the vector; the others powers of two, none beyond the extent's next power."""
        width = device.vector.width_bits // 32
        short = [k for k in placed.kernels if place_rows.has_short_rows(placed, k)]
        resident = [k for k in placed.kernels if place_resident.resident_matrices(placed, k)]
        lanes = {place.lane_axis(placed, k) for k in placed.kernels if k not in (*short, *resident)}
        usual: dict[str, Sequence[int]] = {}
        usual |= {axis.name: [width * n for n in VECTORS] if axis.name in lanes else TILES for axis in placed.axes}
        for kernel in resident:
            along = place_resident.row_axes(placed, kernel)
            for loop in (loop for par in kernel.pars for loop in par.loops):
                extent = placed.axis(loop.axis).extent.evaluate(dict(sizes))
                even = {-(-extent // (width * n)): width * n for n in reversed(RESIDENT_VECTORS)}
                usual[loop.axis] = RESIDENT_ROWS if loop.axis in along else sorted(even.values())
        found: dict[str, tuple[int, ...]] = {"mr": PANELS, "nr": ROW_BLOCKS, "stages": (1,)}
        rows: dict[str, tuple[int, ...]] = {}
        for kernel in short:
            for name, values in rowspace.domains(placed, kernel, device).items():
                rows[name] = tuple(v for v in values if v in rows.get(name, values))
        found |= rows
        for loop in tiled_loops(placed):
            symbol = str(loop.tile)
            extent = placed.axis(loop.axis).extent.evaluate(dict(sizes))
            tried = rows.get(symbol, tuple(usual[loop.axis]))
            reach = next((v for v in tried if v >= extent), tried[-1])
            found[symbol] = tuple(v for v in tried if v <= max(reach, tried[0]))
        found |= part_domains(placed, sizes, found)
        return {t: found[t] for t in placed.tiles}

    def constraints(self, placed: Program, device: Device) -> tuple[Constraint, ...]:
        width = device.vector.width_bits // 32
        mr, nr = Sym("mr"), Sym("nr")
        registers = device.vector.registers or 16
        cache = device.level(place.LEVEL).capacity_bytes or 0
        short = {k.name for k in placed.kernels if place_rows.has_short_rows(placed, k)}
        found: list[Constraint] = []
        if len(short) < len(placed.kernels):
            found += [
                Constraint("cpu.registers", mr * nr + mr + 1, "<=", Const(registers), "registers", "lower mr or nr"),
                Constraint("cpu.latency", Const(8), "<=", mr * nr, "accumulators", "raise mr or nr"),
            ]
        if len(short) < len(placed.kernels) and not device.features & {"avx512f"}:
            least = imin(Const(2), *_vectors(placed, width, short))
            found.append(Constraint("cpu.load_bound", least, "<=", mr, "vectors", "raise mr"))
        for kernel in placed.kernels:
            need = footprint(placed, kernel, place.LEVEL)
            if kernel.name in short:  # what is fetched ahead passes through this cache
                need = need + footprint(placed, kernel, "memory")
            found.append(
                Constraint(f"device.{place.LEVEL}.{kernel.name}", need, "<=", Const(cache), "B", "lower the tiles")
            )
            if kernel.name in short:
                found += rowspace.constraints(placed, kernel, device)
                continue
            for site in sites(placed, kernel):
                if not isinstance(site.stmt, Dot) or site.stmt.atom is None:
                    continue
                lane = str(site.stmt.atom.lane)
                whole = ceil_div(site.scope[lane].size.subs(dict(placed.fixed)), width)
                knob = f"make the {lane} tile a multiple of mr vectors"
                name = f"cpu.panels.{kernel.name}.{site.stmt.out.name}"
                found.append(Constraint(name, whole, "%==0", mr, "vectors", knob))
        return tuple(found)

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


def _vectors(placed: Program, width: int, short: Collection[str]) -> list[IntExpr]:
    """How many vectors the result of each dot has along its lanes; of the kernels other than ``short``."""
    dots = [s.stmt for k in placed.kernels if k.name not in short for s in sites(placed, k) if isinstance(s.stmt, Dot)]
    lanes = [d.atom.lane for d in dots if d.atom is not None and d.atom.lane is not None]
    return [ceil_div(placed.axis(lane).extent.subs(dict(placed.fixed)), width) for lane in lanes]


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
