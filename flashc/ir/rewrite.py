"""Rebuilding programs: the two functions every pass is written with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from flashc.ir.analysis import uses
from flashc.ir.intexpr import IntExpr
from flashc.ir.nodes import Kernel, Par, Program, Seq, Stmt, outputs_of
from flashc.ir.scalar import Scalar
from flashc.ir.types import Value

Rule = Callable[[Stmt], Sequence[Stmt]]
T = TypeVar("T")


def rewrite_body(body: Sequence[Stmt], rule: Rule) -> tuple[Stmt, ...]:
    """Apply ``rule`` to every statement, innermost first; it returns the statements that take its place."""
    found: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Par | Seq):
            stmt = replace(stmt, body=rewrite_body(stmt.body, rule))
        found.extend(rule(stmt))
    return tuple(found)


def without_unused(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """``body`` without the values that nothing reads."""
    read = frozenset().union(*(uses(stmt) for stmt in body))

    def rule(stmt: Stmt) -> tuple[Stmt, ...]:
        out = outputs_of(stmt)
        return () if out is not None and out.name not in read else (stmt,)

    kept = rewrite_body(body, rule)
    return kept if kept == tuple(body) else without_unused(kept)


def rewrite_kernels(program: Program, change: Callable[[Kernel], Kernel], **fields_changed: Any) -> Program:
    """The program with every kernel changed, and possibly other fields."""
    return replace(program, kernels=tuple(change(k) for k in program.kernels), **fields_changed)


def with_sizes(program: Program, values: Mapping[str, int]) -> Program:
    """The program with numbers for integer symbols everywhere: its walkers' results are then short."""
    return replace(
        program,
        kernels=substitute_sizes(program.kernels, values),
        axes=substitute_sizes(program.axes, values),
        tensors=substitute_sizes(program.tensors, values),
    )


def substitute_sizes(node: T, values: Mapping[str, int]) -> T:
    """``node`` with integer symbols replaced in every integer expression below it."""
    if isinstance(node, IntExpr):
        return node.subs(values)  # type: ignore[return-value]
    if isinstance(node, tuple):
        return tuple(substitute_sizes(x, values) for x in node)  # type: ignore[return-value]
    if not is_dataclass(node) or isinstance(node, type | Scalar):
        return node
    changed = {f.name: substitute_sizes(getattr(node, f.name), values) for f in fields(node)}
    return replace(node, **changed)


def without_axes(node: T, gone: Collection[str]) -> T:
    """``node`` with the axes dropped from every value below it, and from its layout."""
    if isinstance(node, tuple):
        return tuple(without_axes(x, gone) for x in node)  # type: ignore[return-value]
    if isinstance(node, Value):
        layout = node.layout and replace(node.layout, modes=tuple(m for m in node.layout.modes if m.axis not in gone))
        return replace(node, axes=tuple(a for a in node.axes if a not in gone), layout=layout)
    if not is_dataclass(node) or isinstance(node, type | Scalar | IntExpr):
        return node
    changed = {f.name: without_axes(getattr(node, f.name), gone) for f in fields(node)}
    return replace(node, **changed)
