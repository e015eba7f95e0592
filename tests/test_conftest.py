"""The golden fixture, run on a test module of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

MODULE = """
def test_printed(golden):
    golden("loop", "for i:\\n  body\\n")
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile(test_printer=MODULE)
    return pytester


def run(project: pytest.Pytester, *options: str) -> tuple[int, str]:
    result = project.runpytest_subprocess("-p", "no:cacheprovider", *options)
    return int(result.ret), result.stdout.str()


def test_a_golden_file_is_compared_and_only_rewritten_on_request(project: pytest.Pytester) -> None:
    path = project.path / "golden" / "test_printer" / "loop.txt"
    code, output = run(project)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "does not exist" in output
    assert run(project, "--update-golden")[0] == pytest.ExitCode.OK
    assert path.read_text() == "for i:\n  body\n"
    assert run(project)[0] == pytest.ExitCode.OK

    path.write_text("for i:\n  other\n")
    code, output = run(project)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "-  other" in output
    assert "+  body" in output
    assert path.read_text() == "for i:\n  other\n"
