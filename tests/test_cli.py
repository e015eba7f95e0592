"""The command line: start-up, errors and exit codes, devices, cache, ir. Tuning is in test_cli_tune.py."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashc import __version__, errors
from flashc.cli import app, main
from flashc.commands import exit_codes
from flashc.hwmodels import list_devices
from flashc.ir.parser import parse_program
from flashc.ir.printer import print_program
from flashc.system.cache import Cache, key_of

if TYPE_CHECKING:
    from cli_runner import Runner

pytest_plugins = ("cli_runner",)

ROOT = Path(__file__).parents[1]
ATTENTION, GEMM = ROOT / "examples" / "attention.yaml", ROOT / "examples" / "gemm.yaml"
COMMANDS = ("bench", "bound", "cache", "compile", "devices", "ir", "report", "tune", "verify")


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`flashc ...` in a process of its own."""
    command = [sys.executable, "-m", "flashc.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


# --- start-up -------------------------------------------------------------------------------------


def test_help_lists_every_command(run: Runner) -> None:
    found = run("--help")
    assert found.code == 0 and found.err == ""
    assert re.findall(r"^  ([a-z]+)  ", found.out.partition("Commands:")[2], re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(run: Runner, command: str) -> None:
    found = run(command, "-h")
    assert found.code == 0 and found.out.startswith(f"Usage: flashc {command} ")


def test_the_documentation_has_every_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    options = {
        name
        for command in app.commands.values()
        for option in command.params
        for name in option.opts
        if name.startswith("--")
    }
    assert [name for name in sorted(options) if name not in text and name != "--output"] == []


def test_start_up_imports_nothing_heavy() -> None:
    heavy = ("numpy", "yaml", "rich", "sympy", "ortools", "triton", "torch")
    code = (
        "import sys, flashc.cli; flashc.cli.main(['--help']); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_version(run: Runner) -> None:
    found = run("--version")
    assert found.code == 0
    lines = dict(line.split(" ", 1) for line in found.out.splitlines())
    assert lines["flashc"] == __version__ and lines["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"numpy", "triton", "torch", "C++"} <= set(lines)


def test_as_a_process() -> None:
    found = script("devices", "--json")
    assert found.returncode == 0 and found.stderr == ""
    assert len(json.loads(found.stdout)["devices"]) == len(list_devices())


def test_an_error_as_a_process() -> None:
    found = script("tune", "--dry-run", "--device", "a1000", ATTENTION)
    assert found.returncode == errors.UnknownDeviceError.exit_code
    assert found.stdout == "" and "Traceback" not in found.stderr
    assert found.stderr.startswith("flashc: error: unknown device 'a1000'")


# --- exit codes -----------------------------------------------------------------------------------


def test_the_exit_code_table_is_that_of_the_error_classes() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert exit_codes.markdown() in text, "run `python -m flashc.commands.exit_codes` and paste"


def test_no_error_has_the_code_of_success_usage_or_a_defect() -> None:
    codes = {code for code, name, _ in exit_codes.exit_codes() if name}
    assert codes.isdisjoint({0, exit_codes.USAGE, exit_codes.INTERNAL, exit_codes.INTERRUPTED})


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("polish",), 2, "No such command 'polish'"),
        (("tune",), 2, "Missing argument 'FILE'"),
        (("tune", ATTENTION, "--top-k", "0"), 2, "--top-k"),
        (("tune", ATTENTION, "--tile", "Ti:64"), 2, "write a tile symbol and a whole number"),
        (("tune", ATTENTION, "--tile", "Ti=64.5"), 2, "write a tile symbol and a whole number"),
        (("verify",), 2, "Missing argument 'FILE...'"),
        (("ir", ATTENTION, "--stage", "final"), 2, "'final' is not one of"),
        (("cache", "prune", "--max-size", "lots"), 2, "write a number of bytes"),
        (("cache", "prune"), 2, "Missing option '--max-size'"),
        (("tune", "nowhere.yaml"), 3, "nowhere.yaml: no such file"),
        (("tune", ATTENTION, "--set", "seq.q"), 3, "--set seq.q"),
        (("tune", ATTENTION, "--set", "seq.q=-1"), 3, "--set seq.q=-1: seq.q: got -1"),
        (("tune", ATTENTION, "--device", "h1000"), 4, "unknown device 'h1000'"),
        (("tune", ATTENTION, "--device", "here.yaml"), 4, "there is no device file here.yaml"),
        (("tune", ATTENTION, "--device", "zen3", "--backend", "cobol"), 6, "unknown backend 'cobol'"),
        (("ir", ATTENTION, "--schedule", "best"), 6, "no schedule 'best'; there are q_stationary"),
        (("devices", "show", "toaster"), 4, "unknown device 'toaster'"),
    ],
)
def test_each_mistake_has_its_message_and_code(
    run: Runner, arguments: tuple[object, ...], code: int, message: str
) -> None:
    found = run(*arguments)
    assert (found.code, found.out) == (code, "")
    assert message in found.err and "Traceback" not in found.err


def test_a_mistake_in_the_file_names_its_line(run: Runner, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(ATTENTION.read_text(encoding="utf-8").replace("causal:", "casual:"), encoding="utf-8")
    found = run("tune", "--dry-run", file)
    assert found.code == errors.WorkloadError.exit_code
    assert re.search(r"bad\.yaml:\d+: casual: unknown key.*did you mean 'causal'", found.err, re.DOTALL)


def test_a_defect_asks_for_a_report(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("flashc.compiler.workload.load_workload", broken)
    monkeypatch.delenv("FLASHC_DEBUG", raising=False)
    found = run("tune", ATTENTION)
    assert found.code == exit_codes.INTERNAL
    assert "ZeroDivisionError: oh" in found.err and "report" in found.err and "Traceback" not in found.err
    monkeypatch.setenv("FLASHC_DEBUG", "1")
    assert "Traceback" in run("tune", ATTENTION).err


def test_interrupted(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flashc.compiler.workload.load_workload", interrupted)
    found = run("tune", ATTENTION)
    assert (
        found.code == exit_codes.INTERRUPTED and "interrupted" in found.err and "Traceback" not in found.err
    )


@pytest.mark.parametrize("error", [errors.CompileError, errors.DeviceAbsentError, errors.CacheWriteError])
def test_every_error_class_keeps_its_code(
    run: Runner, monkeypatch: pytest.MonkeyPatch, error: type[errors.FlashcError]
) -> None:
    def failing(*_: object) -> None:
        raise error("what happened")

    monkeypatch.setattr("flashc.compiler.workload.load_workload", failing)
    found = run("tune", ATTENTION)
    assert (found.code, found.err) == (error.exit_code, "flashc: error: what happened\n")


# --- devices --------------------------------------------------------------------------------------


def test_devices_lists_all_with_their_aliases(run: Runner) -> None:
    found = run("devices")
    assert found.out.startswith(f"{len(list_devices())} devices")
    line = next(line for line in found.out.splitlines() if line.split()[0] == "a100_sxm_80gb")
    assert "a100," in line and line.endswith("triton")
    assert re.search(r"^  gaudi3 .* tiles only: ", found.out, re.MULTILINE)


def test_devices_show_has_a_source_for_every_number(run: Runner) -> None:
    found = run("devices", "show", "a100_sxm_80gb")
    rows = [re.split(r"  +", line.strip()) for line in found.out.splitlines()[2:] if line]
    smem = next(row for row in rows if row[0] == "levels.dram.bandwidth_gbs")
    assert smem[1:4] == ["2039", "GB/s", "secondary"] and smem[4]


def test_devices_show_json(run: Runner) -> None:
    shown = run("devices", "show", "a100_sxm_80gb", "--json").document
    assert shown["schema"] == "flashc.device/1" and shown["cores"] == 108
    assert shown["levels"]["dram"]["bandwidth_gbs"] == 2039


def test_an_ambiguous_alias_says_on_stderr_what_it_took(run: Runner) -> None:
    found = run("devices", "show", "a100", "--json")
    assert found.document["name"] == "a100_sxm_80gb"
    assert found.err.startswith("flashc: a100 taken as a100_sxm_80gb; it could also be")


# --- cache ----------------------------------------------------------------------------------------


@pytest.fixture
def filled_cache(isolated_cache: Path) -> Cache:
    cache = Cache(isolated_cache)
    for number, kind in enumerate(("alpha", "alpha", "beta")):
        cache.put(kind, key_of(str(number)), {"file": bytes(1000)})
    return cache


def test_cache_shows_what_is_there(run: Runner, filled_cache: Cache) -> None:
    shown = run("cache", "--json").document
    assert shown["path"] == str(filled_cache.root)
    assert {kind: n["entries"] for kind, n in shown["kinds"].items()} == {"alpha": 2, "beta": 1}
    assert shown["kinds"]["beta"]["bytes"] > 1000
    assert re.search(r"^  alpha +2 +2\.\d+ kB$", run("cache").out, re.MULTILINE)


def test_an_empty_cache(run: Runner, isolated_cache: Path) -> None:
    found = run("cache")
    assert (found.code, found.out) == (0, f"{isolated_cache}: 0 B\n")


def test_cache_clear_of_one_kind_and_of_all(run: Runner, filled_cache: Cache) -> None:
    assert run("cache", "clear", "alpha").out.startswith("removed 2 entries, ")
    assert {entry.kind for entry in filled_cache.entries()} == {"beta"}
    wrong = run("cache", "clear", "gamma")
    assert wrong.code == 2 and "there are entries of beta" in wrong.err
    assert run("cache", "clear").out.startswith("removed 1 entries, ")
    assert filled_cache.entries() == []


def test_cache_prune(run: Runner, filled_cache: Cache) -> None:
    assert run("cache", "prune", "--max-size", "1G").out.startswith("removed 0 entries")
    assert run("cache", "prune", "--max-size", "2.5k").out.startswith("removed 1 entries")
    assert len(filled_cache.entries()) == 2


def test_cache_verify_removes_what_is_damaged(run: Runner, filled_cache: Cache) -> None:
    assert run("cache", "verify").out == "3 entries checked, 0 damaged\n"
    damaged = filled_cache.entries()[0]
    (damaged.path / "file").write_bytes(b"other")
    found = run("cache", "verify")
    assert f"removed {damaged.kind}/{damaged.key}: file is not as written" in found.out
    assert found.out.endswith("3 entries checked, 1 damaged\n")
    assert len(filled_cache.entries()) == 2


# --- ir -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["tile", "placed", "bound", "lowered"])
def test_ir_prints_a_program_that_parses_back(run: Runner, stage: str) -> None:
    found = run("ir", "--device", "zen3", "--stage", stage, GEMM)
    program = parse_program(found.out)
    assert program.stage == stage and print_program(program) == found.out


def test_ir_of_a_named_schedule(run: Runner) -> None:
    found = run("ir", ATTENTION, "--schedule", "stored_scores")
    assert parse_program(found.out).schedule == "stored_scores" and found.err == ""


def test_ir_without_a_schedule_names_the_others(run: Runner) -> None:
    found = run("ir", ATTENTION)
    assert parse_program(found.out).schedule == "q_stationary"
    assert "--schedule also takes tile_fused, stored_scores" in found.err


def test_main_reads_the_command_line_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["flashc", "cache", "--help"])
    assert main() == 0 and capsys.readouterr().out.startswith("Usage: flashc cache")
