"""The arrays that flashc.attention takes: views of any strides, far apart, full of garbage; torch's too."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np
import pytest
import torch
from attention_reference import DTYPES, SMALL, Array, attend, normal, small

import flashc

TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


# -- garbage that nobody attends to


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_keys_of_the_future_do_not_leak(garbage: float, dtype: str) -> None:
    """Rows before a bad key are as if it were absent; the rows that see it are not finite."""
    q, k, v = small(2, (2, 1), (100, 100), dtype)
    clean = attend(q, k, v, causal=True)
    k[:, :, 60:], v[:, :, 60:] = garbage, garbage
    dirty = attend(q, k, v, causal=True)
    assert np.array_equal(dirty[:, :, :60], clean[:, :, :60])
    assert not np.isfinite(dirty[:, :, 60:].astype(np.float32)).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_may_hold_anything(dtype: str) -> None:
    q, k, v = small(4, (2, 1), (50, 100), dtype)
    lengths = [100, 33, 1, 0]
    clean = flashc.attention(q, k, v, kv_lengths=lengths, return_lse=True)
    for row, length in enumerate(lengths):
        k[row, :, length:] = [np.nan, np.inf, -np.inf, np.nan][row]
        v[row, :, length:] = [np.inf, np.nan, np.nan, -np.inf][row]
    dirty = flashc.attention(q, k, v, kv_lengths=lengths, return_lse=True)
    for before, after in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(before, after)
    assert (dirty[0][3] == 0).all()


@pytest.mark.parametrize("how", ["mask", "bias", "keep", "window"])
def test_excluded_keys_may_hold_anything(how: str) -> None:
    early = np.arange(70) < 30
    options = {
        "mask": {"mask": early},
        "bias": {"bias": np.where(early, 0, -np.inf).astype(np.float32)},
        "keep": {"keep": "j < 30"},
        "window": {"window": (2, 3), "q_offset": 0},
    }[how]
    q, k, v = small(lengths=(20, 70))
    clean = attend(q, k, v, **options)
    k[:, :, 30:], v[:, :, 30:] = np.nan, np.inf
    np.testing.assert_array_equal(attend(q, k, v, **options), clean)


def test_what_is_attended_to_does_spread() -> None:
    """A NaN among the keys that a row keeps must not be hidden, whatever its payload."""
    q, k, v = small()
    k[0, 0, 3, 5] = np.uint32(0x7FC00001).view(np.float32)
    o = attend(q, k, v)
    assert np.isnan(o[0, :2]).all()
    assert np.isfinite(o[0, 2:]).all()
    assert np.isfinite(o[1]).all()


# -- strides


def _transposed(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


def _reversed(x: Array) -> Array:
    return np.ascontiguousarray(x[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]


def _inner_reversed(x: Array) -> Array:
    return np.ascontiguousarray(x[..., ::-1])[..., ::-1]


def _inner_transposed(x: Array) -> Array:
    return np.ascontiguousarray(x.swapaxes(2, 3)).swapaxes(2, 3)


def _every_other(x: Array) -> Array:
    wide = np.full((x.shape[0] * 2, x.shape[1], x.shape[2] * 3, x.shape[3] * 2), np.nan, x.dtype)
    wide[::2, :, 1::3, ::2] = x
    return wide[::2, :, 1::3, ::2]


def _packed_record(x: Array) -> Array:
    """Elements at odd addresses, as in a file with a one-byte header per element."""
    record = np.zeros(x.shape, np.dtype([("tag", "u1"), ("value", x.dtype)]))
    record["value"] = x
    return record["value"]


VIEWS = [_transposed, _reversed, _inner_reversed, _inner_transposed, _every_other, _packed_record]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("view", VIEWS)
def test_views_give_the_same_bits(view: Callable[[Array], Array], dtype: str) -> None:
    q, k, v = small(dtype=dtype)
    expected = attend(q, k, v, causal=True)
    found = attend(view(q), view(k), view(v), causal=True)
    np.testing.assert_array_equal(found, expected)


def test_strides_of_zero() -> None:
    """One head, one batch and one query row shared by all."""
    q, k, v = small(1, (1, 1))
    wide = [np.broadcast_to(x, (3, 4, *x.shape[2:])) for x in (q[:, :, :1].repeat(50, 2), k, v)]
    shared_row = np.broadcast_to(q[:, :, :1], (3, 4, 50, SMALL[0]))
    np.testing.assert_array_equal(attend(shared_row, *wide[1:]), attend(*wide))


@pytest.mark.parametrize("dtype", TORCH)
def test_torch_views_and_numpy_agree(dtype: str) -> None:
    """(B, L, H, D) activations seen as (B, H, L, D), and a transposed last dimension."""
    q, k, v = (torch.randn(2, 60, 4, d).to(TORCH[dtype]).transpose(1, 2) for d in (40, 40, 24))
    found = attend(q, k, v.transpose(2, 3).contiguous().transpose(2, 3), causal=True)
    assert found.dtype == TORCH[dtype]
    as_numpy = [x.float().numpy().astype(DTYPES[dtype]) for x in (q, k, v)]
    expected = attend(*as_numpy, causal=True)
    assert np.array_equal(found.float().numpy(), expected.astype(np.float32))


def test_a_negated_torch_view() -> None:
    """The imaginary part of a conjugate is stored with its sign to be applied."""
    z = torch.randn(1, 2, 20, 40, dtype=torch.complex64)
    q, k, v = z.conj().imag, z.real, torch.randn(1, 2, 20, 24)
    assert q.is_neg()
    torch.testing.assert_close(attend(q, k, v), attend(q.clone(), k, v), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("causal", [False, True])
def test_torch_sdpa(dtype: str, causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, h, 137, d).to(TORCH[dtype]) for h, d in ((8, 40), (2, 40), (2, 24)))
    peer = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    found = attend(q, k, v, causal=causal)
    tolerance = 2e-5 if dtype == "f32" else 8 * float(torch.finfo(TORCH[dtype]).eps)
    torch.testing.assert_close(found, peer, rtol=tolerance, atol=tolerance)


def test_torch_sdpa_with_a_bias() -> None:
    torch.manual_seed(0)
    shapes = ((2, 4, 50, 40), (2, 4, 70, 40), (2, 4, 70, 24), (4, 50, 70))
    q, k, v, bias = (torch.randn(*shape) for shape in shapes)
    bias[:, :, 11] = -torch.inf
    peer = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(attend(q, k, v, bias=bias), peer, rtol=2e-5, atol=2e-5)


# -- more than 2^31 elements between neighbours, on memory that is never touched


@pytest.fixture
def sparse() -> Callable[..., Array]:
    """``sparse(values, strides)``: a copy of `values` at these element strides in reserved address space."""
    kept = []

    def make(values: Array, strides: tuple[int, ...]) -> Array:
        size = values.itemsize
        span = sum((n - 1) * s for n, s in zip(values.shape, strides, strict=True)) + 1
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        try:
            kept.append(mmap.mmap(-1, span * size, flags=flags))
        except OSError as error:
            pytest.skip(f"cannot reserve {span * size} bytes of address space: {error}")
        base = np.frombuffer(kept[-1], np.uint8)[: span * size].view(values.dtype)
        view = np.lib.stride_tricks.as_strided(base, values.shape, [s * size for s in strides])
        view[...] = values
        return view

    return make


FAR = 2**31 + 64
MAP_NORESERVE = 0x4000  # of Linux; in the mmap module only from Python 3.13


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("far", ["batch", "head", "row"])
def test_distances_beyond_32_bits(sparse: Callable[..., Array], far: str, dtype: str) -> None:
    q, k, v = small(2, (2, 2), (20, 20), dtype)

    def spread(x: Array) -> Array:
        row = FAR // 16 if far == "row" else x.shape[3]
        head = FAR if far == "head" else row * 20
        batch = FAR if far == "batch" else head * 2
        return sparse(x, (batch, head, row, 1))

    expected = attend(q, k, v, causal=True)
    out = spread(np.empty((2, 2, 20, SMALL[1]), q.dtype))
    assert max(out.strides) * 19 // out.itemsize > 2**31
    attend(spread(q), spread(k), spread(v), causal=True, out=out)
    np.testing.assert_array_equal(out, expected)


def test_a_bias_and_a_mask_beyond_32_bits(sparse: Callable[..., Array]) -> None:
    q, k, v = small(lengths=(20, 70))
    bias, mask = normal(3, 2, 4, 20, 70), np.random.default_rng(1).random((2, 4, 20, 70)) < 0.7
    expected = attend(q, k, v, bias=bias, mask=mask)
    strides = (4 * FAR, FAR, FAR // 40, 1)
    found = attend(q, k, v, bias=sparse(bias, strides), mask=sparse(mask, strides))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_more_than_2_to_the_31_elements() -> None:
    """2^26 + 1 query rows of 40 that are one row, each writing the same output row."""
    rows = 2**26 + 1
    q, k, v = small(1, (1, 1), (1, 3))
    wide = np.broadcast_to(q, (1, 1, rows, SMALL[0]))
    row = np.zeros(SMALL[1], np.float32)
    out = np.lib.stride_tricks.as_strided(row, (1, 1, rows, SMALL[1]), (0, 0, 0, 4))
    assert wide.size > 2**31
    flashc.attention(wide, k, v, out=out)
    np.testing.assert_allclose(out[0, 0, -1], flashc.attention(q, k, v)[0, 0, 0], rtol=1e-5)


# -- outputs


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_out_is_written_and_returned(kind: str) -> None:
    q, k, v = (torch.from_numpy(x) if kind == "torch" else x for x in small())
    expected = attend(q, k, v)
    room = expected.new_empty(2, 50, 4, 24) if kind == "torch" else np.empty((2, 50, 4, 24), np.float32)
    out = room.transpose(1, 2) if kind == "torch" else room.transpose(0, 2, 1, 3)
    assert attend(q, k, v, out=out) is out
    assert bool((out == expected).all())


def test_lse_comes_on_request_in_f32() -> None:
    q, k, v = small(dtype="bf16")
    o, lse = flashc.attention(q, k, v, return_lse=True)
    assert lse.shape == (2, 4, 50)
    assert lse.dtype == np.float32
    np.testing.assert_array_equal(flashc.attention(q, k, v), o)
