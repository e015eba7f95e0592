"""Expressions in a workload: parsed, type-checked, and made safe to evaluate in every lane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashc.errors import ExpressionError
from flashc.ir.scalar import (
    Call,
    Coord,
    Fetch,
    Kind,
    Lit,
    Scalar,
    call,
    fetches,
    kind_of,
    maximum,
    minimum,
    refs,
)
from flashc.ir.scalar_parse import parse_scalar
from flashc.ops.spec_checks import Capture, Where, message, refusal

_INTEGER = {"i32": "int", "i64": "int", "bool": "bool"}


@dataclass(frozen=True)
class ExpressionRule:
    """What the expression under `key` may use and must give.

    extents  size of each coordinate; None for one without fixed limits, such as qpos
    value    name of the incoming float value; an expression that may use it must use it
    """

    key: str
    kind: Kind
    extents: Mapping[str, int | None]
    value: str | None = None


@dataclass(frozen=True)
class _Site:
    """Where an expression stands, for its error messages."""

    place: str
    text: str

    def refusal(self, problem: str, allowed: str, fix: str) -> ExpressionError:
        return ExpressionError(message(f"{self.place}: {problem}\n    {self.text}", allowed, fix))


def parse_expression(
    data: Mapping[str, Any], where: Where, rule: ExpressionRule, captures: Sequence[Capture]
) -> Scalar | None:
    """The expression under the rule's key, or None if the key is absent. Raises ExpressionError.

    An index that is more than a coordinate or a number is clamped to the tensor: a lane whose value is not
    used, as in `where(abs(j - i) < 4, table[j - i + 3], 0)`, must not read outside.
    """
    if rule.key not in data:
        return None
    site = _Site(f"{where((rule.key,))}: {rule.key}", data[rule.key])
    values = (rule.value,) if rule.value else ()
    ranks = {name: len(shape) for name, shape, _ in captures}
    expr = parse_scalar(site.text, coords=tuple(rule.extents), refs=values, tensors=ranks, source=site.place)
    _check_kind(expr, rule, captures, site)
    if rule.value and rule.value not in refs(expr):
        fix = f"write for example `{rule.value} + ...`"
        raise site.refusal(f"`{rule.value}` is not used", f"an expression of `{rule.value}`", fix)
    return _bounded(expr, {name: shape for name, shape, _ in captures}, rule.extents, site)


def check_captures_used(captures: Sequence[Capture], exprs: Sequence[Scalar | None], where: Where) -> None:
    """Refuse a captured tensor that no expression reads."""
    read = {fetch.tensor for expr in exprs if expr is not None for fetch in fetches(expr)}
    for name, shape, _ in captures:
        if name not in read:
            fix = f"use {name}[{', '.join(['..'] * len(shape))}] in an expression, or remove the capture"
            raise refusal(where, ("captures", name), name, "tensors that an expression reads", fix)


def _check_kind(expr: Scalar, rule: ExpressionRule, captures: Sequence[Capture], site: _Site) -> None:
    kinds = {name: _INTEGER.get(dtype, "float") for name, _, dtype in captures}
    if rule.value:
        kinds[rule.value] = "float"
    try:
        kind = kind_of(expr, kinds)
    except ExpressionError as error:
        raise site.refusal(str(error), "operands of the right kind", "correct the operands") from None
    if kind != rule.kind:
        fix = "compare, as in `j <= i`" if rule.kind == "bool" else f"compute with `{rule.value}`"
        raise site.refusal(f"its value is {kind}", f"a {rule.kind} expression", fix)


def _bounded(
    expr: Scalar, shapes: Mapping[str, tuple[int, ...]], extents: Mapping[str, int | None], site: _Site
) -> Scalar:
    if isinstance(expr, Call):
        return call(expr.fn, *(_bounded(arg, shapes, extents, site) for arg in expr.args))
    if not isinstance(expr, Fetch):
        return expr
    shape = shapes[expr.tensor]
    inner = (_bounded(item, shapes, extents, site) for item in expr.index)
    return Fetch(expr.tensor, tuple(
        _bounded_index(expr.tensor, axis, item, shape[axis], extents, site) for axis, item in enumerate(inner)
    ))


def _bounded_index(
    tensor: str, axis: int, index: Scalar, size: int, extents: Mapping[str, int | None], site: _Site
) -> Scalar:
    extent = extents.get(index.axis) if isinstance(index, Coord) else None
    if extent is None and not isinstance(index, Lit):
        return minimum(maximum(index, 0), size - 1)
    last = int(index.value) if isinstance(index, Lit) else (extent or 1) - 1
    if not 0 <= last < size:
        problem = f"{tensor!r} has {size} along dimension {axis}, its index reaches {last}"
        fix = f"give captures.{tensor}.shape at least {last + 1} there, or index it otherwise"
        raise site.refusal(problem, f"indices from 0 to {size - 1}", fix)
    return index
