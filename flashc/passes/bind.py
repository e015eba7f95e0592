"""Bind: the solver's values take the place of the tile symbols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flashc.errors import IRError
from flashc.ir.intexpr import Const
from flashc.ir.nodes import Kernel, Par, Program, Stmt
from flashc.ir.rewrite import rewrite_body, rewrite_kernels, substitute_sizes, without_axes


def bind(program: Program, tiles: Mapping[str, int]) -> Program:
    """A placed program with numbers for its tile symbols and its fixed sizes. Raises IRError if one is left free."""
    left = [t for t in program.tiles if t not in tiles]
    if left:
        raise IRError(f"schedule {program.schedule}: no value for tile symbol(s) {', '.join(left)}")
    values = {**dict(program.fixed), **{t: tiles[t] for t in program.tiles}}
    note = " ".join(f"{t}={tiles[t]}" for t in program.tiles)
    bound = replace(
        program,
        kernels=substitute_sizes(program.kernels, values),
        axes=substitute_sizes(program.axes, values),
        tensors=substitute_sizes(program.tensors, values),
    )
    scalar = rewrite_kernels(bound, _without_single_rows)
    return replace(scalar, tiles=(), stage="bound", notes=(*program.notes, f"tiles {note}"))


def _without_single_rows(kernel: Kernel) -> Kernel:
    """A parallel axis whose tile turned out as 1 is a scalar, and no axis of any value."""

    def rule(stmt: Stmt) -> tuple[Stmt, ...]:
        if not isinstance(stmt, Par):
            return (stmt,)
        single = frozenset(loop.axis for loop in stmt.loops if loop.tile == Const(1))
        return (without_axes(stmt, single),)

    return replace(kernel, body=rewrite_body(kernel.body, rule))
