"""Suites and the search for better tiles, on this CPU with a clock and a stopwatch of the test's own; the GPU's dry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from suite_cases import GEMM, MACHINE, RATES, SCHEMA, TINY, Clock, small, tools

from flashc.compiler import gpu_suite, regret, suite
from flashc.compiler.bench import Limit, limit_of
from flashc.compiler.compare import compare
from flashc.compiler.gpu_machine import Software
from flashc.compiler.suite import Budget, Case, Suite, Tools, plan, problems, run_suite, save
from flashc.compiler.timing import Filled, Run, interleaved, warmed
from flashc.compiler.verify import VerifyRow
from flashc.compiler.workload import load_workload
from flashc.errors import DeviceAbsentError, OutputError, VerificationError

if TYPE_CHECKING:
    from cli_runner import Runner

pytest_plugins = ("cli_runner",)


# -- timing


def test_rounds_are_interleaved() -> None:
    order: list[str] = []
    clock = Clock(1.0, 2.0)
    times = interleaved({n: lambda n=n: order.append(n) for n in "ab"}, 3, clock.stopwatch)  # type: ignore[misc]
    assert order == list("ababab") and times == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_rounds_end_with_the_time_but_three_are_made() -> None:
    clock = Clock(1.0)
    runs: dict[str, Run] = {"a": lambda: None}
    assert len(interleaved(runs, 9, clock.stopwatch, within=5, clock=clock)["a"]) == 5
    assert len(interleaved(runs, 9, clock.stopwatch, within=-1, clock=clock)["a"]) == 3


def test_short_runs_are_repeated_to_fill_the_time() -> None:
    made = []
    took = Filled(0.01)(lambda: made.append(1))
    assert len(made) > 100 and 0 < took < 1e-3


def test_a_peer_without_a_kernel_is_told_and_another_error_is_not_swallowed() -> None:
    def refuse() -> None:
        raise RuntimeError("No available kernel.\nand more")

    ready, refused = warmed({"a": lambda: None, "b": refuse})
    assert list(ready) == ["a"] and refused == {"b": "No available kernel."}
    with pytest.raises(ZeroDivisionError):
        warmed({"a": lambda: 1 // 0})


def test_a_forced_peer_names_the_kernel_that_torch_lacks_here() -> None:
    torch = pytest.importorskip("torch")
    from flashc.ops.attention_calls import FORCED, forced

    q = torch.ones(1, 1, 4, 8)
    call = lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)  # noqa: E731
    ready, refused = warmed({name: forced(call, backend) for name, backend in FORCED.items()})
    assert "flash" in ready and "cuDNN" in refused


# -- what shares refer to


def test_the_limit_is_the_longer_of_arithmetic_and_traffic() -> None:
    assert Limit(2e9, 1e9, RATES).share(4.0) == 0.5  # two seconds of arithmetic
    assert Limit(1e9, 3e9, RATES).share(4.0) == 0.75  # three of traffic
    assert "GB/s" in str(Limit(1e9, 3e9, RATES)) and "FLOP/s" in str(Limit(2e9, 1e9, RATES))


@pytest.mark.parametrize("causal", [False, True])
def test_useful_work_of_attention(causal: bool) -> None:
    """4 d per kept pair by the two products (Dao 2023, section 4.1), and the elementwise work beside them."""
    limit = limit_of(load_workload(gpu_suite.prefill(1024, 128, causal)), RATES)
    kept = 1024 * 1025 // 2 if causal else 1024 * 1024
    products = 4 * 128 * 16 * 16 * kept
    assert products <= limit.flops <= 1.06 * products
    assert limit.bytes == 4 * gpu_suite.TOKENS * gpu_suite.HIDDEN * 2  # q, k, v and o once


def test_decode_reads_every_key_once() -> None:
    limit = limit_of(load_workload(gpu_suite.decode(16, 8192)), RATES)
    assert limit.bytes == pytest.approx(2 * 16 * 8 * 8192 * 128 * 2, rel=0.01)


# -- a suite


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    clock = Clock()
    whole = small(
        checks=(Case("tiny", TINY),), timed=(Case("tiny", TINY), Case("gemm", GEMM)), landscapes=(Case("g", GEMM),),
        points=2, listed=10,
    )
    return run_suite(whole, "native", tools(clock), MACHINE, Budget(1000.0, clock))


def test_a_result_follows_the_schema(result: dict[str, Any], tmp_path: Path) -> None:
    path = save(result, tmp_path / "results")
    assert path.name == f"cpu-native-{result['date'][:10]}.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(written, SCHEMA)
    assert save(result, tmp_path / "results").name == path.name.replace(".json", "-2.json")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written, "schema": "flashc.benchmark/0"}, SCHEMA)


def test_a_result_holds_every_phase(result: dict[str, Any]) -> None:
    assert [c["passed"] for c in result["checks"]] == [True]
    tiny, gemm = result["rows"]
    assert (tiny["seconds"], tiny["sigma"], tiny["rounds"]) == (1e-3, 0.0, 5)
    assert gemm["gflops"] == pytest.approx(2 * 48 * 32 * 32 / 1e-3 / 1e9)
    assert gemm["share"] == pytest.approx(gemm["gflops"] * 1e9 / RATES.flops)
    assert gemm["peers"] == {"torch.matmul": 1e-3} and gemm["ratio"] == 1.0
    (found,) = result["regret"]
    assert len(found["tilings"]) >= 2 and found["regret"] == 0.0 and not found["counts"] and not found["failed"]
    assert not problems(result) and not result["skipped"] and not result["failed"]


def test_a_result_cannot_be_written_over_a_file(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="name another place"):
        save(result, tmp_path / "file")


def test_what_there_is_no_time_for_is_said() -> None:
    clock = Clock(1.0)  # three rounds of two contenders: at least six seconds a case
    many = small(timed=tuple(Case(f"g{n}", GEMM) for n in range(4)))
    found = run_suite(many, "native", tools(clock), MACHINE, Budget(16.0, clock))  # 12 s until timing must end
    assert [r["group"] for r in found["rows"]] == ["g0", "g1"]
    assert [s["what"].split(":")[1].strip() for s in found["skipped"]] == ["g2", "g3"]
    assert "12 s" in found["skipped"][0]["why"] and found["rows"][0]["rounds"] == 3
    assert any("3 of 5 rounds" in note for note in found["rows"][0]["notes"])
    jsonschema.validate(found, SCHEMA)


def test_a_failing_case_is_noted_and_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = VerifyRow("cpu", "", "o", 9e-7, 2e-7, 4e-7, False)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: illegal address\nmore")

    monkeypatch.setattr(suite, "timed", broken)
    monkeypatch.setattr(suite, "verify_native", lambda *_: (bad,))
    clock = Clock()
    both = small(checks=(Case("tiny", TINY),), timed=(Case("a", GEMM), Case("b", GEMM)))
    found = run_suite(both, "native", tools(clock), MACHINE, Budget(100.0, clock))
    assert [f["why"] for f in found["failed"]] == ["RuntimeError: CUDA error: illegal address"] * 2
    assert len(problems(found)) == 3 and "error 9.00e-07, limit 4.00e-07" in problems(found)[2]


def test_shared_memory_under_predicted_is_a_problem(result: dict[str, Any]) -> None:
    row = {**result["rows"][0], "shared_memory": [{"kernel": "k", "predicted": 100, "compiled": 101}]}
    assert "101 B of shared memory, 100 B predicted" in problems({**result, "rows": [row]})[0]


@pytest.mark.triton
def test_shared_memory_of_a_kernel_compiled_for_a_gpu_that_is_not_here() -> None:
    from flashc.compiler.kernel import compile_for
    from flashc.hwmodels.load import load_device

    (found,) = suite.shared_memory(compile_for(load_workload({**GEMM, "dtype": "fp16"}), load_device("h100_sxm")))
    assert 0 < found["compiled"] <= found["predicted"]


def test_compiling_ahead_fills_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the process pool's order, each job once; the later phases then find everything built."""
    built: list[Any] = []
    monkeypatch.setattr(suite, "build_all", lambda jobs, _workers, _seconds: built.extend(jobs) or 2)
    monkeypatch.setattr(suite.regret, "measured", _unmeasured)
    clock = Clock()
    both = small(checks=(Case("tiny", TINY),), landscapes=(Case("g", GEMM),), points=4, listed=40)
    with_pool = Tools(clock.stopwatch, workers=2, clock=clock)
    found = run_suite(both, "native", with_pool, MACHINE, Budget(100.0, clock))
    assert [j.document for j in built[:2]] == [GEMM, TINY] and all(j.tiling for j in built[2:]) and len(built) > 4
    assert f"2 of {len(built)} kernels" in found["skipped"][0]["why"]


