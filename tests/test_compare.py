"""benchmarks/compare.py: what it calls a regression, for result files of the GPU and of the CPU."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from flashc.compiler.compare import compare, read_result
from flashc.errors import ArgumentError

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs/schema/benchmark.schema.json").read_text(encoding="utf-8"))
Document = dict[str, Any]


def row(group: str, seconds: float, sigma: float = 0.0, **workload: Any) -> Document:
    return {
        "group": group, "workload": {"op": "attention", "batch": 1, **workload}, "schedule": "q_stationary",
        "tiles": {"Ti": 64}, "predicted": 1e-3, "seconds": seconds, "sigma": sigma, "rounds": 9, "gflops": 1.0,
        "gbs": 1.0, "share": 0.5, "peers": {"torch SDPA flash": 2e-3}, "refused": {}, "ratio": 2e-3 / seconds,
        "shared_memory": [{"kernel": "k", "predicted": 100, "compiled": 90}], "spilled": 0, "notes": [],
    }


def searched(regret: float, counts: bool = True) -> Document:
    return {
        "name": "d128", "workload": {"op": "attention"}, "pick": 1 + regret, "best": 1.0, "regret": regret,
        "ordered": 0.9, "spread": 2.0, "counts": counts, "failed": [], "left_out": 0,
        "tilings": [{"schedule": "s", "tiles": {"Ti": 64}, "predicted": 1.0, "seconds": 1.0, "sigma": 0.0}],
    }


def checked(error: float) -> Document:
    rows = [{
        "backend": "triton", "how": "", "output": "o", "error": error, "naive": 1e-3, "limit": 2e-3,
        "ok": error <= 2e-3, "skipped": None,
    }]
    return {"group": "full", "workload": {"op": "attention"}, "passed": error <= 2e-3, "rows": rows}


@pytest.fixture
def before() -> Document:
    machine = {"device": "H200", "model": "h200_sxm", "driver": "570", "peaks": {}, "versions": {"python": "3.12"}}
    found = {
        "schema": "flashc.benchmark/1", "suite": "gpu", "date": "2026-01-02T03:04:05+00:00", "machine": machine,
        "repeat": 15, "budget": 450.0, "seconds": 300.0, "checks": [checked(1e-3)],
        "rows": [row("d64", 1e-3, seq=1024), row("d64", 2e-3, seq=2048)], "regret": [searched(0.01)],
        "skipped": [], "failed": [],
    }
    jsonschema.validate(found, SCHEMA)
    return found


@pytest.fixture
def after(before: Document) -> Document:
    return copy.deepcopy(before)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_same_results_have_no_regression(before: Document, after: Document) -> None:
    found = compare(before, after)
    assert len(found.changes) == 2 and not found.regressions and not found.notes


def test_a_slower_time_is_one(before: Document, after: Document) -> None:
    after["rows"][1]["seconds"] = 2.2e-3
    (told,) = compare(before, after).regressions
    assert "seq=2048" in told and "1.10x" in told
    assert not compare(before, after, threshold=0.2).regressions
    assert not compare(after, before).regressions  # the other way round it is faster


def test_a_difference_within_the_spread_is_none(before: Document, after: Document) -> None:
    after["rows"][1].update(seconds=2.2e-3, sigma=1e-4)
    assert not compare(before, after).regressions


def test_workloads_are_matched_whatever_their_order(before: Document, after: Document) -> None:
    after["rows"].reverse()
    assert not compare(before, after).regressions


@pytest.mark.parametrize(
    ("worsen", "told"),
    [
        (lambda d: d["rows"].pop(), "seq=2048: timed before"),
        (lambda d: d["regret"].pop(), "regret of d128: measured before"),
        (lambda d: d.update(regret=[searched(0.05)]), "1.0% before, 5.0% now"),
        (lambda d: d.update(checks=[checked(5e-3)]), "error 5.00e-03, limit 2.00e-03"),
        (lambda d: d["failed"].append({"what": "timing: d64", "why": "an error"}), "timing: d64: an error"),
        (lambda d: d["rows"][0]["shared_memory"][0].update(compiled=101), "101 B of shared memory"),
    ],
)
def test_what_else_became_worse(
    before: Document, after: Document, worsen: Callable[[Document], None], told: str
) -> None:
    worsen(after)
    (found,) = compare(before, after).regressions
    assert told in found
    assert not compare(before, before).regressions and not compare(after, after).regressions


def test_a_regret_that_says_nothing_is_none(before: Document, after: Document) -> None:
    after["regret"] = [searched(0.5, counts=False)]
    assert not compare(before, after).regressions


def test_other_machines_and_versions_are_noted(before: Document, after: Document) -> None:
    after["machine"].update(device="H100", versions={"python": "3.13", "torch": "2.13"})
    assert compare(before, after).notes == (
        "device: H200 before, H100 now", "python: 3.12 before, 3.13 now", "torch: None before, 2.13 now",
    )


def test_results_of_two_suites_are_refused(before: Document, after: Document) -> None:
    with pytest.raises(ArgumentError, match="compare two of the same"):
        compare(before, {**after, "suite": "cpu"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "flashc.bench/1"}'])
def test_another_file_is_refused_by_its_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ArgumentError, match=r"other\.json"):
        read_result(path)
    with pytest.raises(ArgumentError, match="nowhere"):
        read_result(tmp_path / "nowhere.json")


# -- the script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("compare")


def invoked(script: ModuleType, folder: Path, before: Document, after: Document) -> Result:
    for name, document in (("a.json", before), ("b.json", after)):
        (folder / name).write_text(json.dumps(document))
    return CliRunner().invoke(script.main, [str(folder / "a.json"), str(folder / "b.json")])


def test_the_script_prints_regressions_and_fails(
    script: ModuleType, before: Document, after: Document, tmp_path: Path
) -> None:
    after["rows"][1]["seconds"] = 3e-3
    after["rows"][0]["seconds"] = 5e-4
    done = invoked(script, tmp_path, before, after)
    assert done.exit_code == 1 and "2 workloads in both, 2 changed, 1 regressions" in done.output
    assert "slower" in done.output and "faster" in done.output
    assert invoked(script, tmp_path, before, before).exit_code == 0


def test_the_script_refuses_other_files(script: ModuleType, before: Document, tmp_path: Path) -> None:
    done = invoked(script, tmp_path, before, {"schema": "other"})
    assert done.exit_code == 1 and "b.json" in done.output and "Traceback" not in done.output


def test_the_cpu_benchmark_writes_what_the_script_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: ModuleType
) -> None:
    pytest.importorskip("torch")
    cpu, regret = importlib.import_module("cpu"), importlib.import_module("regret")
    gemm = {"op": "gemm", "m": 32, "n": 32, "k": 32, "dtype": "fp32"}
    monkeypatch.setattr(cpu, "cases", lambda: iter([("matmul", gemm)]))
    monkeypatch.setattr(regret, "WORKLOADS", {"matmul": gemm})
    monkeypatch.setattr(regret, "LISTED", 40)
    monkeypatch.setattr(regret, "SECONDS", 1e-4)
    for module, options in ((cpu, ["--repeat", "3"]), (regret, ["--points", "4"])):
        path = tmp_path / f"{module.__name__}.json"
        done = CliRunner().invoke(module.main, ["-o", str(path), *options], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        found = read_result(path)
        jsonschema.validate(found, SCHEMA)
        assert not compare(found, found).regressions
