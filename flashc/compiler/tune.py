"""Tune: choose a schedule and its tile sizes for a device from its model alone, and say how that is known.

Every schedule of the operator is placed for the device, walked into constraints and a modelled time, and solved; the
least time wins. A schedule that no tile sizes satisfy keeps its minimal conflict, so every rejection has its cause.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashc import backends
from flashc.autotune import AnyOf, Assignment, Check, Condition, Conflict, Constraint, Problem, Variable, explain, solve
from flashc.autotune.conflict import find_conflict
from flashc.autotune.model import ProgramTime, model_time
from flashc.autotune.occupancy import resident_tasks
from flashc.backends.base import Backend
from flashc.compiler.workload import Workload
from flashc.errors import DeviceModelError, InfeasibleError, UnsupportedError, WorkloadError
from flashc.hwmodels.model import Device
from flashc.iomodel.bounds import Bound, evaluated, for_workers, lower_bounds
from flashc.iomodel.from_program import cascade
from flashc.iomodel.levels import Boundary, crossed
from flashc.ir.analysis import sites, tensor_bytes, traffic_bytes
from flashc.ir.intarith import Exact
from flashc.ir.intexpr import Const, IntExpr, Sym
from flashc.ir.nodes import Program, Store, persistent
from flashc.ir.rewrite import with_sizes
from flashc.ir.steps import tasks
from flashc.ir.verify import verify
from flashc.ops import Operator, registry
from flashc.passes.bind import bind


@dataclass(frozen=True)
class Choice:
    """One schedule with tile sizes: what it needs of each limited resource, and its modelled time."""

    schedule: str
    tiles: Mapping[str, int]
    placed: Program
    picoseconds: int
    checks: tuple[Check, ...]
    units: Mapping[str, int]
    traffic_bytes: int
    proof: str

    @property
    def bound_by(self) -> str:
        """The unit whose work takes longest."""
        return max(self.units, key=lambda u: self.units[u]) if self.units else "launch"

    @property
    def program(self) -> Program:
        return bind(self.placed, self.tiles)


@dataclass(frozen=True)
class Rejection:
    """A schedule without a feasible tiling, and the smallest set of constraints that says so."""

    schedule: str
    conflict: Conflict


@dataclass(frozen=True)
class Tuning:
    """The answer: ranked choices (best first), rejected schedules, and bounds on what crosses ``boundary``, as the best
    choice's loads and stores do; without a boundary, whose sizes the device does not tell, for unlimited memory."""

    workload: Workload
    device: Device
    backend: str
    missing: str | None
    ranked: tuple[Choice, ...]
    rejected: tuple[Rejection, ...]
    bounds: tuple[Bound, ...]
    boundary: Boundary | None
    seconds: float

    @property
    def best(self) -> Choice:
        return self.ranked[0]


@dataclass(frozen=True)
class Space:
    """The search space of one schedule: the problem handed to the solver and where its numbers come from."""

    placed: Program
    problem: Problem
    time: ProgramTime


def environment(operator: Operator, spec: Any) -> dict[str, Any]:
    """Integer symbols and tables of a workload, for evaluating a program's expressions."""
    tables = {name: np.asarray(values) for name, values in operator.tables(spec).items()}
    return {**operator.sizes(spec), **tables}


def space(
    program: Program, backend: Backend, device: Device, env: Mapping[str, Any], cuts: Sequence[Condition] = ()
) -> Space:
    """Place one schedule and derive its constraints and objective; sizes of the workload are put in as numbers."""
    verify(program)
    placed = backend.place(program, device)
    verify(placed)
    numbers = {n: v for n, v in env.items() if isinstance(v, int)}
    tables = {n: v for n, v in env.items() if not isinstance(v, int)}
    domains = backend.domains(placed, device, numbers)
    sized = with_sizes(placed, {**dict(placed.fixed), **numbers})
    conditions = backend.constraints(sized, device)
    time = modelled(sized, device, backend, conditions)
    conditions += (*workspace_limits(sized, device), *persistence_limits(sized, device))
    problem = Problem(
        variables=tuple(Variable(t, domains[t]) for t in placed.tiles),
        constraints=(*conditions, *(c for c in cuts if c.symbols() <= set(placed.tiles))),
        objective=time.total,
        tie_break=tuple((t, "largest") for t in placed.tiles if t not in ("warps", "stages")),
        tables=tables,
    )
    return Space(placed, problem, time)


