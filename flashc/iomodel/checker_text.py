"""What certificate checks say where something does not hold, and how they read a statement's text again."""

from __future__ import annotations

import re
from typing import Any

REFERENCE = re.compile(r"([A-Za-z_][\w.]*)\[([^\]]*)\]")
UPDATE = re.compile(r"\s(\+=|max=|min=|=)\s")


def must(condition: bool, what: str) -> None:
    """Raises ValueError(``what``) where the condition does not hold."""
    if not condition:
        raise ValueError(what)


def must_equal(field: str, found: Any, expected: Any) -> None:
    """Raises ValueError that names the field and both values."""
    must(found == expected, f"{field}: {found!r}, but the evidence gives {expected!r}")


def read_statement(text: str) -> tuple[str, str, list[str]]:
    """Target, update and operands."""
    left, update, right = UPDATE.split(text, maxsplit=1)
    return left, update, [m[0] for m in REFERENCE.finditer(right)]


def split_reference(reference: str) -> tuple[str, list[str]]:
    """Array and subscripts. Raises ValueError for text that is not an element of an array."""
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise ValueError(f"reference: {reference!r} is not an element of an array")
    return found[1], [s.strip() for s in re.split(r",(?![^(]*\))", found[2])]
