"""A bound program as one Triton source file: header, the helpers it calls, one function per kernel."""

from __future__ import annotations

from flashc.backends.triton.helpers import HELPERS
from flashc.backends.triton.printer import Printed, print_kernel
from flashc.ir.nodes import Program
from flashc.passes.split import split


def printed_kernels(bound: Program) -> tuple[Printed, ...]:
    """Every kernel of a bound program, its loops split into FULL and PARTIAL tiles first."""
    lowered = split(bound)
    return tuple(print_kernel(lowered, kernel) for kernel in lowered.kernels)


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
        lines.append(f"# {k.kernel}: {k.programs} programs, {k.warps} warps, {k.stages} stages")
    return "\n".join(lines) + "\n"
