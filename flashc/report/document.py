"""The report as one JSON document, ``flashc.report/1`` (docs/schema/report.schema.json)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flashc.report.facts import Report, Rule, Term, TrafficRow

SCHEMA = "flashc.report/1"


def as_json(report: Report) -> dict[str, Any]:
    """Plain JSON values; bytes, seconds and operations throughout. A number that is not finite is null.

    ``certificates`` are those of the rules, in their order, as the checker takes them.
    """
    bound, compulsory, chosen = (report.row(kind) for kind in ("bound", "compulsory", "chosen"))
    document = {
        "schema": SCHEMA,
        "version": report.version,
        "workload": {"op": report.op, "source": report.source, "keys": dict(report.workload)},
        "device": {
            "name": report.device,
            "title": report.device_title,
            "arch": report.arch,
            "hash": report.device_hash,
        },
        "backend": report.backend,
        "fast_memory_bytes": report.fast_bytes,
        "verdict": list(report.verdict),
        "advice": list(report.advice),
        "lower_bound": {
            **_moved(bound),
            "rule": bound.note,
            "compulsory": _moved(compulsory),
            "rules": [_rule(r) for r in report.rules],
            "sums": [_term(t) for t in report.rule_sums],
        },
        "schedule": {
            "name": report.choice.schedule,
            "tiles": dict(report.choice.tiles),
            "predicted_seconds": report.choice.seconds,
            "bound_by": report.choice.bound_by,
            "units_seconds": {u.name: u.seconds for u in report.choice.units},
            "proof": report.choice.proof,
        },
        "least_seconds": report.least_seconds,
        "closed_form": {
            **_moved(chosen),
            "terms": [_term(t) for t in report.closed_form],
            "sums": [_term(t) for t in report.closed_form_sums],
        },
        "ratios": _ratios(report),
        "traffic": [asdict(r) for r in report.traffic],
        "simulated": asdict(report.simulated),
        "levels": [asdict(lv) for lv in report.levels],
        "tensors": [asdict(t) for t in report.tensors],
        "curves": asdict(report.curves),
        "roofline": asdict(report.roofline),
        "disk": None if report.disk is None else asdict(report.disk),
        "passes": [asdict(p) for p in report.passes],
        "two_level": None if report.two_level is None else asdict(report.two_level),
        "defaults": [{"field": f, "value": v, "reason": r} for f, v, r in report.defaults],
        "sweep": None if report.sweep is None else asdict(report.sweep),
    }
    plain: dict[str, Any] = _finite(document)
    return {**plain, "certificates": [dict(r.certificate) for r in report.rules]}


def text(report: Report) -> str:
    return json.dumps(as_json(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _moved(row: TrafficRow) -> dict[str, Any]:
    return {"loads": row.loads, "stores": row.stores, "total": row.total}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "total": rule.total,
        "decides": rule.used,
        "assumptions": list(rule.assumptions),
        "formula": {"text": rule.formula.text, "latex": rule.formula.latex},
    }


def _term(term: Term) -> dict[str, str]:
    return {"name": term.name, "text": term.formula.text, "latex": term.formula.latex}


def _ratios(report: Report) -> dict[str, float]:
    """Of every traffic row of the whole problem to the bound, by its name."""
    bound = report.row("bound").total
    return {r.name: r.total / bound for r in report.traffic if r.kind != "bound" and bound}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return _shortened(value)
    return value


def _shortened(value: float) -> float | int | None:
    """Whole numbers without a fraction and others to nine digits: the last ones differ between machines."""
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.9g}")
