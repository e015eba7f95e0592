"""Gathers the facts of a report: every number comes from the tuning, the tile program, the bounds or the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flashc import __version__
from flashc.autotune import rates
from flashc.compiler.leaning import leaned_on
from flashc.hwmodels.model import Device, Level
from flashc.iomodel.bound import LowerBound, best
from flashc.iomodel.bounds import certified
from flashc.iomodel.closed_form import closed_form_terms, level_traffic
from flashc.iomodel.compulsory import Compulsory
from flashc.iomodel.levels import (
    Boundary,
    LevelBound,
    contiguous_bytes,
    core_boundary,
    level_bounds,
    storage_seconds,
)
from flashc.iomodel.named_sums import named_sums
from flashc.iomodel.passes import passes, program_passes
from flashc.ir.analysis import sites
from flashc.ir.footprint import values_of
from flashc.ir.nodes import Dot, Program
from flashc.report import sentences
from flashc.report.case import Case, needs_once
from flashc.report.curves import curves
from flashc.report.facts import (
    CORES,
    Choice,
    Disk,
    Formula,
    LevelRow,
    PassRow,
    Report,
    Request,
    Roof,
    Roofline,
    Rule,
    Sweep,
    TensorRow,
    Term,
    TrafficRow,
    Unit,
)
from flashc.report.formulas import definitions, formula
from flashc.report.numbers import tiles as tiles_text
from flashc.report.schedules import schedule_rows, two_level
from flashc.report.simulated import simulated

Progress = Callable[[str], None]
DISK_REQUESTS = range(7, 23)  # powers of two: 128 B to 4 MiB


def gather(case: Case, sweep: Sweep | None = None, progress: Progress = lambda _text: None) -> Report:
    """All facts of a report on one tuning; ``sweep`` is added as it is."""
    tuning, device = case.tuning, case.device
    progress("bounds at every level")
    _, leading = best(case.bounds, case.sizes, case.fast_bytes)
    levels = _levels(case)
    roofline = _roofline(case, levels)
    bounds = sorted(case.bounds, key=lambda b: -_total(case, b))
    proved, moved = [b.formula() for b in bounds], closed_form_terms(case.tuning.best.placed)
    sums = named_sums([*proved, *moved.values()])
    inside = CORES if case.boundary.private else _inside(case, case.boundary)
    progress("simulating the chosen schedule")
    report = Report(
        op=tuning.workload.op,
        source=tuning.workload.source,
        workload=_flat(tuning.workload.document.data),
        device=device.name,
        device_title=device.title,
        device_hash=device.hash,
        arch=device.arch,
        backend=tuning.backend,
        version=__version__,
        outer=case.boundary.outer.label,
        inside=inside,
        holder="per core" if case.boundary.private else f"in {inside} and {CORES}",
        fast_bytes=case.fast_bytes,
        needs_once=needs_once(leading.assumptions),
        choice=_choice(case),
        least_seconds=_least(roofline, levels),
        verdict=(),
        advice=(),
        traffic=_traffic(case),
        levels=levels,
        tensors=_tensors(case),
        curves=curves(case, progress),
        roofline=roofline,
        disk=_disk(case),
        closed_form=tuple(Term(f"{way} {name}", formula(e, sums)) for (name, way), e in moved.items()),
        closed_form_sums=definitions(list(moved.values()), sums),
        rules=tuple(_rule(case, b, formula(e, sums), b is leading) for b, e in zip(bounds, proved, strict=True)),
        rule_sums=definitions(proved, sums),
        two_level=two_level(case),
        simulated=simulated(case),
        passes=_passes(case),
        defaults=tuple((d.field, f"{d.value}", d.reason) for d in leaned_on(tuning, tuning.best)),
        sweep=sweep,
    )
    return sentences.told(report)


def _flat(data: Mapping[str, Any], before: str = "") -> tuple[tuple[str, str], ...]:
    """The workload's keys and values as written, nested keys joined by dots."""
    found: list[tuple[str, str]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{key}.")
        elif key != "op":
            found.append((f"{before}{key}", _shown(value)))
    return tuple(found)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _choice(case: Case) -> Choice:
    chosen = case.tuning.best
    units = sorted(((n, t * 1e-12) for n, t in chosen.units.items() if t), key=lambda u: -u[1])
    return Choice(
        chosen.schedule,
        dict(chosen.tiles),
        chosen.picoseconds * 1e-12,
        chosen.bound_by,
        tuple(Unit(n, t) for n, t in units),
        chosen.proof,
    )


# -- traffic at the boundary


def _traffic(case: Case) -> tuple[TrafficRow, ...]:
    moved, rule = best(case.bounds, case.sizes, case.fast_bytes)
    compulsory, _ = best(case.bounds, case.sizes, math.inf)
    counted = level_traffic(case.program)
    loads, stores = (counted.bytes(direction=way).evaluate(case.sizes) for way in ("read", "write"))
    name = f"{case.tuning.best.schedule}, as chosen"
    return (
        TrafficRow("bound", "lower bound", moved.loads, moved.stores, moved.total, rule.rule),
        TrafficRow("compulsory", "compulsory", compulsory.loads, compulsory.stores, compulsory.total, "once each"),
        TrafficRow("chosen", name, loads, stores, loads + stores, tiles_text(case.tuning.best.tiles)),
        *schedule_rows(case),
    )


def _tensors(case: Case) -> tuple[TensorRow, ...]:
    counted = level_traffic(case.program).tensors()
    needed = _needed(case)
    runs = contiguous_bytes(case.program, case.sizes)
    rows = []
    for tensor in case.program.tensors:
        loads, stores = (
            counted[tensor.name, way].evaluate(case.sizes) if (tensor.name, way) in counted else 0
            for way in ("read", "write")
        )
        rows.append(
            TensorRow(
                tensor.name,
                tensor.role,
                tensor.dtype.name,
                needed.get(tensor.name),
                loads,
                stores,
                runs.get(tensor.name),
            )
        )
    return tuple(row for row in rows if row.loads or row.stores)


def _needed(case: Case) -> dict[str, float]:
    """Compulsory bytes by tensor."""
    rule = next(b for b in case.bounds if isinstance(b, Compulsory))
    found: dict[str, float] = {}
    for e in (*rule.loaded, *rule.stored):
        name = case.cascade.array(e.array).part_of or e.array
        found[name] = found.get(name, 0.0) + e.bytes(case.sizes)
    return found


def _passes(case: Case) -> tuple[PassRow, ...]:
    """Of every index that some statement sums or reduces over and the chosen schedule has an axis for."""
    reduced = {
        i.name: None
        for s in case.cascade.statements
        if s.update != "="
        for i in s.indices
        if not any(i.name in x.symbols() for x in s.target.subscripts)
    }
    rows = []
    for name in reduced:
        if any(a.name == name for a in case.program.axes):
            needed = passes(case.cascade, name)
            rows.append(PassRow(name, needed.count, program_passes(case.program, name).count, needed.consequence))
    return tuple(rows)


def _rule(case: Case, bound: LowerBound, written: Formula, used: bool) -> Rule:
    certificate = certified(bound, case.sizes, case.fast_bytes)
    return Rule(bound.rule, _total(case, bound), bound.assumptions, written, certificate, used)


def _total(case: Case, bound: LowerBound) -> float:
    return bound.at(case.sizes, case.fast_bytes).total


# -- levels


def _levels(case: Case) -> tuple[LevelRow, ...]:
    return tuple(_level(case, found) for found in level_bounds(case.single, case.sizes, case.device))


def _level(case: Case, found: LevelBound) -> LevelRow:
    boundary, outer = found.boundary, found.boundary.outer
    moved, counted = _moved(case, boundary)
    rate = (outer.bandwidth_gbs or 0.0) * 1e9
    seconds = _storage_time(case, outer) if outer.kind == "storage" else found.seconds
    return LevelRow(
        name=f"{outer.label} ↔ {_inside(case, boundary)}",
        kind=outer.kind,
        outer=outer.name,
        inner=_inside(case, boundary),
        workers=boundary.workers,
        worker_bytes=boundary.worker_bytes,
        total_bytes=boundary.total_bytes,
        bandwidth_gbs=outer.bandwidth_gbs,
        bound=found.moved.total,
        rule=found.rule,
        joined=found.joined.total,
        warm=found.warm.total,
        bound_seconds=seconds,
        moved=moved,
        counted=counted,
        moved_seconds=moved / rate if moved is not None and rate else None,
    )


def _inside(case: Case, boundary: Boundary) -> str:
    return "one core" if boundary == core_boundary(case.device) else " + ".join(x.label for x in boundary.inner)


def _moved(case: Case, boundary: Boundary) -> tuple[float | None, str]:
    """Bytes of the chosen schedule: its own loads and stores, or what the time model expects of main memory."""
    if boundary == case.boundary:
        return float(case.tuning.best.traffic_bytes), "exact"
    if boundary.outer == case.device.main_memory and "memory" in case.tuning.best.units:
        return case.tuning.best.units["memory"] * rates.memory_rate(case.device), "modelled"
    return None, ""


def _storage_time(case: Case, disk: Level) -> float:
    """Inputs read from the disk and outputs written to it once, in the runs that the schedule's accesses leave."""
    rows = [t for t in _tensors(case) if t.role != "temp" and t.compulsory is not None and t.chunk_bytes]
    moved = {t.name: t.compulsory or 0.0 for t in rows}
    return storage_seconds(disk, moved, {t.name: t.chunk_bytes or 1 for t in rows})


def _disk(case: Case) -> Disk | None:
    disk = case.device.storage
    if disk is None:
        return None
    curve = tuple((float(1 << n), disk.throughput_gbs(1 << n) or 0.0) for n in DISK_REQUESTS)
    runs = [(t.name, t.chunk_bytes) for t in _tensors(case) if t.compulsory is not None and t.chunk_bytes]
    requests = tuple(Request(name, run, disk.throughput_gbs(run) or 0.0) for name, run in runs)
    return Disk(disk.label, curve, requests)


def _roofline(case: Case, levels: Sequence[LevelRow]) -> Roofline:
    products = [s for s in case.cascade.statements if s.update == "+=" and len(s.operands) == 2]
    flops = float(sum(2 * s.points().evaluate(case.sizes) for s in products))
    dtype = _dot_type(case.program, case.device)
    seconds = case.tuning.best.picoseconds * 1e-12
    roofs = tuple(Roof(lv.name, lv.bandwidth_gbs, lv.bound, lv.moved) for lv in levels if lv.bandwidth_gbs)
    return Roofline(flops, (case.device.peak_tflops(dtype) or 0.0) * 1e12, dtype, flops / seconds, roofs)


def least_seconds(case: Case) -> float:
    """No kernel is faster: the arithmetic at its peak, and every level's bound at its bandwidth (a disk's left out)."""
    levels = _levels(case)
    return _least(_roofline(case, levels), levels)


def _least(roofline: Roofline, levels: Sequence[LevelRow]) -> float:
    levelled = (lv.bound_seconds or 0.0 for lv in levels if lv.kind != "storage")
    return max(roofline.flops / roofline.peak, *levelled)


def _dot_type(program: Program, device: Device) -> str:
    """The type that the program's products are computed in: of its slowest dot on this device."""
    found = []
    for kernel in program.kernels:
        values = values_of(program, kernel)
        dots = [s.stmt for s in sites(program, kernel) if isinstance(s.stmt, Dot)]
        found += [device.compute_dtype(values[d.a][0].dtype.name) for d in dots]
    return min(found, key=lambda d: device.peak_tflops(d) or math.inf)
