"""Finding and reading device files.

A name is looked up in the directories of ``FLASHC_DEVICE_PATH`` (separated like PATH; the first hit wins),
then in the package. Files from outside the package are validated here; the package's own, by the tests.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from flashc.errors import DeviceModelError, UnknownDeviceError
from flashc.hwmodels.build import device_from_document
from flashc.hwmodels.model import Device
from flashc.hwmodels.notice import print_notice

DATA = Path(__file__).parent
DEVICE_PATH_VARIABLE = "FLASHC_DEVICE_PATH"
NATIVE = ("native", "native-gpu")


class Resolved(NamedTuple):
    """The canonical name; for an ambiguous alias also a note: what it took and what else it could be."""

    name: str
    note: str | None


def load_device(name: str | os.PathLike[str], *, notify: Callable[[str], None] = print_notice) -> Device:
    """The device of that name, alias or file (a path ending in .yaml or .yml).

    'native' and 'native-gpu' are this machine's CPU and GPU. ``notify`` receives one-line notices, such as
    the first probe of this CPU. Raises UnknownDeviceError (lists the known names), DeviceModelError (the file
    breaks the schema), DeviceAbsentError ('native-gpu' without a GPU).
    """
    text = os.fspath(name)
    if text.endswith((".yaml", ".yml")):
        return _load_file(Path(text))
    canonical = resolve(text).name
    if canonical in NATIVE:
        from flashc.hwmodels import native

        return native.native_cpu(notify) if canonical == "native" else native.native_gpu(notify)
    return _load_file(_files()[canonical])


def resolve(name: str) -> Resolved:
    """Canonical name for what a person types, in any case, with or without separators.

    Raises UnknownDeviceError.
    """
    if name in NATIVE:
        return Resolved(name, None)
    wanted = _squash(name)
    for canonical in _files():
        if _squash(canonical) == wanted:
            return Resolved(canonical, None)
    for alias, entry in _aliases().items():
        if _squash(alias) == wanted:
            return Resolved(entry["device"], _ambiguity(alias, entry))
    raise UnknownDeviceError(_unknown(name))


def list_devices() -> tuple[str, ...]:
    """Canonical names of all device files, the user's included, sorted."""
    return tuple(sorted(_files()))


def list_aliases() -> Mapping[str, str]:
    """Alias -> canonical name."""
    return {alias: entry["device"] for alias, entry in _aliases().items()}


def shared_sources() -> Mapping[str, Mapping[str, Any]]:
    """The source table common to all device files: id -> {tier, text}."""
    return _read_package_file("sources.yaml")


def merged_document(path: Path) -> dict[str, Any]:
    """The file's content completed by its ``base`` (a file of flashc/hwmodels/arch)."""
    document = _parse(path)
    if "base" not in document:
        return document
    base = DATA / "arch" / f"{document['base']}.yaml"
    if not base.is_file():
        known = ", ".join(sorted(p.stem for p in base.parent.glob("*.yaml")))
        raise DeviceModelError(f"{path}: base: {document['base']!r} is not known; allowed: {known}")
    own = {key: value for key, value in document.items() if key != "base"}
    return _merge(_read_package_file(f"arch/{base.name}"), own)


def _load_file(path: Path) -> Device:
    if not path.is_file():
        raise UnknownDeviceError(f"there is no device file {path}")
    return _load_version(path.resolve(), path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _load_version(path: Path, _mtime_ns: int) -> Device:
    document = merged_document(path)
    sources = shared_sources()
    if path.parent != DATA / "devices":
        from flashc.hwmodels.schema import check_device

        known = {*sources, *document.get("sources", {})}
        check_device(document, known, path, path.read_text(encoding="utf-8"))
    return device_from_document(path.stem, document, sources)


def _files() -> dict[str, Path]:
    directories = [Path(d) for d in os.environ.get(DEVICE_PATH_VARIABLE, "").split(os.pathsep) if d]
    files: dict[str, Path] = {}
    for directory in (*directories, DATA / "devices"):
        for path in sorted(directory.glob("*.yaml")):
            files.setdefault(path.stem, path)
    return files


def _aliases() -> dict[str, dict[str, Any]]:
    return _read_package_file("aliases.yaml")


@functools.lru_cache(maxsize=64)
def _read_package_file(relative: str) -> dict[str, Any]:
    return _parse(DATA / relative)


def _parse(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 (a safe loader)
    except yaml.YAMLError as error:
        raise DeviceModelError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise DeviceModelError(f"{path}:1: a device file is a mapping, found {type(document).__name__}")
    return document


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``base``, key by key; a sourced value {v, src, how} is replaced as a whole."""
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping) and "v" not in value
        merged[key] = _merge(below, value) if nested else value  # type: ignore[arg-type]
    return merged


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _ambiguity(alias: str, entry: Mapping[str, Any]) -> str | None:
    others = entry.get("also")
    return f"{alias} taken as {entry['device']}; it could also be {', '.join(others)}" if others else None


def _unknown(name: str) -> str:
    known = (*list_devices(), *NATIVE)
    spelled = {_squash(n): n for n in (*known, *_aliases())}
    close = [spelled[s] for s in difflib.get_close_matches(_squash(name), list(spelled), n=3, cutoff=0.6)]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return (
        f"unknown device {name!r}.{hint} Known: {', '.join(known)}. "
        f"To add one, write NAME.yaml (docs/devices.md) in a directory of {DEVICE_PATH_VARIABLE}."
    )
