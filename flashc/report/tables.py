"""The report's tables as rows of text, for every writer alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flashc.report import numbers
from flashc.report.facts import Report, TrafficRow
from flashc.report.sentences import binding, unit_name

Rows = list[dict[str, Any]]
FULL = 100.0


def tables(report: Report) -> dict[str, Rows]:
    """Every table by the name under which the templates know it."""
    return {
        "figures": key_figures(report),
        "traffic": traffic(report.traffic),
        "simulated": traffic(report.simulated.rows),
        "two_level": two_level(report),
        "levels": levels(report),
        "tensors": tensors(report),
        "units": units(report),
        "sweep": sweep(report),
    }


def key_figures(report: Report) -> Rows:
    """The handful of numbers that a reader takes away."""
    chosen, bound = report.row("chosen"), report.row("bound")
    ratio = chosen.total / bound.total
    seconds, least = report.choice.seconds, report.least_seconds
    found = [
        ("moved ÷ bound", numbers.ratio(ratio), f"{numbers.moved(chosen.total)} of {numbers.moved(bound.total)}"),
        ("predicted time", numbers.time(seconds), f"bound by {unit_name(report.choice.bound_by)}"),
        ("least time", numbers.time(least), f"{numbers.percent(least / seconds)} of the predicted"),
        (
            "speed",
            numbers.rate(report.roofline.attained),
            f"{numbers.percent(report.roofline.attained / report.roofline.peak)} of the {report.roofline.dtype} peak",
        ),
        (
            "intensity",
            f"{numbers.count(report.roofline.flops / chosen.total)}{numbers.NARROW}FLOP/B",
            f"{numbers.flops(report.roofline.flops)} in all",
        ),
    ]
    return [{"name": n, "value": v, "note": t} for n, v, t in found]


def traffic(rows: Sequence[TrafficRow]) -> Rows:
    """Rows with their ratio to the bound among them, and the width of a bar in percent, on a logarithmic scale."""
    bound = next(row.total for row in rows if row.kind == "bound")
    totals = [row.total for row in rows if row.total]
    shortest, longest = math.log(min(totals)) - 0.2, math.log(max(totals))
    return [
        {
            "kind": row.kind,
            "name": row.name,
            "note": row.note,
            "loads": _moved(row.loads),
            "stores": _moved(row.stores),
            "total": numbers.moved(row.total),
            "ratio": numbers.ratio(row.total / bound) if bound else "",
            "width": f"{FULL * (math.log(row.total) - shortest) / (longest - shortest):.1f}" if row.total else "0",
        }
        for row in rows
    ]


def two_level(report: Report) -> Rows:
    """From the least that the chosen schedule's tiles can move, in steps to what the device's tiles move."""
    found = report.two_level
    if found is None:
        return []
    steps = [("the two-level model's best tiles", found.optimum)]
    if found.forced is not None and found.streamed:
        steps.append((f"with the device's {numbers.tiles(found.streamed)}, whole tiles", found.forced))
    steps.append((f"the device's tiles ({report.device})", found.chosen))
    return [
        {
            "name": name,
            "tiles": numbers.tiles(step.tiles),
            "moved": numbers.moved(step.moved),
            "ratio": numbers.ratio(step.moved / found.optimum.moved),
        }
        for name, step in steps
    ]


def levels(report: Report) -> Rows:
    slowest = binding(report)
    return [
        {
            "name": lv.name,
            "binding": lv is slowest,
            "memory": numbers.held(lv.worker_bytes),
            "copies": f"× {lv.workers}" if lv.workers > 1 else "",
            "total_memory": numbers.held(lv.total_bytes),
            "bound": numbers.moved(lv.bound),
            "rule": lv.rule,
            "joined": numbers.moved(lv.joined),
            "warm": numbers.moved(lv.warm),
            "moved": _moved(lv.moved),
            "counted": lv.counted,
            "ratio": numbers.ratio(lv.moved / lv.bound) if lv.moved and lv.bound else "",
            "bandwidth": numbers.bandwidth(lv.bandwidth_gbs) if lv.bandwidth_gbs else "",
            "least": numbers.time(lv.bound_seconds) if lv.bound_seconds is not None else "",
        }
        for lv in report.levels
    ]


def tensors(report: Report) -> Rows:
    return [
        {
            "name": t.name,
            "role": f"{t.role}, {t.dtype}",
            "compulsory": _moved(t.compulsory),
            "loads": _moved(t.loads or None),
            "stores": _moved(t.stores or None),
            "times": numbers.ratio((t.loads + t.stores) / t.compulsory) if t.compulsory else "",
            "chunk": numbers.held(t.chunk_bytes) if t.chunk_bytes else "",
        }
        for t in report.tensors
    ]


def units(report: Report) -> Rows:
    longest = max((u.seconds for u in report.choice.units), default=1.0)
    return [
        {"name": unit_name(u.name), "time": numbers.time(u.seconds), "width": f"{FULL * u.seconds / longest:.1f}"}
        for u in report.choice.units
    ]


def sweep(report: Report) -> Rows:
    if report.sweep is None:
        return []
    return [
        {
            "value": numbers.grouped(p.value),
            "bound": numbers.moved(p.bound),
            "moved": numbers.moved(p.moved),
            "ratio": numbers.ratio(p.moved / p.bound),
            "time": numbers.time(p.seconds),
            "least": numbers.time(p.least_seconds),
            "schedule": p.schedule.replace("_", " "),
            "tiles": numbers.tiles(p.tiles),
        }
        for p in report.sweep.points
    ]


def _moved(count: float | None) -> str:
    return "" if count is None else numbers.moved(count)
