"""Imports go one way between the packages, as docs/architecture.md says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import flashc

ROOT = Path(flashc.__file__).parent
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "ir": {"errors"},
    "system": {"errors"},
    "passes": {"errors", "ir"},
    "ops": {"errors", "ir"},
    "hwmodels": {"errors", "system"},
    "autotune": {"errors", "ir", "hwmodels"},
    "iomodel": {"errors", "ir", "hwmodels", "system"},
    "backends": {"errors", "ir", "passes", "hwmodels", "autotune", "system"},
    "report": {"errors", "ir", "iomodel", "hwmodels", "autotune", "ops", "system", "compiler"},
}


def imported(path: Path) -> set[str]:
    """Packages of flashc that a file imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        found |= {n.split(".")[1] for n in names if n.startswith("flashc.")}
    return found


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_one_way(package: str) -> None:
    files = [ROOT / f"{package}.py"] if package == "errors" else sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        extra = imported(path) - LAYERS[package] - {package}
        assert not extra, f"{path.relative_to(ROOT)} imports {sorted(extra)}"
