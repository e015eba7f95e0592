"""Runs the command line inside the test's process."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from flashc.cli import main


class Ran(NamedTuple):
    """Exit code, stdout and stderr of one command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


class Runner:
    """``run("tune", FILE, ...)`` as the console script would, the caches being those of the test session."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def __call__(self, *arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        out, err = self.capture.readouterr()
        return Ran(code, out, err)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)
