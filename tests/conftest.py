"""Shared fixtures: golden text files, and caches apart from the user's own."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN_FOLDER = Path(__file__).parent / "golden"
CACHE_VARIABLES = {"FLASHC_CACHE_DIR": "flashc", "TRITON_CACHE_DIR": "triton"}
_session_cache = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files under tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    """Give all tests, workers and subprocesses of this session one cache: each kernel is built once."""
    if hasattr(config, "workerinput"):  # a pytest-xdist worker: the session's first process has done it
        return
    root = Path(tempfile.mkdtemp(prefix="flashc-tests-"))
    config.stash[_session_cache] = root
    for variable, folder in CACHE_VARIABLES.items():
        os.environ[variable] = str(root / folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    root = config.stash.get(_session_cache, None)
    if root is not None:
        shutil.rmtree(root, ignore_errors=True)


def pytest_report_header() -> str:
    try:
        import triton
    except ImportError:
        return "triton: not installed"
    return f"triton: {triton.__version__}"


@pytest.fixture
def isolated_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of an empty flashc cache that only this test (and its subprocesses) uses."""
    root = tmp_path / "cache"
    monkeypatch.setenv("FLASHC_CACHE_DIR", str(root))
    return root


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)``: `text` must equal tests/golden/<test module>/<name>.txt.

    ``pytest --update-golden`` writes the file instead.
    """
    folder = GOLDEN_FOLDER / request.path.stem
    update = bool(request.config.getoption("--update-golden"))

    def compare(name: str, text: str) -> None:
        path = folder / f"{name}.txt"
        if update:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"{path} does not exist; `pytest --update-golden` writes it", pytrace=False)
        expected = path.read_text(encoding="utf-8")
        if text == expected:
            return
        diff = difflib.unified_diff(
            expected.splitlines(), text.splitlines(), str(path), "this run", lineterm=""
        )
        pytest.fail("\n".join([*diff, "if meant: `pytest --update-golden`"]), pytrace=False)

    return compare
