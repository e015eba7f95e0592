"""flashc.attention against float64: lengths, heads, dimensions, each feature alone, features together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attention_reference import DTYPES, SMALL, Array, Formula, attention, check, normal, qkv, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flashc

HEAD_DIMS = (40, 72, 80, 96, 128, 192, 256)


# -- shapes


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "lengths",
    [(1, 1), (1, 137), (17, 1), (17, 17), (17, 137), (137, 17), (137, 137), (1025, 137), (137, 1025)],
)
def test_any_lengths(lengths: tuple[int, int], causal: bool) -> None:
    """More causal queries than keys leave the first rows with nothing to attend to."""
    o, lse = check(*small(lengths=lengths), causal=causal)
    alone = lengths[0] - lengths[1] if causal else 0
    assert (o[:, :, : max(alone, 0)] == 0).all()
    assert np.isneginf(lse[:, :, : max(alone, 0)]).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_square(dtype: str) -> None:
    check(*small(1, (2, 1), (1025, 1025), dtype), causal=True)


@pytest.mark.parametrize("heads", [(1, 1), (6, 1), (6, 2), (8, 8), (0, 2)])
def test_grouped_and_multi_query_heads(heads: tuple[int, int]) -> None:
    check(*small(heads=heads))


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_head_dimensions(head_dim: int) -> None:
    check(*qkv(1, (2, 1), (65, 137), (head_dim, head_dim)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_head_dimensions_in_half_precision(head_dim: int, dtype: str) -> None:
    check(*qkv(1, (2, 1), (65, 137), (head_dim, head_dim), dtype))


@pytest.mark.parametrize(
    ("dims", "dtype"),
    [((17, 3), "bf16"), ((1, 1), "f32"), ((64, 100), "bf16"), ((33, 72), "f16")],
)
def test_value_dimension_apart(dims: tuple[int, int], dtype: str) -> None:
    check(*qkv(2, (2, 2), (33, 50), dims, dtype), causal=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [(17, 3), (1, 1), (64, 100), (192, 128), (576, 512)])
def test_value_dimension_far_apart(dims: tuple[int, int], dtype: str) -> None:
    check(*qkv(2, (2, 2), (33, 50), dims, dtype), causal=True)


@pytest.mark.parametrize(("batch", "lengths"), [(0, (50, 70)), (2, (0, 70)), (2, (50, 0)), (2, (0, 0)), (0, (0, 0))])
def test_nothing_gives_empty_or_zero(batch: int, lengths: tuple[int, int]) -> None:
    q, k, v = small(batch, lengths=lengths)
    o, lse = flashc.attention(q, k, v, return_lse=True)
    assert o.shape == (batch, 4, lengths[0], SMALL[1])
    assert (o == 0).all()
    assert np.isneginf(lse).all()


# -- each feature alone


SCORE = (
    "score + 0.25 * tanh(score) - abs(qpos - j) / 16",
    lambda s, b, h, i, j, qpos: s + 0.25 * np.tanh(s) - np.abs(qpos - j) / s.dtype.type(16),
)
KEEP = ("(i + b) % 3 != 0 or j < 4 * (h + 1)", lambda b, h, i, j, qpos: ((i + b) % 3 != 0) | (j < 4 * (h + 1)))
EMPTY_ROWS = ("j < i - 5", lambda b, h, i, j, qpos: j < i - 5)

FEATURES: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "causal": lambda: {"causal": True},
    "offset": lambda: {"causal": True, "q_offset": 7},
    "negative offset": lambda: {"causal": True, "q_offset": -9},
    "far offset": lambda: {"causal": True, "q_offset": 10**6},
    "offset list": lambda: {"causal": True, "q_offset": [-60, 33]},
    "offset array": lambda: {"causal": True, "q_offset": np.array([3, 10**6])},
    "numpy offset": lambda: {"causal": True, "q_offset": np.int64(7)},
    "window": lambda: {"window": (9, 4)},
    "window open left": lambda: {"window": (-1, 3)},
    "window open right": lambda: {"window": (0, -1)},
    "window of one": lambda: {"window": (0, 0)},
    "endless window": lambda: {"window": (2**62, 2**62), "q_offset": 5},
    "causal window": lambda: {"causal": True, "window": (8, 0)},
    "lengths": lambda: {"kv_lengths": [70, 13]},
    "lengths of nothing": lambda: {"kv_lengths": [0, 1], "causal": True},
    "lengths and offset": lambda: {"kv_lengths": np.array([33, 64]), "causal": True, "q_offset": [0, 20]},
    "alibi": lambda: {"alibi_slopes": normal(7, 4)},
    "alibi list": lambda: {"alibi_slopes": [0.5, 0.25, 0, -1], "causal": True},
    "softcap": lambda: {"softcap": 1.5},
    "scale": lambda: {"scale": -0.03},
    "scale of zero": lambda: {"scale": 0.0},
    "score": lambda: {"score": SCORE},
    "keep": lambda: {"keep": KEEP},
    "keep leaves rows empty": lambda: {"keep": EMPTY_ROWS},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_alone(feature: str) -> None:
    check(*small(), **FEATURES[feature]())


@pytest.mark.slow
@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_alone_in_bf16(feature: str) -> None:
    check(*small(dtype="bf16"), **FEATURES[feature]())


def test_a_workload_with_the_widest_window() -> None:
    q, k, v = small()
    document = {
        "op": "attention",
        "batch": 2,
        "heads": {"q": 4, "kv": 2},
        "seq": {"q": 50, "kv": 70},
        "head_dim": SMALL[0],
        "value_dim": SMALL[1],
        "dtype": "fp32",
        "window": [0, 2**31 - 1],
        "outputs": ["o", "lse"],
    }
    o, lse = flashc.compile(document)(q, k, v)
    expected, expected_lse = attention(q, k, v, window=(0, 2**31 - 1))
    np.testing.assert_allclose(o, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-5, atol=1e-5)


BROADCASTS = [
    (1,),
    (70,),
    (50, 1),
    (50, 70),
    (4, 1, 1),
    (4, 50, 70),
    (2, 1, 1, 70),
    (2, 1, 50, 1),
    (2, 4, 50, 70),
]


@pytest.mark.parametrize("shape", BROADCASTS)
def test_bias_broadcasts(shape: tuple[int, ...]) -> None:
    check(*small(), bias=normal(3, *shape))


@pytest.mark.parametrize("shape", [(), *BROADCASTS[3:6:2], BROADCASTS[6], BROADCASTS[8]])
def test_mask_broadcasts(shape: tuple[int, ...]) -> None:
    check(*small(), mask=np.random.default_rng(5).random(shape) < 0.6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", BROADCASTS)
def test_mask_and_bias_broadcast_apart(shape: tuple[int, ...]) -> None:
    check(*small(), bias=normal(3, *shape), mask=np.random.default_rng(5).random(shape[::-1][:1]) < 0.6)


def test_minus_infinity_in_the_bias_is_a_mask() -> None:
    bias = normal(3, 2, 4, 50, 70)
    bias[np.random.default_rng(0).random(bias.shape) < 0.4] = -np.inf
    bias[0, 1, 7:20] = -np.inf
    o, lse = check(*small(), bias=bias)
    assert (o[0, 1, 7:20] == 0).all()
    assert np.isneginf(lse[0, 1, 7:20]).all()


def test_a_bias_of_another_type_than_the_inputs() -> None:
    q, k, v = qkv(2, (4, 2), (50, 70), SMALL, "bf16")
    check(q, k, v, bias=normal(3, 4, 1, 70))


def test_captured_tables_of_each_type() -> None:
    table = np.random.default_rng(2)
    captures = {
        "slope": normal(1, 4),
        "near": normal(2, 4, 8),
        "doc": table.integers(0, 3, 70).astype(np.int64),
        "kind": table.integers(-2, 3, 50).astype(np.int32),
        "wide": table.random((2, 70)) < 0.8,
        "half": normal(3, 70, dtype="f16"),
    }

    def score(s: Array, b: Any, h: Any, i: Any, j: Any, qpos: Any, **t: Array) -> Array:
        near = t["near"][h, np.clip(j - i + 3, 0, 7)]
        return s * t["slope"][h] + near + t["half"][j].astype(s.dtype)

    def keep(b: Any, h: Any, i: Any, j: Any, qpos: Any, **t: Array) -> Array:
        return (t["doc"][j] == t["kind"][i]) | t["wide"][b, j]

    expressions = ("score * slope[h] + near[h, j - i + 3] + half[j]", "doc[j] == kind[i] or wide[b, j]")
    check(*small(), score=(expressions[0], score), keep=(expressions[1], keep), captures=captures)


SCORES: dict[str, Formula] = {  # one for each head
    "score + (qpos - 20) // 3 - (j - 9) % 4": lambda s, b, h, i, j, qpos: s + (qpos - 20) // 3 - (j - 9) % 4,
    "score + (i // (j - 5) + (i - 7) % (j - 3)) / 9 + b // 0 + i % 0 + h // -1": lambda s, b, h, i, j, qpos: (
        s
        + (
            np.where(j == 5, 0, i // np.where(j == 5, 1, j - 5))
            + np.where(j == 3, 0, (i - 7) % np.where(j == 3, 1, j - 3))
        )
        / 9
        - h
    ),
    "where(b == 0, score, i) - -3 + min(score, j / 8) + max(h, 2.5) + where(i < 3, 1, 2)": lambda s, b, h, i, j, qpos: (
        np.where(b == 0, s, i) + 3 + np.minimum(s, j / 8) + np.maximum(h, 2.5) + np.where(i < 3, 1, 2)
    ),
    "score + exp(score / 4) - log(abs(score) + h + 1) + exp(b)": lambda s, b, h, i, j, qpos: (
        s + np.exp(s / 4) - np.log(np.abs(s) + h + 1) + np.exp(b)
    ),
}
KEEPS: dict[str, Formula] = {
    "(i < 4) == (j < 4)": lambda b, h, i, j, qpos: (i < 4) == (j < 4),
    "(i < 4) != (b == 0) and (b == 0) == (h < 2)": lambda b, h, i, j, qpos: ((i < 4) != (b == 0)) & (b == 0),
    "not (b == 0 or j >= i) or where(i < 3, b == 0, j < 3)": lambda b, h, i, j, qpos: (
        ~((b == 0) | (j >= i)) | np.where(i < 3, b == 0, j < 3)
    ),
    "j <= 4294967296 and j < 1e300 and i % 2 == j % 2": lambda b, h, i, j, qpos: i % 2 == j % 2,
}


def one_per_head(cases: dict[str, Formula]) -> tuple[str, Formula]:
    """All expressions in one: head h computes number h."""
    first, *others = [f"({text})" for text in cases]
    for number, text in enumerate(others, 1):
        first = f"where(h == {number}, {text}, {first})"

    def formula(*args: Any) -> Any:
        h, formulas = args[-4], list(cases.values())
        return np.select([h == n for n in range(len(formulas))], [f(*args) for f in formulas])

    return first, formula


def test_score_expressions() -> None:
    check(*small(), score=one_per_head(SCORES))


def test_keep_expressions() -> None:
    check(*small(), keep=one_per_head(KEEPS))


# -- features combined


COMBINATIONS: list[tuple[str, tuple[int, int], tuple[str, ...]]] = [
    ("f32", (40, 24), ("causal", "offsets", "bias", "alibi", "softcap")),
    ("f32", (40, 24), ("window", "lengths", "mask", "score", "keep")),
    ("bf16", (64, 64), ("causal", "lengths", "alibi", "mask")),
    ("bf16", (72, 40), ("window", "offset", "bias", "keep")),
    ("f16", (40, 56), ("causal", "window", "lengths", "offsets", "softcap", "score")),
    ("f32", (17, 9), ("causal", "window", "offset", "lengths", "bias", "mask", "alibi", "softcap", "score", "keep")),
]


def combined(features: tuple[str, ...], batch: int, heads: int, n: int, m: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    makers: dict[str, Callable[[], Any]] = {
        "causal": lambda: {"causal": True},
        "offset": lambda: {"q_offset": int(rng.integers(-n, m + 1))},
        "offsets": lambda: {"q_offset": rng.integers(-n, m + 1, batch)},
        "window": lambda: {"window": (int(rng.integers(16, 32)), int(rng.integers(8, 16)))},
        "lengths": lambda: {"kv_lengths": rng.integers(0, m + 1, batch)},
        "bias": lambda: {"bias": _bias_with_holes(rng, (batch, heads, n, m))},
        "mask": lambda: {"mask": rng.random((batch, 1, n, m)) < 0.7},
        "alibi": lambda: {"alibi_slopes": rng.random(heads, np.float32)},
        "softcap": lambda: {"softcap": float(rng.uniform(0.5, 30))},
        "scale": lambda: {"scale": float(rng.uniform(-1, 1))},
        "score": lambda: {"score": SCORE},
        "keep": lambda: {"keep": KEEP},
    }
    return {key: value for name in features for key, value in makers[name]().items()}


def _bias_with_holes(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    bias = rng.standard_normal(shape, dtype=np.float32)
    bias[rng.random(shape) < 0.1] = -np.inf
    return bias


Sizes = tuple[int, int, int, int, int]


def check_combination(dtype: str, dims: tuple[int, int], features: tuple[str, ...], sizes: Sizes, seed: int) -> None:
    """Sides of 1 are a broadcast, which is another class of kernels: tensors here are at least 2 everywhere."""
    batch, heads_kv, group, n, m = sizes
    options = combined(features, batch, heads_kv * group, n, m, seed)
    check(*qkv(batch, (heads_kv * group, heads_kv), (n, m), dims, dtype), **options)


SIZES = st.tuples(
    st.integers(2, 3),
    st.integers(1, 2),
    st.integers(2, 3),
    st.sampled_from([17, 18, 31, 64, 100, 137]),
    st.sampled_from([2, 16, 17, 63, 64, 65, 137, 200]),
)


@pytest.mark.parametrize("number", range(len(COMBINATIONS)))
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(sizes=SIZES, seed=st.integers(0, 2**16))
def test_features_combine(number: int, sizes: Sizes, seed: int) -> None:
    check_combination(*COMBINATIONS[number], sizes, seed)


NAMES = (
    "causal",
    "offset",
    "offsets",
    "window",
    "lengths",
    "bias",
    "mask",
    "alibi",
    "softcap",
    "scale",
    "score",
    "keep",
)
SUBSETS = st.sets(st.sampled_from(NAMES), min_size=2, max_size=6).map(sorted).map(tuple)


@pytest.mark.slow
@settings(
    max_examples=16,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    features=SUBSETS,
    sizes=SIZES,
    seed=st.integers(0, 2**16),
    dims=st.sampled_from([(40, 24), (64, 64), (96, 17), (5, 33)]),
)
def test_random_features_combine(
    dtype: str, dims: tuple[int, int], features: tuple[str, ...], sizes: Sizes, seed: int
) -> None:
    if {"offset", "offsets"} <= set(features):
        features = tuple(f for f in features if f != "offset")
    check_combination(dtype, dims, features, sizes, seed)
