"""Compiled kernels in the cache, end to end: a kill while compiling, a race, a damaged library, a second process."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashc.system.cache import MANIFEST, Cache
from flashc.system.toolchain import find_compiler

WORKLOAD = "{'op': 'gemm', 'm': 33, 'n': 50, 'k': 17, 'dtype': 'fp32'}"
DEVICE = "zen3" if os.uname().machine == "x86_64" else "graviton2"  # a model: nothing is probed in an empty cache
PROGRAM = f"""
import numpy as np, flashc
kernel = flashc.compile({WORKLOAD}, device={DEVICE!r})
print("compiled", flush=True)
a, b = np.ones((2, 33, 17), np.float32), np.ones((2, 17, 50), np.float32)
assert (kernel(a, b) == 17).all()
print(kernel.built.files["binary"])
"""


def start(cxx: Path | None = None, code: str = PROGRAM, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, **({"CXX": str(cxx)} if cxx else {}), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[Path, str]:
    """The path of the library that it loaded and what it wrote to stderr."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return Path(out.splitlines()[-1]), err


def compiler(folder: Path, before: str = "") -> tuple[Path, Path]:
    """A compiler that appends a line to a log for every library it builds, after a shell command."""
    log, wrapper = folder / "log", folder / "cxx"
    log.touch()
    real = shlex.join(find_compiler().command)
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *gemm*) echo run >> {log}; {before or ":"};; esac\nexec {real} "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    return wrapper, log


def libraries(root: Path) -> list[Path]:
    return sorted(root.glob("shared-library/*/gemm*.so"))


def wait_for(path: Path, content: str) -> None:
    deadline = time.monotonic() + 60
    while content not in path.read_text():
        assert time.monotonic() < deadline, f"{content!r} does not come to be in {path}"
        time.sleep(0.01)


def test_a_second_process_compiles_nothing(isolated_cache: Path, tmp_path: Path) -> None:
    """Not even under another hash seed: the emitted source is the same."""
    wrapper, log = compiler(tmp_path)
    first, _ = finish(start(wrapper, PYTHONHASHSEED="1"))
    second, _ = finish(start(wrapper, PYTHONHASHSEED="2"))
    assert first == second
    assert first.is_relative_to(isolated_cache)
    assert log.read_text() == "run\n"


SOURCES = """
import hashlib, flashc
from pathlib import Path
from flashc import backends
for name in ("everything", "kv_lengths_causal", "score_relative_table", "gemm_epilogue"):
    for device in ("epyc_9654", "zen3"):
        tuning = flashc.tune(Path(EXAMPLES) / f"{name}.yaml", device=device)
        source = backends.get("cpu").emit(tuning.best.program, tuning.device)
        print(name, device, hashlib.sha256(source.encode()).hexdigest())
"""


def test_the_emitted_source_does_not_depend_on_the_hash_seed() -> None:
    code = SOURCES.replace("EXAMPLES", repr(str(Path(__file__).parent.parent / "examples")))
    runs = [start(code=code, PYTHONHASHSEED=seed) for seed in ("1", "2", "3")]
    outputs = {run.communicate(timeout=120)[0] for run in runs}
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 8


def test_a_kill_while_compiling_leaves_nothing_behind(isolated_cache: Path, tmp_path: Path) -> None:
    """Neither an entry nor, after the next build, a staging folder or a lock."""
    wrapper, log = compiler(tmp_path, before="sleep ${NAP:-0}")
    killed = start(wrapper, NAP="60")
    wait_for(log, "run")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert libraries(isolated_cache) == []
    assert list((isolated_cache / ".staging").iterdir())
    library, _ = finish(start(wrapper))
    assert libraries(isolated_cache) == [library]
    assert list((isolated_cache / ".staging").iterdir()) == []
    assert Cache(isolated_cache).verify() == {}


def test_two_processes_that_race_compile_once(isolated_cache: Path, tmp_path: Path) -> None:
    wrapper, log = compiler(tmp_path, before="sleep 1")
    racers = [start(wrapper) for _ in range(3)]
    found = {finish(racer)[0] for racer in racers}
    assert found == set(libraries(isolated_cache))
    assert len(found) == 1
    assert log.read_text() == "run\n"


def test_the_survivor_of_a_race_compiles_when_the_other_is_killed(isolated_cache: Path, tmp_path: Path) -> None:
    wrapper, log = compiler(tmp_path, before="sleep ${NAP:-0}")
    first = start(wrapper, NAP="60")
    wait_for(log, "run")
    second = start(wrapper)
    time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    library, _ = finish(second)
    assert libraries(isolated_cache) == [library]
    assert log.read_text() == "run\nrun\n"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_library_is_built_again_and_never_loaded(damage: str, isolated_cache: Path, tmp_path: Path) -> None:
    wrapper, log = compiler(tmp_path)
    library, _ = finish(start(wrapper))
    whole = library.read_bytes()
    library.chmod(0o644)
    if damage == "gone":
        library.unlink()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 0x55]) + whole[middle + 1 :]
        library.write_bytes({"truncated": whole[:middle], "flipped": flipped}[damage])
    again, err = finish(start(wrapper))
    assert again == library
    assert again.read_bytes() == whole
    assert "damaged" in err
    assert log.read_text() == "run\nrun\n"


def test_a_damaged_manifest_is_an_entry_to_build_again(isolated_cache: Path, tmp_path: Path) -> None:
    wrapper, log = compiler(tmp_path)
    library, _ = finish(start(wrapper))
    (library.parent / MANIFEST).write_text("{")
    assert finish(start(wrapper))[0] == library
    assert log.read_text() == "run\nrun\n"
    assert Cache(isolated_cache).verify() == {}


def test_an_entry_removed_under_a_running_kernel_does_not_matter(isolated_cache: Path) -> None:
    code = PROGRAM.replace("assert", "import shutil; shutil.rmtree(kernel.built.files['binary'].parent)\nassert", 1)
    late = code.replace('print("compiled", flush=True)', "kernel.executable")
    out, err = start(code=late).communicate(timeout=120)
    assert out.strip().endswith(".so"), err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_gives_way_to_a_temporary_one(isolated_cache: Path) -> None:
    isolated_cache.mkdir(mode=0o500)
    library, err = finish(start())
    assert not library.is_relative_to(isolated_cache)
    assert "cannot write to the cache" in err


def test_a_cache_path_that_is_a_file_gives_way_to_a_temporary_one(isolated_cache: Path) -> None:
    isolated_cache.write_text("not a folder")
    library, err = finish(start())
    assert not library.is_relative_to(isolated_cache)
    assert "cannot write to the cache" in err
