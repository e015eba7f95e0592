"""Attention written out in numpy: the outside oracle in float64, and the naive computation beside it.

The naive one is what a user would write without a fused kernel: inputs in their own type, products and
softmax in f32, the probabilities rounded to the element type before they meet V, the result rounded. A kernel
may be at most twice as far from float64, with a floor of four units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

import flashc

Array = np.ndarray[Any, np.dtype[Any]]
Formula = Callable[..., Any]  # score(s, b, h, i, j, qpos, **captures) or keep(b, h, i, j, qpos, **captures)
DTYPES: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


def normal(seed: int, *shape: int, dtype: str = "f32") -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32).astype(DTYPES[dtype])


def qkv(
    batch: int, heads: tuple[int, int], lengths: tuple[int, int], dims: tuple[int, int], dtype: str = "f32"
) -> tuple[Array, Array, Array]:
    """Random q (B, Hq, Lq, D), k (B, Hkv, Lk, D), v (B, Hkv, Lk, E)."""
    (heads_q, heads_kv), (n, m), (d, e) = heads, lengths, dims
    shapes = ((batch, heads_q, n, d), (batch, heads_kv, m, d), (batch, heads_kv, m, e))
    q, k, v = (normal(seed, *shape, dtype=dtype) for seed, shape in enumerate(shapes))
    return q, k, v


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    q_offset: Any = None,
    window: tuple[int, int] | None = None,
    bias: Array | None = None,
    mask: Array | None = None,
    alibi_slopes: Any = None,
    score: Formula | None = None,
    keep: Formula | None = None,
    captures: Mapping[str, Array] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    kv_lengths: Any = None,
    exact: bool = True,
) -> tuple[Array, Array]:
    """(o, lse) in float64, or (``exact=False``) computed naively in the arrays' own type."""
    element = q.dtype
    work = np.float64 if exact else np.float32
    q, k, v = (x.astype(work) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    b, h, i, j = np.ogrid[: q.shape[0], : q.shape[1], : q.shape[2], : k.shape[2]]
    ends = np.full(q.shape[0], k.shape[2]) if kv_lengths is None else np.asarray(kv_lengths)
    offset = ends - q.shape[2] if q_offset is None else np.broadcast_to(q_offset, (q.shape[0],))
    qpos = i + np.asarray(offset).reshape(-1, 1, 1, 1)
    tables = captures or {}
    with np.errstate(all="ignore"):
        s = (q @ k.swapaxes(2, 3)) * work(scale if scale is not None else q.shape[3] ** -0.5)
        if softcap is not None:
            s = work(softcap) * np.tanh(s / work(softcap))
        s = s + (0 if bias is None else bias.astype(work))
        if alibi_slopes is not None:
            s = s - np.asarray(alibi_slopes, work).reshape(1, -1, 1, 1) * np.abs(qpos - j)
        s = s.astype(work) if score is None else score(s, b, h, i, j, qpos, **tables).astype(work)
        kept = j < ends.reshape(-1, 1, 1, 1)
        kept = kept & (j <= qpos) if causal else kept
        left, right = window or (-1, -1)
        kept = kept & (j >= qpos - left) if left >= 0 else kept
        kept = kept & (j <= qpos + right) if right >= 0 else kept
        kept = kept if mask is None else kept & mask
        kept = kept if keep is None else kept & keep(b, h, i, j, qpos, **tables)
        x = np.where(kept, s, work(-np.inf))
        top = x.max(-1, keepdims=True, initial=-np.inf)
        p = np.exp(x - np.where(np.isneginf(top), 0, top))
        total = p.sum(-1, keepdims=True)
        lse = np.where(total == 0, -np.inf, np.log(total) + top)[..., 0]
        p = p if exact else p.astype(element).astype(work)
        o = np.where(total == 0, 0, _weighted(p, v) / np.where(total == 0, 1, total))
    return (o, lse) if exact else (o.astype(element), lse)


def _weighted(p: Array, v: Array) -> Array:
    """The product p v, where a weight of 0 meets no value: what is masked may be NaN or infinite."""
    if np.isfinite(v).all():
        return p @ v
    o = np.zeros((*p.shape[:3], v.shape[3]), v.dtype)
    for n in range(v.shape[2]):
        weight = p[..., n, None]
        o += np.where(weight == 0, 0, weight * v[:, :, n, None, :])
    return o


def distance(found: Any, expected: Array) -> float:
    """Relative Euclidean norm; infinities and NaN must stand in the same places."""
    got, wanted = np.asarray(found).astype(np.float64), np.asarray(expected).astype(np.float64)
    assert got.shape == wanted.shape
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(got[~finite], wanted[~finite])
    assert np.isfinite(got[finite]).all()
    size = float(np.linalg.norm(wanted[finite]))
    return float(np.linalg.norm(got[finite] - wanted[finite])) / (size or 1.0)


def assert_accurate(found: Any, naive: Array, expected: Array, dtype: str) -> None:
    """At most twice the naive computation's error; at least four ulp of the element type are allowed."""
    limit = max(2 * distance(naive, expected), 4 * float(ml_dtypes.finfo(DTYPES[dtype]).eps))
    error = distance(found, expected)
    assert error <= limit, f"error {error:.3g}, limit {limit:.3g}"


def check(
    q: Array,
    k: Array,
    v: Array,
    *,
    score: tuple[str, Formula] | None = None,
    keep: tuple[str, Formula] | None = None,
    **options: Any,
) -> tuple[Array, Array]:
    """Hold flashc.attention (o and lse) against float64; ``score`` and ``keep`` are (expression, formula)."""
    texts = {name: pair[0] for name, pair in (("score", score), ("keep", keep)) if pair}
    formulas = {name: pair[1] for name, pair in (("score", score), ("keep", keep)) if pair}
    o, lse = flashc.attention(q, k, v, **options, **texts, return_lse=True)
    expected, expected_lse = attention(q, k, v, **options, **formulas)
    naive, naive_lse = attention(q, k, v, **options, **formulas, exact=False)
    dtype = next(name for name, kind in DTYPES.items() if q.dtype == kind)
    assert o.dtype == q.dtype
    assert lse.dtype == np.float32
    assert_accurate(o, naive, expected, dtype)
    assert_accurate(lse, naive_lse, expected_lse, "f32")
    return o, lse


SMALL = (40, 24)  # head and value dimension of the class of kernels that most tests share


def small(
    batch: int = 2, heads: tuple[int, int] = (4, 2), lengths: tuple[int, int] = (50, 70), dtype: str = "f32"
) -> tuple[Array, Array, Array]:
    return qkv(batch, heads, lengths, SMALL, dtype)


def attend(*args: Any, **options: Any) -> Any:
    """The output of the kernel that also makes lse: the class that ``check`` has compiled."""
    return flashc.attention(*args, **options, return_lse=True)[0]
