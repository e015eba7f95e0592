"""The case that a report is about: a tuning, and the bounds that hold for its choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashc.compiler.tune import Tuning, environment
from flashc.errors import UnsupportedError
from flashc.hwmodels.model import Device
from flashc.iomodel.bound import LowerBound
from flashc.iomodel.bounds import for_workers, lower_bounds
from flashc.iomodel.from_program import cascade
from flashc.iomodel.levels import Boundary
from flashc.iomodel.statements import Cascade
from flashc.ir.analysis import Site, sites
from flashc.ir.intexpr import Const
from flashc.ir.nodes import Dot, Program
from flashc.ops import Operator, registry


@dataclass(frozen=True)
class Case:
    """One tuning with what the facts are read off: sizes, the bound program with its numbers, and the bounds on what
    all workers move together; ``single``: those for one memory; ``boundary``: what loads and stores cross."""

    tuning: Tuning
    sizes: Mapping[str, Any]
    program: Program
    schedules: tuple[Program, ...]
    operator: Operator
    cascade: Cascade
    bounds: tuple[LowerBound, ...]
    single: tuple[LowerBound, ...]
    boundary: Boundary

    @property
    def device(self) -> Device:
        return self.tuning.device

    @property
    def fast_bytes(self) -> int:
        """All memory inside one of the boundary's workers."""
        return self.boundary.worker_bytes


def recomputes(algorithm: Program, program: Program) -> bool:
    """True where the program may do a contraction of the algorithm more than once for the same elements."""
    found = [_dots(p) for p in (algorithm, program)]
    if len(found[1]) > len(found[0]):
        return True
    return any(
        trip.axis not in (*site.stmt.out.axes, *site.stmt.over)
        for site in found[1]
        for trip in site.trips
        if isinstance(site.stmt, Dot) and trip.tile != Const(1)
    )


def needs_once(assumptions: Sequence[str]) -> bool:
    """A bound that says nothing of schedules that compute a value again."""
    return any("computed once" in text for text in assumptions)


def _dots(program: Program) -> list[Site]:
    return [s for k in program.kernels for s in sites(program, k) if isinstance(s.stmt, Dot)]


def case_of(tuning: Tuning) -> Case:
    """Raises UnsupportedError where the device does not tell how large the memories are that hold the tiles."""
    boundary = tuning.boundary
    if boundary is None:
        raise UnsupportedError(
            f"report: {tuning.device.name} lacks the capacity of a memory in which {tuning.best.schedule} keeps tiles, "
            "or of one inside it: add it to the device file (docs/devices.md)"
        )
    operator = registry()[tuning.workload.op]
    sizes = environment(operator, tuning.workload.spec)
    program = tuning.best.program
    algorithm = operator.algorithm(tuning.workload.spec)
    schedules = operator.schedules(tuning.workload.spec)
    statements = cascade(algorithm, schedules[0])
    single = lower_bounds(statements)
    if recomputes(algorithm, tuning.best.placed):
        single = tuple(b for b in single if not needs_once(b.assumptions))
    numbers = {**sizes, **dict(program.fixed)}
    bounds = for_workers(single, boundary.workers)
    return Case(tuning, numbers, program, schedules, operator, statements, bounds, single, boundary)
