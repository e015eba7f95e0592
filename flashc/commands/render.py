"""Output: tables (by rich on a terminal, aligned text elsewhere), JSON, progress, numbers with units."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

GAP = "  "
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_DECIMAL = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_BINARY = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True)
class Table:
    """Rows of text under column names; those named in ``right`` are aligned right. ``note`` stands below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Lines:
    """A title and indented lines under it."""

    title: str
    lines: tuple[str, ...]


Block = Table | Lines


def print_blocks(blocks: Sequence[Block]) -> None:
    """Write to stdout what is not empty."""
    shown = [b for b in blocks if (b.rows if isinstance(b, Table) else b.lines or b.title)]
    if sys.stdout.isatty():
        from flashc.commands.terminal import print_rich

        print_rich(shown)
    else:
        click.echo("\n\n".join(map(plain, shown)))


def print_json(document: Mapping[str, Any]) -> None:
    """Write one document to stdout; a number that is not finite, which JSON lacks, becomes null."""
    click.echo(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(block: Block) -> str:
    """A block as text without colours, its columns aligned."""
    if isinstance(block, Lines):
        return "\n".join([*([block.title] if block.title else []), *(GAP + line for line in block.lines)])
    table = [block.columns, *block.rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(block.columns))]
    lines = [GAP + _aligned(row, widths, block) for row in table]
    return "\n".join([block.title, *lines, *([GAP + block.note] if block.note else [])])


def _aligned(row: Sequence[str], widths: Sequence[int], block: Table) -> str:
    cells = [
        text.rjust(width) if column in block.right else text.ljust(width)
        for text, width, column in zip(row, widths, block.columns, strict=True)
    ]
    return GAP.join(cells).rstrip()


@contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal's stderr what goes on, until the block ends; the callable changes the text."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from flashc.commands.terminal import spinner

    with spinner(text) as update:
        yield update


def seconds(value: float) -> str:
    """Three digits and a unit: 51.4 ms."""
    scale, unit = next(((s, u) for s, u in _TIMES if abs(value) >= s), _TIMES[-1])
    return f"{_digits(value / scale)} {unit}"


def picoseconds(value: float) -> str:
    return seconds(value * 1e-12)


def traffic(count: float) -> str:
    """Bytes moved, in powers of ten: 4.70 GB."""
    return _scaled(count, _DECIMAL)


def capacity(count: float) -> str:
    """Bytes held, in powers of two: 162 KiB."""
    return _scaled(count, _BINARY)


def percent(share: float) -> str:
    if not math.isfinite(share):
        return "-"
    return f"{share * 100:.0f} %" if share >= 0.095 or share == 0 else f"{share * 100:.1g} %"


def factor(ratio: float) -> str:
    return f"{_digits(ratio)}x" if math.isfinite(ratio) else "-"


def tiles_text(tiles: Mapping[str, int]) -> str:
    return " ".join(f"{symbol}={value}" for symbol, value in tiles.items())


def _scaled(count: float, units: Sequence[tuple[int, str]]) -> str:
    for scale, unit in units:
        if count >= scale:
            return f"{_digits(count / scale)} {unit}"
    return f"{count:.0f} B"


def _digits(value: float) -> str:
    """Three significant digits, never in scientific notation."""
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(value))) + 1
    return f"{value:.{max(0, 3 - before)}f}"
