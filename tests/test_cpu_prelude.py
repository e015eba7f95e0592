"""The functions under every emitted kernel, compiled at each vector width: accuracy, special values, rounding."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from flashc.backends.cpu.backend import machine_features
from flashc.backends.cpu.run import FLAGS, resource
from flashc.system.toolchain import compile_shared

Array = np.ndarray[Any, np.dtype[Any]]
DRIVER = """
#define FLASHC_WIDTH %d
%s
#define EACH(f) extern "C" void each_##f(const float* x, float* y, long n) { \\
  for (long i = 0; i < n; i += W) store(y + i, f(load(x + i))); }
EACH(vexp2) EACH(vexp) EACH(vlog2) EACH(vlog) EACH(vtanh) EACH(vabs)
#define BOTH(f) extern "C" void both_##f(const float* x, const float* y, float* z, long n) { \\
  for (long i = 0; i < n; i += W) store(z + i, f(load(x + i), load(y + i))); }
BOTH(vmin) BOTH(vmax)
#define INTS(f) extern "C" void ints_##f(const int32_t* x, const int32_t* y, int32_t* z, long n) { \\
  for (long i = 0; i < n; i += W) { vi a, b; std::memcpy(&a, x + i, sizeof a); std::memcpy(&b, y + i, sizeof b); \\
    vi r = f(a, b); std::memcpy(z + i, &r, sizeof r); } }
INTS(vfloordiv) INTS(vmod)
#define ALONE(f) extern "C" void alone_##f(const int32_t* x, const int32_t* y, int32_t* z, long n) { \\
  for (long i = 0; i < n; ++i) z[i] = f(x[i], y[i]); }
ALONE(vfloordiv) ALONE(vmod)
extern "C" void to_bf16(const float* x, bf16* y, long n) { for (long i = 0; i < n; ++i) y[i] = from_f32<bf16>(x[i]); }
extern "C" void to_f16(const float* x, f16* y, long n) { for (long i = 0; i < n; ++i) y[i] = from_f32<f16>(x[i]); }
extern "C" void of_f16(const f16* x, float* y, long n) { for (long i = 0; i < n; ++i) y[i] = to_f32(x[i]); }
extern "C" void of_bf16(const bf16* x, float* y, long n) { for (long i = 0; i < n; ++i) y[i] = to_f32(x[i]); }
extern "C" void pairs(const float* x, const float* y, uint32_t* z, long n) {
  for (long i = 0; i < n; i += W) store_pair(z + i, load(x + i), load(y + i)); }
#define MOVE(name, To, From) \\
  extern "C" void move_##name(void* to, long to_y, void* from, long from_x, long nx, long ny) { \\
  transpose((To*)to, to_y, (const From*)from, from_x, nx, ny); }
MOVE(f32_f32, float, float) MOVE(f32_bf16, float, bf16) MOVE(bf16_f32, bf16, float)
MOVE(f16_f32, f16, float) MOVE(f32_f16, float, f16)
extern "C" void move_pairs(void* to, long to_y, void* from, long from_x, long nx, long ny) {
  transpose((float*)to, to_y, Pairs{(const bf16*)from}, from_x, nx, ny); }
