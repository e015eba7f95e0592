"""Short rows: grouped heads and few queries share what they read, long loops are split, lanes follow each dot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attention_reference import assert_accurate, attention, normal, qkv
from cpu_programs import CPU, bound, device, lowered, run, schedule, workload

from flashc.backends.base import Invocation
from flashc.backends.cpu.emit import emit
from flashc.compiler.tune import tune
from flashc.compiler.verify import random_inputs
from flashc.compiler.workload import Workload
from flashc.errors import IRError, UnsupportedError
from flashc.hwmodels import load_device
from flashc.hwmodels.model import Device
from flashc.ir.analysis import transfers
from flashc.ir.interp import interpret
from flashc.ir.nodes import Program
from flashc.ir.parser import parse_program
from flashc.ir.printer import print_program
from flashc.ir.verify import verify
from flashc.ops import registry
from flashc.ops.attention import q_stationary, tile_fused
from flashc.ops.grouping import Grouping, grouped
from flashc.ops.splitting import Splitting, split_loop

NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


# -- the schedules


def decode(**keys: Any) -> Workload:
    return workload(**{"dtype": "fp32", "heads": {"q": 8, "kv": 2}, "seq": {"q": 1, "kv": 70}, **keys})


def read_bytes(program: Program, given: Workload, tensor: str, **tiles: int) -> int:
    env = {**registry()["attention"].sizes(given.spec), **tiles, "stages": 1}
    moved = (t for kernel in program.kernels for t in transfers(program, kernel))
    return sum(t.bytes.evaluate(env) for t in moved if (t.tensor, t.direction) == (tensor, "load"))


def test_the_heads_of_a_group_read_keys_and_values_once() -> None:
    given = decode()
    keys = 4 * 2 * 2 * 70 * 40
    assert read_bytes(schedule(given, "q_stationary"), given, "k", Ti=16, Tj=32) == 4 * keys
    assert read_bytes(schedule(given, "grouped_rows"), given, "k", Tg=4, Ti=16, Tj=32) == keys
    assert read_bytes(schedule(given, "grouped_rows"), given, "v", Tg=2, Ti=16, Tj=32) == 2 * keys
    assert read_bytes(schedule(given, "split_keys"), given, "k", Tg=4, Ti=16, Tj=32, Tn=1) == keys


def test_the_states_of_the_parts_are_written_and_read_once() -> None:
    given = decode()
    program = schedule(given, "split_keys")
    states = 4 * 3 * 2 * 8 * 40  # parts of 32 keys, batches, heads, elements
    assert read_bytes(program, given, "part_acc", Tg=4, Ti=16, Tj=32, Tn=1) == states
    env = {**registry()["attention"].sizes(given.spec), "Tg": 4, "Ti": 16, "Tj": 32, "Tn": 1}
    stored = [t for t in transfers(program, program.kernels[0]) if t.tensor == "part_acc"]
    assert [t.bytes.evaluate(env) for t in stored] == [states]


def test_a_program_whose_loop_depends_on_the_head_has_no_groups() -> None:
    text = print_program(schedule(decode(), "q_stationary")).replace("where true", "where j < h + 1")
    given = Grouping("h", _extent("h"), "g", _extent("g"), "Tg")
    with pytest.raises(IRError, match="the loop over j has bounds in h"):
        grouped(parse_program(text), "grouped", given)


def _extent(axis: str) -> Any:
    return schedule(decode(), "grouped_rows").axis(axis).extent


def test_only_a_loop_at_the_top_with_a_law_is_split() -> None:
    spec = decode().spec
    with pytest.raises(IRError, match="0 loops over k at the top"):
        split_loop(q_stationary(spec), "split", Splitting("k", "c", "Tn"))
    with pytest.raises(IRError, match="the law None of the loop over e|2 loops over e"):
        split_loop(tile_fused(spec), "split", Splitting("e", "c", "Tn"))


def test_an_added_state_is_split_by_adding() -> None:
    given = workload(op="gemm", m=9, n=11, k=50, dtype="fp32")
    whole = registry()["gemm"].schedules(given.spec)[0]
    program = split_loop(whole, "split", Splitting("k", "c", "Tn"))
    verify(program)
    a, b = normal(0, 9, 50), normal(1, 50, 11)
    sizes = {**registry()["gemm"].sizes(given.spec), "Ti": 4, "Tj": 4, "Tk": 8, "Tn": 2, "stages": 1}
    names = [t.name for t in program.tensors if t.role == "in"]
    shaped = {n: x.reshape(_shape(program, n, sizes)) for n, x in zip(names, (a, b), strict=True)}
    (out,) = (t.name for t in program.tensors if t.role == "out")
    found = interpret(program, shaped, sizes, {p.name: 1.0 for p in program.params}, exact=True).tensors[out]
    assert np.allclose(found.reshape(9, 11), a.astype(float) @ b.astype(float))


def _shape(program: Program, tensor: str, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(d.evaluate(sizes) for d in program.tensor(tensor).dims)


def test_a_tile_of_one_row_is_a_scalar_once_bound() -> None:
    program = bound(schedule(decode(), "grouped_rows"), load_device("epyc_9654"), Tg=1, Ti=1)
    verify(program)
    assert parse_program(print_program(program)) == program
    text = print_program(program)
    assert "m1: f32" in text.replace("m1[]", "m1")
    assert "s[j]: f32" in text


def test_an_index_may_add_a_scalar_to_a_tiled_axis_and_nothing_else() -> None:
    text = print_program(schedule(decode(), "grouped_rows"))
    assert "load q[b, G * h + g, i, k]" in text
    with pytest.raises(IRError, match="the index 2 \\* g computes with the tiled axis g"):
        verify(parse_program(text.replace("load q[b, G * h + g, i, k]", "load q[b, 2 * g, i, k]")))
    with pytest.raises(IRError, match="computes with the tiled axis"):
        verify(parse_program(text.replace("load q[b, G * h + g, i, k]", "load q[b, g + i, i, k]")))


# -- emitted code


@pytest.mark.parametrize(
    ("name", "device_name", "dtype", "schedule_name"),
    [
        ("decode_f32", "epyc_9654", "fp32", "grouped_rows"),
        ("decode_bf16", "epyc_9654", "bf16", "grouped_rows"),
        ("decode_neon", "graviton3", "fp16", "split_keys"),
    ],
)
def test_emitted_decode(
    name: str, device_name: str, dtype: str, schedule_name: str, golden: Callable[[str, str], None]
) -> None:
    target = load_device(device_name)
    given = decode(dtype=dtype, head_dim=128, seq={"q": 1, "kv": 4096})
    tiles = {"Tg": 4, "Ti": 1, "Tj": 64, "stages": 2, "mr": 4, "nr": 4, "kr": 4, "Tn": 8}
    golden(name, emit(lowered(schedule(given, schedule_name), target, **tiles), target.vector.width_bits))


FEATURES: dict[str, Any] = {
    "causal": True,
    "window": [40, 6],
    "softcap": 3.0,
    "keep": "(i + j) % 5 != 0",
    "value_dim": 24,
    "outputs": ["o", "lse"],
}
BIASED: dict[str, Any] = {"bias": {"shape": [1, 6, 3, 70]}, "alibi": True, "kv_lengths": [70, 13]}
CASES: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    "heads of 64": ({"Tg": 2, "Ti": 1, "Tj": 32, "nr": 2}, {"seq": {"q": 1, "kv": 137}, "head_dim": 64}),
    "one row": ({"Tg": 1, "Ti": 1, "Tj": 48, "nr": 1, "stages": 2}, {"heads": 3, "head_dim": 80}),
    "rows of two axes": (
        {"Tg": 2, "Ti": 4, "Tj": 32, "kr": 3},
        {"heads": {"q": 6, "kv": 2}, "seq": {"q": 5, "kv": 137}, "outputs": ["o", "lse"]},
    ),
    "features": (
        {"Tg": 4, "Ti": 2, "Tj": 16, "nr": 6},
        {"heads": {"q": 6, "kv": 2}, "seq": {"q": 7, "kv": 33}, **FEATURES},
    ),
    "bias": (
        {"Tg": 1, "Ti": 4, "Tj": 16, "nr": 6, "Tn": 8},
        {"heads": {"q": 6, "kv": 2}, "seq": {"q": 3, "kv": 70}, **BIASED},
    ),
    "nothing to see": (
        {"Tg": 8, "Ti": 1, "Tj": 16, "nr": 6},
        {"heads": {"q": 8, "kv": 1}, "mask": {"shape": [2, 1, 1, 70]}, "kv_lengths": [0, 13], "head_dim": 128},
    ),
}


def check(device_name: str, schedule_name: str, dtype: str, case: str) -> None:
    """Every output as near to float64 as the interpreter's run of the algorithm in the element type, times two."""
    tiles, keys = CASES[case]
    given, target = decode(dtype=NAMES[dtype], **keys), device(device_name)
    operator = registry()["attention"]
    inputs = random_inputs(operator, given.spec, 0)
    found = run(bound(schedule(given, schedule_name), target, **{"mr": 1, **tiles}), target, given, inputs)
    sizes, params = {**operator.sizes(given.spec), "Ti": 64}, operator.params(given.spec)
    exact, naive = (
        interpret(operator.algorithm(given.spec), inputs, sizes, params, exact=e).tensors for e in (True, False)
    )
    for name in exact:
        assert_accurate(found[name], naive[name].astype(float), exact[name], dtype if name == "o" else "f32")


