"""Grouped heads and split keys on Triton: rows of several axes in one dimension, parts and their combination."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from attention_reference import Array, assert_accurate, attention, normal, qkv
from triton_cases import DEVICES, bound

from flashc.autotune.counts import dots, walked
from flashc.backends.base import Invocation
from flashc.backends.triton import BACKEND
from flashc.backends.triton.merging import merged_axes
from flashc.backends.triton.resources import shared_bytes
from flashc.backends.triton.run import interpret_programs
from flashc.compiler.tune import Tuning, tune
from flashc.compiler.workload import Workload, load_workload
from flashc.errors import UnsupportedError
from flashc.hwmodels import load_device
from flashc.ir.intexpr import Const
from flashc.ir.nodes import Program
from flashc.ir.parser import parse_program
from flashc.ir.printer import print_program
from flashc.ops import registry
from flashc.passes.bind import bind

pytestmark = [pytest.mark.triton, pytest.mark.timeout(600)]
NAMES = {"f32": "fp32", "bf16": "bf16"}
BASE: dict[str, Any] = {"op": "attention", "batch": 1, "head_dim": 16, "dtype": "bf16"}
TILES = {"Tg": 16, "Ti": 1, "Tj": 16, "Tn": 1, "stages": 2, "warps": 4}


def load(**keys: Any) -> Workload:
    return load_workload({**BASE, **keys})


def schedule(given: Workload, name: str) -> Program:
    return next(p for p in registry()["attention"].schedules(given.spec) if p.schedule == name)


# -- results, against float64


Case = tuple[str, str, tuple[int, int], int, int, dict[str, int], dict[str, Any]]
SPLIT, GROUPED = "split_keys", "grouped_rows"
CASES: dict[str, Case] = {  # schedule, element type, heads, queries, keys, tiles, options
    "decode": (SPLIT, "bf16", (8, 2), 1, 70, {}, {}),
    "decode in one part": (GROUPED, "f32", (8, 2), 1, 70, {}, {}),
    "one key head": (SPLIT, "f32", (12, 1), 1, 70, {"Tn": 4}, {}),
    "a group in two tiles": (SPLIT, "f32", (20, 1), 1, 40, {}, {}),
    "one head per group": (SPLIT, "f32", (2, 2), 1, 70, {}, {}),
    "four queries": (SPLIT, "bf16", (8, 2), 4, 70, {"Tg": 4, "Ti": 4}, {"causal": True}),
    "three heads, five queries": (GROUPED, "f32", (6, 2), 5, 40, {"Tg": 4, "Ti": 8}, {"causal": True}),
    "seventeen queries": (SPLIT, "f32", (4, 2), 17, 37, {"Tg": 2, "Ti": 8}, {"causal": True}),
    "lengths": (SPLIT, "bf16", (8, 2), 4, 70, {"Tg": 4, "Ti": 4}, {"causal": True, "kv_lengths": [70, 0, 20]}),
    "rows before all keys": (SPLIT, "f32", (4, 2), 9, 5, {"Tg": 2, "Ti": 8}, {"causal": True}),
    "offsets": (SPLIT, "f32", (4, 2), 4, 70, {"Tg": 2, "Ti": 8}, {"causal": True, "q_offset": [3, 40]}),
    "window": (SPLIT, "f32", (4, 2), 4, 70, {"Tg": 4, "Ti": 4, "Tn": 2}, {"window": (20, 1)}),
    "bias": (SPLIT, "f32", (4, 2), 3, 40, {"Tg": 4, "Ti": 4}, {"bias": (1, 4, 3, 40)}),
    "bias per key": (GROUPED, "f32", (4, 2), 3, 40, {"Tg": 4, "Ti": 4}, {"bias": (40,)}),
    "mask": (SPLIT, "f32", (4, 2), 3, 40, {"Tg": 4, "Ti": 4}, {"mask": (1, 4, 3, 40)}),
    "alibi": (SPLIT, "f32", (4, 2), 1, 40, {}, {"alibi_slopes": [0.5, 0.25, 0.125, 1.0]}),
}


def arrays(case: Case) -> tuple[dict[str, Array], dict[str, Any]]:
    """Tensors of a case by name, and the options of the reference; NaN wherever nothing may be read from."""
    _, dtype, heads, n, m, _, options = case
    batch = max(len(options.get(key, [0])) for key in ("kv_lengths", "q_offset"))
    q, k, v = qkv(batch, heads, (n, m), (BASE["head_dim"],) * 2, dtype)
    given: dict[str, Any] = dict(options)
    for b, length in enumerate(options.get("kv_lengths", ())):
        k[b, :, length:], v[b, :, length:] = np.nan, np.inf
    if "bias" in options:
        given["bias"] = normal(5, *options["bias"])
    if "mask" in options:
        given["mask"] = normal(6, *options["mask"]) > 0
        given["mask"][:, 1, 1] = False  # a row without keys
        given["mask"][..., 5] = False
        v[:, :, 5] = np.nan
    tensors = {"q": q, "k": k, "v": v}
    for name in ("bias", "mask", "kv_lengths", "q_offset", "alibi_slopes"):
        if name in given:
            kind = np.float32 if name == "alibi_slopes" else None
            array = np.asarray(given[name], kind)
            tensors[name] = array.astype(np.int32) if array.dtype == np.int64 else array
    return tensors, given


def workload_of(case: Case) -> Workload:
    _, dtype, heads, n, m, _, options = case
    keys = {name: {"shape": list(options[name])} for name in ("bias", "mask") if name in options}
    keys |= {name: options[name] for name in ("causal", "kv_lengths", "q_offset") if name in options}
    if "bias" in keys:
        keys["bias"] = {**keys["bias"], "dtype": "fp32"}
    if "window" in options:
        keys["window"] = list(options["window"])
    if "alibi_slopes" in options:
        keys["alibi"] = True
    batch = max(len(options.get(key, [0])) for key in ("kv_lengths", "q_offset"))
    return load(
        batch=batch, dtype=NAMES[dtype], heads={"q": heads[0], "kv": heads[1]}, seq={"q": n, "kv": m},
        outputs=["o", "lse"], **keys,
    )


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Array]]:
    """All cases in one process of Triton's interpreter."""
    calls = []
    for case in CASES.values():
        given = workload_of(case)
        operator = registry()["attention"]
        program = bound(schedule(given, case[0]), {**TILES, **case[5]})
        calls.append((program, Invocation(arrays(case)[0], operator.sizes(given.spec), operator.params(given.spec))))
    return dict(zip(CASES, interpret_programs(calls), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_float64(name: str, results: dict[str, dict[str, Array]]) -> None:
    case = CASES[name]
    tensors, options = arrays(case)
    matrices = [tensors[t] for t in ("q", "k", "v")]
    expected, expected_lse = attention(*matrices, **options)
    naive, naive_lse = attention(*matrices, **options, exact=False)
    assert_accurate(results[name]["o"], naive, expected, case[1])
    assert_accurate(results[name]["lse"], naive_lse, expected_lse, "f32")


def test_parts_without_keys_hold_the_initial_state(results: dict[str, dict[str, Array]]) -> None:
    """kv_lengths 70, 0 and 20 in parts of 16 keys: the second sequence has no part with keys, the third two."""
    highest = results["lengths"]["part_m"]  # part, batch, head, group, row
    assert highest.shape == (5, 3, 2, 4, 4)
    assert np.isneginf(highest[:, 1]).all() and np.isneginf(highest[2:, 2]).all()
    assert np.isfinite(highest[0, 2]).all()
    assert (results["lengths"]["part_l"][:, 1] == 0).all()
    assert (results["lengths"]["o"][1] == 0).all() and np.isneginf(results["lengths"]["lse"][1]).all()


# -- the source


def source(given: Workload, name: str, **tiles: int) -> str:
    program = bound(schedule(given, name), {**TILES, **tiles}, "sm_90")
    return BACKEND.emit(program, load_device(DEVICES["sm_90"]))


def test_rows_of_two_axes_lie_in_one_dimension() -> None:
    given = load(heads={"q": 8, "kv": 2}, seq={"q": 4, "kv": 70})
    text = source(given, GROUPED, Tg=4, Ti=4)
    assert "g_in = tl.arange(0, BLOCK_G * BLOCK_I) // BLOCK_I" in text
    assert "i_in = tl.arange(0, BLOCK_G * BLOCK_I) % BLOCK_I" in text
    assert "(G * h + g0) * q_stride_1" in text
    assert "mask=g_ok[:, None] & i_ok[:, None]" in text


def test_one_query_is_no_axis_of_any_block() -> None:
    text = source(load(heads={"q": 8, "kv": 2}, seq={"q": 1, "kv": 70}), SPLIT)
    assert "g_in = tl.arange(0, BLOCK_G)\n" in text
    assert "i_in" not in text


def test_parts_that_start_with_a_tile_have_no_border_on_the_left() -> None:
    whole = {"heads": {"q": 8, "kv": 2}, "seq": {"q": 1, "kv": 70}}
    assert source(load(**whole), SPLIT).count("at the border left") == 0
    assert source(load(**whole, window=[20, 0]), SPLIT).count("at the border left") == 1


# -- compiled, with no GPU

SHAPES = {  # queries, tiles
    "decode": (1, {"Tg": 16, "Ti": 1, "Tj": 64, "Tn": 4}),
    "four queries": (4, {"Tg": 4, "Ti": 4, "Tj": 32, "Tn": 4, "stages": 3}),
    "many rows": (17, {"Tg": 4, "Ti": 32, "Tj": 32, "Tn": 4, "stages": 4, "warps": 8}),
    "not pipelined": (1, {"Tg": 16, "Ti": 1, "Tj": 64, "Tn": 4, "stages": 1}),
}
QUICK = [("decode", "sm_90"), ("four queries", "sm_80"), ("decode", "gfx942")]
SLOW = [
    ("many rows", "sm_90"), ("many rows", "sm_100"), ("many rows", "gfx942"), ("not pipelined", "sm_120"),
    ("not pipelined", "gfx90a"), ("four queries", "gfx90a"), ("decode", "sm_120"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "target"), [*QUICK, *(pytest.param(*x, marks=pytest.mark.slow) for x in SLOW)])
def test_compiled_kernels_take_no_more_shared_memory_than_predicted(shape: str, target: str) -> None:
    queries, tiles = SHAPES[shape]
    given = load(heads={"q": 32, "kv": 8}, seq={"q": queries, "kv": 4096}, head_dim=64, outputs=["o", "lse"])
    device = load_device(DEVICES[target])
    placed = BACKEND.place(schedule(given, SPLIT), device)
    stages = {"stages": min(tiles.get("stages", 2), 2)} if device.vendor == "amd" else {}
    values = {t: {**TILES, **tiles, **stages}[t] for t in placed.tiles}
    program = bind(placed, values)
    built = BACKEND.build(BACKEND.emit(program, device), program, device)
    assert [r.kernel for r in built.resources] == ["attention_parts", "attention"]
    for kernel, found in zip(placed.kernels, built.resources, strict=True):
        assert found.shared_bytes is not None and found.registers is not None
        assert shared_bytes(placed, kernel, device).evaluate(values) >= found.shared_bytes
        assert found.registers >= 16


# -- the solver


def decoding(batch: int, keys: int, device: str, **options: Any) -> Tuning:
    heads = {"q": 32, "kv": 8}
    given = load(batch=batch, heads=heads, seq={"q": 1, "kv": keys}, head_dim=128, **options)
    return tune(given, load_device(device))


@pytest.mark.parametrize("device", ["h100_sxm", "h200_sxm", "a100_sxm_80gb", "mi300x"])
def test_one_long_sequence_is_split_until_the_cores_are_busy(device: str) -> None:
    best = decoding(1, 32768, device).best
    assert best.schedule == SPLIT
    assert best.bound_by == "memory"
    parts = -(-32768 // (best.tiles["Tj"] * best.tiles["Tn"]))
    assert 8 * parts > 0.8 * load_device(device).cores
    assert best.tiles["Ti"] == 1 and best.tiles["Tg"] == 16


@pytest.mark.parametrize(("batch", "keys"), [(8, 32768), (16, 8192), (64, 4096)])
def test_decode_reaches_most_of_the_bandwidth_that_reads_reach(batch: int, keys: int) -> None:
    """Keys and values, read once, over the modelled time; 85 % of what the device model says that reads reach."""
    device = load_device("h100_sxm")
    rate = (device.main_memory.bandwidth_gbs or 0) * device.memory_efficiency * 1e9
    moved = 2 * batch * 8 * keys * 128 * 2
    assert moved / rate > 0.85 * decoding(batch, keys, "h100_sxm").best.picoseconds * 1e-12


def test_many_sequences_are_not_split() -> None:
    assert decoding(128, 1024, "h100_sxm").best.schedule == GROUPED


def test_many_queries_keep_rows_of_one_axis() -> None:
    given = load(heads={"q": 32, "kv": 32}, seq=4096, head_dim=128)
    assert tune(given, load_device("h100_sxm")).best.schedule == "q_stationary"


def test_rows_in_one_dimension_are_padded_to_the_matrix_unit_together() -> None:
    given = load(heads={"q": 32, "kv": 8}, seq={"q": 4, "kv": 1024}, head_dim=128)
    device = load_device("a100_sxm_80gb")
    placed = BACKEND.place(schedule(given, GROUPED), device)
    env = {**registry()["attention"].sizes(given.spec), "Tj": 64, "stages": 2, "warps": 4}
    counted = [
        sum(
            d.operations.evaluate({**env, "Tg": g, "Ti": i})
            for d in dots(walked(placed, placed.kernels[0], BACKEND.pad), device, BACKEND.pad, Const(4))
        )
        for g, i in ((4, 4), (16, 1), (1, 16))
    ]
    each = 2 * 16 * 2 * 1024 * 128 * 8  # 16 rows, two products, keys, head dimension, key heads
    assert counted == [each, 4 * each, 4 * each]  # a tile per query position, and a tile per head of a group


# -- refusals


def test_too_few_rows_are_refused_by_name() -> None:
    given = load(heads={"q": 32, "kv": 8}, seq={"q": 4, "kv": 1024}, head_dim=128)
    device = load_device("a100_sxm_80gb")
    placed = BACKEND.place(schedule(given, GROUPED), device)
    (rows,) = [c for c in BACKEND.constraints(placed, device) if c.name == "triton.dot_rows.attention"]
    assert rows.left.evaluate({}) == 16
    assert rows.right.evaluate({"Tg": 4, "Ti": 2}) == 8


BATCHED = """
program toy.batched (tile)
  sizes B, N, D
  axes b: B, i: N, j: N, k: D
  in x: f32[B, N, D]
  out y: f32[B, N, N]
  tiles Tb, Ti, Tj
  kernel toy
    par b: Tb @grid, i: Ti @grid, j: Tj @grid
      xt[b, i, k]: f32 = load x[b, i, k]
      zt[b, j, k]: f32 = load x[b, j, k]
      s[b, i, j]: f32 = dot xt, zt over k
      store y[b, i, j] = s
"""


def test_a_dot_of_many_matrices_is_refused_by_name() -> None:
    device = load_device("a100_sxm_80gb")
    placed = BACKEND.place(parse_program(BATCHED), device)
    (shared,) = [c for c in BACKEND.constraints(placed, device) if c.name == "triton.dot_axes.toy"]
    assert (shared.left, shared.right) == (Const(1), Const(0))


def test_an_axis_lies_in_one_dimension_only() -> None:
    """Rows along a and i in one product, along i alone beside another axis in the next."""
    text = (
        BATCHED.replace("b: B, i: N, j: N, k: D", "b: B, i: N, j: N, k: D, c: B")
        .replace("par b: Tb @grid", "par c: Tb @grid, b: Tb @grid")
        .replace("zt[b, j, k]: f32 = load x[b,", "ct[c, i, k]: f32 = load x[c, i, k]\n      zt[j, k]: f32 = load x[0,")
        .replace("store", "t[c, i, j]: f32 = dot ct, zt over k\n      store")
    )
    program = parse_program(text)
    with pytest.raises(UnsupportedError, match="rows along b and i and rows along c and i"):
        merged_axes(program, program.kernels[0])


def test_an_index_that_strides_along_a_tile_is_refused() -> None:
    given = load(heads={"q": 8, "kv": 2}, seq={"q": 1, "kv": 70})
    program = bound(schedule(given, GROUPED), TILES)
    strided = parse_program(print_program(program).replace("q[b, G * h + g,", "q[b, G * h + 2 * g,"))
    with pytest.raises(UnsupportedError, match=r"the index .* of q takes no tile"):
        BACKEND.emit(strided, load_device(DEVICES["sm_80"]))
