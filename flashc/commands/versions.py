"""What `flashc --version` prints, without importing what it names."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from flashc import __version__
from flashc.errors import CompilerMissingError
from flashc.system.toolchain import find_compiler

PACKAGES = ("numpy", "triton", "torch")


def versions() -> list[tuple[str, str]]:
    """Name and version of flashc, Python, the packages whose versions matter, and the C++ compiler."""
    packages = [(name, _package(name)) for name in PACKAGES]
    return [
        ("flashc", __version__),
        ("Python", platform.python_version()),
        *packages,
        ("C++", _compiler()),
    ]


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _compiler() -> str:
    try:
        return find_compiler().version
    except CompilerMissingError as error:
        return f"({error})"
