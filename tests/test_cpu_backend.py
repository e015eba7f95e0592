"""The CPU backend from tile program to result: schedules, instruction sets, odd shapes, page ends, names."""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attention_reference import DTYPES, assert_accurate, attention, normal, qkv
from cpu_programs import Array, bound, device, lowered, run, schedule, workload, x86_only

import flashc
from flashc.backends.cpu.emit import emit
from flashc.compiler.verify import random_inputs, relative_error
from flashc.hwmodels import load_device
from flashc.ir.interp import interpret
from flashc.ops import registry

SCHEDULES = ("q_stationary", "tile_fused", "stored_scores")
LENGTHS = [(1, 1), (17, 137), (137, 17), (50, 70), (33, 64)]
FEATURES: dict[str, Any] = {
    "value_dim": 24,
    "causal": True,
    "window": [40, 6],
    "softcap": 3.0,
    "outputs": ["o", "lse"],
    "keep": "(i + j) % 5 != 0",
}


# -- emitted source


@pytest.mark.parametrize(
    ("name", "device_name", "schedule_name", "keys", "tiles"),
    [
        ("attention_f32", "epyc_9654", "q_stationary", {"dtype": "fp32", "causal": True}, {"Ti": 64, "nr": 6}),
        ("attention_bf16", "epyc_9654", "q_stationary", {"dtype": "bf16", "causal": True}, {"Ti": 64, "nr": 6}),
        ("attention_avx2", "zen3", "q_stationary", {"dtype": "fp16", "causal": True}, {"Ti": 32}),
        ("attention_stored", "graviton3", "stored_scores", {"dtype": "fp32", **FEATURES}, {}),
    ],
)
def test_emitted_attention(
    name: str,
    device_name: str,
    schedule_name: str,
    keys: dict[str, Any],
    tiles: dict[str, int],
    golden: Callable[[str, str], None],
) -> None:
    target = load_device(device_name)
    program = lowered(schedule(workload(**keys), schedule_name), target, **tiles)
    golden(name, emit(program, target.vector.width_bits))


def test_emitted_gemm(golden: Callable[[str, str], None]) -> None:
    given = workload(op="gemm", m=64, n=64, k=64, dtype="fp32", transpose_b=True, epilogue="max(acc, 0)")
    target = load_device("epyc_9654")
    program = lowered(schedule(given, "output_stationary"), target, Tj=64, mr=4, nr=6)
    golden("gemm", emit(program, target.vector.width_bits))


def test_the_saved_source_is_whole() -> None:
    """What is shown compiles by itself: the prelude is in it."""
    kernel = flashc.compile({"op": "gemm", "m": 17, "n": 17, "k": 17, "dtype": "fp32"})
    assert '#include "prelude.hpp"' not in kernel.source
    assert "struct Call" in kernel.source


# -- every schedule, type and instruction set against the interpreter


def check_program(target: Any, schedule_name: str, dtype: str, lengths: tuple[int, int], **keys: Any) -> None:
    """o and lse as near to float64 as the interpreter's run of the algorithm in the element type, times two."""
    given = workload(
        dtype={"f32": "fp32", "f16": "fp16"}.get(dtype, dtype),
        seq={"q": lengths[0], "kv": lengths[1]},
        **{**FEATURES, **keys},
    )
    operator, spec = registry()["attention"], given.spec
    q, k, v = qkv(2, (4, 2), lengths, (spec.head_dim, spec.value_dim), dtype)
    inputs = {"q": q, "k": k, "v": v}
    found = run(bound(schedule(given, schedule_name), target), target, given, inputs)
    sizes, params = {**operator.sizes(spec), "Ti": 64}, operator.params(spec)
    exact = interpret(operator.algorithm(spec), inputs, sizes, params, exact=True).tensors
    naive = interpret(operator.algorithm(spec), inputs, sizes, params).tensors
    for name in spec.outputs:
        eps = float(np.finfo(np.float32).eps) if name == "lse" else 2.0 ** {"f32": -23, "f16": -10, "bf16": -7}[dtype]
        limit = max(2 * relative_error(naive[name], exact[name]), 4 * eps)
        assert relative_error(found[name], exact[name]) <= limit


CASES = [
    ("epyc_9654", "q_stationary", "bf16"),
    ("epyc_9654", "tile_fused", "bf16"),
    ("epyc_9654", "stored_scores", "bf16"),
    ("epyc_9654", "stored_scores", "f32"),
    ("zen3", "q_stationary", "f32"),
    ("zen3", "tile_fused", "bf16"),
    ("zen3", "stored_scores", "f16"),
    ("portable", "q_stationary", "bf16"),
    ("portable", "tile_fused", "f32"),
]
OTHERS = sorted(set(itertools.product(("epyc_9654", "zen3", "portable"), SCHEDULES, DTYPES)) - set(CASES))


