"""A bound program as one Triton source file: header, the helpers it calls, one function per kernel."""

from __future__ import annotations

from dataclasses import replace

from flashc.backends.triton.helpers import HELPERS
from flashc.backends.triton.launching import Printed, steps_around
from flashc.backends.triton.printer import print_kernel
from flashc.ir.nodes import Program
from flashc.ir.steps import launched
from flashc.passes.split import split


def printed_kernels(bound: Program) -> tuple[Printed, ...]:
    """Every launch of a bound program as a kernel, its loops split into FULL and PARTIAL tiles first."""
    lowered = split(bound)
    return tuple(
        replace(print_kernel(lowered, part), steps=steps_around(lowered, kernel))
        for kernel in lowered.kernels
        for part in launched(kernel)
    )


def emit(bound: Program, target: str) -> str:
    """The source of a bound program; ``target`` is named in the header only."""
    kernels = printed_kernels(bound)
    needed = frozenset[str]().union(*(k.helpers for k in kernels))
    parts = [_header(bound, kernels, target), "import triton\nimport triton.language as tl\n"]
    parts += [text.lstrip("\n") for name, text in HELPERS.items() if name in needed]
    return "\n\n".join([*parts[:1], *parts[1:], *(k.text for k in kernels)]).replace(
        "\n\n\nimport", "\n\nimport", 1
    )


def _header(bound: Program, kernels: tuple[Printed, ...], target: str) -> str:
    lines = [f"# {bound.name}, schedule {bound.schedule}, for {target}. Emitted by flashc."]
    lines += [f"# {note}" for note in bound.notes]
    for k in kernels:
        often = f", launched for each step {k.steps.axis}" if k.steps else ""
        lines.append(f"# {k.kernel}: {k.programs} programs, {k.warps} warps, {k.stages} stages{often}")
    return "\n".join(lines) + "\n"
