"""Operator families: one module each, found through :func:`registry`.

A package outside flashc adds an operator with the entry point group ``flashc.operators`` or :func:`register`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from flashc.ops.base import Operator

_NAMES = ("attention", "attention_backward", "gemm", "recurrent", "recurrent_backward")
_BUILTIN = {name: f"flashc.ops.{name}" for name in _NAMES}
_registered: dict[str, Operator] = {}


def register(operator: Operator) -> Operator:
    """Make an operator known under its name for this process."""
    _registered[operator.name] = operator
    return operator


def registry() -> dict[str, Operator]:
    """All operators by name: built in, installed as plug-ins, registered in this process."""
    found = {name: import_module(module).OPERATOR for name, module in _BUILTIN.items()}
    found.update({e.name: e.load() for e in entry_points(group="flashc.operators")})
    return {**found, **_registered}


__all__ = ["Operator", "register", "registry"]
