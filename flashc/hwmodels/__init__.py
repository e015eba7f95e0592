"""Device models: one YAML file per device, with the source of every number, and the probe of this machine."""

from __future__ import annotations

from flashc.hwmodels.load import Resolved, list_aliases, list_devices, load_device, resolve
from flashc.hwmodels.model import (
    Default,
    Device,
    Level,
    MatrixUnit,
    Occupancy,
    Source,
    VectorUnit,
)
from flashc.hwmodels.report import ReportRow, device_json, device_report

__all__ = [
    "Default",
    "Device",
    "Level",
    "MatrixUnit",
    "Occupancy",
    "ReportRow",
    "Resolved",
    "Source",
    "VectorUnit",
    "device_json",
    "device_report",
    "list_aliases",
    "list_devices",
    "load_device",
    "resolve",
]
