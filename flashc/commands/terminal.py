"""What a terminal gets beyond plain text, drawn by rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from flashc.commands.render import Block, Table


def print_rich(blocks: Sequence[Block], file: TextIO | None = None) -> None:
    """Write blocks to stdout (or ``file``) with tables as wide as the terminal."""
    console = Console(file=file, highlight=False)
    for block in blocks:
        if block.title:
            console.print(f"\n[bold]{escape(block.title)}[/bold]")
        if isinstance(block, Table):
            console.print(_table(block))
            if block.note:
                console.print(f"  [dim]{escape(block.note)}[/dim]")
        else:
            for line in block.lines:
                console.print(f"  {escape(line)}")


def _table(block: Table) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for column in block.columns:
        table.add_column(column, justify="right" if column in block.right else "left", overflow="fold")
    for row in block.rows:
        table.add_row(*map(escape, row))
    return table


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """A moving sign with ``text`` on stderr until the block ends; the callable changes the text."""
    console = Console(file=sys.stderr)
    with console.status(escape(text)) as status:
        yield lambda line: status.update(escape(line))
