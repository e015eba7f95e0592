"""Repeated calls: what checking a first call's arguments worked out serves every later call of the same signature.

A signature is all that the checks depend on: kind, shape, strides and element type of each argument. A call that had to
convert an argument is not kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from flashc.backends.base import Executable, Invocation, Prepared, Preparing
from flashc.compiler.alike import Alike, alike_of
from flashc.compiler.arguments import maker
from flashc.ir.nodes import Program

KEPT = 4096  # signatures of one kernel; when there are more, all are worked out anew

Repeat = Callable[[Sequence[Any]], Any]
"""A call by addresses: from other arguments of the same signatures the result, or a tuple of several."""
Source = Callable[[Sequence[Any]], Any]
Pick = Callable[[Sequence[Any]], Any]


def signature(value: Any) -> Hashable:
    """What the checks of one array or tensor depend on. Raises AttributeError for anything else."""
    kind = type(value)
    if kind is np.ndarray:
        return value.shape, value.strides, value.dtype, value.flags.num
    layout, place = value.is_contiguous() or value.stride(), value.is_cpu or value.device
    return value.shape, layout, value.dtype, place, value.requires_grad, value.is_neg(), kind


def repeat_of(
    executable: Executable, program: Program, call: Invocation, names: Sequence[str], arguments: Sequence[Any]
) -> Repeat | None:
    """The call for other ``arguments`` (tensors by ``names``) of the same signatures, or None if it must be checked."""
    same = all(call.tensors[n] is a for n, a in zip(names, arguments, strict=True))
    kind = type(arguments[0])
    if not same or not isinstance(executable, Preparing) or any(type(a) is not kind for a in arguments):
        return None
    if kind is not np.ndarray and (kind is not sys.modules["torch"].Tensor or any(a.requires_grad for a in arguments)):
        return None
    others = [t.name for t in program.tensors if t.name not in names]
    position = {name: n for n, name in enumerate((*names, *others))}
    return _repeat(
        executable.prepare(call),
        tuple(_source(program, name, call, arguments) for name in others),
        [position[t.name] for t in program.tensors],
        itemgetter(*(position[t.name] for t in program.tensors if t.role == "out")),
        _numpy_address if kind is np.ndarray else kind.data_ptr,
    )


def _repeat(
    prepared: Prepared, made: Sequence[Source], order: Sequence[int], outputs: Pick, address: Callable[[Any], int]
) -> Repeat:
    """``made``: the tensors that are not arguments, from the arguments. ``order``: where the program's tensors
    are among the arguments and those made, of which ``outputs`` takes the results."""
    in_order = itemgetter(*order)

    def repeat(arguments: Sequence[Any]) -> Any:
        tensors = (*arguments, *[make(arguments) for make in made])
        prepared(map(address, in_order(tensors)))
        return outputs(tensors)

    if len(made) != 1 or list(order) != sorted(order):
        return repeat
    only = made[0]

    def repeat_with_one(arguments: Sequence[Any]) -> Any:
        tensors = (*arguments, only(arguments))
        prepared(map(address, tensors))
        return outputs(tensors)

    return repeat_with_one


def _source(program: Program, name: str, call: Invocation, arguments: Sequence[Any]) -> Source:
    tensor, like = program.tensor(name), call.tensors[name]
    if tensor.role == "in":  # a default: the same at every call
        return lambda _arguments: like
    make = maker(tensor, tuple(like.shape), like)
    if tensor.role == "temp" or isinstance(like, np.ndarray):
        return lambda _arguments: make()
    for n, argument in enumerate(arguments):
        if argument.shape == like.shape and argument.dtype == like.dtype and argument.is_contiguous():
            empty_like = sys.modules["torch"].empty_like  # made in half the time
            return lambda arguments: empty_like(arguments[n])
    return lambda _arguments: make()


def _numpy_address(array: Any) -> int:
    return array.ctypes.data  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Known:
    """A call worked out, and the question whether tensors are like its own."""

    options: Hashable
    repeat: Repeat
    alike: Alike | None


# An argument that is no array (it is converted, or refused with its name), an option that is no plain value.
_UNKEYED = (AttributeError, TypeError)


class Repeats:
    """Calls worked out so far, by their options and their arguments' signatures. Threads may share it."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Known] = {}
        self._latest: _Known | None = None  # mostly the next call is like it

    def find(self, options: Hashable, arguments: Sequence[Any]) -> Repeat | None:
        latest = self._latest
        try:
            if latest and latest.alike and latest.alike(*arguments) and latest.options == options:
                return latest.repeat
        except (TypeError, ValueError, RuntimeError):  # another number of arguments, an option that is an array
            pass
        try:
            known = self._kept.get(_key(options, arguments))
        except _UNKEYED:
            return None
        if known is None:
            return None
        self._latest = known
        return known.repeat

    def keep(self, options: Hashable, arguments: Sequence[Any], work_out: Callable[[], Repeat | None]) -> None:
        """Keeps what ``work_out`` returns; it is not called for arguments and options that cannot be found again."""
        try:
            key = _key(options, arguments)
            hash(key)
        except _UNKEYED:
            return
        repeat = work_out()
        if repeat is None:
            return
        if len(self._kept) >= KEPT:
            self._kept.clear()
        alike = None if isinstance(arguments[0], np.ndarray) else alike_of(arguments)
        self._kept[key] = _Known(options, repeat, alike)


def _key(options: Hashable, arguments: Sequence[Any]) -> Hashable:
    return options, *map(signature, arguments)
