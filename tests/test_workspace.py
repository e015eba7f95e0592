"""Memory of a call's intermediate tensors, kept for the thread's next call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from flashc.compiler import workspace
from flashc.compiler.workspace import temporary


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_kept", workspace._Kept())


def made(name: str, *shape: int) -> np.ndarray:
    found: np.ndarray = temporary(name, shape, np.float32, partial(np.empty, shape, np.float32))
    return found


def test_the_same_tensor_of_the_next_call_is_the_same_memory() -> None:
    first = made("wx", 3, 5)
    assert made("wx", 3, 5) is first
    for other in (made("wx", 5, 3), made("exchange", 3, 5)):
        assert not np.shares_memory(other, first)


def test_threads_share_nothing() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert not np.shares_memory(pool.submit(made, "wx", 4).result(), made("wx", 4))


def test_the_oldest_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "KEPT_BYTES", 32)
    first, second = made("a", 4), made("b", 4)
    assert made("a", 4) is first
    made("c", 4)
    assert made("a", 4) is first
    assert made("b", 4) is not second


def test_what_is_larger_than_all_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "KEPT_BYTES", 32)
    assert made("a", 100).shape == (100,)
    assert not workspace._kept.arrays
