"""The lowering profile of NPUs and accelerators behind the common backend interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

from flashc.autotune.problem import Constraint
from flashc.backends.ascend.place import LEFT, RIGHT, VECTOR, memories, place
from flashc.backends.base import Built, Executable, matrix_dots, part_domains
from flashc.errors import UnsupportedError
from flashc.hwmodels.model import Device
from flashc.ir.analysis import Pad, Site, sites, tiled_loops
from flashc.ir.footprint import footprint, values_of
from flashc.ir.intexpr import Const, IntExpr, ceil_div
from flashc.ir.nodes import Copy, Dot, Kernel, Program

NAME = "ascend"
FRACTAL = 16  # rows and columns of a fractal, the smallest block that the matrix unit takes
TILES = (16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)
STAGES = (1, 2, 3)
PING_PONG = 2  # buffers of the matrix unit's operand memories: one is filled while the other is used


class AscendBackend:
    name = NAME
    kinds = ("npu", "accelerator")
    pad = Pad(lambda _axis, extent: ceil_div(extent, FRACTAL) * FRACTAL)

    def missing(self, device: Device) -> str | None:
        return device.missing_artefacts or "the AscendC printer is not written yet"

    def place(self, program: Program, device: Device) -> Program:
        return place(program, device)

    def domains(
        self, placed: Program, device: Device, sizes: Mapping[str, int]
    ) -> dict[str, tuple[int, ...]]:
        """Multiples of a fractal up to the one that covers the extent; one to three buffers per stream."""
        found: dict[str, tuple[int, ...]] = {"stages": STAGES}
        for loop in tiled_loops(placed):
            extent = placed.axis(loop.axis).extent.evaluate({**dict(placed.fixed), **sizes})
            reach = next((t for t in TILES if t >= extent), TILES[-1])
            found[str(loop.tile)] = tuple(t for t in TILES if t <= reach)
        found |= part_domains(placed, sizes, found)
        return {t: found[t] for t in placed.tiles}

    def constraints(self, placed: Program, device: Device) -> tuple[Constraint, ...]:
        found = [*matrix_dots(placed, self.name)]
        for kernel in placed.kernels:
            found += [*self._capacities(placed, kernel, device), *self._operands(placed, kernel, device)]
            found += self._rings(placed, kernel, device)
        return tuple(found)

    def _capacities(self, placed: Program, kernel: Kernel, device: Device) -> Iterator[Constraint]:
        """What is alive together must fit each memory; vector cores share a tile by rows."""
        own = memories(device)
        for level in dict.fromkeys((own.staging, own.accumulator, own.vector)):
            need = footprint(placed, kernel, level, self.pad)
            if level == VECTOR:
                need = ceil_div(need, device.vector.units_per_core)
            limit = Const(device.level(level).capacity_bytes or 0)
            knob = "lower the tiles or stages"
            yield Constraint(f"device.{level}.{kernel.name}", need, "<=", limit, "B", knob)

    def _operands(self, placed: Program, kernel: Kernel, device: Device) -> Iterator[Constraint]:
        """One slice of each dot operand, as deep as the matrix unit, must fit its operand memory twice."""
        levels = {lv.name: lv.capacity_bytes or 0 for lv in device.levels}
        values = values_of(placed, kernel)
        for site in sites(placed, kernel):
            dot = site.stmt
            if not isinstance(dot, Dot) or dot.atom is None:
                continue
            for level, name in ((LEFT, dot.a), (RIGHT, dot.b)):
                if level not in levels:
                    continue
                value = values[name][0]
                need: IntExpr = Const(PING_PONG * dot.atom.k * value.dtype.bytes)
                for axis in value.axes:
                    need = need if axis in dot.over else need * self.pad.rule(axis, site.scope[axis].size)
                constraint_name = f"device.{level}.{kernel.name}.{dot.out.name}"
                yield Constraint(constraint_name, need, "<=", Const(levels[level]), "B", "lower the tiles")

    def _rings(self, placed: Program, kernel: Kernel, device: Device) -> Iterator[Constraint]:
        """Separate matrix and vector cores meet in the shared cache: all cores' rings must stay in it."""
        cache = next((lv for lv in device.levels if lv.kind == "cache" and lv.per == "device"), None)
        if device.vector.units_per_core == 1 or cache is None or cache.capacity_bytes is None:
            return
        ring: IntExpr = Const(0)
        for site in sites(placed, kernel):
            if isinstance(site.stmt, Copy):
                ring = ring + self._tile_bytes(site) * _buffers(placed, kernel, site)
        limit = Const(cache.capacity_bytes)
        need = ring * device.cores
        yield Constraint(f"device.{cache.name}.{kernel.name}", need, "<=", limit, "B", "lower the tiles")

    def _tile_bytes(self, site: Site) -> IntExpr:
        assert isinstance(site.stmt, Copy)
        need: IntExpr = Const(site.stmt.out.dtype.bytes)
        for axis in site.stmt.out.axes:
            need = need * self.pad.rule(axis, site.scope[axis].size)
        return need

    def lower(self, bound: Program) -> Program:
        raise UnsupportedError("ascend: the AscendC printer is not written yet; there is no lowered stage")

    def emit(self, bound: Program, device: Device) -> str:
        self._refuse(device)

    def build(self, source: str, bound: Program, device: Device) -> Built:
        self._refuse(device)

    def absent(self, device: Device) -> str | None:
        return self.missing(device)

    def load(self, built: Built, bound: Program, device: Device) -> Executable:
        self._refuse(device)

    def _refuse(self, device: Device) -> NoReturn:
        raise UnsupportedError(
            f"{device.name}: {self.missing(device)}; tiles, prediction and bound: flashc tune --dry-run"
        )


def _buffers(placed: Program, kernel: Kernel, site: Site) -> IntExpr:
    assert isinstance(site.stmt, Copy)
    return values_of(placed, kernel)[site.stmt.out.name][2]


BACKEND = AscendBackend()
