"""The order in which a lowered dot touches its operands: register blocks of its atom, as a CPU kernel executes them.

For every panel of ``m`` vectors of the lane axis and every block of ``n`` rows, the panel of the operand with lanes and
the block's rows of the other are read along the whole contracted axis; then the block of the result is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flashc.iomodel.places import Here, Places
from flashc.iomodel.segments import READ, WRITE, Box, Grouped, Ints, boxed, interleaved, picked, regrouped, spread
from flashc.ir.nodes import Atom, Dot
from flashc.ir.scalar import refs
from flashc.ir.types import Value


def block_accesses(places: Places, dot: Dot, atom: Atom, here: Here) -> Grouped:
    """Segments of all executions of a dot whose atom runs along vector lanes."""
    lane, over = str(atom.lane), dot.over[0]
    row = next(a for a in dot.out.axes if a != lane)
    width, rows_each = _panel(places, dot.out, atom, here), int(places.number(atom.n, here))
    panels = -(-int(places.number(here.scope[lane].size, here)) // width)
    rows = np.broadcast_to(here.size[row], (here.count,))
    blocks = -(-rows // rows_each)
    parent, position = spread(panels * blocks)
    panel, block = np.divmod(position, blocks[parent])
    start = {lane: panel * width, row: block * rows_each}
    count = {lane: width, row: np.minimum(rows_each, rows[parent] - start[row]), over: picked(here.size[over], parent)}
    inner = here.picked(parent)

    def touched(name: str, kind: int) -> Grouped:
        return boxed(_part(places, name, start, count, lane, inner), kind, len(parent))

    reads = places.known(dict.fromkeys((dot.a, dot.b, *sorted(refs(dot.init) if dot.init is not None else ()))))
    parts = [*(touched(name, READ) for name in reads), *(touched(n, WRITE) for n in places.known([dot.out.name]))]
    return regrouped(interleaved(parts, len(parent)), panels * blocks)


def _panel(places: Places, out: Value, atom: Atom, here: Here) -> int:
    """Elements of the lane axis in one register block."""
    lanes = out.layout.lane_mode() if out.layout else None
    assert lanes is not None
    return int(places.number(atom.m, here)) * int(places.number(lanes.shape, here))


def _part(
    places: Places, name: str, start: Mapping[str, Ints], count: Mapping[str, Any], lane: str, here: Here
) -> Box:
    """The part of a value that one register block touches; along the lanes it is contiguous."""
    value, strides = places.values[name][0], places.strides(name, here)
    pair = value.layout.pair_axis() if value.layout else None
    base, run = places.value(name, here).base, value.dtype.bytes
    dims = []
    for axis in value.axes:
        first, many = start.get(axis, 0), count[axis]
        if axis == lane:
            run = strides[axis] * many
        else:
            dims.append((-(-many // 2) if axis == pair else many, strides[axis]))
        base = base + (first // 2 if axis == pair else first) * strides[axis]
    if pair is not None and lane not in value.axes:
        run *= 2
    return Box(base, tuple(sorted(dims, key=lambda d: -int(np.max(d[1])))), run)
