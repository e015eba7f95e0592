"""Content-addressed store on disk for compiled kernels, probe results and tuning results.

An entry is a folder of files, addressed by a kind (``"cpu-kernel"``) and a key (see :func:`key_of`)::

    <root>/<kind>/<key>/manifest.json     sha256 and size of every other file of the entry

It survives kills, races and corruption:

* an entry is built in a staging folder, synced, and renamed into place: it is there whole or not at all;
* builders of one key take turns by flock, which the kernel releases when a holder dies;
* an entry is checked against its manifest at each read; a damaged one is removed and counts as missing.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from flashc.errors import CacheWriteError

SCHEMA = 1
MANIFEST = "manifest.json"
_STAGING, _LOCKS = ".staging", ".locks"
_KIND = re.compile(r"[a-z][a-z0-9-]*")
_KEY = re.compile(r"[0-9a-f]{64}")
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored entry. `used` is the time of the last read or write in seconds since the epoch."""

    kind: str
    key: str
    path: Path
    size: int
    used: float


def key_of(*parts: str | bytes) -> str:
    """Sha256 in hex over `parts`; each is preceded by its length, so ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


class Cache:
    """The store under the folder `root`, which is created when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls) -> Cache:
        """The user's cache: $FLASHC_CACHE_DIR, or the place that this system has for caches."""
        configured = os.environ.get("FLASHC_CACHE_DIR")
        return cls(Path(configured or platformdirs.user_cache_dir("flashc")).expanduser().absolute())

    def get(self, kind: str, key: str) -> Path | None:
        """The folder of an entry whose files are all as written, or None."""
        entry = self._path(kind, key)
        if not os.path.isdir(entry):
            return None
        if _fault(entry) is None:
            _touch(entry)
            return entry
        with suppress(CacheWriteError), self._lock(f"{kind}-{key}"):
            return self._sound_or_removed(entry)
        return None

    def put(self, kind: str, key: str, files: Mapping[str, bytes]) -> Path:
        """Store `files` (plain file name -> content); an entry that is already there stays as it is.

        Raises CacheWriteError when the disk is full or the cache cannot be written to.
        """
        for name in files:
            if name != os.path.basename(name) or name in {"", ".", "..", MANIFEST}:
                raise ValueError(f"cache entry file {name!r}: need a plain file name other than {MANIFEST}")

        def write(folder: Path) -> None:
            for name, content in files.items():
                (folder / name).write_bytes(content)

        return self._store(kind, key, write)

    def put_or_temp(self, kind: str, key: str, files: Mapping[str, bytes]) -> Path:
        """As `put`; a cache that cannot be written to gives way to a temporary one till this process ends."""
        try:
            return self.put(kind, key, files)
        except CacheWriteError as error:
            return _temporary_cache(str(error)).put(kind, key, files)

    def get_or_build(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The entry's folder; when it is missing, `build` writes the entry's files into the folder it gets.

        Threads and processes that ask for the same key build it once. `build` may ask for other keys; what
        it raises passes through, with nothing stored. A cache that cannot be written to: as `put_or_temp`.
        """
        found = self.get(kind, key)
        if found is not None:
            return found
        try:
            return self._store(kind, key, build)
        except CacheWriteError as error:
            return _temporary_cache(str(error))._store(kind, key, build)

    def remove(self, kind: str, key: str) -> bool:
        """Remove an entry; False when there was none. Raises CacheWriteError."""
        entry = self._path(kind, key)
        if not os.path.isdir(entry):
            return False
        with self._lock(f"{kind}-{key}"):
            return self._discard(entry)

    def entries(self) -> list[Entry]:
        """All entries, the least recently used first."""
        found = []
        for path in self.root.glob("*/*"):
            if not _KIND.fullmatch(path.parent.name) or not _KEY.fullmatch(path.name):
                continue
            with suppress(FileNotFoundError):  # removed by another process meanwhile
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                found.append(Entry(path.parent.name, path.name, path, size, path.stat().st_mtime))
        return sorted(found, key=lambda entry: (entry.used, entry.path))

    def size(self) -> int:
        """Bytes in all entries."""
        return sum(entry.size for entry in self.entries())

    def prune(self, *, max_bytes: int | None = None, older_than: float | None = None) -> list[Entry]:
        """Remove entries unused for `older_than` seconds, then the least recently used down to `max_bytes`.

        Returns what was removed. Raises CacheWriteError.
        """
        entries = self.entries()
        horizon = -float("inf") if older_than is None else time.time() - older_than
        limit = float("inf") if max_bytes is None else max_bytes
        left = sum(entry.size for entry in entries)
        removed = []
        for entry in entries:
            if entry.used >= horizon and left <= limit:
                continue
            left -= entry.size
            if self.remove(entry.kind, entry.key):
                removed.append(entry)
        return removed

    def clear(self, kind: str | None = None) -> list[Entry]:
        """Remove all entries (of one kind); returns them. Raises CacheWriteError."""
        chosen = [entry for entry in self.entries() if kind is None or entry.kind == kind]
        return [entry for entry in chosen if self.remove(entry.kind, entry.key)]

    def verify(self) -> dict[Entry, str]:
        """Check every entry; the damaged ones, which are removed where possible, with what is wrong."""
        faults = {entry: fault for entry in self.entries() if (fault := _fault(entry.path)) is not None}
        for entry in faults:
            self.get(entry.kind, entry.key)
        return faults

    def _path(self, kind: str, key: str) -> Path:
        if not _KIND.fullmatch(kind) or not _KEY.fullmatch(key):
            allowed = f"kind must match {_KIND.pattern}, key {_KEY.pattern}"
            raise ValueError(f"cache entry {kind!r}, {key!r}: {allowed}")
        return self.root / kind / key

    def _store(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        entry = self._path(kind, key)
        with self._lock(f"{kind}-{key}"):
            found = self._sound_or_removed(entry)  # by whoever held the lock before
            if found is not None:
                return found
            with self._staging() as folder:
                with _write_errors(folder, only=_DISK_FULL):
                    build(folder)
                with _write_errors(entry):
                    _seal(folder)
                    entry.parent.mkdir(mode=0o700, exist_ok=True)
                    folder.rename(entry)
                    _sync(entry.parent)
            return entry

    def _sound_or_removed(self, entry: Path) -> Path | None:
        """The entry if it is there undamaged; a damaged one is removed. The caller holds the entry's lock."""
        if not os.path.isdir(entry):
            return None
        fault = _fault(entry)
        if fault is None:
            return entry
        _log.warning("cache entry %s is damaged (%s): removed", entry, fault)
        self._discard(entry)
        return None

    def _discard(self, entry: Path) -> bool:
        """Move an entry out of sight at once, then delete it; False when it was gone already."""
        with self._staging() as folder:
            try:
                entry.rename(folder / entry.name)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise _write_error(entry, error) from error
            return True

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Hold an exclusive lock by a file that exists only while someone holds or awaits it."""
        path = self.root / _LOCKS / name
        with _write_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = _acquire(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # before the release: who waits for it sees that and opens a new one
            os.close(handle)

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A new empty folder on the cache's file system, removed at the end unless it was renamed.

        Its owner holds a flock on it, which tells it from what a killed process left; that is swept here.
        """
        staging = self.root / _STAGING
        with self._lock("staging"), _write_errors(staging):
            staging.mkdir(mode=0o700, exist_ok=True)
            for leftover in staging.iterdir():
                _remove_unowned(leftover)
            folder = Path(tempfile.mkdtemp(dir=staging))
            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


@functools.cache
def _temporary_root() -> Path:
    root = tempfile.mkdtemp(prefix="flashc-cache-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Path(root)


def _temporary_cache(reason: str) -> Cache:
    root = _temporary_root()
    _log.warning("%s; using %s until this process ends", reason, root)
    return Cache(root)


def _write_error(path: Path, error: OSError) -> CacheWriteError:
    return CacheWriteError(
        f"cannot write to the cache at {path}: {error.strerror or error}; "
        "free some space, or set FLASHC_CACHE_DIR to a folder that can be written to"
    )


@contextmanager
def _write_errors(path: Path, only: frozenset[int] | None = None) -> Iterator[None]:
    """Turn an OSError (whose errno is in `only`) into a CacheWriteError."""
    try:
        yield
    except CacheWriteError:
        raise
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise _write_error(path, error) from error


def _acquire(path: Path) -> int:
    """A descriptor of the file at `path` with an exclusive flock on it; waits for one."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)  # its last holder has unlinked it


def _remove_unowned(folder: Path) -> None:
    """Remove a staging folder unless the process that made it is alive."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(handle)


def _record(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _seal(folder: Path) -> None:
    """Write the manifest of a staged entry after its files are on the disk."""
    records = {}
    for file in sorted(folder.iterdir()):
        if not file.is_file():
            raise ValueError(f"cache entry: {file.name} is not a plain file")
        records[file.name] = _record(file)
        _sync(file)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"schema": SCHEMA, "files": records}, indent=1), encoding="utf-8")
    _sync(manifest)
    _sync(folder)


def _fault(entry: Path) -> str | None:
    """What is wrong with an entry, or None. Files that the manifest does not list do not matter."""
    try:
        manifest = json.loads((entry / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        return f"unreadable {MANIFEST}: {error}"
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        return f"{MANIFEST} is not of schema {SCHEMA}"
    files = manifest.get("files")
    if not isinstance(files, dict):
        return f"{MANIFEST} lists no files"
    for name, record in files.items():
        try:
            actual = _record(entry / name)
        except OSError as error:
            return f"unreadable {name}: {error.strerror}"
        if actual != record:
            return f"{name} is not as written"
    return None


def _touch(entry: Path) -> None:
    with suppress(OSError):  # the time of use matters to prune only
        os.utime(entry)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
