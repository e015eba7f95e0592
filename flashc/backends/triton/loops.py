"""The loops of a kernel: where a program starts in the grid, and which tiles its sequential loops visit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flashc.backends.triton.expressions import Expressions
from flashc.backends.triton.frame import AxisInScope, Frame
from flashc.backends.triton.scalars import UNARY, Text
from flashc.ir.analysis import longest_last
from flashc.ir.intexpr import Add, Const, IntExpr, Max, Min, Mul, Sym, ceil_div
from flashc.ir.nodes import Loop, Par, Seq
from flashc.ir.ranges import Scope, row_free, tile_range

Entered = Sequence[tuple[Loop, AxisInScope]]


def decoded(par: Par, entered: Entered, frame: Frame, text: Expressions) -> list[str]:
    """The grid's loops from one linear program number: the last loop runs fastest.

    In the order "longest", axes along which the work of a program grows come first and run backwards.
    """
    late = longest_last(par)
    order = [*(x for x in entered if x[0].axis in late), *(x for x in entered if x[0].axis not in late)]
    lines = ["task = tl.program_id(0)"]
    for loop, axis in reversed(order):
        count = text.integer(ceil_div(axis.span.extent, loop.tile), frame)
        last = loop is order[0][0]
        step = "task" if last else f"task % {count.within(UNARY)}"
        if axis.axis in late:
            step = f"{count} - 1 - {step}"
        lines.append(f"{axis.span.start} = {_scaled(step, axis)}")
        if not last:
            lines.append(f"task = task // {count.within(UNARY)}")
    return lines


def _scaled(step: str, axis: AxisInScope) -> str:
    if axis.span.scalar:
        return step
    return f"{f'({step})' if ' ' in step else step} * {axis.block}"


def limits(seq: Seq, frame: Frame, text: Expressions) -> tuple[list[str], Text, Text]:
    """Lines that compute the coordinates between which a loop's tiles lie, and the two coordinates.

    The parts of one loop share these computations: names of those made before are in ``frame.known``.
    """
    axis, found = seq.loop.axis, tile_range(seq, frame.scope())
    lines: list[str] = []
    names: dict[str, IntExpr] = {}
    steps = {
        "first": found.first,
        "stop": found.stop,
        "full_first": found.full_first,
        "full_stop": found.full_stop,
    }
    for step, expr in steps.items():
        names[step] = _named(f"{axis}_{step}", expr, frame, text, lines)
    if seq.part == "full":
        return lines, *_both(names["full_first"], names["full_stop"], frame, text)
    if seq.part == "all":
        return lines, *_both(names["first"], names["stop"], frame, text)
    if seq.side == "left":
        stop = text.integer(names["full_first"], frame)
        return lines, text.integer(names["first"], frame), Text(f"tl.minimum({stop}, {names['stop']})")
    return lines, *_both(names["full_stop"], names["stop"], frame, text)


def starts_whole(seq: Seq, scope: Scope) -> bool:
    """Whether a loop's first tile is certain to lie inside its lower bounds: all are multiples of the tile."""
    bounds = seq.domain.lower if seq.domain else ()
    return len(row_free(bounds, scope)) == len(bounds) and all(_multiple(b, seq.loop.tile) for b in bounds)


def _multiple(expr: IntExpr, of: IntExpr) -> bool:
    if isinstance(expr, Add):
        return all(_multiple(a, of) for a in expr.args)
    factor = expr.args[0] if isinstance(expr, Mul) else expr
    return isinstance(factor, Const) and isinstance(of, Const) and factor.value % of.value == 0


def _both(first: IntExpr, last: IntExpr, frame: Frame, text: Expressions) -> tuple[Text, Text]:
    return text.integer(first, frame), text.integer(last, frame)


def _named(name: str, expr: IntExpr, frame: Frame, text: Expressions, lines: list[str]) -> IntExpr:
    """The expression under a name, defined now unless that has been done."""
    if isinstance(expr, Const | Sym):
        return expr
    if frame.known.get(name) != expr:
        others = {e: Sym(n) for n, e in frame.known.items() if n != name}
        lines.append(f"{name} = {text.integer(_shortened(expr, others), frame)}")
        frame.known[name] = expr
    return Sym(name)


def _shortened(expr: IntExpr, known: Mapping[IntExpr, Sym]) -> IntExpr:
    """The expression with parts that have a name replaced by it."""
    if expr in known:
        return known[expr]
    if isinstance(expr, Max | Min):
        for part, name in known.items():
            if isinstance(part, type(expr)) and set(part.args) < set(expr.args):
                expr = expr.rebuild((name, *(a for a in expr.args if a not in part.args)))
                break
    return expr.rebuild(tuple(_shortened(c, known) for c in expr.children()))