QUICK = [
    ("epyc_9654", "grouped_rows", "bf16", "heads of 64"),
    ("epyc_9654", "split_keys", "bf16", "features"),
    ("epyc_9654", "grouped_rows", "f32", "rows of two axes"),
    ("zen3", "split_keys", "f16", "one row"),
    ("zen3", "grouped_rows", "f32", "nothing to see"),
    ("portable", "grouped_rows", "bf16", "bias"),
]
EVERY = [
    (d, s, t, c)
    for d in ("epyc_9654", "zen3", "portable")
    for s in ("grouped_rows", "split_keys")
    for t in NAMES
    for c in CASES
    if (d, s, t, c) not in QUICK
]


@pytest.mark.parametrize(("device_name", "schedule_name", "dtype", "case"), QUICK)
def test_decode(device_name: str, schedule_name: str, dtype: str, case: str) -> None:
    check(device_name, schedule_name, dtype, case)


@pytest.mark.slow
@pytest.mark.parametrize(("device_name", "schedule_name", "dtype", "case"), EVERY)
def test_decode_further(device_name: str, schedule_name: str, dtype: str, case: str) -> None:
    check(device_name, schedule_name, dtype, case)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_what_is_masked_does_not_leak(dtype: str) -> None:
    """NaN in a value row that the mask hides, and beyond the length."""
    given = decode(dtype=NAMES[dtype], batch=1, keep="j != 5", kv_lengths=[50], head_dim=32)
    target = device("epyc_9654")
    q, k, v = qkv(1, (8, 2), (1, 70), (32, 32), dtype)
    exact, naive = (
        attention(q, k, v, keep=lambda b, h, i, j, qpos: j != 5, kv_lengths=[50], exact=e)[0] for e in (True, False)
    )
    v[:, :, 5] = np.nan
    k[:, :, 50:], v[:, :, 50:] = np.nan, np.inf
    inputs = {"q": q, "k": k, "v": v, "kv_lengths": np.array([50], np.int32)}
    program = bound(schedule(given, "split_keys"), target, Tg=4, Ti=1, Tj=32, nr=4, mr=2)
    assert_accurate(run(program, target, given, inputs)["o"], naive, exact, dtype)


