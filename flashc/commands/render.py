"""Output: tables (by rich on a terminal, aligned text elsewhere), JSON, progress, numbers with units."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from flashc.system.files import json_text
from flashc.system.units import capacity as capacity
from flashc.system.units import factor as factor
from flashc.system.units import percent as percent
from flashc.system.units import picoseconds as picoseconds
from flashc.system.units import seconds as seconds
from flashc.system.units import traffic as traffic

GAP = "  "


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
    click.echo(json_text(document))


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


def tiles_text(tiles: Mapping[str, int]) -> str:
    return " ".join(f"{symbol}={value}" for symbol, value in tiles.items())