@x86_only
@pytest.mark.parametrize(("device_name", "schedule_name", "dtype"), CASES)
def test_schedules_on_odd_shapes(device_name: str, schedule_name: str, dtype: str) -> None:
    for lengths in LENGTHS:
        check_program(device(device_name), schedule_name, dtype, lengths)


@x86_only
@pytest.mark.slow
@pytest.mark.parametrize(("device_name", "schedule_name", "dtype"), OTHERS)
def test_schedules_on_odd_shapes_further(device_name: str, schedule_name: str, dtype: str) -> None:
    for lengths in LENGTHS:
        check_program(device(device_name), schedule_name, dtype, lengths)


@x86_only
@pytest.mark.parametrize("schedule_name", SCHEDULES)
def test_nan_in_a_query_fills_its_row_and_no_other(schedule_name: str) -> None:
    """The maximum passes over NaN; the sum keeps it."""
    target = device("epyc_9654")
    work = workload(batch=1, heads=1, seq=40, head_dim=16, causal=True, outputs=["o", "lse"], dtype="fp32")
    program = bound(schedule(work, schedule_name), target, Ti=16, Tj=16)
    inputs = random_inputs(registry()["attention"], work.spec, 0)
    inputs["q"][0, 0, 21, 3] = np.nan
    found = run(program, target, work, inputs)
    rows = np.arange(40) == 21
    np.testing.assert_array_equal(np.isnan(found["lse"][0, 0]), rows)
    np.testing.assert_array_equal(np.isnan(found["o"][0, 0]), np.broadcast_to(rows[:, None], (40, 16)))


@x86_only
@pytest.mark.parametrize("schedule_name", SCHEDULES)
def test_odd_contractions_in_pairs(schedule_name: str) -> None:
    """bf16 pairs along an odd head dimension and an odd number of keys, on slices of an odd rest."""
    for lengths in ((17, 31), (5, 1)):
        check_program(device("epyc_9654"), schedule_name, "bf16", lengths, head_dim=17, value_dim=9)


@pytest.mark.parametrize("schedule_name", ["q_stationary", "tile_fused"])
def test_many_small_tiles_of_keys_do_not_drift(schedule_name: str) -> None:
    """The running maximum settles early; 250 rescalings by 2^0 follow."""
    keys: dict[str, Any] = {"seq": {"q": 16, "kv": 4000}, "head_dim": 16, "dtype": "fp32", "outputs": ["o", "lse"]}
    target, given = load_device("native"), workload(**keys)
    q, k, v = qkv(2, (4, 2), (16, 4000), (16, 16))
    inputs = {"q": q, "k": k, "v": v}
    width = target.vector.width_bits // 32
    program = bound(schedule(given, schedule_name), target, Ti=2 * width, Tj=16)
    found = run(program, target, given, inputs)
    exact, exact_lse = attention(q, k, v)
    naive, naive_lse = attention(q, k, v, exact=False)
    assert_accurate(found["o"], naive, exact, "f32")
    assert_accurate(found["lse"], naive_lse, exact_lse, "f32")


@pytest.mark.parametrize("length", [257, 4096])
def test_a_long_sum_in_one_tile_does_not_drift(length: int) -> None:
    given, target = workload(op="gemm", m=16, n=64, k=length, dtype="fp32"), load_device("native")
    inputs = {"a": normal(0, 1, 16, length), "b": normal(1, 1, length, 64)}
    found = run(bound(schedule(given, "output_stationary"), target, Tk=length), target, given, inputs)["c"]
    exact = inputs["a"].astype(np.float64) @ inputs["b"].astype(np.float64)
    assert relative_error(found, exact) <= 2 * relative_error(inputs["a"] @ inputs["b"], exact)


@pytest.mark.parametrize("mr", [1, 2, 4])
def test_register_blocks(mr: int) -> None:
    """Every remainder of the row block, with few and many vectors."""
    target, given = load_device("native"), workload(op="gemm", m=23, n=200, k=19, dtype="fp32")
    a, b = normal(0, 1, 23, 19), normal(1, 1, 19, 200)
    width = target.vector.width_bits // 32
    for nr in (1, 3, 12):
        program = bound(schedule(given, "output_stationary"), target, Ti=16, Tj=8 * width, Tk=8, mr=mr, nr=nr)
        found = run(program, target, given, {"a": a, "b": b})["c"]
        np.testing.assert_allclose(found, a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epyc_7742", "epyc_9755", "xeon_8167m", "xeon_8480p"])
def test_every_x86_model_compiles(name: str) -> None:
    for dtype in ("fp32", "fp16", "bf16"):
        kernel = flashc.compile({**workload(dtype=dtype).document.data}, device=name)
        assert kernel.built.missing is None


# -- nothing beyond the end of a row or of a tensor is read


PROT_NONE = 0  # of sys/mman.h


def guarded(array: Array, kept: list[Any]) -> Array:
    """A copy that ends where a page that must not be touched begins."""
    page = mmap.PAGESIZE
    room = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, room + page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(base + room), ctypes.c_size_t(page), PROT_NONE) == 0
    kept.append(memory)
    flat = np.frombuffer(memory, np.uint8, array.nbytes, room - array.nbytes).view(array.dtype)
    copy = flat.reshape(array.shape)
    copy[...] = array
    return copy


