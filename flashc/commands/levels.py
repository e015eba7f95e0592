"""The tiles of a choice at every level, read off its bound program: grid, loops, memory levels, atoms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flashc.compiler.tune import Choice, Tuning, environment
from flashc.ir.analysis import sites
from flashc.ir.footprint import values_of
from flashc.ir.nodes import Dot, Kernel, Loop, Par, Program, Seq
from flashc.ops import registry


class LevelRow(NamedTuple):
    """What is tiled at a level of a kernel, the tile, and its size in bytes (None for loops and atoms)."""

    kernel: str
    level: str
    what: str
    tile: str
    bytes: int | None = None


def level_rows(tuning: Tuning, choice: Choice) -> list[LevelRow]:
    """Outermost first; values of one level with the same axes and type share a row."""
    env = environment(registry()[tuning.workload.op], tuning.workload.spec)
    program = choice.program
    numbers = {**env, **dict(program.fixed)}
    order = [level.name for level in tuning.device.levels]
    rows: list[LevelRow] = []
    for kernel in program.kernels:
        rows += _loops(program, kernel, numbers)
        values = _values(program, kernel, numbers)
        rows += sorted(values, key=lambda r: order.index(r.level) if r.level in order else len(order))
        rows += _atoms(program, kernel)
    return rows


def _loops(program: Program, kernel: Kernel, numbers: Mapping[str, Any]) -> list[LevelRow]:
    rows: list[LevelRow] = []
    for site in sites(program, kernel):
        match site.stmt:
            case Par(loops=loops):
                rows += [LevelRow(kernel.name, "grid", x.axis, _steps(program, x, numbers)) for x in loops]
            case Seq(loop=loop, stages=stages):
                buffers = stages.evaluate(numbers)
                more = f", {buffers} stages" if buffers > 1 else ""
                rows.append(LevelRow(kernel.name, "loop", loop.axis, _steps(program, loop, numbers) + more))
            case _:
                pass
    return rows


def _steps(program: Program, loop: Loop, numbers: Mapping[str, Any]) -> str:
    return f"{loop.tile.evaluate(numbers)} of {program.axis(loop.axis).extent.evaluate(numbers)}"


def _values(program: Program, kernel: Kernel, numbers: Mapping[str, Any]) -> list[LevelRow]:
    """On-chip tiles, those of the slowest memory left out: they are the operands themselves."""
    names: dict[tuple[str, str], list[str]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for value, scope, stages in values_of(program, kernel).values():
        if value.level is None or value.level == "memory":
            continue
        axes = {axis: scope[axis].size.evaluate({**numbers, axis: 0}) for axis in value.axes}
        shape = " x ".join(f"{axis} {size}" for axis, size in axes.items()) or "scalar"
        key = value.level, f"{shape} {value.dtype}"
        total = value.dtype.bytes * stages.evaluate(numbers)
        for size in axes.values():
            total *= size
        names.setdefault(key, []).append(value.name)
        sizes[key] = total
    return [
        LevelRow(kernel.name, level, ", ".join(names[level, tile]), tile, sizes[level, tile])
        for level, tile in names
    ]


def _atoms(program: Program, kernel: Kernel) -> list[LevelRow]:
    found: dict[str, list[str]] = {}
    for site in sites(program, kernel):
        if isinstance(site.stmt, Dot) and site.stmt.atom is not None:
            atom = site.stmt.atom
            text = f"{atom.unit} m {atom.m} n {atom.n} k {atom.k}"
            found.setdefault(text, []).append(site.stmt.out.name)
    return [LevelRow(kernel.name, "atom", ", ".join(names), text) for text, names in found.items()]
