"""Puts the files of a report into a folder: each appears whole or not at all, and replaces one of the same name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flashc.errors import OutputError


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write UTF-8 texts by file name; nothing is replaced before all of them are on the disk.

    Raises OutputError when the folder cannot be made or written to, or the disk is full.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            staged.append((_stage(folder, text), folder / name))
        for temporary, final in staged:
            temporary.replace(final)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"-o {folder}: {reason}; give a folder that can be written to, with room for it") from error
    finally:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
    return [final for _, final in staged]


def _stage(folder: Path, text: str) -> Path:
    """The text in a hidden file of the folder, readable like any file the user makes."""
    number, name = tempfile.mkstemp(prefix=".report-", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        path.chmod(0o666 & ~mask)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path
