"""`flashc tune` and `flashc compile`: report, JSON by its schema, explanations, conflicts, every device."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from flashc.backends.base import KernelResources
from flashc.commands import tune_report
from flashc.commands.render import plain
from flashc.compiler.artefacts import Artefacts
from flashc.compiler.leaning import leaned_on
from flashc.compiler.neighbours import OVERHEAD, neighbours, other_schedules, slower_by, tightest
from flashc.compiler.tune import Tuning, tune
from flashc.compiler.workload import load_workload
from flashc.errors import DeviceModelError, InfeasibleError, UnsupportedError
from flashc.hwmodels import list_devices, load_device

if TYPE_CHECKING:
    from cli_runner import Runner

pytest_plugins = ("cli_runner",)

ROOT = Path(__file__).parents[1]
ATTENTION, GEMM = ROOT / "examples" / "attention.yaml", ROOT / "examples" / "gemm.yaml"
SCHEMA = json.loads((ROOT / "docs" / "schema" / "tune.schema.json").read_text(encoding="utf-8"))
DEVICE = "zen3"


@pytest.fixture(scope="module")
def tuning() -> Tuning:
    return tune(load_workload(ATTENTION), load_device(DEVICE), top_k=3)


def validated(document: dict[str, Any]) -> dict[str, Any]:
    Draft202012Validator(SCHEMA).validate(document)
    return document


# --- the report -----------------------------------------------------------------------------------


def test_the_report_has_every_part(run: Runner) -> None:
    found = run("tune", "--dry-run", "--device", DEVICE, ATTENTION)
    assert found.code == 0 and found.err == ""
    for part in (
        r"^attention .*attention\.yaml on zen3 \(.*\), backend cpu$",
        r"^  schedule +q_stationary Ti=\d+ Tj=\d+ ",
        r"^  time +[\d.]+ ms predicted, bound by matrix \([\d.]+ ms\)$",
        r"^  grid +i +\d+ of 4096$",
        r"^  loop +j +\d+ of 4096$",
        r"^  l2 +.*acc.* +i \d+ x e 128 f32 +[\d.]+ KiB$",
        r"^  atom +s, acc1 +fma_f32 m \d+ n \d+ k 1$",
        r"^  device\.l2\.attention +\d+ B +at most +524288 B +\d+ %$",
        r"^  matrix +[\d.]+ ms +100 %$",
        r"^traffic between the cores and shared memory: [\d.]+ GB$",
        r"^  compulsory +[\d.]+ MB +[\d.]+x  ",
        r"^  attention A +[\d.]+ MB +[\d.]+x  ",
        r"^  fast memory of the bounds: 544 KiB",
        r"^  all candidates enumerated: \d+ rows, \d+ solutions$",
        r"^defaults: \d+ numbers of the device have no source, \d+ matter here",
        r"^  \* vector\.peak_tflops\.f32 = ",
    ):
        assert re.search(part, found.out, re.MULTILINE), part


def test_the_ratio_is_traffic_over_bound(run: Runner) -> None:
    document = run("tune", "--dry-run", "--json", "--device", DEVICE, ATTENTION).document
    moved, bounds = document["choices"][0]["traffic_bytes"], document["bounds"]
    text = run("tune", "--dry-run", "--device", DEVICE, ATTENTION).out
    for bound in bounds:
        shown = re.search(rf"^  {bound['name']} +\S+ \wB +([\d.]+)x", text, re.MULTILINE)
        assert shown is not None and float(shown[1]) == pytest.approx(moved / bound["bytes"], rel=0.01)


def test_top_k_ranks_by_time_and_says_what_is_slower(run: Runner) -> None:
    found = run("tune", "--dry-run", "--device", DEVICE, "--top-k", 4, ATTENTION)
    table = found.out.partition("best 4\n")[2].splitlines()
    assert len([line for line in table if re.match(r"  \w+ +Ti=", line)]) == 4
    document = run("tune", "--dry-run", "--device", DEVICE, "--top-k", 4, "--json", ATTENTION).document
    times = [choice["predicted_seconds"] for choice in document["choices"]]
    assert len(times) == 4 and times == sorted(times)


def test_set_changes_the_workload(run: Runner) -> None:
    found = run(
        "tune",
        "--dry-run",
        "--json",
        "--device",
        DEVICE,
        "--set",
        "seq.q=64",
        "--set",
        "causal=no",
        ATTENTION,
    )
    spec = found.document["workload"]["spec"]
    assert (spec["seq_q"], spec["causal"]) == (64, False)


def test_tile_fixes_a_symbol(run: Runner) -> None:
    found = run(
        "tune", "--dry-run", "--json", "--device", DEVICE, "--tile", "Ti=64", "--tile", "Tj=64", ATTENTION
    )
    tiles = found.document["choices"][0]["tiles"]
    assert (tiles["Ti"], tiles["Tj"]) == (64, 64)


def test_a_dry_run_writes_nothing(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHC_CACHE_DIR", str(tmp_path / "cache"))
    assert run("tune", "--dry-run", "--device", DEVICE, GEMM).code == 0
    assert list(tmp_path.iterdir()) == []


def test_the_same_answer_twice(run: Runner) -> None:
    first, second = (run("tune", "--dry-run", "--json", "--device", DEVICE, GEMM).document for _ in range(2))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


# --- JSON -----------------------------------------------------------------------------------------


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "workload", [ATTENTION, GEMM, ROOT / "examples" / "everything.yaml"], ids=lambda p: p.stem
)
def test_json_follows_the_schema(run: Runner, workload: Path) -> None:
    document = validated(run("tune", "--dry-run", "--json", "--device", DEVICE, workload).document)
    assert document["artefacts"] is None and document["explain"] is None


def test_json_of_an_explanation_follows_the_schema(run: Runner) -> None:
    document = validated(
        run("tune", "--dry-run", "--explain", "--json", "--device", DEVICE, ATTENTION).document
    )
    assert {n["symbol"] for n in document["explain"]["neighbours"]} >= {"Ti", "Tj", "mr", "nr"}


def test_a_wrong_document_breaks_the_schema(run: Runner) -> None:
    document = run("tune", "--dry-run", "--json", "--device", DEVICE, GEMM).document
    validator = Draft202012Validator(SCHEMA)
    assert not validator.is_valid({**document, "schema": "flashc.tune/0"})
    assert not validator.is_valid({**document, "choices": []})
    assert not validator.is_valid({**document, "surprise": 1})


# --- what is written ------------------------------------------------------------------------------


def test_tune_writes_source_binary_program_and_record(run: Runner, tmp_path: Path) -> None:
    document = validated(run("tune", "--json", "--device", "native", "-o", tmp_path, GEMM).document)
    files = {role: Path(path) for role, path in document["artefacts"]["files"].items()}
    assert {"source", "binary", "tune", "program"} <= set(files)
    assert all(path.parent == tmp_path and path.stat().st_size for path in files.values())
    record = validated(json.loads(files["tune"].read_text(encoding="utf-8")))
    assert record["choices"] == document["choices"]


def test_compile_prints_a_path_for_each_role(run: Runner, tmp_path: Path) -> None:
    found = run("compile", "--device", "native", "-o", tmp_path, GEMM)
    roles = dict(line.split("\t") for line in found.out.splitlines())
    assert found.code == 0 and all(Path(path).is_file() for path in roles.values())
    again = run("compile", "--device", "native", "-o", tmp_path, "--json", GEMM).document
    assert again["files"] == roles


def test_compile_refuses_a_device_without_a_backend(run: Runner) -> None:
    found = run("compile", "--device", "gaudi3", GEMM)
    assert found.code == UnsupportedError.exit_code
    assert "nothing can be compiled for gaudi3" in found.err


def test_without_a_compiler_a_dry_run_is_offered(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = run("tune", "--device", DEVICE, "-o", tmp_path, GEMM)
    assert found.code == 7 and "CXX=no-such-compiler" in found.err and "--dry-run" in found.err
    assert run("tune", "--device", DEVICE, "--dry-run", GEMM).code == 0


def test_a_spill_is_reported_beside_the_prediction() -> None:
    tuning = tune(load_workload(ATTENTION), load_device("a100_sxm_80gb"))
    compiled = KernelResources("attention", registers=168, spill_bytes=0, shared_bytes=65536)
    made = Artefacts(
        tuning=tuning,
        files={"source": Path("kernel.py")},
        resources=(compiled,),
        spilled=(({"Ti": 256}, dataclasses.replace(compiled, spill_bytes=248)),),
        missing=None,
    )
    text = "\n".join(map(plain, tune_report.artefact_blocks(made)))
    assert re.search(r"^  attention  registers per thread +168 +at least \d+$", text, re.MULTILINE)
    assert re.search(r"^  attention  spilled per thread, B +0 +0$", text, re.MULTILINE)
    assert "Ti=256: attention spilled 248 B per thread" in text
    needs = next(c.needs for c in tuning.best.checks if c.name == "device.smem.attention")
    assert re.search(rf"^  attention  shared memory, B +65536 +at most {needs}$", text, re.MULTILINE)


# --- impossible requests --------------------------------------------------------------------------


def test_an_impossible_request_names_a_minimal_conflict(run: Runner) -> None:
    found = run("tune", "--dry-run", "--device", DEVICE, "--tile", "Ti=512", "--tile", "Tk=512", GEMM)
    assert found.code == InfeasibleError.exit_code and found.out == ""
    lines = [line.strip() for line in found.err.splitlines()]
    assert "output_stationary:" in lines
    capacity = next(line for line in lines if line.startswith("device.l2.gemm:"))
    numbers = re.fullmatch(r"device\.l2\.gemm: needs (\d+) B, limit 524288 B; lower the tiles", capacity)
    assert numbers is not None and int(numbers[1]) > 524288
    assert [line.split(":")[0] for line in lines[2:]] == ["device.l2.gemm", "fixed.Ti", "fixed.Tk"]


def test_a_schedule_that_does_not_fit_is_reported_as_rejected(run: Runner) -> None:
    found = run("tune", "--dry-run", "--device", DEVICE, "--tile", "Ti=128", "--tile", "Tj=512", ATTENTION)
    rejected = found.out.partition("rejected schedules\n")[2]
    assert "q_stationary: no tile sizes meet all of" in rejected
    assert re.search(r"device\.l2\.attention: needs \d+ B, limit 524288 B; lower the tiles", rejected)


# --- explanations ---------------------------------------------------------------------------------


def test_no_neighbour_is_better(tuning: Tuning) -> None:
    found = neighbours(tuning)
    assert {n.symbol for n in found} >= {"Ti", "Tj", "mr", "nr"}
    for neighbour in found:
        changed = {s for s, v in neighbour.tiles.items() if v != tuning.best.tiles[s]}
        assert changed == {neighbour.symbol}
        if neighbour.choice is None:
            assert neighbour.violated is not None and not neighbour.violated.holds
        else:
            assert neighbour.choice.picoseconds >= tuning.best.picoseconds


def test_other_schedules_are_feasible_slower_and_not_ranked(tuning: Tuning) -> None:
    found = other_schedules(tuning)
    names = {c.schedule for c in tuning.ranked} | {r.schedule for r in tuning.rejected}
    assert found and names.isdisjoint({c.schedule for c in found})
    for choice in found:
        assert choice.picoseconds >= tuning.best.picoseconds and all(c.holds for c in choice.checks)


def test_a_spilled_tiling_is_no_neighbour(tuning: Tuning) -> None:
    free = next(n for n in neighbours(tuning) if n.choice is not None)
    cut = next(n for n in neighbours(tuning, [free.tiles]) if n.tiles == free.tiles)
    assert cut.violated is not None and "the compiler spilled here" in cut.violated.knob


def test_slower_by_names_the_unit_that_grew_most(tuning: Tuning) -> None:
    best = tuning.best
    more = {**best.units, "memory": best.units["memory"] + 700, "matrix": best.units["matrix"] + 300}
    slower = dataclasses.replace(best, units=more, picoseconds=best.picoseconds + 1000)
    assert slower_by(slower, best) == ("memory", 700)


def test_slower_by_names_the_overhead_where_no_unit_grew(tuning: Tuning) -> None:
    slower = dataclasses.replace(tuning.best, picoseconds=tuning.best.picoseconds + 1000)
    assert slower_by(slower, tuning.best) == (OVERHEAD, 1000)


def test_the_tightest_limit_has_the_largest_share_in_use(tuning: Tuning) -> None:
    found = tightest(tuning.best)
    assert found is not None
    assert all(c.needs / c.limit <= found.needs / found.limit for c in tuning.best.checks if c.op == "<=")


def test_explain_prints_why_and_why_not(run: Runner) -> None:
    found = run("tune", "--dry-run", "--explain", "--device", DEVICE, ATTENTION)
    assert re.search(r"^best 5$", found.out, re.MULTILINE)
    assert re.search(
        r"^  nr \d+ -> \d+ +infeasible: cpu\.registers: needs \d+ registers, limit 16",
        found.out,
        re.MULTILINE,
    )
    assert re.search(r"^  stored_scores +.*Ti=.* \+\d+ % .* \w+ \+[\d.]+ \ws$", found.out, re.MULTILINE)
    every = load_device(DEVICE).defaults
    assert all(f"{default.field} = " in found.out for default in every)


# --- defaults -------------------------------------------------------------------------------------


def test_only_defaults_that_change_the_answer_matter(tuning: Tuning) -> None:
    fields = {default.field for default in leaned_on(tuning, tuning.best)}
    assert "vector.peak_tflops.f32" in fields  # the matrix work runs at that rate
    assert fields.isdisjoint({"vector.peak_tflops.f64", "levels.l2.line_bytes", "launch_overhead_us"})


def test_a_limit_matters_where_half_of_it_breaks_a_constraint(tuning: Tuning) -> None:
    needs = {c.name: (c.needs, c.limit) for c in tuning.best.checks}
    held, limit = needs["device.l2.attention"]
    assert ("levels.l2.capacity_bytes" in {d.field for d in leaned_on(tuning, tuning.best)}) == (
        held > limit // 2
    )


# --- every device ---------------------------------------------------------------------------------


def test_at_least_forty_devices_give_tiles() -> None:
    assert len([name for name in list_devices() if load_device(name).unusable is None]) >= 40


@pytest.mark.parametrize("name", list_devices())
def test_every_device_gives_tiles_or_a_reason_in_one_line(run: Runner, name: str) -> None:
    device = load_device(name)
    found = run("tune", "--dry-run", "--json", "--device", name, ATTENTION)
    if device.unusable is not None:
        assert (found.code, found.out) == (DeviceModelError.exit_code, "")
        assert found.err.startswith(f"flashc: error: {name}: ") and found.err.count("\n") == 1
        return
    document = validated(found.document)
    best = document["choices"][0]
    assert best["tiles"] and best["predicted_seconds"] > 0 and best["checks"]
    assert (document["missing"] is None) == bool(device.targets)
    assert len(document["defaults"]) == len(device.defaults)
