"""gemm from workload to result: CPU and interpreter against float64."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from attention_reference import DTYPES, Array, distance, normal
from cpu_programs import Array as Tensor
from cpu_programs import bound, device, run, schedule, workload, x86_only

import flashc
from flashc.compiler.tune import tune
from flashc.compiler.workload import load_workload
from flashc.errors import ArgumentError
from flashc.hwmodels import load_device
from flashc.ir.interp import interpret
from flashc.ops import registry

NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
SIZES = [(1, 1, 1), (17, 1, 17), (1, 137, 17), (137, 17, 1), (17, 137, 137), (64, 64, 64), (1025, 17, 137)]


def operands(batch: int, m: int, n: int, k: int, dtype: str = "f32", **flags: bool) -> tuple[Array, Array]:
    a = normal(0, batch, *((k, m) if flags.get("transpose_a") else (m, k)), dtype=dtype)
    b = normal(1, batch, *((n, k) if flags.get("transpose_b") else (k, n)), dtype=dtype)
    return a, b


def product(a: Array, b: Array, dtype: Any = np.float64, **flags: bool) -> Array:
    a = a.astype(dtype).swapaxes(1, 2) if flags.get("transpose_a") else a.astype(dtype)
    b = b.astype(dtype).swapaxes(1, 2) if flags.get("transpose_b") else b.astype(dtype)
    return a @ b


def assert_near(found: Array, exact: Array, naive: Array, out: str) -> None:
    limit = max(2 * distance(naive, exact), 4 * float(ml_dtypes.finfo(DTYPES[out]).eps))
    assert found.dtype == DTYPES[out]
    assert distance(found, exact) <= limit


def document(dtype: str = "f32", **keys: Any) -> dict[str, Any]:
    """A workload; its sizes are what the kernel is tuned for, not what it can be called with."""
    return {"op": "gemm", "m": 128, "n": 128, "k": 128, "dtype": NAMES[dtype], **keys}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("transpose_a", "transpose_b"), list(itertools.product([False, True], repeat=2)))
def test_sizes_and_transposes(transpose_a: bool, transpose_b: bool, dtype: str) -> None:
    """One kernel serves all sizes; operands of more than one batch."""
    flags = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    kernel = flashc.compile(document(dtype, **flags))
    for batch, (m, n, k) in itertools.product((1, 3), SIZES):
        a, b = operands(batch, m, n, k, dtype, **flags)
        found = kernel(a, b)
        exact = product(a, b, **flags)
        assert found.shape == (batch, m, n)
        assert_near(found, exact, product(a, b, np.float32, **flags).astype(found.dtype), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sums(dtype: str) -> None:
    a, b = operands(1, 33, 70, 30_001, dtype)
    found = flashc.compile(document(dtype))(a, b)
    assert_near(found, product(a, b), product(a, b, np.float32).astype(found.dtype), dtype)


@pytest.mark.parametrize(
    ("batch", "m", "n", "k"), [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (0, 0, 0, 0)]
)
def test_nothing_gives_nothing_or_zero(batch: int, m: int, n: int, k: int) -> None:
    found = flashc.compile(document())(*operands(batch, m, n, k))
    assert found.shape == (batch, m, n)
    assert (found == 0).all()


def test_an_empty_sum_still_has_its_epilogue() -> None:
    kernel = flashc.compile(document(epilogue="acc + i - 2 * j + b"))
    b, i, j = np.ogrid[:2, :3, :4]
    np.testing.assert_array_equal(kernel(*operands(2, 3, 4, 0)), (b + i - 2 * j).astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "out"), [("bf16", "f32"), ("f16", "f32"), ("f32", "bf16"), ("f32", "f16"), ("bf16", "f16")]
)
def test_an_output_type_apart(dtype: str, out: str) -> None:
    a, b = operands(2, 33, 50, 70, dtype)
    found = flashc.compile(document(dtype, out_dtype=NAMES[out]))(a, b)
    assert_near(found, product(a, b), product(a, b, np.float32).astype(DTYPES[out]), out)


CAPTURES = {
    "shift": {"shape": [50]},
    "gain": {"shape": [2, 33], "dtype": "fp16"},
    "kind": {"shape": [33], "dtype": "i32"},
    "on": {"shape": [33, 50], "dtype": "bool"},
}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_an_epilogue_with_captured_tensors(dtype: str) -> None:
    text = "where(on[i, j], max(acc * gain[b, i] + shift[j], 0), -0.5 * j) + tanh(acc / 8) * kind[i]"
    kernel = flashc.compile(document(dtype, batch=2, m=33, n=50, k=70, epilogue=text, captures=CAPTURES))
    a, b = operands(2, 33, 50, 70, dtype)
    rng = np.random.default_rng(3)
    shift, gain = normal(5, 50), normal(6, 2, 33, dtype="f16")
    kind, on = rng.integers(-3, 4, 33, dtype=np.int32), rng.random((33, 50)) < 0.5
    found = kernel(a, b, shift=shift, gain=gain, kind=kind, on=on)

    def formula(acc: Array) -> Array:
        scaled = np.maximum(acc * gain[:, :, None].astype(acc.dtype) + shift.astype(acc.dtype), 0)
        return np.where(on, scaled, -0.5 * np.arange(50)) + np.tanh(acc / 8) * kind[:, None]

    naive = formula(product(a, b, np.float32)).astype(found.dtype)
    assert_near(found, formula(product(a, b)), naive, dtype)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_views_give_the_same_bits(dtype: str) -> None:
    a, b = operands(2, 33, 50, 70, dtype)
    kernel = flashc.compile(document(dtype))
    expected = kernel(a, b)
    wide = np.full((4, 33, 100), np.nan, a.dtype)
    wide[::2, :, :70] = a
    turned = np.ascontiguousarray(b.swapaxes(1, 2)).swapaxes(1, 2)
    backwards = np.ascontiguousarray(b[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    for left, right in ((wide[::2, :, :70], turned), (a, backwards)):
        np.testing.assert_array_equal(kernel(left, right), expected)
    one = np.broadcast_to(a[:1], a.shape)
    np.testing.assert_array_equal(kernel(one, b), kernel(one.copy(), b))


def test_both_operands_may_be_the_same_array() -> None:
    x = normal(0, 2, 60, 60)
    kernel = flashc.compile(document())
    np.testing.assert_allclose(kernel(x, x), x @ x, rtol=2e-4, atol=2e-4)
    twice = flashc.compile(document(transpose_b=True))
    np.testing.assert_allclose(twice(x, x), x @ x.swapaxes(1, 2), rtol=2e-4, atol=2e-4)


def test_out_may_be_a_part_of_something() -> None:
    a, b = operands(2, 33, 50, 70)
    kernel = flashc.compile(document())
    room = np.full((2, 40, 64), 7, np.float32)
    out = room[:, 3:36, 5:55]
    assert kernel(a, b, out=out) is out
    np.testing.assert_array_equal(out, kernel(a, b))
    out[...] = 7
    assert (room == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_tensors(dtype: str) -> None:
    torch.manual_seed(0)
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    a, b = torch.randn(2, 33, 70).to(kind), torch.randn(2, 70, 50).to(kind)
    found = flashc.compile(document(dtype))(a, b)
    tolerance = 1e-4 if dtype == "f32" else 8 * torch.finfo(kind).eps
    torch.testing.assert_close(found, a @ b, rtol=tolerance, atol=tolerance * 8)


def test_nan_and_infinity_spread_as_in_numpy() -> None:
    a, b = operands(1, 33, 50, 70)
    a[0, 3, 4], b[0, 7, 8], b[0, 9, 10] = np.nan, np.inf, -np.inf
    found = flashc.compile(document())(a, b)
    with np.errstate(all="ignore"):
        expected = a @ b
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(found[infinite], expected[infinite])


def test_wrong_calls_are_refused() -> None:
    kernel = flashc.compile(document(n=50, epilogue="acc + shift[j]", captures={"shift": {"shape": [50]}}))
    a, b = operands(2, 33, 50, 70)
    shift = normal(0, 50)
    for pattern, args, named in (
        ("argument 'b' is missing; it takes a, b, shift", (a,), {}),
        ("4 positional arguments", (a, b, shift, shift), {}),
        ("unknown argument 'bias'", (a, b, shift), {"bias": shift}),
        ("'b' has size 69 in dimension 1; K is 70", (a, b[:, 1:], shift), {}),
        ("'a' has shape .* expected 3 dimensions", (a[0], b[0], shift), {}),
        ("'shift' has size 49 in dimension 0; expected 50", (a, b, shift[1:]), {}),
        ("'shift' has 50 elements and is read at j up to 50", (a, np.pad(b, ((0, 0), (0, 0), (0, 1))), shift), {}),
    ):
        with pytest.raises(ArgumentError, match=pattern):
            kernel(*args, **named)


@x86_only
@pytest.mark.parametrize(("device_name", "dtype"), [("epyc_9654", "bf16"), ("zen3", "f32"), ("portable", "f16")])
def test_cpu_and_interpreter_agree(device_name: str, dtype: str) -> None:
    """The same bound tiles: two and a tail along each axis, in an epilogue that sees its coordinates."""
    target = device(device_name)
    given = workload(
        op="gemm", batch=2, m=75, n=150, k=41, dtype=NAMES[dtype], transpose_a=True, epilogue="acc * (1 + b) - i + j"
    )
    a, b = operands(2, 75, 150, 41, dtype, transpose_a=True)
    program = schedule(given, "output_stationary")
    inputs: dict[str, Tensor] = {"a": a, "b": b}
    found = run(bound(program, target, Tj=64), target, given, inputs)["c"]
    sizes = registry()["gemm"].sizes(given.spec)
    tiles = {t: 1 if t == "stages" else 32 for t in program.tiles}
    result = interpret(program, inputs, {**sizes, **tiles})
    exact = interpret(program, inputs, {**sizes, **tiles}, exact=True).tensors["c"]
    assert_near(found, exact, result.tensors["c"], dtype)


@pytest.mark.parametrize("target", ["zen3", "epyc_9654"])
@pytest.mark.parametrize("n", [1, 8])
def test_narrow_results_have_tiles_on_every_cpu(target: str, n: int) -> None:
    """Where one vector of columns is all there is, a register block of two is not asked for."""
    narrow = load_workload({"op": "gemm", "m": 8, "n": n, "k": 8, "dtype": "fp32"})
    assert tune(narrow, load_device(target)).best.tiles["mr"] == 1
