"""Triton's lowering profile and printer, behind the common backend interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashc.autotune.problem import Constraint
from flashc.backends.base import Built, Executable, Invocation
from flashc.backends.triton import build, launching, merging, place, resources, run, source
from flashc.hwmodels.model import Device
from flashc.ir.analysis import Pad
from flashc.ir.nodes import Program


class TritonBackend:
    name = "triton"
    kinds = ("gpu",)
    pad = Pad(place.padded)
    interpret_device = "a100_sxm_80gb"  # whose tiles `interpret` is shown with

    def missing(self, device: Device) -> str | None:
        if device.triton_target is None:
            return device.missing_artefacts or f"{device.name}: Triton has no target for {device.arch}"
        return None

    def place(self, program: Program, device: Device) -> Program:
        return place.place(program, device)

    def domains(
        self, placed: Program, device: Device, sizes: Mapping[str, int]
    ) -> dict[str, tuple[int, ...]]:
        return place.domains(placed, device, sizes)

    def constraints(self, placed: Program, device: Device) -> tuple[Constraint, ...]:
        return (
            *merging.constraints(placed), *launching.constraints(placed), *resources.constraints(placed, device)
        )

    def emit(self, bound: Program, device: Device) -> str:
        return source.emit(bound, device.title)

    def build(self, source: str, bound: Program, device: Device) -> Built:
        return build.build(source, bound, device)

    def absent(self, device: Device) -> str | None:
        return run.absent(device)

    def load(self, built: Built, bound: Program, device: Device) -> Executable:
        return run.load(built, bound, device)

    def interpret(self, bound: Program, device: Device, call: Invocation) -> dict[str, Any]:
        """The emitted source under Triton's interpreter: outputs and workspaces by name."""
        return run.interpret_program(bound, call)


BACKEND = TritonBackend()