def survives(call: Callable[[], bool]) -> bool:
    """Whether a forked child gets through the call with True; a stray read kills only the child."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        done = False
        try:
            done = call()
        finally:
            os._exit(0 if done else 1)
    return os.waitpid(child, 0)[1] == 0


def test_the_guard_guards() -> None:
    kept: list[Any] = []
    x = guarded(np.ones(3, np.float32), kept)
    beyond = np.lib.stride_tricks.as_strided(x, (4,), (4,))
    assert survives(lambda: x.sum() == 3)
    assert not survives(lambda: beyond.sum() == 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["q", "k", "v", "bias", "mask"])
@pytest.mark.parametrize(("rows", "dims"), [(33, (17, 9)), (1, (17, 9)), (1, (40, 48))])
def test_no_read_beyond_the_end(which: str, dtype: str, rows: int, dims: tuple[int, int]) -> None:
    q, k, v = qkv(1, (2, 1), (rows, 51), dims, dtype)
    tensors: dict[str, Array] = {"q": q, "k": k, "v": v, "bias": normal(5, 1, 1, rows, 51), "mask": np.ones(51, bool)}
    expected = flashc.attention(**tensors)
    kept: list[Any] = []
    tensors[which] = guarded(tensors[which], kept)
    assert survives(lambda: np.array_equal(flashc.attention(**tensors), expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_lies_between_rows_has_no_effect(dtype: str) -> None:
    """Rows of 17 and 9 elements, each followed by NaN."""
    tensors = qkv(1, (2, 1), (33, 51), (17, 9), dtype)
    padded = []
    for x in tensors:
        wide = np.full((*x.shape[:3], 32), np.nan, x.dtype)
        wide[..., : x.shape[3]] = x
        padded.append(wide[..., : x.shape[3]])
    found = flashc.attention(*padded, causal=True)
    np.testing.assert_array_equal(found, flashc.attention(*tensors, causal=True))


# -- names


NAMES = [
    "float",
    "new",
    "int",
    "auto",
    "x",
    "m",
    "l",
    "p",
    "out",
    "qt",
    "kt",
    "vt",
    "q_ptr",
    "k_s0",
    "call",
    "task",
    "scratch",
    "rest",
    "to",
    "W",
    "vf",
    "INF",
    "load",
    "at",
    "i0",
    "e",
    "k0",
    "zero",
    "index",
    "r",
    "even",
]


@pytest.mark.parametrize("dtype", ["f32", "i32"])
def test_captured_tensors_may_have_any_name(dtype: str) -> None:
    """Keywords, names of ours and of the C++ around: each a table of four numbers."""
    q, k, v = qkv(2, (4, 2), (20, 30), (40, 24))
    rng = np.random.default_rng(0)
    tables = {n: rng.integers(-3, 4, 4).astype(np.float32 if dtype == "f32" else np.int32) for n in NAMES}
    sums = " + ".join(f"{n}[h] * {number % 3 - 1}" for number, n in enumerate(NAMES))
    total = sum(tables[n].astype(np.float32) * (number % 3 - 1) for number, n in enumerate(NAMES))
    bias = np.broadcast_to(np.sin(total)[:, None, None] * np.arange(30, dtype=np.float32), (4, 20, 30))
    gain = "float_of[j]"
    tables["float_of"] = np.arange(30, dtype=np.float32)
    tables["sine"] = np.sin(total).astype(np.float32)
    score = f"score + sine[h] * {gain} + 0 * ({sums})"
    found = flashc.attention(q, k, v, score=score, captures=tables)
    np.testing.assert_allclose(found, flashc.attention(q, k, v, bias=bias), rtol=1e-5, atol=1e-5)


def test_gemm_captures_may_have_any_name() -> None:
    names = [*(n for n in NAMES if n != "out"), "bt", "acc1", "c_ptr"]
    tables = {n: {"shape": [20], "dtype": "fp32"} for n in names}
    kernel = flashc.compile(
        {
            "op": "gemm",
            "m": 19,
            "n": 20,
            "k": 21,
            "dtype": "fp32",
            "captures": tables,
            "epilogue": "acc + " + " + ".join(f"{n}[j]" for n in names),
        }
    )
    a, b = normal(0, 1, 19, 21), normal(1, 1, 21, 20)
    values = {n: normal(number, 20) for number, n in enumerate(names)}
    found = kernel(a=a, b=b, **values)
    np.testing.assert_allclose(found, a @ b + sum(values.values()), rtol=1e-4, atol=1e-4)
