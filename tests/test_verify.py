"""verify(): the examples pass, broken kernels do not, and the rows say what was run."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashc import backends
from flashc.compiler.verify import relative_error, verify
from flashc.compiler.workload import Workload, load_workload
from flashc.errors import CompilerMissingError
from flashc.ir.analysis import tiled_loops
from flashc.ops import registry

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK = (
    "bias_per_row",
    "chunked_prefill",
    "cross_attention",
    "empty_batch",
    "everything",
    "gemm_batched",
    "gemm_epilogue",
    "gemm_transposed",
    "length_17",
    "mask_full",
    "mla_decode",
    "more_queries_than_keys",
    "q_offset_list",
    "score_checkerboard",
    "window_left_open",
)
OTHERS = sorted({path.stem for path in EXAMPLES.glob("*.yaml")} - set(QUICK))


def check_example(name: str, backend: str) -> None:
    given = load_workload(EXAMPLES / f"{name}.yaml")
    rows = verify(given, backend=backend)
    assert rows
    for row in rows:
        assert row.backend == backend
        assert row.ok, f"{row.output}: error {row.error:.3g}, limit {row.limit:.3g}; {row.how}"
        if backend == "interpreter":
            check_tiles(given, row.how)


def check_tiles(given: Workload, how: str) -> None:
    """The row names tiles that cut each axis of more than a few elements into two or more, and a tail."""
    operator = registry()[given.op]
    spec = operator.reduced(given.spec)
    program = next(p for p in operator.schedules(spec) if how.startswith(f"{p.schedule}, shrunk to "))
    tiles = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", how.partition("tiles ")[2])}
    assert set(program.tiles) == set(tiles)
    for loop in tiled_loops(program):
        env = {**operator.sizes(spec), **dict(program.fixed)}
        extent, tile = program.axis(loop.axis).extent.evaluate(env), tiles[str(loop.tile)]
        assert extent < 5 or (2 * tile < extent and extent % tile != 0)


@pytest.mark.parametrize("backend", ["cpu", "interpreter"])
@pytest.mark.parametrize("name", QUICK)
def test_an_example(name: str, backend: str) -> None:
    check_example(name, backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cpu", "interpreter"])
@pytest.mark.parametrize("name", OTHERS)
def test_an_example_further(name: str, backend: str) -> None:
    check_example(name, backend)


# -- what is wrong is found


SMALL: dict[str, Any] = {
    "op": "attention",
    "heads": {"q": 2, "kv": 1},
    "seq": {"q": 137, "kv": 700},  # more keys than any tile has
    "head_dim": 40,
    "causal": True,
    "outputs": ["o", "lse"],
}
DEFECTS = {  # what it is: the emitted text, what stands there instead, the outputs that it spoils
    "a wrong scale": (r"\* \(scale \* 1\.4426950408889634f\)", "* (scale * 1.4426f)", {"o", "lse"}),
    "a mask that is off by one": (r"\(int32_t\)Lq\) \+ 1\)", "(int32_t)Lq))", {"o", "lse"}),
    "no rescaling": (r"load\(alpha \+ [^)]*\)", "splat(1.0f)", {"o", "lse"}),
    "a forgotten last tile": (r"(// j: partial tiles right\n.*?long j0 = )", r"\1 Lk + ", {"o", "lse"}),
    "another head's keys": (r"floor_div\(h, G\)\) \* v_s1", "0)", {"o"}),
    "a last row that is not written": (r"(long i_n = std::min<long>\(\d+, Lq) - i0\)", r"\1 - i0 - 1)", {"o", "lse"}),
    "nothing at all": (r"call->parallel\(.*\);", "", {"o", "lse"}),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_broken_kernel_fails(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, replacement, spoiled = DEFECTS[defect]
    backend = backends.get("cpu")
    emit = backend.emit

    def broken(*args: Any) -> str:
        text, count = re.subn(pattern, replacement, emit(*args))
        assert count, f"the emitted source has no {pattern}"
        return text

    heads = {"q": 4, "kv": 2} if "head" in defect else SMALL["heads"]
    monkeypatch.setattr(backend, "emit", broken)
    rows = verify(load_workload({**SMALL, "heads": heads, "dtype": "fp32"}), backend="cpu")
    assert {row.output for row in rows if not row.ok} == spoiled


def test_a_wrong_schedule_fails_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each schedule has a row of its own; that of another workload does not pass."""
    operator = registry()["attention"]
    given = load_workload({**SMALL, "dtype": "fp32", "causal": False})
    plain = operator.schedules(given.spec)
    causal = operator.schedules(load_workload({**SMALL, "dtype": "fp32"}).spec)
    mixed = dataclasses.replace(operator, schedules=lambda _spec: (causal[0], plain[1]))
    monkeypatch.setattr("flashc.compiler.verify.registry", lambda: {"attention": mixed})
    rows = verify(given, backend="interpreter")
    assert [row.ok for row in rows] == [False, False, True, True]