"""
X86 = platform.machine() == "x86_64"
TARGETS: dict[str, tuple[int, tuple[str, ...], str | None]] = (
    {  # width, flags, feature that it needs
        "512": (512, ("-march=x86-64-v4",), "avx512f"),
        "256": (256, ("-march=x86-64-v3",), "avx2"),
        "128": (128, ("-march=x86-64",), None),
        "128 without _Float16": (128, ("-march=x86-64", "-U__FLT16_MAX__"), None),
    }
    if X86
    else {"128": (128, (), None)}
)


@cache
def library(target: str) -> ctypes.CDLL:
    width, flags, feature = TARGETS[target]
    if feature is not None and feature not in machine_features():
        pytest.skip(f"this machine has no {feature}")
    return ctypes.CDLL(str(compile_shared(DRIVER % (width, resource("prelude.hpp")), (*FLAGS, *flags), stem="driver")))


def apply(target: str, function: str, dtype: Any, *inputs: Array) -> Array:
    """Call a driver function on arrays, padded to whole vectors."""
    count = len(inputs[0])
    padded = [np.concatenate([x, np.ones(-count % 16, x.dtype)]) for x in inputs]
    result = np.zeros(len(padded[0]), dtype)
    pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (*padded, result)]
    getattr(library(target), function)(*pointers, ctypes.c_long(len(result)))
    return result[:count]


def bits(*words: int) -> Array:
    return np.array(words, np.uint32).view(np.float32)


def every(step: int) -> Array:
    """Floats of all signs, exponents and kinds, one in ``step``."""
    return np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "vexp2": np.exp2,
    "vexp": np.exp,
    "vlog2": np.log2,
    "vlog": np.log,
    "vtanh": np.tanh,
}
NANS = bits(0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FC00001, 0xFFFFFFFF)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_within_four_units_in_the_last_place(target: str, function: str) -> None:
    """On a grid over everything, and on dense ones where the argument is reduced. Results that are subnormal
    may be 0."""
    dense = [np.linspace(-b, b, 400_001, dtype=np.float32) for b in (0.5, 2, 20, 130)]
    x = np.concatenate([every(6151), *dense])
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[function](x.astype(np.float64))
        nearest = exact.astype(np.float32)
    found = apply(target, f"each_{function}", np.float32, x)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
    normal = np.isfinite(nearest) & ((np.abs(nearest) >= np.float32(2.0**-126)) | (function == "vtanh"))
    ulp = np.spacing(np.abs(nearest[normal]))
    assert np.max(np.abs(found[normal] - exact[normal]) / ulp) <= 4
    tiny = (np.abs(nearest) < np.float32(2.0**-126)) & (function != "vtanh")
    assert np.all(np.abs(found[tiny]) <= 2.0**-126)
    infinite = np.isinf(nearest)
    assert np.array_equal(found[infinite], nearest[infinite])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_special_values(target: str, function: str) -> None:
    assert np.isnan(apply(target, f"each_{function}", np.float32, NANS)).all()
    expected = {
        "vexp2": [1, 1, np.inf, 0, np.inf, 0],
        "vexp": [1, 1, np.inf, 0, np.inf, 0],
        "vlog2": [-np.inf, -np.inf, np.inf, np.nan, 128, np.nan],
        "vlog": [-np.inf, -np.inf, np.inf, np.nan, 128 * np.log(2), np.nan],
        "vtanh": [0, -0.0, 1, -1, 1, -1],
    }[function]
    largest = np.finfo(np.float32).max
    x = np.array([0, -0.0, np.inf, -np.inf, largest, -largest], np.float32)
    found = apply(target, f"each_{function}", np.float32, x)
    np.testing.assert_allclose(found, np.array(expected, np.float32), rtol=2e-7)
    if function == "vtanh":
        assert np.signbit(found[1])


def test_powers_of_two_are_exact_to_the_ends_of_the_range(target: str) -> None:
    """2^0 above all: a softmax that is off there drifts with every tile of keys."""
    n = np.arange(-149, 128)
    powers = np.ldexp(np.float32(1), n)
    np.testing.assert_array_equal(apply(target, "each_vlog2", np.float32, powers), n)
    normal = n >= -126
    found = apply(target, "each_vexp2", np.float32, n[normal].astype(np.float32))
    np.testing.assert_array_equal(found, powers[normal])


def test_minimum_and_maximum_keep_nan(target: str) -> None:
    values = np.array([-np.inf, -1, -0.0, 0.0, 1, np.inf, np.nan], np.float32)
    x, y = (a.ravel() for a in np.meshgrid(values, values))
    np.testing.assert_array_equal(apply(target, "both_vmax", np.float32, x, y), np.maximum(x, y))
    np.testing.assert_array_equal(apply(target, "both_vmin", np.float32, x, y), np.minimum(x, y))
    np.testing.assert_array_equal(apply(target, "each_vabs", np.float32, values), np.abs(values))


@pytest.mark.parametrize("form", ["ints", "alone"])
def test_division_of_integers_is_that_of_numpy(target: str, form: str) -> None:
    """Rounded down; by 0 it gives 0, and nothing traps."""
    ends = np.iinfo(np.int32)
    values = np.array([ends.min, ends.min + 1, -17, -4, -1, 0, 1, 3, 4, 17, ends.max], np.int32)
    x, y = (a.ravel() for a in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(apply(target, f"{form}_vfloordiv", np.int32, x, y), x // y)
        np.testing.assert_array_equal(apply(target, f"{form}_vmod", np.int32, x, y), x % y)


def _bf16(words: Array) -> Array:
    return words.view(ml_dtypes.bfloat16)


def test_bf16_rounds_to_nearest_even(target: str) -> None:
    """Every tie, its neighbours, and a grid over everything; NaN stays NaN, overflow is infinite."""
    high = np.arange(2**16, dtype=np.uint32) << 16
    x = np.concatenate(
        [(high | low).view(np.float32) for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)] + [every(6151)]
    )
    with np.errstate(invalid="ignore"):
        expected = x.astype(ml_dtypes.bfloat16)
    alone = _bf16(apply(target, "to_bf16", np.uint16, x))
    words = apply(target, "pairs", np.uint32, x, x[::-1].copy())
    for found, wanted in (
        (alone, expected),
        (_bf16(words.astype(np.uint16)), expected),
        (_bf16((words >> 16).astype(np.uint16)), expected[::-1]),
    ):
        np.testing.assert_array_equal(np.isnan(found.astype(np.float32)), np.isnan(wanted.astype(np.float32)))
        numbers = ~np.isnan(wanted.astype(np.float32))
        np.testing.assert_array_equal(found.view(np.uint16)[numbers], wanted.copy().view(np.uint16)[numbers])


def test_bf16_and_f16_widen_exactly(target: str) -> None:
    words = np.arange(2**16, dtype=np.uint16)
    np.testing.assert_array_equal(apply(target, "of_f16", np.float32, words), words.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(apply(target, "of_bf16", np.float32, words), _bf16(words).astype(np.float32))


def test_f16_rounds_to_nearest_even(target: str) -> None:
    """Every half, the ties between them, the neighbours of those, and a grid over everything."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[1:] + halves[:-1]) / 2
    near = [halves, ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))]
    edge = np.array([65504, 65519.996, 65520, 65536, 1e30, np.inf], np.float32)
    x = np.concatenate([*near, edge, every(6151)])
    x = np.concatenate([x, -x])
    found = apply(target, "to_f16", np.uint16, x).view(np.float16)
    with np.errstate(all="ignore"):
        wanted = x.astype(np.float16)
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), ~numbers)
    np.testing.assert_array_equal(found.view(np.uint16)[numbers], wanted.view(np.uint16)[numbers])


