"""Attention backward: gradients against torch's autograd in float64, and traffic against published constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flashc
from flashc.compiler.kernel import compile_for
from flashc.compiler.tune import tune
from flashc.compiler.verify import EPSILON, ULPS, random_inputs, relative_error, verify
from flashc.compiler.workload import load_workload
from flashc.errors import UnsupportedError
from flashc.hwmodels import load_device
from flashc.ir.analysis import traffic_bytes, traffic_words, work
from flashc.ir.footprint import footprint
from flashc.ir.interp import NUMPY, interpret
from flashc.ir.nodes import Program
from flashc.ir.verify import verify as well_formed
from flashc.ops import registry

torch = pytest.importorskip("torch")
Arrays = dict[str, np.ndarray]
OPERATOR = registry()["attention_backward"]
SMALL: dict[str, Any] = {
    "op": "attention_backward",
    "batch": 2,
    "heads": {"q": 4, "kv": 2},
    "seq": {"q": 33, "kv": 50},
    "head_dim": 40,
    "dtype": "fp32",
}
TILES = (13, 19, 11, 21, 17)
FEATURES: dict[str, dict[str, Any]] = {
    "dense": {},
    "one head": {"heads": 1, "batch": 1, "head_dim": 64},
    "more queries": {"seq": {"q": 50, "kv": 33}, "causal": True},
    "causal": {"causal": True, "value_dim": 24},
    "offset": {"causal": True, "q_offset": 3, "value_dim": 56},
    "offsets": {"causal": True, "q_offset": [-20, 40]},
    "window": {"window": [4, 3]},
    "open window": {"window": [-1, 2], "scale": 0.3},
    "lengths": {"kv_lengths": [50, 17]},
    "lengths of nothing": {"kv_lengths": [0, 1], "causal": True},
    "softcap": {"softcap": 1.5},
    "mask": {"mask": {"shape": [2, 1, 33, 50]}},
    "alibi": {"alibi": True, "causal": True},
    "keep": {"keep": "(i + h) % 3 != 0 or j < 4"},
}


@dataclass(frozen=True)
class Case:
    """A workload with inputs, the gradients that torch finds in float64, and the values of its symbols."""

    spec: Any
    inputs: Arrays
    expected: Arrays
    env: Mapping[str, Any]

    def programs(self) -> tuple[Program, ...]:
        return (OPERATOR.algorithm(self.spec), *OPERATOR.schedules(self.spec), *OPERATOR.baselines(self.spec))

    def bound(self, program: Program) -> dict[str, Any]:
        return {**self.env, **dict(zip(program.tiles, TILES, strict=False)), **dict(program.fixed)}


def kept_pairs(spec: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """(B, Hq, Lq, Lk), from the documented meaning of the features."""
    b, h, i, j = np.ogrid[: spec.batch, : spec.heads_q, : spec.seq_q, : spec.seq_kv]
    lengths = np.array(spec.kv_lengths or [spec.seq_kv] * spec.batch).reshape(-1, 1, 1, 1)
    offset = lengths - spec.seq_q if spec.q_offset is None else np.reshape(spec.q_offset, (-1, 1, 1, 1))
    left, right = spec.window or (-1, -1)
    kept = (j < lengths) & (b >= 0) & (h >= 0)
    kept = kept & (j <= i + offset) if spec.causal else kept
    kept = kept & (j >= i + offset - left) if left >= 0 else kept
    kept = kept & (j <= i + offset + right) if right >= 0 else kept
    kept = kept & inputs["mask"] if spec.mask_shape else kept
    return kept & (((i + h) % 3 != 0) | (j < 4)) if spec.keep is not None else kept


def forward(spec: Any, q: Any, k: Any, v: Any, inputs: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    """(o, lse) in torch; rows without a key give 0 and -inf."""
    group = spec.heads_q // spec.heads_kv
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q @ k.mT) * (spec.scale or spec.head_dim**-0.5)
    if spec.softcap:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    if spec.alibi:
        i, j = torch.arange(spec.seq_q)[:, None] + spec.seq_kv - spec.seq_q, torch.arange(spec.seq_kv)
        scores = scores - torch.as_tensor(inputs["alibi_slopes"]).double()[:, None, None] * (i - j).abs()
    kept = torch.tensor(kept_pairs(spec, inputs))
    empty = ~kept.any(-1, keepdim=True)
    scores = scores.masked_fill(~kept, -torch.inf)
    weights = torch.softmax(scores.masked_fill(empty, 0.0), -1).masked_fill(empty, 0.0)
    return weights @ v, torch.logsumexp(scores, -1)


def case(document: Mapping[str, Any], seed: int = 0) -> Case:
    spec = load_workload(dict(document)).spec
    inputs = random_inputs(OPERATOR, spec, seed)
    q, k, v = (torch.tensor(inputs[n].astype(np.float64), requires_grad=True) for n in "qkv")
    o, lse = forward(spec, q, k, v, inputs)
    o.backward(torch.tensor(inputs["do"].astype(np.float64)))
    found = {"o": o.detach().numpy(), "lse": lse.detach().numpy()}
    tables = {n: np.asarray(x) for n, x in OPERATOR.tables(spec).items()}
    expected = {f"d{n}": x.grad.numpy() for n, x in zip("qkv", (q, k, v), strict=True)}
    return Case(spec, {**inputs, **found}, expected, {**OPERATOR.sizes(spec), **tables})


def native(given: Case) -> Arrays:
    """The inputs as a call has them: every tensor in its own type."""
    tensors = OPERATOR.algorithm(given.spec).tensors
    types = {t.name: NUMPY[t.dtype.name] for t in tensors}
    return {n: np.asarray(x).astype(types[n]) for n, x in given.inputs.items()}


# -- gradients


@pytest.mark.parametrize("feature", FEATURES)
def test_every_program_gives_torch_s_gradients(feature: str) -> None:
    given = case({**SMALL, **FEATURES[feature]})
    for program in given.programs():
        well_formed(program)
        found = interpret(program, given.inputs, given.bound(program), OPERATOR.params(given.spec), exact=True).tensors
        for name, gradient in given.expected.items():
            assert relative_error(found[name], gradient) < 1e-10, (program.schedule, name)


def test_the_oracle_is_torch_s_own_attention() -> None:
    given = case({**SMALL, "causal": True, "seq": 40})
    q, k, v = (torch.tensor(given.inputs[n].astype(np.float64), requires_grad=True) for n in "qkv")
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    o.backward(torch.tensor(given.inputs["do"].astype(np.float64)))
    for name, x in zip(given.expected, (q, k, v), strict=True):
        assert relative_error(given.expected[name], x.grad.numpy()) < 1e-12


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("feature", ["lengths", "softcap"])
def test_rounding_is_no_worse_than_that_of_the_naive_computation(feature: str, dtype: str) -> None:
    given = case({**SMALL, **FEATURES[feature], "dtype": dtype}, seed=1)
    inputs, params = native(given), OPERATOR.params(given.spec)
    algorithm, *others = given.programs()
    naive = interpret(algorithm, inputs, given.bound(algorithm), params).tensors
    for program in others:
        found = interpret(program, inputs, given.bound(program), params).tensors
        for tensor in (t for t in program.tensors if t.role == "out"):
            expected = given.expected[tensor.name]
            limit = max(2 * relative_error(naive[tensor.name], expected), ULPS * EPSILON[tensor.dtype.name])
            assert relative_error(found[tensor.name], expected) <= limit, (program.schedule, tensor.name)


def test_garbage_past_the_length_has_no_effect() -> None:
    given = case({**SMALL, "kv_lengths": [50, 17]})
    poisoned = {n: x.copy() for n, x in given.inputs.items()}
    poisoned["k"][1, :, 17:] = np.nan
    poisoned["v"][1, :, 17:] = np.inf
    for program in given.programs():
        found = interpret(program, poisoned, given.bound(program), OPERATOR.params(given.spec), exact=True).tensors
        for name, gradient in given.expected.items():
            assert relative_error(found[name], gradient) < 1e-10, (program.schedule, name)


# -- traffic


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    tiles=st.tuples(*[st.integers(2, 30)] * 5),
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    causal=st.booleans(),
    window=st.sampled_from([None, [-1, 3], [7, -1], [5, 2]]),
    lengths=st.booleans(),
    dtype=st.sampled_from(["fp32", "fp16"]),
)
def test_walked_traffic_is_the_counted_one(
    tiles: tuple[int, ...], n: int, m: int, causal: bool, window: Any, lengths: bool, dtype: str
) -> None:
    document = {**SMALL, "head_dim": 4, "seq": {"q": n, "kv": m}, "causal": causal, "dtype": dtype}
    document |= {"window": window} if window else {}
    document |= {"kv_lengths": [m, m // 2]} if lengths else {}
    spec = load_workload(document).spec
    inputs = random_inputs(OPERATOR, spec, 0)
    tables = {name: np.asarray(x) for name, x in OPERATOR.tables(spec).items()}
    for program in (*OPERATOR.schedules(spec), *OPERATOR.baselines(spec)):
        env: dict[str, Any] = {**OPERATOR.sizes(spec), **tables, **dict(zip(program.tiles, tiles, strict=False))}
        counted = interpret(program, inputs, env, OPERATOR.params(spec)).traffic
        walked = {**env, **dict(program.fixed)}
        assert traffic_words(program).evaluate(walked) == counted.words, program.schedule
        assert traffic_bytes(program).evaluate(walked) == counted.bytes, program.schedule


LONG, DIM = 2**18, 64


def schedule(name: str) -> tuple[Program, dict[str, Any]]:
    spec = load_workload({**SMALL, "batch": 1, "heads": 1, "seq": LONG, "head_dim": DIM}).spec
    return next(p for p in OPERATOR.schedules(spec) if p.schedule == name), OPERATOR.sizes(spec)


def words_held(program: Program, env: Mapping[str, Any]) -> int:
    return max(footprint(program, kernel, None).evaluate(env) for kernel in program.kernels) // 4


@pytest.mark.parametrize(
    ("name", "tiles", "constant"),
    [
        ("kv_stationary", {"Tj": 256}, 16),
        ("q_stationary", {"Ti": 256}, 18),
        ("two_kernels", {"Tj": 252, "Ri": 336}, 14),
    ],
)
def test_leading_terms(name: str, tiles: dict[str, int], constant: int) -> None:
    """With streamed tiles of 1, words n m d^2 / M: what is held beside the resident tiles costs a few per cent of M."""
    program, sizes = schedule(name)
    env = {**sizes, **dict.fromkeys(program.tiles, 1), "Di": 64, **tiles, **dict(program.fixed)}
    moved = traffic_words(program).evaluate(env)
    assert moved * words_held(program, env) / (LONG * LONG * DIM**2) == pytest.approx(constant, rel=0.06)


@pytest.mark.parametrize("keys", [64, 96])
def test_the_exact_count_of_the_kv_stationary_schedule(keys: int) -> None:
    """Loads 2md + T(3nd + 2n) - nd and stores 2md + T nd, delta with 2nd + n, and nd twice for the zeros of dQ."""
    program, sizes = schedule("kv_stationary")
    n = m = LONG
    blocks = -(-m // keys)
    fused = 2 * m * DIM + blocks * (3 * n * DIM + 2 * n) - n * DIM + 2 * m * DIM + blocks * n * DIM
    env = {**sizes, "Ti": 1, "Tj": keys, "Di": 64, **dict(program.fixed)}
    assert traffic_words(program).evaluate(env) == fused + (2 * n * DIM + n) + 2 * n * DIM


def test_fused_schedules_do_five_products_and_two_kernels_seven() -> None:
    flops = {}
    for name in ("kv_stationary", "q_stationary", "two_kernels"):
        program, sizes = schedule(name)
        env = {**sizes, **dict.fromkeys(program.tiles, 64), **dict(program.fixed)}
        flops[name] = sum(work(program, k).flops.evaluate(env) for k in program.kernels)
    product = 2 * LONG * LONG * DIM
    assert flops == {"kv_stationary": 5 * product, "q_stationary": 5 * product, "two_kernels": 7 * product}


# -- what can be asked for


@pytest.mark.parametrize(("key", "value"), [("score", "score * 2"), ("bias", {"shape": [33, 50]})])
def test_a_missing_derivative_is_refused_with_its_line(tmp_path: Path, key: str, value: Any) -> None:
    lines = [f"{name}: {str(x).replace(chr(39), '')}" for name, x in {**SMALL, key: value}.items()]
    path = tmp_path / "w.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UnsupportedError, match=rf"w\.yaml:{len(lines)}: {key}: .*not implemented"):
        load_workload(path)


@pytest.mark.parametrize("device", ["a100", "mi300x", "910b3", "gaudi3", "epyc"])
def test_schedules_that_accumulate_are_rejected_with_their_cause(device: str) -> None:
    found = tune(load_workload({**SMALL, "causal": True}), load_device(device))
    assert found.best.schedule == "two_kernels"
    assert {r.schedule: r.conflict.names for r in found.rejected} == dict.fromkeys(
        ("kv_stationary", "q_stationary"), ("backend.accumulate",)
    )


def test_the_compiled_kernel_gives_torch_s_gradients() -> None:
    given = case({**SMALL, "causal": True, "value_dim": 24})
    device = load_device("native")
    kernel = compile_for(load_workload({**SMALL, "causal": True, "value_dim": 24}), device)
    inputs = native(given)
    dq, dk, dv = kernel(*(inputs[n] for n in ("q", "k", "v", "o", "do", "lse")))
    for name, found in (("dq", dq), ("dk", dk), ("dv", dv)):
        assert relative_error(found, given.expected[name]) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("example", ["attention_backward", "attention_backward_features"])
def test_examples_verify_on_every_backend(example: str) -> None:
    path = Path(flashc.__file__).parent.parent / "examples" / f"{example}.yaml"
    rows = verify(load_workload(path))
    assert {"interpreter", "cpu"} <= {r.backend for r in rows}
    assert [r for r in rows if not r.ok and r.skipped is None] == []