# -- how it judges


def test_relative_error() -> None:
    x = np.array([3.0, 4.0, -np.inf])
    assert relative_error(np.array([3.0, 4.5, -np.inf]), x) == pytest.approx(0.1)
    assert relative_error(np.array([3.0, 4.0, np.inf]), x) == np.inf
    assert relative_error(np.array([3.0, 4.0, -1e30]), x) == np.inf
    assert relative_error(np.array([3.0, np.inf, -np.inf]), x) == np.inf
    assert relative_error(np.array([3.0, np.nan, -np.inf]), x) == np.inf
    assert relative_error(np.array([7.0, 4.0]), np.array([np.nan, 4.0])) == 0  # a sample leaves out the first
    assert relative_error(np.array([0.0, 2e-9]), np.zeros(2)) == pytest.approx(2e-9)
    assert relative_error(np.zeros((0, 4)), np.zeros((0, 4))) == 0


def test_the_limit_is_twice_the_naive_error_with_a_floor() -> None:
    for dtype, ulp in (("fp32", 2.0**-23), ("bf16", 2.0**-7), ("fp16", 2.0**-10)):
        for row in verify(load_workload({**SMALL, "dtype": dtype}), backend="cpu"):
            floor = 4 * (2.0**-23 if row.output == "lse" else ulp)
            assert row.limit == pytest.approx(max(2 * row.naive, floor))
            assert 0 < row.error <= row.limit
            assert row.naive > 0


# -- what it says


def test_the_native_row_says_what_ran() -> None:
    row = verify(load_workload({**SMALL, "dtype": "fp32", "outputs": ["o"]}), backend="cpu")[0]
    assert row.output == "o"
    assert re.search(r"on native, full shape, tiles Ti=\d+ Tj=\d+ .*mr=\d+ nr=\d+, every element checked", row.how)


def test_a_large_workload_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some blocks of rows are expected then, the first and the last among them; --full checks all."""
    monkeypatch.setattr("flashc.compiler.verify.ORACLE_FLOPS", 1e6)
    given = load_workload({**SMALL, "dtype": "fp32", "outputs": ["o"]})
    assert "2 of 6 row blocks checked" in verify(given, backend="cpu")[0].how
    assert "every element checked" in verify(given, backend="cpu", full=True)[0].how


def test_other_seeds_are_other_inputs() -> None:
    given = load_workload({**SMALL, "dtype": "fp32", "outputs": ["o"]})
    errors = {verify(given, backend="cpu", seed=seed)[0].error for seed in (0, 1, 0)}
    assert len(errors) == 2


def test_a_backend_that_cannot_run_here_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_args: Any) -> None:
        raise CompilerMissingError("no C++ compiler")

    monkeypatch.setattr("flashc.compiler.verify.compile_for", absent)
    row = verify(load_workload({**SMALL, "dtype": "fp32"}), backend="cpu")[0]
    assert not row.ok
    assert row.how == "not run"
    assert row.skipped == "no C++ compiler"
