"""Result files: JSON without numbers that JSON lacks, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashc.errors import OutputError


def json_text(document: Mapping[str, Any], indent: int = 2) -> str:
    """The document as JSON; a number that is not finite becomes null."""
    return json.dumps(_finite(document), indent=indent, allow_nan=False)


def write_whole(path: Path, text: str) -> None:
    """Write the file under another name and move it into place. Raises OutputError."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; name another place") from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