# -- another operator through the same placement

MATVEC = """program matvec.rows (tile)
  sizes H, G, I, N, K
  fixed K = {k}
  tiles Tg, Ti, Tj
  axes h: H, g: G, i: I, n: N, k: K
  in x: {dtype}[H * G, I, K]
  in w: {dtype}[H, {dims}]
  in z: f32[H * G, I]
  out y: f32[H * G, I, N]
  kernel rows
    par h: 1 @grid, g: Tg @grid, i: Ti @grid, n: Tj @grid
      xt[g, i, k]: {dtype} = load x[G * h + g, i, k]
      wt[{tile}]: {dtype} = load w[h, {index}]
      zt[g, i]: f32 = load z[G * h + g, i]
      yt[g, i, n]: f32 = dot xt, wt over k
      out[g, i, n]: f32 = map max(yt + zt, 0.0)
      store y[G * h + g, i, n] = out
"""


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("order", "unit"), [("nk", "across"), ("kn", "stream")])
def test_another_operator_is_placed_by_its_strides(order: str, unit: str, dtype: str) -> None:
    dims, index = (", ".join(order).upper(), ", ".join(order))
    text = MATVEC.format(k=40, dtype=dtype, dims=dims, tile=index, index=index)
    program, target = parse_program(text), device("epyc_9654")
    verify(program)
    program = bound(program, target, Tg=2, Ti=2, Tj=32, nr=4, mr=2)
    h, g, i, n, k = 2, 3, 3, 50, 40
    x, w = normal(0, h * g, i, k, dtype=dtype), normal(1, h, n, k, dtype=dtype)
    z = normal(2, h * g, i)
    source = CPU.emit(program, target)
    assert f"{unit}_" in source[source.index("rows_task(") :]
    y = np.full((h * g, i, n), np.nan, np.float32)
    given = np.ascontiguousarray(w if order == "nk" else w.swapaxes(1, 2))
    tensors = {"x": x, "w": given, "z": z, "y": y}
    call = Invocation(tensors, {"H": h, "G": g, "I": i, "N": n, "K": k}, {})
    CPU.load(CPU.build(source, program, target), program, target)(call)
    product = np.einsum("hgik,hnk->hgin", x.reshape(h, g, i, k).astype(float), w.astype(float))
    expected = np.maximum(product.reshape(h * g, i, n) + z[..., None].astype(float), 0)
    assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()


