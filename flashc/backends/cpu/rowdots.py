"""Dots of a few rows with a stream, in C++ (see place_rows): lanes along the stream's contiguous axis.

The rows' axes lie row-major beside each other in every value, so that all of them together are one index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flashc.backends.cpu.frame import Place, Printer
from flashc.backends.cpu.scalars import int_text
from flashc.backends.cpu.sweep import expression
from flashc.errors import UnsupportedError
from flashc.ir.nodes import Atom, Dot
from flashc.ir.ranges import Scope
from flashc.ir.scalar import Coord, Fetch, walk


def emit_row_dot(p: Printer, dot: Dot, atom: Atom, scope: Scope) -> None:
    """Rows are left out where they end a partial tile; others without a coordinate are computed and never stored."""
    lane = atom.lane
    assert lane is not None and dot.out.layout is not None
    across = lane in dot.over
    free = dot.out.layout.lane_axis() if across else lane  # the axis that the streamed operand brings to the result
    streamed, other = (dot.a, dot.b) if free in p.values[dot.a].axes else (dot.b, dot.a)
    step = str(free if across else dot.over[0])  # the axis between rows of the stream
    rows = [x for x in dot.out.axes if x != free]
    a, b = p.places[streamed], p.places[other]
    call = _Call(
        block=f"{atom.unit}, {int_text(atom.m)}, {int_text(atom.n)}, {p.ahead.get(step, 0)}",
        stream=f"{a.pointer}, {a.strides[step]}",
        rows=f"{b.pointer}, {_row_stride(b, rows)}",
        count=_count(p, rows, scope),
        over=p.counts[dot.over[0]],
    )
    if across:
        out = p.places[dot.out.name]
        target = f"{out.pointer}, {_row_stride(out, rows)}"
        arguments = f"{target}, {call.stream}, {p.counts[step]}, {call.rows}, {call.count}, {call.over}"
        p.line(f"dot_across<{call.block}>({arguments});")
        return
    p.open("")
    _done(p, dot, lane, rows, scope)
    _along(p, dot, call, scope, weights=dot.zero_skips and dot.a == other)
    p.close()


@dataclass(frozen=True)
class _Call:
    """Texts of a dot's arguments: its template's, pointer and row stride of both operands, rows, contracted steps."""

    block: str
    stream: str
    rows: str
    count: str
    over: str


def _count(p: Printer, rows: Sequence[str], scope: Scope) -> str:
    """The valid ones of the outermost axis, and of the others all."""
    if not rows:
        return "1"
    inner = math.prod(p.tile(x, scope) for x in rows[1:])
    return p.counts[rows[0]] if inner == 1 else f"{p.counts[rows[0]]} * {inner}"


def _along(p: Printer, dot: Dot, call: _Call, scope: Scope, *, weights: bool) -> None:
    assert dot.atom is not None and dot.atom.lane is not None
    lane, depth, done = dot.atom.lane, dot.atom.k, f"{dot.out.name}_done"
    vectors = p.vectors(lane, scope)
    operands = f"{call.stream}, {call.rows}, {depth}, {call.over}"
    fast = f"dot_stream<{call.block}>({operands}, {call.count}, {vectors}, {done});"
    if not weights:
        p.line(fast)
        return
    p.line(f"if (all_finite_rows({call.stream}, {call.over}, {p.tile(lane, scope)}))")
    p.line(f"  {fast}")
    p.line("else")
    p.line(f"  stream_skipping({call.stream}, {call.rows}, {call.over}, {call.count}, {vectors}, {done});")


def _done(p: Printer, dot: Dot, lane: str, rows: list[str], scope: Scope) -> None:
    """``done(n, m, x)`` stores the m-th vector of row n, added to what the dot adds to."""
    out, start = p.places[dot.out.name], ""
    if dot.init is not None:
        if any(isinstance(node, Coord | Fetch) for node in walk(dot.init)):
            raise UnsupportedError(f"cpu: the dot {dot.out.name} adds to `{dot.init}`; only values can be added to")
        p.lane = lane
        at = {**dict.fromkeys(rows, "0"), **dict.fromkeys(rows[-1:], "n"), lane: "m"}
        start = f"{expression(p, dot.init, scope, at)} + "
    p.open(f"const auto {dot.out.name}_done = [&](long n, int m, vf x)")
    p.line(f"store({out.pointer} + n * {_row_stride(out, rows)} + m * W, {start}x);")
    p.close("};")


def _row_stride(place: Place, rows: list[str]) -> str:
    return place.strides[rows[-1]] if rows else "0"
