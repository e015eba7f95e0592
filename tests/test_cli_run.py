"""`flashc verify` and `flashc bench`: what they print for kernels that run here, and for ones that fail."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashc.compiler.bench import BenchResult, BenchRow
from flashc.compiler.verify import VerifyRow
from flashc.errors import VerificationError

if TYPE_CHECKING:
    from cli_runner import Runner

pytest_plugins = ("cli_runner",)

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = EXAMPLES / "length_17.yaml"
NAN = float("nan")
GOOD = VerifyRow("cpu", "native, full shape", "o", 1e-7, 2e-7, 4e-7, True)
BAD = VerifyRow("cpu", "native, full shape", "o", 9e-7, 2e-7, 4e-7, False)
SKIPPED = VerifyRow("triton", "not run", "-", NAN, NAN, NAN, False, "no GPU here")


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes verify return the given rows."""

    def give(*rows: VerifyRow) -> None:
        monkeypatch.setattr("flashc.compiler.verify.verify", lambda *_, **__: rows)

    return give


def test_verify_runs_the_kernel_and_the_interpreter(run: Runner) -> None:
    found = run("verify", SMALL, "--seed", 3)
    assert found.code == 0, found.err
    rows = [line.split() for line in found.out.splitlines()[2:] if "pass" in line.split()]
    assert {"cpu", "interpreter"} <= {row[0] for row in rows}
    for row in rows:
        error, naive, limit = map(float, row[2:5])
        assert error <= limit and naive > 0


def test_verify_of_one_backend_as_json(run: Runner) -> None:
    document = run("verify", SMALL, "--backend", "cpu", "--json").document
    assert document["schema"] == "flashc.verify/1"
    (workload,) = document["workloads"]
    assert workload["passed"] and {row["backend"] for row in workload["rows"]} == {"cpu"}


def test_a_failure_ends_with_its_code_after_the_table(run: Runner, verified: Callable[..., None]) -> None:
    verified(GOOD, BAD)
    found = run("verify", SMALL)
    assert found.code == VerificationError.exit_code
    assert re.search(r"cpu +o +1\.00e-07 +2\.00e-07 +4\.00e-07 +pass", found.out)
    assert re.search(r"cpu +o +9\.00e-07 +2\.00e-07 +4\.00e-07 +FAIL", found.out)
    assert found.err == f"flashc: error: 1 of 1 workloads did not pass: {SMALL}\n"


def test_a_failure_as_json_is_still_one_document(run: Runner, verified: Callable[..., None]) -> None:
    verified(BAD, SKIPPED)
    found = run("verify", SMALL, "--json")
    assert found.code == VerificationError.exit_code
    rows = json.loads(found.out)["workloads"][0]["rows"]
    assert rows[0]["ok"] is False and rows[1]["error"] is None and rows[1]["skipped"] == "no GPU here"


def test_what_was_skipped_is_no_failure_but_something_must_run(
    run: Runner, verified: Callable[..., None]
) -> None:
    verified(GOOD, SKIPPED)
    found = run("verify", SMALL)
    assert found.code == 0 and re.search(r"triton +- +skipped +no GPU here", found.out)
    verified(SKIPPED)
    assert run("verify", SMALL).code == VerificationError.exit_code


def test_every_file_is_read_before_the_first_one_runs(run: Runner, verified: Callable[..., None]) -> None:
    verified(GOOD)
    found = run("verify", SMALL, "nowhere.yaml")
    assert (found.code, found.out) == (3, "")


def test_bench_times_the_kernel(run: Runner) -> None:
    document = run("bench", SMALL, "--repeat", 2, "--json").document
    first = document["rows"][0]
    assert first["name"] == "flashc" and first["seconds_median"] > 0 and first["ratio"] == 1.0


def test_bench_prints_a_table(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (
        BenchRow("flashc", 0.002, (0.002,), 100.0, 1.0, 0.5),
        BenchRow("torch", 0.004, (0.004,), 50.0, 0.5, NAN),
    )
    monkeypatch.setattr("flashc.compiler.bench.bench", lambda *_, **__: BenchResult(rows, ("two threads",)))
    out = run("bench", SMALL, "--repeat", 3).out
    assert "3 rounds" in out and out.endswith("two threads\n")
    assert re.search(r"^  flashc +2\.00 ms +100\.0 +1\.00x +50 %$", out, re.MULTILINE)
    assert re.search(r"^  torch +4\.00 ms +50\.0 +0\.500x +-$", out, re.MULTILINE)
