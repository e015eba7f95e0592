"""Finding a C++ compiler and building shared libraries with it, for real."""

from __future__ import annotations

import ctypes
import shutil
import stat
from pathlib import Path

import pytest

from flashc.errors import CompileError, CompilerMissingError
from flashc.system.toolchain import CANDIDATES, compile_shared, find_compiler

SOURCE = 'extern "C" int answer() { return 42; }\n'

pytestmark = pytest.mark.usefixtures("isolated_cache")
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in CANDIDATES), reason="no C++ compiler on PATH"
)


def counting_compiler(folder: Path) -> tuple[Path, Path]:
    """A compiler that appends a line to a log for each file that it compiles."""
    log, wrapper = folder / "log", folder / "cxx"
    real = " ".join(find_compiler().command)
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *-shared*) echo run >> {log};; esac\nexec {real} "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    return wrapper, log


@needs_compiler
def test_a_library_is_built_loaded_and_kept_beside_its_source() -> None:
    library = compile_shared(SOURCE, ["-O1"], stem="kernel")
    assert library.name == "kernel.so"
    assert ctypes.CDLL(str(library)).answer() == 42
    assert library.with_suffix(".cpp").read_text() == SOURCE


@needs_compiler
def test_each_source_and_set_of_flags_is_compiled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper, log = counting_compiler(tmp_path)
    monkeypatch.setenv("CXX", str(wrapper))
    first = compile_shared(SOURCE, ["-O1"], stem="kernel")
    assert compile_shared(SOURCE, ["-O1"], stem="kernel") == first
    assert log.read_text() == "run\n"
    others = {
        compile_shared(SOURCE + "\n", ["-O1"], stem="kernel"),
        compile_shared(SOURCE, ["-O2"], stem="kernel"),
        compile_shared(SOURCE, ["-O1"], stem="other"),
    }
    assert len(others | {first}) == 4
    assert log.read_text() == "run\n" * 4


@needs_compiler
def test_another_compiler_version_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_shared(SOURCE, [], stem="kernel")
    wrapper, log = counting_compiler(tmp_path)
    wrapper.write_text(
        wrapper.read_text().replace("case", '[ "$1" = --version ] && echo cxx 99 && exit\ncase', 1)
    )
    monkeypatch.setenv("CXX", str(wrapper))
    assert find_compiler().version == "cxx 99"
    assert compile_shared(SOURCE, [], stem="kernel") != first
    assert log.read_text() == "run\n"


@needs_compiler
def test_a_rejected_source_is_saved_and_its_first_errors_are_shown() -> None:
    source = SOURCE + "int broken() { return undeclared_name; }\n"
    with pytest.raises(CompileError) as caught:
        compile_shared(source, ["-O1"], stem="kernel")
    message = str(caught.value)
    assert "kernel.cpp:2" in message
    assert "undeclared_name" in message
    saved = Path(message.rpartition(": ")[2])
    assert (saved / "kernel.cpp").read_text() == source
    assert "undeclared_name" in (saved / "compiler.log").read_text()


@needs_compiler
def test_an_unknown_flag_is_a_compile_error() -> None:
    with pytest.raises(CompileError, match="-fno-such-flag"):
        compile_shared(SOURCE, ["-fno-such-flag"], stem="kernel")


@needs_compiler
def test_a_disk_that_fills_while_compiling_is_survived(
    tmp_path: Path, isolated_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper, _ = counting_compiler(tmp_path)
    message = "cxx: error: No space left on device"
    full = f'case "$PWD $*" in {isolated_cache}*-shared*) echo "{message}" >&2; exit 1;; esac\n'
    wrapper.write_text(wrapper.read_text().replace("exec", full + "exec"))
    monkeypatch.setenv("CXX", str(wrapper))
    library = compile_shared(SOURCE, ["-O1"], stem="kernel")
    assert not library.is_relative_to(isolated_cache)
    assert ctypes.CDLL(str(library)).answer() == 42


@needs_compiler
def test_cxx_may_carry_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", " ".join([*find_compiler().command, "-DANSWER=7"]))
    source = 'extern "C" int answer() { return ANSWER; }\n'
    assert ctypes.CDLL(str(compile_shared(source, [], stem="kernel"))).answer() == 7


def test_no_compiler_on_the_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerMissingError, match=r"g\+\+, clang\+\+, c\+\+.*set CXX"):
        compile_shared(SOURCE, [], stem="kernel")


def test_a_missing_cxx_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(CompilerMissingError, match="CXX=no-such-compiler -O2: no such program"):
        find_compiler()


def test_a_cxx_that_does_not_work_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(CompilerMissingError, match="not a working C\\+\\+ compiler"):
        find_compiler()
