"""The system's C++ compiler: find it, and build shared libraries through the cache."""

from __future__ import annotations

import errno
import functools
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flashc.errors import CompileError, CompilerMissingError
from flashc.system.cache import Cache, key_of

CANDIDATES = ("g++", "clang++", "c++")
_LIBRARY_KIND, _FAILURE_KIND = "shared-library", "failed-compile"
_ERROR_LINES = 8


@dataclass(frozen=True, slots=True)
class CxxCompiler:
    """A C++ compiler: `command` is how to call it, `version` the first line that ``--version`` prints."""

    command: tuple[str, ...]
    version: str


def find_compiler(machine: str | None = None) -> CxxCompiler:
    """The compiler that $CXX names (arguments allowed), or else the first of g++, clang++, c++ on PATH.

    With `machine` (x86_64, aarch64) it is one that makes code for it: the same one, or GCC's cross compiler.
    Raises CompilerMissingError when there is none, or when the one that $CXX names does not run.
    """
    command = _command()
    compiler = CxxCompiler(command, _version(command))
    makes = _target(command)
    if machine is None or makes.partition("-")[0].replace("arm64", "aarch64") == machine:
        return compiler
    cross = shutil.which(f"{machine}-linux-gnu-g++")
    if cross is None:
        raise CompilerMissingError(
            f"no C++ compiler for {machine}: {shlex.join(command)} makes code for {makes}, and "
            f"{machine}-linux-gnu-g++ is not on PATH; install it (Debian, Ubuntu: `apt-get install "
            f"g++-{machine.replace('_', '-')}-linux-gnu`), or set CXX to a cross compiler"
        )
    return CxxCompiler((cross,), _version((cross,)))


def compile_shared(source: str, flags: Sequence[str], *, stem: str, machine: str | None = None) -> Path:
    """The shared library ``<stem>.so`` made of C++ `source`, with ``<stem>.cpp`` beside it.

    `machine` is the architecture to compile for, see find_compiler; this machine's if None.
    Both lie in the cache under a key of the source, the flags, the compiler's version and everything it
    predefines under these flags (so that ``-march=native`` means this machine). Raises CompilerMissingError,
    or CompileError with the first error lines and the path of the saved source.
    """
    compiler = find_compiler(machine)
    parts = (stem, source, "\0".join(flags), compiler.version, _predefined(compiler.command, tuple(flags)))
    key = key_of(*parts)

    def build(folder: Path) -> None:
        (folder / f"{stem}.cpp").write_text(source, encoding="utf-8")
        command = [*compiler.command, *flags, "-shared", "-fPIC", "-o", f"{stem}.so", f"{stem}.cpp"]
        done = _run(command, folder)
        if done.returncode != 0:
            raise _failure(done, key, {f"{stem}.cpp": source.encode()})

    return Cache.default().get_or_build(_LIBRARY_KIND, key, build) / f"{stem}.so"


def _command() -> tuple[str, ...]:
    chosen = tuple(shlex.split(os.environ.get("CXX", "")))
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise CompilerMissingError(
                f"CXX={shlex.join(chosen)}: no such program; set CXX to a C++ compiler, or unset it to take "
                f"the first of {', '.join(CANDIDATES)} on PATH"
            )
        return chosen
    for name in CANDIDATES:
        path = shutil.which(name)
        if path is not None:
            return (path,)
    raise CompilerMissingError(
        f"no C++ compiler: none of {', '.join(CANDIDATES)} is on PATH; install one (Debian, Ubuntu: "
        "`apt-get install g++`), or set CXX to its path"
    )


@functools.cache
def _version(command: tuple[str, ...]) -> str:
    done = _run([*command, "--version"])
    if done.returncode != 0 or not done.stdout.strip():
        raise CompilerMissingError(
            f"{shlex.join(command)} --version exits with {done.returncode}: not a working C++ compiler; "
            "set CXX to one"
        )
    return done.stdout.splitlines()[0]


@functools.cache
def _target(command: tuple[str, ...]) -> str:
    """The triple that a compiler makes code for, such as x86_64-linux-gnu."""
    return _run([*command, "-dumpmachine"]).stdout.strip()


@functools.cache
def _predefined(command: tuple[str, ...], flags: tuple[str, ...]) -> str:
    """The predefined macros: they name the instruction sets that the flags select on this machine."""
    done = _run([*command, *flags, "-dM", "-E", "-x", "c++", os.devnull])
    if done.returncode != 0:
        raise _failure(done, key_of(*command, *flags), {})
    return done.stdout


def _run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise CompilerMissingError(
            f"cannot run {command[0]}: {error.strerror}; set CXX to a C++ compiler"
        ) from error


def _failure(
    done: subprocess.CompletedProcess[str], key: str, files: dict[str, bytes]
) -> OSError | CompileError:
    """The error to raise for a compiler run that failed; it saves `files` and the compiler's output."""
    if os.strerror(errno.ENOSPC) in done.stderr:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    saved = Cache.default().put_or_temp(_FAILURE_KIND, key, {**files, "compiler.log": done.stderr.encode()})
    lines = done.stderr.splitlines()
    errors = [line for line in lines if "error" in line] or lines
    return CompileError(
        "\n".join(
            [
                f"the C++ compiler exits with {done.returncode}: {shlex.join(done.args)}",
                *(f"  {line}" for line in errors[:_ERROR_LINES]),
                f"source and compiler output: {saved}",
            ]
        )
    )
