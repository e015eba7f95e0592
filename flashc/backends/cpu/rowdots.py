"""Dots of a few rows with a stream, in C++ (see place_rows): lanes along the stream's contiguous axis.

The rows' axes lie row-major beside each other in every value, so that all of them together are one index.
"""

from __future__ import annotations

import math

from flashc.backends.cpu.frame import Printer
from flashc.backends.cpu.scalars import int_text
from flashc.backends.cpu.sweep import expression
from flashc.errors import UnsupportedError
from flashc.ir.nodes import Atom, Dot
from flashc.ir.ranges import Scope
from flashc.ir.scalar import Coord, Fetch, walk


def emit_row_dot(p: Printer, dot: Dot, atom: Atom, scope: Scope) -> None:
    """Rows beyond a partial tile are computed too: their operands are zero, and nobody stores them."""
    lane = atom.lane
    assert lane is not None
    streamed, other = (dot.a, dot.b) if set(p.values[dot.a].axes) == {lane, _free(p, dot)} else (dot.b, dot.a)
    free = _free(p, dot)
    rows = [x for x in dot.out.axes if x != free]
    count = math.prod(p.tile(x, scope) for x in rows)
    step = free if lane in dot.over else dot.over[0]  # the axis between rows of the stream
    block = f"{atom.unit}, {int_text(atom.m)}, {int_text(atom.n)}, {p.ahead.get(step, 0)}"
    a, b, out = p.places[streamed], p.places[other], p.places[dot.out.name]
    a_row = a.strides[step]
    b_row, out_row = (x.strides[rows[-1]] if rows else "0" for x in (b, out))
    over = p.counts[dot.over[0]]
    if lane in dot.over:
        p.line(
            f"dot_across<{block}>({out.pointer}, {out_row}, {a.pointer}, {a_row}, {p.counts[free]}, {b.pointer}, "
            f"{b_row}, {count}, {over});"
        )
        return
    vectors = -(-p.tile(lane, scope) // p.width)
    _initialised(p, dot, rows, scope)
    operands = f"{b.pointer}, {b_row}"
    fast = f"dot_stream<{block}>({a.pointer}, {a_row}, {operands}, {atom.k}, {over}, {count}, {vectors}, {dot.out.name}_done);"
    if dot.zero_skips and dot.a == other:
        p.line(f"if (!all_finite_rows({a.pointer}, {a_row}, {over}, {p.tile(lane, scope)}))")
        p.line(f"  stream_skipping({a.pointer}, {a_row}, {operands}, {over}, {count}, {vectors}, {dot.out.name}_done);")
        p.line("else")
        p.line(f"  {fast}")
    else:
        p.line(fast)
    p.close()


def _free(p: Printer, dot: Dot) -> str:
    """The axis that the streamed operand brings to the result."""
    lane = dot.atom.lane if dot.atom else None
    if lane in dot.out.axes:
        return str(lane)
    return next(x for x in reversed(dot.out.axes) if dot.out.layout and x == dot.out.layout.lane_axis())


def _initialised(p: Printer, dot: Dot, rows: list[str], scope: Scope) -> None:
    """``done(n, m, x)`` stores the m-th vector of row n with what the dot adds to."""
    lane = dot.atom.lane if dot.atom else ""
    out = p.places[dot.out.name]
    p.open("")
    p.open(f"const auto {dot.out.name}_done = [&](long n, int m, vf x)")
    start = ""
    if dot.init is not None:
        if any(isinstance(node, Coord | Fetch) for node in walk(dot.init)):
            raise UnsupportedError(f"cpu: the dot {dot.out.name} adds to `{dot.init}`; only values can be added to")
        p.lane = str(lane)
        start = f"{expression(p, dot.init, scope, {**dict.fromkeys(rows, '0'), str(lane): 'm', **_last(rows)})} + "
    p.line(f"store({out.pointer} + n * {out.strides[rows[-1]] if rows else '0'} + m * W, {start}x);")
    p.close("};")


def _last(rows: list[str]) -> dict[str, str]:
    return {rows[-1]: "n"} if rows else {}
