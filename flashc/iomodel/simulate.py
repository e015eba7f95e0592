"""What a trace moves across the boundary of a fast memory: counted exactly, under LRU, and under Belady's rule.

    explicit   the program itself moves its tiles; what it holds is checked against the size at every point
    lru        caches that evict the least recently used line: one, or a chain in which the misses and the evicted lines
               of one are the accesses of the next (no level invalidates another)
    belady     the line needed again last is evicted, which makes the fewest misses (Belady 1966; Mattson et al. 1970);
               every accessed line enters the cache (no bypass), and a dirty line costs a store when it leaves, which
               the rule does not weigh

A dirty line is written back when it is evicted and at the end; a line of scratch that its program has given up
is not. Runs start cold. The simulators are compiled by the system's C++ compiler at first use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from flashc.errors import SimulationError
from flashc.iomodel.segments import FREE, HOLD, READ, WRITE, Ints, Segments
from flashc.iomodel.trace import Trace
from flashc.system.toolchain import compile_shared

FLAGS = ("-std=c++17", "-O2", "-fPIC")


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache of ``bytes`` bytes in lines of ``line_bytes``; ``ways`` lines per set, or None: fully associative.

    ``write_back``: a write reaches the next level when its line is evicted, else at once. ``write_allocate``: a write
    miss brings the line in, else it goes past. ``fetch_on_write``: such a line is read first, as hardware does; else
    only where the write covers part of a line that was here before, so that outputs and scratch cost no read.
    """

    bytes: int
    line_bytes: int
    ways: int | None = None
    write_back: bool = True
    write_allocate: bool = True
    fetch_on_write: bool = False

    def __post_init__(self) -> None:
        lines, rest = divmod(self.bytes, max(self.line_bytes, 1))
        if self.line_bytes < 1 or rest or lines < 1:
            raise SimulationError(
                f"cache of {self.bytes} B in lines of {self.line_bytes} B: the size must be a multiple of the line"
            )
        if self.ways is not None and (self.ways < 1 or lines % self.ways):
            raise SimulationError(
                f"cache of {lines} lines in sets of {self.ways}: the ways must divide the lines (None: one set of all)"
            )

    def geometry(self) -> list[int]:
        flags = (self.write_back, self.write_allocate, self.fetch_on_write)
        return [self.bytes // self.line_bytes, self.ways or 0, self.line_bytes, *map(int, flags)]


@dataclass(frozen=True, slots=True)
class Counts:
    """Lines found and not found, and bytes from (``loads``) and to (``stores``) the next level."""

    hits: int
    misses: int
    loads: int
    stores: int

    @property
    def total(self) -> int:
        return self.loads + self.stores


@dataclass(frozen=True, slots=True)
class Explicit:
    """Bytes that the program's loads and stores move, and the most bytes that it holds at once."""

    loads: int
    stores: int
    peak: int

    @property
    def total(self) -> int:
        return self.loads + self.stores


def explicit(trace: Trace, fast_bytes: int | None = None) -> Explicit:
    """Exact traffic of a trace of detail "slow". Raises SimulationError where it holds more than ``fast_bytes``."""
    if trace.detail != "slow":
        raise SimulationError(f'explicit counting needs a trace of detail "slow", got "{trace.detail}"')
    s = trace.segments
    held = np.cumsum(np.where(s.kind == HOLD, s.bytes, np.where(s.kind == FREE, -s.bytes, 0)))
    peak = int(held.max(initial=0))
    if fast_bytes is not None and peak > fast_bytes:
        at = int(np.argmax(held > fast_bytes))
        raise SimulationError(
            f"the program holds {int(held[at])} B at segment {at} of its trace, fast memory has {fast_bytes} B; "
            "lower the tiles or the stages"
        )
    loads, stores = (int(s.bytes[s.kind == kind].sum()) for kind in (READ, WRITE))
    return Explicit(loads, stores, peak)


def lru(trace: Trace, caches: Sequence[Cache]) -> tuple[Counts, ...]:
    """Counts at each level of a chain of caches, the first nearest to the core."""
    if not caches:
        raise SimulationError("lru: no cache given; give at least one")
    geometry = np.array([c.geometry() for c in caches], np.int64)
    counts = np.zeros((len(caches), 4), np.int64)
    _run(_library().flashc_lru, trace.segments, len(caches), geometry, counts)
    return tuple(Counts(*row) for row in counts.tolist())


def belady(trace: Trace, cache: Cache) -> Counts:
    """Counts of one fully associative write-back cache under Belady's rule."""
    if cache.ways is not None or not (cache.write_back and cache.write_allocate):
        raise SimulationError(f"belady: needs a fully associative, write-back, write-allocate cache, got {cache}")
    geometry, counts = np.array(cache.geometry(), np.int64), np.zeros(4, np.int64)
    _run(_library().flashc_belady, trace.segments, None, geometry, counts)
    return Counts(*counts.tolist())


_PROBLEMS = {1: "memory ran out", 2: "more lines than a simulator can number"}


def _run(simulator: Any, segments: Segments, levels: int | None, geometry: Ints, counts: Ints) -> None:
    arrays = [np.ascontiguousarray(x) for x in (segments.address, segments.bytes, segments.kind)]
    pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (*arrays, geometry, counts)]
    between = [] if levels is None else [ctypes.c_int(levels)]
    problem = simulator(ctypes.c_long(len(segments)), *pointers[:3], *between, *pointers[3:])
    if problem:
        raise SimulationError(
            f"cache simulation of {len(segments)} segments: {_PROBLEMS[problem]}; lower the sizes or lengthen the lines"
        )


@lru_cache(maxsize=1)
def _library() -> Any:
    source = (files("flashc.iomodel") / "cachesim.cpp").read_text()
    return ctypes.CDLL(str(compile_shared(source, FLAGS, stem="flashc_cachesim")))
