"""The artefact store under kills, races, corruption and a disk that takes no more."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flashc.errors import CacheWriteError
from flashc.system.cache import MANIFEST, Cache, key_of

KIND = "kernel"
KEY = key_of("a kernel")
FILES = {"kernel.cpp": b"int f();\n", "kernel.so": bytes(range(256)) * 40}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def contents(entry: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in entry.iterdir() if file.name != MANIFEST}


def builder(files: dict[str, bytes], calls: list[Path]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        calls.append(folder)
        for name, content in files.items():
            (folder / name).write_bytes(content)

    return build


def leftovers(cache: Cache) -> list[str]:
    return [path.name for area in (".staging", ".locks") for path in (cache.root / area).glob("*")]


def test_key_depends_on_every_part_and_where_it_ends() -> None:
    keys = {key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of("abc", ""), key_of("c", "ab")}
    assert len(keys) == 5
    assert key_of("ab", b"c") == key_of(b"ab", "c")


def test_put_then_get_gives_the_files_and_leaves_nothing_else(cache: Cache) -> None:
    assert cache.get(KIND, KEY) is None
    entry = cache.put(KIND, KEY, FILES)
    assert cache.get(KIND, KEY) == entry
    assert contents(entry) == FILES
    assert leftovers(cache) == []


def test_put_keeps_the_entry_that_is_there(cache: Cache) -> None:
    cache.put(KIND, KEY, FILES)
    assert contents(cache.put(KIND, KEY, {"other": b"x"})) == FILES


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/passwd", MANIFEST])
def test_put_refuses_names_that_leave_the_entry(cache: Cache, name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        cache.put(KIND, KEY, {name: b""})


@pytest.mark.parametrize(
    ("kind", "key"), [("../up", KEY), (".staging", KEY), (KIND, "short"), (KIND, "../" * 21)]
)
def test_kind_and_key_cannot_leave_the_root(cache: Cache, kind: str, key: str) -> None:
    with pytest.raises(ValueError, match="must match"):
        cache.get(kind, key)


def test_get_or_build_builds_once(cache: Cache) -> None:
    calls: list[Path] = []
    entries = {cache.get_or_build(KIND, KEY, builder(FILES, calls)) for _ in range(3)}
    assert len(calls) == 1
    assert [contents(entry) for entry in entries] == [FILES]


def test_a_build_may_ask_for_another_entry(cache: Cache) -> None:
    def build(folder: Path) -> None:
        part = cache.get_or_build(KIND, key_of("part"), builder(FILES, []))
        (folder / "whole").write_bytes((part / "kernel.cpp").read_bytes())

    assert contents(cache.get_or_build(KIND, KEY, build)) == {"whole": FILES["kernel.cpp"]}


def test_a_failed_build_stores_nothing_and_passes_its_error_on(cache: Cache) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise RuntimeError("no such instruction")

    with pytest.raises(RuntimeError, match="no such instruction"):
        cache.get_or_build(KIND, KEY, build)
    assert cache.entries() == []
    assert leftovers(cache) == []


def test_a_build_that_leaves_a_folder_is_refused(cache: Cache) -> None:
    with pytest.raises(ValueError, match="not a plain file"):
        cache.get_or_build(KIND, KEY, lambda folder: (folder / "sub").mkdir())
    assert cache.get(KIND, KEY) is None


def flip_a_byte(entry: Path) -> None:
    content = bytearray((entry / "kernel.so").read_bytes())
    content[100] ^= 1
    (entry / "kernel.so").write_bytes(content)


def truncate_a_file(entry: Path) -> None:
    os.truncate(entry / "kernel.so", 10)


def delete_a_file(entry: Path) -> None:
    (entry / "kernel.cpp").unlink()


def truncate_the_manifest(entry: Path) -> None:
    os.truncate(entry / MANIFEST, 40)


def delete_the_manifest(entry: Path) -> None:
    (entry / MANIFEST).unlink()


def list_no_files(entry: Path) -> None:
    (entry / MANIFEST).write_text('{"schema": 1, "files": ["kernel.so"]}')


def write_another_schema(entry: Path) -> None:
    manifest = json.loads((entry / MANIFEST).read_text())
    (entry / MANIFEST).write_text(json.dumps({**manifest, "schema": 0}))


DAMAGES = [
    flip_a_byte,
    truncate_a_file,
    delete_a_file,
    truncate_the_manifest,
    delete_the_manifest,
    list_no_files,
    write_another_schema,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_reported_removed_and_built_again(
    cache: Cache, damage: Callable[[Path], None]
) -> None:
    entry = cache.put(KIND, KEY, FILES)
    damage(entry)
    assert [damaged.key for damaged in cache.verify()] == [KEY]
    assert cache.entries() == []
    damage(cache.put(KIND, KEY, FILES))
    assert cache.get(KIND, KEY) is None
    damage(cache.put(KIND, KEY, FILES))
    calls: list[Path] = []
    assert contents(cache.get_or_build(KIND, KEY, builder(FILES, calls))) == FILES
    assert len(calls) == 1
    assert cache.verify() == {}


def test_files_that_the_manifest_does_not_list_do_no_harm(cache: Cache) -> None:
    entry = cache.put(KIND, KEY, FILES)
    (entry / "__pycache__").mkdir()
    assert cache.get(KIND, KEY) == entry


BUILD_IN_A_PROCESS = """
import sys, time
from pathlib import Path
from flashc.system.cache import Cache

