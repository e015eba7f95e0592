"""Runs of bytes in arrays: how a trace is stored, and how boxes of tensors become runs for many executions at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
READ, WRITE, HOLD, FREE = 0, 1, 2, 3
NOWHERE = -1  # the address of what is held outside the traced memory


@dataclass(frozen=True, slots=True)
class Segments:
    """``bytes[n]`` bytes from ``address[n]`` are read, written, held from now on (HOLD) or given up (FREE)."""

    address: Ints
    bytes: Ints
    kind: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.address)

    def chosen(self, where: Any) -> Segments:
        """The segments that a mask or an index array picks."""
        return Segments(self.address[where], self.bytes[where], self.kind[where])


@dataclass(frozen=True, slots=True)
class Grouped:
    """Segments of consecutive executions: the first ``counts[0]`` belong to execution 0, and so on."""

    segments: Segments
    counts: Ints


@dataclass(frozen=True, slots=True)
class Box:
    """A tile in memory: ``run`` bytes at every point of ``dims``, (count, stride in bytes) outermost first.

    Every number is one for all executions or an array with one per execution.
    """

    base: Any
    dims: tuple[tuple[Any, Any], ...]
    run: Any


def concatenated(parts: Sequence[Segments]) -> Segments:
    if not parts:
        return Segments(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))
    return Segments(
        np.concatenate([p.address for p in parts]),
        np.concatenate([p.bytes for p in parts]),
        np.concatenate([p.kind for p in parts]),
    )


def single(address: Any, size: Any, kind: int, executions: int) -> Grouped:
    """One segment per execution."""
    shape = (executions,)
    address, size = (np.broadcast_to(np.asarray(x, np.int64), shape) for x in (address, size))
    return Grouped(Segments(address, size, np.full(shape, kind, np.uint8)), np.ones(executions, np.int64))


def boxed(box: Box, kind: int, executions: int) -> Grouped:
    """The segments of a box per execution, row-major, neighbouring rows joined where all executions allow."""
    dims, run = list(box.dims), box.run
    while dims and (np.all(dims[-1][0] == 1) or np.all(np.equal(dims[-1][1], run))):
        run = run * dims.pop()[0]
    if not dims:
        return single(box.base, run, kind, executions)
    rows = np.broadcast_to(np.prod(np.broadcast_arrays(*(d[0] for d in dims)), axis=0, dtype=np.int64), (executions,))
    parent, position = spread(rows)
    address = np.array(picked(box.base, parent), dtype=np.int64) + np.zeros(len(parent), np.int64)
    for count, stride in reversed(dims):
        position, step = np.divmod(position, picked(count, parent))
        address += step * picked(stride, parent)
    size = np.broadcast_to(np.asarray(picked(run, parent), np.int64), address.shape)
    return Grouped(Segments(address, size, np.full(address.shape, kind, np.uint8)), rows)


def spread(counts: Ints) -> tuple[Ints, Ints]:
    """For ``counts[n]`` items in group n: the group of every item, and its position within the group."""
    group = np.repeat(np.arange(len(counts)), counts)
    return group, np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)


def picked(value: Any, where: Any) -> Any:
    """``value[where]`` for one value per execution; a value for all stays itself."""
    return value[where] if isinstance(value, np.ndarray) and value.ndim else value


def reordered(segments: Segments, counts: Ints, order: Ints) -> Segments:
    """Groups of consecutive segments in another order: group ``order[0]`` first."""
    first = np.cumsum(counts) - counts
    group, position = spread(counts[order])
    return segments.chosen(first[order][group] + position)


def interleaved(parts: Sequence[Grouped], executions: int) -> Grouped:
    """All parts of execution 0, then all parts of execution 1, and so on."""
    if not parts:
        return Grouped(concatenated([]), np.zeros(executions, np.int64))
    segments = concatenated([p.segments for p in parts])
    counts = np.array([p.counts for p in parts])
    if executions > 1 and len(parts) > 1:
        order = np.arange(counts.size).reshape(counts.shape).T.ravel()
        segments = reordered(segments, counts.ravel(), order)
    return Grouped(segments, counts.sum(axis=0))


def regrouped(inner: Grouped, iterations: Ints) -> Grouped:
    """Groups of a loop's iterations as groups of the executions around it, ``iterations[n]`` of them each."""
    ends = np.cumsum(iterations)
    total = np.concatenate([[0], np.cumsum(inner.counts)])
    return Grouped(inner.segments, total[ends] - total[ends - iterations])