def modelled(
    program: Program, device: Device, backend: Backend, conditions: Sequence[Constraint]
) -> ProgramTime:
    """The modelled time of a placed program, with the occupancy that the backend's shared memory leaves.

    ``conditions`` are the backend's own.
    """
    prefix = "device.smem."
    shared = {c.name.removeprefix(prefix): c.left for c in conditions if c.name.startswith(prefix)}
    resident = resident_tasks(program, device, backend.pad, shared)
    return model_time(program, device, backend.pad, resident)


def workspace_limits(program: Program, device: Device) -> tuple[Constraint, ...]:
    """All tensors of a call, workspaces included, must fit the main memory; none for a program without any."""
    temps = [t for t in program.tensors if t.role == "temp"]
    capacity = device.main_memory.capacity_bytes
    if not temps or capacity is None:
        return ()
    need = sum((tensor_bytes(t) for t in program.tensors), Const(0))
    names = ", ".join(t.name for t in temps)
    return (Constraint("device.workspace", need, "<=", Const(capacity), "B", f"a schedule without {names}"),)


def persistence_limits(program: Program, device: Device) -> tuple[Constraint, ...]:
    """All tasks of a persistent kernel must run at the same time: one on each core, so that none waits for a place."""
    knob = "larger tiles, or a schedule with a launch per step"
    return tuple(
        Constraint(f"device.persistent.{kernel.name}", tasks(program, par), "<=", Const(device.cores), "tasks", knob)
        for kernel in program.kernels if persistent(kernel)
        for par in kernel.pars
    )


def accumulation(program: Program) -> Conflict | None:
    """Why nothing can be emitted for a program whose tiles add to shared elements: no backend prints such stores."""
    stores = [s.stmt for k in program.kernels for s in sites(program, k) if isinstance(s.stmt, Store)]
    adds = sum(s.accumulate for s in stores)
    if not adds:
        return None
    fix = "no backend emits stores that accumulate yet"
    limit = Constraint("backend.accumulate", Const(adds), "<=", Const(0), "stores", fix)
    return find_conflict(Problem((), (limit,), Const(0)))


def tune(
    workload: Workload,
    device: Device,
    *,
    backend: str | None = None,
    top_k: int = 1,
    cuts: Mapping[str, Sequence[Condition]] | None = None,
    fixed: Mapping[str, int] | None = None,
) -> Tuning:
    """The best ``top_k`` choices over all schedules.

    ``cuts`` are further conditions by schedule (a compiled spill becomes one); ``fixed`` pins tile symbols. Raises
    DeviceModelError for a device without enough numbers, InfeasibleError (with every schedule's conflict) when
    nothing fits.
    """
    if device.unusable:
        raise DeviceModelError(f"{device.name}: {device.unusable}")
    began = time.perf_counter()
    operator = registry()[workload.op]
    chosen = _backend(backend, device)
    env = environment(operator, workload.spec)
    ranked: list[tuple[int, Space, Assignment, str]] = []
    rejected: list[Rejection] = []
    schedules = operator.schedules(workload.spec)
    unprinted = {p.schedule: conflict for p in schedules if (conflict := accumulation(p)) is not None}
    rejected += [Rejection(schedule, conflict) for schedule, conflict in unprinted.items()]
    candidates = [p for p in schedules if p.schedule not in unprinted]
    pins = _pins(fixed or {}, [chosen.place(p, device).tiles for p in candidates] if fixed else [])
    for program in candidates:
        found = space(program, chosen, device, env, [*(cuts or {}).get(program.schedule, ()), *pins])
        solution = solve(found.problem, k=top_k)
        if solution.conflict is not None:
            rejected.append(Rejection(program.schedule, solution.conflict))
        ranked += [
            (cost, found, point, solution.proof) for cost, point in zip(solution.objectives, solution.best, strict=True)
        ]
    if not ranked:
        raise InfeasibleError(_nothing_fits(workload, device, rejected))
    ranked.sort(key=lambda entry: entry[0])
    choices = tuple(
        choice_at(found, point, env, proof, traffic_bytes(found.placed)) for _, found, point, proof in ranked[:top_k]
    )
    boundary = crossed(device, choices[0].placed)
    statements = cascade(operator.algorithm(workload.spec), schedules[0])
    workers, fast = (boundary.workers, boundary.worker_bytes) if boundary else (device.cores, math.inf)
    bounds = evaluated(for_workers(lower_bounds(statements), workers), env, fast)
    return Tuning(
        workload,
        device,
        chosen.name,
        chosen.missing(device),
        choices,
        tuple(rejected),
        bounds,
        boundary,
        time.perf_counter() - began,
    )