def test_an_operand_that_is_computed_cannot_stream() -> None:
    text = MATVEC.format(k=40, dtype="f32", dims="N, K", tile="n, k", index="n, k")
    text = text.replace("dot xt, wt over k", "dot xt, wu over k")
    text = text.replace("      zt[", "      wu[n, k]: f32 = map wt * 2.0\n      zt[")
    program = parse_program(text)
    verify(program)
    with pytest.raises(UnsupportedError, match="needs one operand loaded with two axes"):
        CPU.place(program, load_device("zen3"))


# -- what the solver chooses


def cores(count: int) -> Device:
    """A Zen 4 with some of its cores and the bandwidth of one channel per core, shared caches in proportion."""
    base = load_device("epyc_9654")
    share = count / base.cores
    levels = tuple(
        dataclasses.replace(
            level,
            bandwidth_gbs=(level.bandwidth_gbs or 0) * share,
            instances=count if level.per == "core" else level.instances,
        )
        for level in base.levels
    )
    peaks = {name: peak * share for name, peak in base.vector.peak_tflops.items()}
    vector = dataclasses.replace(base.vector, peak_tflops=peaks)
    return dataclasses.replace(base, cores=count, levels=levels, vector=vector)


LONG: dict[str, Any] = {"seq": {"q": 1, "kv": 32768}, "head_dim": 128, "batch": 1}


def test_grouped_decode_is_bound_by_memory() -> None:
    best = tune(decode(**{**LONG, "heads": {"q": 32, "kv": 8}}), cores(2)).best
    assert best.schedule in ("grouped_rows", "split_keys")
    assert (best.tiles["Tg"], best.tiles["Ti"], best.tiles["stages"]) == (4, 1, 2)
    assert best.bound_by == "memory"
    assert best.picoseconds < 1.1 * best.units["memory"]


def test_few_heads_on_many_cores_split_their_keys() -> None:
    best = tune(decode(**{**LONG, "heads": {"q": 8, "kv": 1}}), cores(16)).best
    assert best.schedule == "split_keys"
    parts = -(-32768 // (best.tiles["Tj"] * best.tiles["Tn"]))
    assert parts * -(-8 // best.tiles["Tg"]) >= 16


def test_long_queries_stay_in_the_lanes() -> None:
    best = tune(workload(dtype="fp32", heads=8, seq=2048, head_dim=64), cores(2)).best
    assert best.schedule == "q_stationary"


def test_a_backend_of_matrix_products_names_why_it_takes_no_rows_of_two_axes() -> None:
    found = tune(decode(**{**LONG, "dtype": "bf16"}), load_device("ascend910b3"))
    assert found.best.schedule not in ("grouped_rows", "split_keys")
    reasons = {r.schedule: r.conflict.names for r in found.rejected}
    assert reasons["grouped_rows"] == ("ascend.dot_axes.attention",)
    assert reasons["split_keys"] == ("ascend.dot_axes.attention_parts",)
