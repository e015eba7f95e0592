"""Cache policies in plain Python on tiny traces, written apart from the simulators: the oracles of their tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from flashc.iomodel.segments import FREE, READ, WRITE, Segments
from flashc.iomodel.simulate import Cache
from flashc.iomodel.trace import Trace

Access = tuple[int, int, int]  # address, bytes, kind


def trace_of(accesses: Sequence[Access], detail: str = "tiles") -> Trace:
    address, size, kind = (np.array(x, np.int64) for x in zip(*accesses, strict=True))
    return Trace(Segments(address, size, kind.astype(np.uint8)), {}, detail)  # type: ignore[arg-type]


def pieces(accesses: Sequence[Access], line: int) -> list[tuple[int, int, int, int]]:
    """(line, kind, first byte, bytes) of every line that an access meets."""
    found = []
    for address, size, kind in accesses:
        at = address
        while at < address + size:
            stop = min((at // line + 1) * line, address + size)
            found.append((at // line, kind, at, stop - at))
            at = stop
    return found


@dataclass
class PlainLru:
    """One cache of a chain: sets are lists with the most recent line first."""

    cache: Cache
    below: PlainLru | None = None
    sets: dict[int, list[int]] = field(default_factory=dict)
    dirty: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    hits: int = 0
    misses: int = 0
    loads: int = 0
    stores: int = 0

    def access(self, address: int, size: int, kind: int) -> None:
        for line, what, at, part in pieces([(address, size, kind)], self.cache.line_bytes):
            if what == FREE:
                if part == self.cache.line_bytes:
                    self._forget(line)
            else:
                self._one(line, what == WRITE, at, part)
        if kind == FREE and self.below is not None:
            self.below.access(address, size, kind)

    def _set(self, line: int) -> list[int]:
        lines = self.cache.bytes // self.cache.line_bytes
        return self.sets.setdefault(line % (lines // (self.cache.ways or lines)), [])

    def _one(self, line: int, write: bool, at: int, part: int) -> None:
        here, whole = self._set(line), self.cache.line_bytes
        hit = line in here
        self.hits, self.misses = self.hits + hit, self.misses + (not hit)
        if hit:
            here.remove(line)
            here.insert(0, line)
        elif not write or self.cache.write_allocate:
            if len(here) == (self.cache.ways or self.cache.bytes // whole):
                self._out(here.pop())
            if not write or self.cache.fetch_on_write or (part < whole and line in self.seen):
                self._pass(line * whole, whole, READ)
            here.insert(0, line)
            self.seen.add(line)
        if write and line in here and self.cache.write_back:
            self.dirty.add(line)
        elif write:
            self._pass(at, part, WRITE)

    def _pass(self, address: int, size: int, kind: int) -> None:
        self.loads, self.stores = self.loads + size * (kind == READ), self.stores + size * (kind == WRITE)
        if self.below is not None:
            self.below.access(address, size, kind)

    def _out(self, line: int) -> None:
        if line in self.dirty:
            self.dirty.discard(line)
            self._pass(line * self.cache.line_bytes, self.cache.line_bytes, WRITE)

    def _forget(self, line: int) -> None:
        if line in self._set(line):
            self._set(line).remove(line)
        self.dirty.discard(line)
        self.seen.discard(line)

    def flush(self) -> None:
        for line in sorted(self.dirty):
            self._out(line)
        if self.below is not None:
            self.below.flush()

    def counts(self) -> tuple[int, int, int, int]:
        return self.hits, self.misses, self.loads, self.stores


def plain_lru(accesses: Sequence[Access], caches: Sequence[Cache]) -> list[tuple[int, int, int, int]]:
    chain: list[PlainLru] = []
    for cache in reversed(caches):
        chain.insert(0, PlainLru(cache, chain[0] if chain else None))
    for address, size, kind in accesses:
        chain[0].access(address, size, kind)
    chain[0].flush()
    return [c.counts() for c in chain]


def fewest_misses(lines: Sequence[int], capacity: int) -> int:
    """The least misses of any policy without bypass, by trying every line to evict."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for line in lines:
        after: dict[frozenset[int], int] = {}
        for held, misses in states.items():
            options = [(held, misses)]
            if line not in held:
                room = [held] if len(held) < capacity else [held - {gone} for gone in held]
                options = [(rest | {line}, misses + 1) for rest in room]
            for state, cost in options:
                after[state] = min(after.get(state, cost), cost)
        states = after
    return min(states.values())
