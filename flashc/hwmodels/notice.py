"""One-line notices to the terminal."""

from __future__ import annotations

import sys


def print_notice(line: str) -> None:
    """Write one line to stderr, so that stdout stays the program's output."""
    print(f"flashc: {line}", file=sys.stderr)