def _backend(name: str | None, device: Device) -> Backend:
    if name is None:
        return backends.for_device(device)
    chosen = backends.get(name)
    if device.kind not in chosen.kinds:
        raise UnsupportedError(
            f"backend {name!r} places programs on {' and '.join(chosen.kinds)} devices; "
            f"{device.name} is a {device.kind}: use {backends.for_device(device).name!r}"
        )
    return chosen


def _pins(fixed: Mapping[str, int], tiles: Sequence[Sequence[str]]) -> list[Constraint]:
    """Conditions that hold tile symbols at given values. Raises WorkloadError for a symbol that no schedule has."""
    known = sorted({t for names in tiles for t in names})
    for name in fixed:
        if name not in known:
            raise WorkloadError(
                f"--tile {name}={fixed[name]}: no schedule has a tile {name!r}; known: {', '.join(known)}"
            )
    return [Constraint(f"fixed.{t}", Sym(t), "==", Const(v), "", f"drop --tile {t}") for t, v in fixed.items()]


def choice_at(found: Space, tiles: Mapping[str, int], env: Mapping[str, Any], proof: str, traffic: IntExpr) -> Choice:
    """Every number of one tiling, evaluated exactly."""
    numbers = Exact({**env, **dict(found.placed.fixed), **tiles})
    units: dict[str, int] = {}
    for kernel in found.time.kernels:
        for name, expr in kernel.units:
            units[name] = units.get(name, 0) + expr.value_in(numbers)
    return Choice(
        schedule=found.placed.schedule,
        tiles=dict(tiles),
        placed=found.placed,
        units=units,
        proof=proof,
        picoseconds=found.time.total.value_in(numbers),
        traffic_bytes=traffic.value_in(numbers),
        checks=explain(found.problem, tiles),
    )


def _nothing_fits(workload: Workload, device: Device, rejected: Sequence[Rejection]) -> str:
    lines = [f"{workload.source}: no tile sizes of any schedule meet the limits of {device.name}"]
    for item in rejected:
        lines.append(f"  {item.schedule}:")
        lines += [f"    {line}" for line in str(item.conflict).splitlines()]
    return "\n".join(lines)


def spill_cut(choice: Choice, number: int) -> Condition:
    """The condition that excludes a spilling tiling and every one at least as large with at most as many warps.

    Register pressure grows with each tile and falls with the number of threads.
    """
    escapes: list[Constraint] = []
    for tile, value in choice.tiles.items():
        if tile == "warps":
            escapes.append(Constraint(f"spill{number}.{tile}", Const(value + 1), "<=", Sym(tile)))
        elif tile != "stages":
            escapes.append(Constraint(f"spill{number}.{tile}", Sym(tile), "<=", Const(value - 1)))
    return AnyOf(f"spill{number}", tuple(escapes), "the compiler spilled here: smaller tiles or more warps")


def as_json(tuning: Tuning) -> dict[str, Any]:
    """The answer as versioned JSON (docs/schema/tune.schema.json)."""
    return {
        "schema": "flashc.tune/1",
        "workload": {"op": tuning.workload.op, "source": tuning.workload.source, "spec": _plain(tuning.workload.spec)},
        "device": {"name": tuning.device.name, "hash": tuning.device.hash, "arch": tuning.device.arch},
        "backend": tuning.backend,
        "missing": tuning.missing,
        "choices": [_choice_json(c) for c in tuning.ranked],
        "rejected": [
            {"schedule": r.schedule, "conflict": [str(m.check) for m in r.conflict.members]} for r in tuning.rejected
        ],
        "bounds": [dataclasses.asdict(b) for b in tuning.bounds],
        "fast_memory_bytes": tuning.boundary.worker_bytes if tuning.boundary else 0,
        "defaults": [{"field": d.field, "value": d.value, "reason": d.reason} for d in tuning.device.defaults],
        "seconds": round(tuning.seconds, 4),
    }


def _choice_json(choice: Choice) -> dict[str, Any]:
    return {
        "schedule": choice.schedule,
        "tiles": dict(choice.tiles),
        "predicted_seconds": choice.picoseconds * 1e-12,
        "bound_by": choice.bound_by,
        "units_seconds": {k: v * 1e-12 for k, v in choice.units.items()},
        "traffic_bytes": choice.traffic_bytes,
        "proof": choice.proof,
        "checks": [
            {"name": c.name, "needs": c.needs, "limit": c.limit, "op": c.op, "unit": c.unit} for c in choice.checks
        ],
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
