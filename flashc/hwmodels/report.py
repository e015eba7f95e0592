"""A device as rows for `flashc devices show` and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from flashc.hwmodels.model import Device, Source

_UNITS = {
    "_bytes": "B",
    "_gbs": "GB/s",
    "_ghz": "GHz",
    "_tflops": "TFLOP/s",
    "_us": "us",
    "_ns": "ns",
    "_bits": "bit",
}


class ReportRow(NamedTuple):
    """One number: where it sits in the device file, its value and unit, and where it comes from."""

    field: str
    value: Any
    unit: str
    tier: str
    source: str


def device_report(device: Device) -> tuple[ReportRow, ...]:
    """Every sourced number of the device; ``source`` carries the formula or reason where there is one."""
    values = device_json(device)
    return tuple(
        ReportRow(field, _lookup(values, field), _unit(field), source.tier, _origin(source))
        for field, source in device.sources.items()
    )


def device_json(device: Device) -> dict[str, Any]:
    """The device as plain JSON values, mirroring the device file: levels and matrix units keyed by name."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(device))
    plain["levels"] = {level["name"]: level for level in plain["levels"]}
    plain["matrix_units"] = {
        unit["name"]: {**unit, "shape": [unit["m"], unit["n"], unit["k"]]} for unit in plain["matrix_units"]
    }
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    return value


def _lookup(values: Any, field: str) -> Any:
    for key in field.split("."):
        values = values[key]
    return values


def _unit(field: str) -> str:
    if field.startswith("vector.peak_tflops.") or field.endswith(".peak_tflops"):
        return "TFLOP/s"
    return next((unit for suffix, unit in _UNITS.items() if field.endswith(suffix)), "")


def _origin(source: Source) -> str:
    if source.tier in ("default", "derived"):
        return source.how
    return f"{source.text}; {source.how}" if source.how else source.text
