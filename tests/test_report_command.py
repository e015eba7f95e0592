"""`flashc report`: files, options and errors."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashc.errors import OutputError
from flashc.report.write import write_files

if TYPE_CHECKING:
    from cli_runner import Runner

pytest_plugins = ("cli_runner",)
FILES = {"report.html", "report.md", "report.json", "traffic.svg", "roofline.svg"}
GEMM = "op: gemm\nm: 256\nn: 256\nk: 256\ndtype: bf16\n"


@pytest.fixture
def gemm(tmp_path: Path) -> Path:
    path = tmp_path / "gemm.yaml"
    path.write_text(GEMM, encoding="utf-8")
    return path


def test_it_writes_all_files_and_says_where(run: Runner, gemm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    found = run("report", "--device", "a100_sxm_80gb", gemm, "-o", folder)
    assert found.code == 0, found.err
    assert {p.name for p in folder.iterdir()} == FILES
    assert all(str(folder / name) in found.out for name in FILES)
    assert "no schedule" in found.out


def test_by_default_it_writes_where_tune_does(
    run: Runner, gemm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("report", "--device", "zen3", gemm).code == 0
    assert {p.name for p in (tmp_path / "flashc-out/gemm/zen3").iterdir()} == FILES


def test_json_prints_the_document_and_writes_nothing(
    run: Runner, gemm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("report", "--device", "zen3", gemm, "--json").document["schema"] == "flashc.report/1"
    assert [p.name for p in tmp_path.iterdir()] == ["gemm.yaml"]


def test_a_second_run_replaces_the_files_and_leaves_others(run: Runner, gemm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "report.html").write_text("old")
    (folder / "mine.txt").write_text("kept")
    assert run("report", "--device", "zen3", gemm, "-o", folder).code == 0
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (folder / "mine.txt").read_text() == "kept"
    assert {p.name for p in folder.iterdir()} == FILES | {"mine.txt"}


@pytest.mark.slow
def test_files_are_the_same_byte_for_byte(gemm: Path, tmp_path: Path) -> None:
    """Whatever the order of Python's sets is."""
    for seed in ("1", "2"):
        options = ["--device", "a100_sxm_80gb", "-o", tmp_path / seed]
        command = [sys.executable, "-m", "flashc.cli", "report", gemm, *options]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
    for name in FILES:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_a_sweep_adds_its_plots(run: Runner, gemm: Path, tmp_path: Path) -> None:
    found = run("report", "--device", "zen3", gemm, "--sweep", "m=128:1k", "-o", tmp_path / "out")
    assert found.code == 0, found.err
    written = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert [p["value"] for p in written["sweep"]["points"]] == [128, 256, 512, 1024]
    assert (tmp_path / "out/sweep_time.svg").exists()


# --- errors


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("m=4", "KEY=FROM:TO"),
        ("m=8:4", "FROM must be at least 1 and at most TO"),
    ],
)
def test_a_wrong_range_is_a_usage_error(run: Runner, gemm: Path, text: str, says: str) -> None:
    found = run("report", "--device", "zen3", gemm, "--sweep", text)
    assert found.code == 2
    assert "--sweep" in found.err and text in found.err and says in found.err


def test_a_key_that_the_workload_lacks_names_the_option_and_the_known_keys(run: Runner, gemm: Path) -> None:
    found = run("report", "--device", "zen3", gemm, "--sweep", "seq=1k:2k", "--json")
    assert found.code == 3
    assert "--sweep seq=1024:2048" in found.err and "seq" in found.err and "batch" in found.err


def test_an_unknown_device_is_refused(run: Runner, gemm: Path) -> None:
    found = run("report", "--device", "a1000", gemm)
    assert found.code == 4 and "a1000" in found.err and "Known:" in found.err


def test_a_device_without_tiles_says_why(run: Runner, gemm: Path) -> None:
    found = run("report", "--device", "intel_max1550", gemm)
    assert found.code == 4 and "not sourced" in found.err


def test_a_folder_in_the_way_of_a_file_is_refused(run: Runner, gemm: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    found = run("report", "--device", "zen3", gemm, "-o", tmp_path / "taken" / "out")
    assert found.code == 15
    assert str(tmp_path / "taken" / "out") in found.err and "can be written to" in found.err


def test_a_full_disk_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old")
    calls = []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_files(tmp_path, {"a": "new", "b": "new"})
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_files_are_readable_like_any_other(tmp_path: Path) -> None:
    written = write_files(tmp_path, {"a": "x"})
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert written[0].stat().st_mode == plain.stat().st_mode
