"""The emitted Triton source, run under Triton's own interpreter, against the reference interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from triton_cases import DEVICES, FEATURES, SMALL_TILES, Case, bound, cases, programs

from flashc.backends.base import Invocation
from flashc.backends.triton import BACKEND
from flashc.backends.triton.run import interpret_programs
from flashc.hwmodels import load_device
from flashc.ir.interp import interpret

pytestmark = [pytest.mark.triton, pytest.mark.timeout(600)]
QUICK = ("plain_fp32", "causal_lse", "lengths", "mask", "gemm_a")

Results = dict[str, dict[str, np.ndarray[Any, Any]]]


def _run(features: list[str]) -> Results:
    """All schedules of the features in one interpreter process."""
    found = [case for feature in features for case in cases(feature)]
    results = interpret_programs([(c.bound, c.call) for c in found])
    return {c.name: r for c, r in zip(found, results, strict=True)}


@pytest.fixture(scope="module")
def quick() -> Results:
    return _run(list(QUICK))


@pytest.fixture(scope="module")
def rest() -> Results:
    return _run([f for f in FEATURES if f not in QUICK])


def _check(case: Case, results: Results) -> None:
    outputs = [t.name for t in case.bound.tensors if t.role == "out"]
    for name in outputs:
        found = results[case.name][name].astype(np.float64)
        expected = case.expected[name].astype(np.float64)
        finite = np.isfinite(expected)
        assert np.array_equal(found[~finite], expected[~finite], equal_nan=True), name
        error = np.linalg.norm(found[finite] - expected[finite]) / max(
            np.linalg.norm(expected[finite]), 1e-30
        )
        assert error <= case.tolerance, (name, error)


def _schedules(features: list[str]) -> list[Any]:
    return [
        pytest.param(f, s.schedule, id=f"{f}-{s.schedule}") for f in features for s in programs(FEATURES[f])
    ]


@pytest.mark.parametrize(("feature", "schedule"), _schedules(list(QUICK)))
def test_emitted_source_computes_what_the_program_says(feature: str, schedule: str, quick: Results) -> None:
    _check(next(c for c in cases(feature) if c.bound.schedule == schedule), quick)


@pytest.mark.slow
@pytest.mark.parametrize(("feature", "schedule"), _schedules([f for f in FEATURES if f not in QUICK]))
def test_every_feature(feature: str, schedule: str, rest: Results) -> None:
    _check(next(c for c in cases(feature) if c.bound.schedule == schedule), rest)


def test_a_nan_reaches_the_rows_that_attend_to_it_and_no_others() -> None:
    """NaN and infinities in value rows that some queries of a tile see affect exactly those queries."""
    workload = {**FEATURES["causal_lse"], "seq": {"q": 20, "kv": 20}, "outputs": ["o"]}
    runs = []
    for program in programs(workload):
        case = cases("causal_lse")[0]
        inputs = {n: a[..., :20, :].copy() for n, a in case.call.tensors.items()}
        inputs["v"][0, 0, 11, 3] = np.nan
        inputs["v"][0, 0, 13, 4] = np.inf
        inputs["v"][0, 0, 15, 4] = -np.inf
        sizes = {**case.call.sizes, "Lq": 20, "Lk": 20}
        call = Invocation(inputs, sizes, case.call.params)
        expected = interpret(program, inputs, {**sizes, **SMALL_TILES}, call.params).tensors["o"]
        runs.append((bound(program, SMALL_TILES), call, expected))
    for (_, _, expected), found in zip(runs, interpret_programs([(p, c) for p, c, _ in runs]), strict=True):
        assert np.isnan(expected[0, 0, 11:, 3]).all() and np.isfinite(expected[0, 0, :11, 3]).all()
        assert (
            np.array_equal(expected[0, 0, 13:15, 4], [np.inf, np.inf])
            and np.isnan(expected[0, 0, 15:, 4]).all()
        )
        finite = np.isfinite(expected)
        assert np.array_equal(np.isfinite(found["o"]), finite)
        assert np.array_equal(found["o"][~finite], expected[~finite], equal_nan=True)


@pytest.mark.device
@pytest.mark.parametrize("feature", list(FEATURES))
def test_the_gpu_computes_what_the_program_says(feature: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    device = load_device("native-gpu")
    target = next((t for t in DEVICES if t == device.arch), "sm_80")
    for case in cases(feature):
        program = next(p for p in programs(FEATURES[feature]) if p.schedule == case.bound.schedule)
        here = bound(program, SMALL_TILES, target)
        tensors = {n: _on_gpu(torch, a) for n, a in case.call.tensors.items()}
        env = {**case.call.sizes, **dict(here.fixed)}
        for t in here.tensors:
            if t.role != "in":
                shape = tuple(d.evaluate(env) for d in t.dims)
                tensors[t.name] = torch.full(
                    shape, float("nan"), device="cuda", dtype=getattr(torch, _TORCH[t.dtype.name])
                )
        kernel = BACKEND.load(BACKEND.build(BACKEND.emit(here, device), here, device), here, device)
        kernel(Invocation(tensors, case.call.sizes, case.call.params))
        _check(
            case,
            {
                case.name: {
                    t.name: tensors[t.name].float().cpu().numpy() for t in here.tensors if t.role == "out"
                }
            },
        )


_TORCH = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i32": "int32", "bool": "bool"}


def _on_gpu(torch: Any, array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).cuda()
    return torch.from_numpy(array).cuda()
