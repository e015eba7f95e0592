"""Closed-form traffic of a tile program per memory level, by walking it: the same count that the interpreter makes.

What one execution of a statement moves, tails exact, with tiles as large as the loops leave them:

    Load     reads its tile from slow memory and writes it at its own level
    Store    reads its value's level and writes slow memory
    Copy     reads its source's level and writes its own
    Dot      reads both operands and the values of its initial expression, writes its result, each once per tile
    Map      reads every value it names once and writes its result; elements it fetches come from slow memory
    Reduce   reads its source, writes its result
    Seq      writes the initial elements of its state; replacing the state moves nothing (they share one place)

A value without a level (tile stage), or with the level ``memory`` (a tile that a CPU reads where it lies, its load
being a view), is counted by its Load and Store only. What a dot reads again into registers per block of its atom
depends on the matrix unit and on how workers divide the tile; the time model counts that (``autotune.counts.dots``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flashc.ir.analysis import SLOW, Site, reads_of, sites, transfers, writes_of
from flashc.ir.intexpr import Const, IntExpr, add
from flashc.ir.nodes import Kernel, Program, Seq, Stmt, outputs_of
from flashc.ir.types import Value

Direction = Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class Flow:
    """Elements that one statement reads from or writes to a level; ``name``: the tensor (slow memory) or the value."""

    level: str
    direction: Direction
    name: str
    elements: IntExpr
    width: int

    @property
    def bytes(self) -> IntExpr:
        return self.elements * self.width


@dataclass(frozen=True, slots=True)
class LevelTraffic:
    """All flows of a program; sums are integer expressions in its sizes, tiles and run-time tables."""

    flows: tuple[Flow, ...]

    def levels(self) -> tuple[str, ...]:
        """Slow memory first, the others in the order of their first use."""
        return tuple(dict.fromkeys((SLOW, *(f.level for f in self.flows))))

    def bytes(self, level: str = SLOW, direction: Direction | None = None) -> IntExpr:
        """Bytes read from (written to) a level, or both."""
        return add(Const(0), *(f.bytes for f in self._chosen(level, direction)))

    def elements(self, level: str = SLOW, direction: Direction | None = None) -> IntExpr:
        """Elements read from (written to) a level, or both."""
        return add(Const(0), *(f.elements for f in self._chosen(level, direction)))

    def tensors(self) -> dict[tuple[str, Direction], IntExpr]:
        """Bytes of slow memory by tensor and direction, in program order."""
        found: dict[tuple[str, Direction], IntExpr] = {}
        for f in self._chosen(SLOW, None):
            found[f.name, f.direction] = found.get((f.name, f.direction), Const(0)) + f.bytes
        return found

    def _chosen(self, level: str, direction: Direction | None) -> Iterable[Flow]:
        return (f for f in self.flows if f.level == level and direction in (None, f.direction))


def level_traffic(program: Program) -> LevelTraffic:
    """Bytes read from and written to every level that the program's values lie in, over all its kernels.

    Works at every stage; before placement values have no level, and only slow memory appears.
    """
    return LevelTraffic(tuple(f for kernel in program.kernels for f in _kernel(program, kernel)))


def closed_form(program: Program) -> Any:
    """Bytes between slow memory and the kernels as a sympy expression, one term per tensor and direction."""
    import sympy  # half a second to import, and only reports need it

    return sympy.Add(*closed_form_terms(program).values())


def closed_form_terms(program: Program) -> dict[tuple[str, Direction], Any]:
    """The terms of ``closed_form`` by tensor and direction, constant and common factors taken out."""
    import sympy

    traffic = level_traffic(program).tensors()
    return {key: sympy.factor_terms(count.to_sympy()) for key, count in traffic.items()}


def _kernel(program: Program, kernel: Kernel) -> Iterator[Flow]:
    walked = tuple(sites(program, kernel))
    for t in transfers(program, kernel, walked):
        way: Direction = "read" if t.direction == "load" else "write"
        yield Flow(SLOW, way, t.tensor, t.elements, program.tensor(t.tensor).dtype.bytes)
    known: dict[str, Value] = {}  # by name as the program goes on: blocks beside each other may use one name twice
    for site in walked:
        yield from _flows(site, "read", [known[n] for n in reads_of(site.stmt) if n in known])
        yield from _flows(site, "write", writes_of(site.stmt))
        known |= {v.name: v for v in _defined(site.stmt)}


def _defined(stmt: Stmt) -> Sequence[Value]:
    if isinstance(stmt, Seq):
        return [c.value for c in stmt.carry]
    out = outputs_of(stmt)
    return [out] if out is not None else []


def _flows(site: Site, direction: Direction, values: Iterable[Value]) -> Iterator[Flow]:
    for v in values:
        if v.level not in (None, SLOW):
            yield Flow(str(v.level), direction, v.name, site.count(v.axes), v.dtype.bytes)
