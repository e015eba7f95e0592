"""Memory that a call needs only while it runs, kept for the next one: new pages cost more than writing to them.

Of CPU tensors only, and per thread: a thread's calls follow each other, what a GPU was given may still be in use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

KEPT_BYTES = 256 << 20  # of one thread; the oldest are let go


class _Kept(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[Hashable, Any] = {}


_kept = _Kept()


def temporary(name: str, shape: tuple[int, ...], dtype: Any, make: Callable[[], Any]) -> Any:
    """An array for the tensor ``name`` of a program; ``make`` makes one. What it holds is undefined."""
    arrays = _kept.arrays
    key = name, shape, dtype
    found = arrays.pop(key, None)
    if found is not None:
        arrays[key] = found  # the latest is last
        return found
    found = arrays[key] = make()
    while sum(a.nbytes for a in arrays.values()) > KEPT_BYTES:
        del arrays[next(iter(arrays))]
    return found