def _unmeasured(*_: Any, **__: Any) -> Any:
    raise ArithmeticError("not in this test")


def test_jobs_build_the_pick_and_a_tiling() -> None:
    from flashc.compiler.ahead import Job, build_all
    from flashc.compiler.tune import tune
    from flashc.hwmodels.load import load_device

    best = tune(load_workload(GEMM), load_device("native")).best
    assert build_all([Job(GEMM, "native"), Job(GEMM, "native", (best.schedule, best.tiles))], 1, 0.0) == 0


@pytest.mark.slow
def test_processes_build_into_the_cache() -> None:
    from flashc.compiler.ahead import Job, build_all
    from flashc.system.cache import Cache

    before = len(Cache.default().entries())
    assert build_all([Job({**GEMM, "k": 24, "epilogue": "acc * 3.25"}, "native")], 2, 60.0) == 0
    assert len(Cache.default().entries()) > before


# -- regret


def test_regret_of_tilings_with_known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pick takes 3 s, one tiling 2 s, one fails, one computes something else; the rest take 6 s."""
    seconds: dict[int, float] = {}

    class Fake:
        def __init__(self, _tuning: Any) -> None:
            self.count = 0

        def run_of(self, _choice: Any) -> Callable[[], int]:
            number, self.count = self.count, self.count + 1
            if number in (3, 4):
                raise ArithmeticError("o differs from the pick's")
            seconds[number] = {0: 3.0, 2: 2.0}.get(number, 6.0)
            return lambda: number

    monkeypatch.setattr(regret, "Runs", Fake)
    from flashc.hwmodels.load import load_device

    outcome = regret.measured(
        "gemm", load_workload(GEMM), load_device("native"), lambda run: seconds[run()], points=12, listed=40
    )
    assert outcome.regret == 0.5 and outcome.spread == 3.0 and outcome.counts and len(outcome.failed) == 2
    assert (outcome.pick, outcome.best, outcome.left_out) == (3.0, 2.0, 0)
    assert regret.mean_regret([outcome]) == (pytest.approx(0.5), 0.5)


def test_a_tiling_that_computes_something_else_is_caught() -> None:
    from flashc.compiler.tune import tune
    from flashc.hwmodels.load import load_device

    runs = regret.Runs(tuning := tune(load_workload(GEMM), load_device("native")))
    runs.run_of(tuning.best)
    (name,) = runs.reference
    runs.reference[name] = runs.reference[name] + 1
    with pytest.raises(ArithmeticError, match="differs"):
        runs.run_of(tuning.best)


def test_order_is_judged_on_pairs_that_differ() -> None:
    def timed(predicted: int, seconds: float) -> regret.Timed:
        return regret.Timed(_Choice(predicted), seconds, 0.1)  # type: ignore[arg-type]

    told = [timed(1, 1.0), timed(2, 3.0), timed(3, 2.0), timed(9, 2.1)]
    assert regret.ordered(told) == pytest.approx(3 / 5)  # (2, 3) and (2, 9) are ranked wrongly, (3, 9) tells nothing


class _Choice:
    def __init__(self, picoseconds: int) -> None:
        self.picoseconds = picoseconds


# -- the command


@pytest.fixture
def two_cases(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    short = Suite("gpu", gpu_suite.SUITE.checks[:1], gpu_suite.SUITE.timed[-1:], gpu_suite.SUITE.landscapes[:1], 60, 9)
    monkeypatch.setattr(gpu_suite, "SUITE", short)
    yield


def test_a_dry_run_lists_what_would_run(run: Runner, two_cases: None) -> None:
    found = run("bench", "--suite", "gpu", "--dry-run", "--device", "h200")
    assert found.code == 0, found.err
    assert "3 cases on NVIDIA H200" in found.out and "nothing was compiled" in found.out
    steps = run("bench", "--suite", "gpu", "--dry-run", "--device", "h200", "--json").document["steps"]
    assert [s["phase"] for s in steps] == ["checks", "timing", "regret"]
    assert all(s["predicted"] > 0 and s["tiles"] for s in steps)
    assert [s["runs"] for s in steps] == [1, gpu_suite.REPEAT, 60]


def test_decode_shares_its_keys_among_the_heads_of_a_group_and_splits_them_over_the_cores() -> None:
    """By the device model: one long sequence in parts, 64 sequences in none."""
    timed = tuple(c for c in gpu_suite.SUITE.timed if c.group == "decode")
    steps = plan(Suite("gpu", timed=timed), "h200_sxm", 1)
    picked = {(s["workload"]["batch"], s["workload"]["seq"]["kv"]): s["schedule"] for s in steps}
    assert len(picked) == len(timed) and set(picked.values()) == {"split_keys", "grouped_rows"}
    assert picked[1, 32768] == picked[1, 131072] == "split_keys"
    assert picked[64, 4096] == "grouped_rows"


def test_a_dry_run_compiles_nothing(two_cases: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from flashc.backends import triton

    monkeypatch.setattr(type(triton.BACKEND), "build", _unmeasured)
    assert len(plan(gpu_suite.SUITE, "h200_sxm", 3)) == 3


def test_without_a_gpu_the_suite_refuses_in_one_line(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_suite, "software", lambda: Software((3, 12), "2.13.0+cpu", None, "3.6.0", None, False))
    found = run("bench", "--suite", "gpu")
    assert found.code == DeviceAbsentError.exit_code and found.out == ""
    assert found.err.count("\n") == 1 and "nvidia-smi finds no GPU" in found.err and "no CUDA build" in found.err


def test_the_command_prints_tables_writes_the_result_and_fails_on_problems(
    run: Runner, result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_suite, "run", lambda *_: result)
    found = run("bench", "--suite", "gpu", "-o", tmp_path)
    assert found.code == 0, found.err
    assert all(word in found.out for word in ("flashc beside PyTorch", "Regret", "1 of 1 checks", "torch.matmul"))
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["suite"] == "cpu" and str(path) in found.err
    worse = {**result, "failed": [{"what": "timing: d64", "why": "an error"}]}
    monkeypatch.setattr(gpu_suite, "run", lambda *_: worse)
    found = run("bench", "--suite", "gpu")
    assert found.code == VerificationError.exit_code and "timing: d64: an error" in found.out
    assert compare(result, worse).regressions == ("timing: d64: an error",)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name a workload FILE"),
        (("x.yaml", "--dry-run"), "goes with --suite"),
        (("--suite", "gpu", "--repeat", "3"), "goes without --suite"),
        (("x.yaml", "--suite", "gpu"), "goes without --suite"),
        (("--suite", "tpu"), "tpu"),
    ],
)
def test_options_that_do_not_go_together(run: Runner, arguments: tuple[str, ...], told: str) -> None:
    found = run("bench", *arguments)
    assert found.code == 2 and told in found.err
