"""Tables as plain text and on a terminal, numbers with units, JSON."""

from __future__ import annotations

import io
import json

import click
import pytest

from flashc.commands import render
from flashc.commands.options import byte_size, tile_value
from flashc.commands.render import Lines, Table, plain, print_blocks, print_json, progress
from flashc.commands.suite_report import outcome_blocks
from flashc.commands.terminal import print_rich
from flashc.compiler.regret import Outcome, Timed
from flashc.compiler.tune import tune
from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device

TABLE = Table(
    "sizes", ("name", "bytes"), (("a", "1"), ("long [name]", "1000")), frozenset({"bytes"}), "a note"
)


def test_plain_columns_are_aligned() -> None:
    assert plain(TABLE) == (
        "sizes\n"
        "  name         bytes\n"
        "  a                1\n"
        "  long [name]   1000\n"
        "  a note"
    )  # fmt: skip


def test_empty_blocks_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_blocks([Lines("", ()), Lines("title", ("line",)), Table("none", ("a",), ())])
    assert capsys.readouterr().out == "title\n  line\n"


def test_a_terminal_gets_the_same_text() -> None:
    drawn = io.StringIO()
    print_rich([TABLE, Lines("title", ("[a line]",))], file=drawn)
    text = drawn.getvalue()
    assert all(word in text for word in ("sizes", "long [name]", "1000", "a note", "title", "[a line]"))


def test_stdout_of_a_terminal_is_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    print_blocks([TABLE])
    assert "─" in capsys.readouterr().out


def test_progress_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("working") as update:
        update("still working")
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_goes_to_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress("working") as update:
        update("still working")
    out, err = capsys.readouterr()
    assert out == "" and "working" in err


def test_json_has_null_for_what_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), 1.5], "b": {"c": float("inf")}, "d": None})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": {"c": None}, "d": None}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ns"), (5.3e-9, "5.30 ns"), (5.31e-4, "531 us"), (0.0514, "51.4 ms"), (9.999e-4, "1000 us"),
        (1.0, "1.00 s"), (1234.0, "1234 s"), (-2e-3, "-2.00 ms"),
    ],
)  # fmt: skip
def test_seconds(value: float, text: str) -> None:
    assert render.seconds(value) == text
    assert render.picoseconds(value * 1e12) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (4_697_620_480, "4.70 GB"), (10**15, "1000 TB")]
)
def test_traffic_in_powers_of_ten(count: int, text: str) -> None:
    assert render.traffic(count) == text


@pytest.mark.parametrize(("count", "text"), [(512, "512 B"), (165_888, "162 KiB"), (1 << 20, "1.00 MiB")])
def test_capacity_in_powers_of_two(count: int, text: str) -> None:
    assert render.capacity(count) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.004, "0.4 %"), (0.07, "7 %"), (0.5, "50 %"), (1.0, "100 %"), (float("nan"), "-")],
)
def test_percent(share: float, text: str) -> None:
    assert render.percent(share) == text


@pytest.mark.parametrize(("ratio", "text"), [(14.0, "14.0x"), (0.25, "0.250x"), (float("inf"), "-")])
def test_factor(ratio: float, text: str) -> None:
    assert render.factor(ratio) == text


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("500", 500), ("500M", 500_000_000), ("1.5G", 1_500_000_000), ("2kB", 2000)]
)
def test_byte_size(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-5", "5 apples", "1e9", "inf"])
def test_byte_size_refuses(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write a number of bytes"):
        byte_size(text)


def test_tile_value() -> None:
    assert tile_value(" Ti = 64 ") == ("Ti", 64)


@pytest.mark.parametrize("text", ["Ti", "=64", "Ti=", "Ti=-1", "Ti=6.5"])
def test_tile_value_refuses(text: str) -> None:
    with pytest.raises(click.BadParameter, match="tile symbol and a whole number"):
        tile_value(text)


@pytest.mark.parametrize("failed", [(), ("Ti=8: c differs from the pick's",)])
def test_a_table_of_regrets_says_failed_only_where_something_did(failed: tuple[str, ...]) -> None:
    choice = tune(load_workload({"op": "gemm", "m": 8, "n": 8, "k": 8, "dtype": "fp32"}), load_device("zen3")).best
    timed = tuple(Timed(choice, seconds, 0.0) for seconds in (1e-3, 2e-3))
    blocks = outcome_blocks([Outcome("small", timed, 1e-3, 1e-3, 1.0, failed)])
    text = "\n".join(map(plain, blocks))
    assert ("FAILED" in text) == bool(failed)
    assert all(line in text for line in failed)
