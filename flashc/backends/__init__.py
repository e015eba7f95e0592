"""Code generators, one package each, found through :func:`registry`.

A package outside flashc adds a backend with the entry point group ``flashc.backends`` or :func:`register`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from flashc.backends.base import Backend
from flashc.errors import UnsupportedError
from flashc.hwmodels.model import Device

_BUILTIN = {"cpu": "flashc.backends.cpu", "triton": "flashc.backends.triton", "ascend": "flashc.backends.ascend"}
_registered: dict[str, Backend] = {}


def register(backend: Backend) -> Backend:
    """Make a backend known under its name for this process."""
    _registered[backend.name] = backend
    return backend


def names() -> tuple[str, ...]:
    return tuple({**_BUILTIN, **{e.name: "" for e in entry_points(group="flashc.backends")}, **_registered})


def get(name: str) -> Backend:
    """The backend of that name. Raises UnsupportedError listing the known ones."""
    if name in _registered:
        return _registered[name]
    if name in _BUILTIN:
        backend: Backend = import_module(_BUILTIN[name]).BACKEND
        return backend
    for entry in entry_points(group="flashc.backends"):
        if entry.name == name:
            loaded: Backend = entry.load()
            return loaded
    raise UnsupportedError(f"unknown backend {name!r}; known: {', '.join(names())}")


def for_device(device: Device) -> Backend:
    """The backend that places programs on this kind of device, registered ones first."""
    for name in (*_registered, *_BUILTIN):
        backend = get(name)
        if device.kind in backend.kinds:
            return backend
    raise UnsupportedError(f"no backend places programs on a device of kind {device.kind!r} ({device.name})")


__all__ = ["Backend", "for_device", "get", "names", "register"]
