"""What is launched in a call, and how often: once, or once per step of a loop around a kernel's tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from flashc.autotune.problem import Constraint
from flashc.backends.triton.arguments import Argument
from flashc.ir.analysis import sites
from flashc.ir.intexpr import Const, IntExpr
from flashc.ir.nodes import GRID, Kernel, Program, Seq, Sync


@dataclass(frozen=True, slots=True)
class Steps:
    """A loop around kernels: ``count`` steps along ``axis`` of the program's kernel ``around``."""

    around: str
    axis: str
    count: IntExpr
    reverse: bool


@dataclass(frozen=True, slots=True)
class Printed:
    """One kernel as text, with what a launch needs: arguments in order, number of programs, warps, stages.

    ``steps``: the loop whose every step launches it, and after it the kernels that are printed for the same loop.
    """

    kernel: str
    text: str
    arguments: tuple[Argument, ...]
    programs: IntExpr
    warps: int
    stages: int
    helpers: frozenset[str]
    steps: Steps | None = None


def step_loop(kernel: Kernel) -> Seq | None:
    """The loop whose every step launches what is in the kernel."""
    return next((stmt for stmt in kernel.body if isinstance(stmt, Seq)), None)


def steps_around(program: Program, kernel: Kernel) -> Steps | None:
    loop = step_loop(kernel)
    if loop is None:
        return None
    return Steps(kernel.name, loop.loop.axis, program.axis(loop.loop.axis).extent, loop.reverse)


def launches(kernels: Sequence[Printed], env: Mapping[str, Any]) -> Iterator[tuple[Printed, dict[str, int]]]:
    """Every launch of a call in order, each with the coordinates of its step; ``env``: sizes and tables."""
    for steps, group in groupby(kernels, key=lambda printed: printed.steps):
        together = tuple(group)
        if steps is None:
            yield from ((printed, {}) for printed in together)
            continue
        each = range(steps.count.evaluate(env))
        for step in reversed(each) if steps.reverse else each:
            yield from ((printed, {steps.axis: step}) for printed in together)


def constraints(placed: Program) -> Iterator[Constraint]:
    """That no task waits for all others within a launch: Triton has no barrier for that."""
    for kernel in placed.kernels:
        waits = sum(site.stmt == Sync(GRID) for site in sites(placed, kernel))
        if waits:
            yield Constraint(
                f"triton.grid_barriers.{kernel.name}", Const(waits), "<=", Const(0), "barriers",
                "a schedule of one task per head, or of a launch per step; no backend emits persistent kernels for "
                "GPUs yet (the CUDA persistent kernel comes later)",
            )