root, key, log, seconds = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])

def build(folder):
    (folder / "half").write_bytes(b"half")
    with log.open("a") as file:
        file.write("built\\n")
    print("building", flush=True)
    time.sleep(seconds)
    (folder / "whole").write_bytes(b"whole")

print("ready", flush=True)
sys.stdin.readline()
entry = Cache(root).get_or_build("kernel", key, build)
print((entry / "whole").read_text(), flush=True)
"""


def building_process(cache: Cache, log: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that builds KEY once it is sent a line; it has said "ready"."""
    command = [sys.executable, "-c", BUILD_IN_A_PROCESS, str(cache.root), KEY, str(log), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_builder_killed_midway_leaves_no_entry_and_no_lock(cache: Cache, tmp_path: Path) -> None:
    process = building_process(cache, tmp_path / "log", seconds=3600)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "building\n"
    waiting = ThreadPoolExecutor(1).submit(cache.get_or_build, KIND, KEY, builder(FILES, []))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert contents(waiting.result(timeout=60)) == FILES
    assert len(cache.entries()) == 1
    assert leftovers(cache) == []


def test_two_processes_build_once(cache: Cache, tmp_path: Path) -> None:
    processes = [building_process(cache, tmp_path / "log", seconds=0.3) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0].splitlines()[-1] for process in processes]
    assert outputs == ["whole", "whole"]
    assert (tmp_path / "log").read_text() == "built\n"


def test_threads_build_each_key_once(cache: Cache) -> None:
    keys = [key_of(str(number)) for number in range(4)]
    calls: dict[str, list[Path]] = {key: [] for key in keys}
    start = threading.Barrier(16)

    def ask(number: int) -> bytes:
        key = keys[number % 4]
        start.wait()
        entry = Cache(cache.root).get_or_build(KIND, key, builder({"key": key.encode()}, calls[key]))
        return (entry / "key").read_bytes()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    assert answers == [keys[number % 4].encode() for number in range(16)]
    assert [len(folders) for folders in calls.values()] == [1, 1, 1, 1]
    assert leftovers(cache) == []