MOVED = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


MOVES = [("f32", "f32"), ("f32", "bf16"), ("bf16", "f32"), ("f16", "f32"), ("f32", "f16")]


@pytest.mark.parametrize(("to", "source"), MOVES)
@pytest.mark.parametrize(("nx", "ny"), [(16, 16), (1, 40), (40, 1), (33, 47), (64, 80)])
def test_a_transposing_move_touches_nothing_else(target: str, to: str, source: str, nx: int, ny: int) -> None:
    rng = np.random.default_rng(nx * ny)
    given = rng.standard_normal((nx, ny + 3)).astype(MOVED[source])
    result = np.full((ny, nx + 5), 7, MOVED[to])
    _move(target, f"{to}_{source}", result, given, nx, ny)
    wanted = given[:, :ny].T.astype(MOVED[to])
    np.testing.assert_array_equal(result[:, :nx].astype(np.float32), wanted.astype(np.float32))
    assert np.all(result[:, nx:].astype(np.float32) == 7)


@pytest.mark.parametrize(("rows", "pairs", "more"), [(16, 16, 0), (33, 20, 1), (5, 1, 3)])
def test_pairs_move_as_words_whatever_the_stride(target: str, rows: int, pairs: int, more: int) -> None:
    given = np.random.default_rng(rows).integers(0, 2**16, (rows, 2 * pairs + more), dtype=np.uint16)
    result = np.zeros((pairs, rows), np.uint32)
    _move(target, "pairs", result, given, rows, pairs)
    words = given[:, 0 : 2 * pairs : 2] | given[:, 1 : 2 * pairs : 2].astype(np.uint32) << 16
    np.testing.assert_array_equal(result, words.T)


def _move(target: str, name: str, result: Array, given: Array, nx: int, ny: int) -> None:
    steps = [ctypes.c_long(n) for n in (result.shape[1], given.shape[1], nx, ny)]
    addresses = [a.ctypes.data_as(ctypes.c_void_p) for a in (result, given)]
    getattr(library(target), f"move_{name}")(addresses[0], steps[0], addresses[1], *steps[1:])