def test_readers_of_a_damaged_entry_do_not_remove_its_successor(cache: Cache) -> None:
    truncate_a_file(cache.put(KIND, KEY, FILES))

    def ask(_: int) -> dict[str, bytes]:
        return contents(cache.get_or_build(KIND, KEY, builder(FILES, [])))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [FILES] * 8


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_a_full_disk_at_publishing_is_a_named_error_or_a_temporary_entry(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsync = os.fsync

    def fsync_of_a_full_disk(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().is_relative_to(cache.root):
            raise refusal(errno.ENOSPC)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync_of_a_full_disk)
    with pytest.raises(CacheWriteError, match=r"No space left.*FLASHC_CACHE_DIR"):
        cache.put(KIND, KEY, FILES)
    entry = cache.put_or_temp(KIND, KEY, FILES)
    assert contents(entry) == FILES
    assert not entry.is_relative_to(cache.root)
    assert "until this process ends" in caplog.text
    assert cache.entries() == []
    assert leftovers(cache) == []


def test_a_full_disk_while_building_falls_back_to_a_temporary_entry(cache: Cache) -> None:
    folders: list[Path] = []

    def build(folder: Path) -> None:
        folders.append(folder)
        (folder / "part").write_bytes(b"part")
        if folder.is_relative_to(cache.root):
            raise refusal(errno.ENOSPC)

    key = key_of("full while building")
    entry = cache.get_or_build(KIND, key, build)
    assert contents(entry) == {"part": b"part"}
    assert cache.get_or_build(KIND, key, build) == entry
    assert [folder.is_relative_to(cache.root) for folder in folders] == [True, False, True]


def test_a_root_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file")
    assert cache.get(KIND, KEY) is None
    assert cache.entries() == []
    with pytest.raises(CacheWriteError):
        cache.put(KIND, KEY, FILES)
    assert contents(cache.get_or_build(KIND, key_of("no folder"), builder(FILES, []))) == FILES


def test_a_read_only_cache_still_serves_what_it_holds(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = cache.put(KIND, KEY, FILES)
    damaged = cache.put(KIND, key_of("damaged"), FILES)
    truncate_a_file(damaged)
    open_file = os.open

    def open_read_only(path: str | Path, flags: int, *mode: int, **options: int) -> int:
        if flags & os.O_CREAT:  # by root too, whom permissions do not stop
            raise refusal(errno.EROFS)
        return open_file(path, flags, *mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_read_only)
        assert cache.get(KIND, KEY) == entry
        assert cache.get(KIND, damaged.name) is None
        for write in (lambda: cache.put(KIND, key_of("new"), FILES), lambda: cache.remove(KIND, KEY)):
            with pytest.raises(CacheWriteError, match="Read-only file system"):
                write()
    assert {stored.path for stored in cache.entries()} == {entry, damaged}


def aged(cache: Cache, name: str, size: int, used: float) -> str:
    key = key_of(name)
    os.utime(cache.put(KIND, key, {"data": bytes(size)}), (used, used))
    return key


def test_prune_removes_the_old_then_the_least_recently_used(cache: Cache) -> None:
    oldest, old, recent = (aged(cache, f"entry {used}", 10_000, used) for used in (100.0, 200.0, 300.0))
    assert [entry.key for entry in cache.entries()] == [oldest, old, recent]
    assert cache.get(KIND, oldest) is not None  # and is now the most recently used
    assert [entry.key for entry in cache.prune(max_bytes=25_000)] == [old]
    assert [entry.key for entry in cache.prune(older_than=3600)] == [recent]
    assert cache.prune(max_bytes=cache.size()) == []
    assert [entry.key for entry in cache.entries()] == [oldest]


def test_clear_of_one_kind_then_of_all(cache: Cache) -> None:
    for kind in ("kernel", "probe"):
        cache.put(kind, KEY, FILES)
    assert cache.size() > 2 * sum(len(content) for content in FILES.values())
    assert [entry.kind for entry in cache.clear("probe")] == ["probe"]
    assert [entry.kind for entry in cache.clear()] == ["kernel"]
    assert cache.size() == 0
    assert not cache.remove(KIND, KEY)


def test_default_is_the_configured_folder(isolated_cache: Path) -> None:
    assert Cache.default().root == isolated_cache


def test_default_without_configuration_is_in_the_user_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FLASHC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache.default().root == tmp_path / "flashc"


def test_a_relative_configured_folder_holds_when_the_process_moves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHC_CACHE_DIR", "here")
    assert Cache.default().root == tmp_path / "here"
