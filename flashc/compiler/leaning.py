"""Which defaults of a device model a choice leans on: those whose halving changes the answer noticeably."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flashc import backends
from flashc.compiler.tune import Choice, Tuning, environment, modelled
from flashc.hwmodels.model import Default, Device
from flashc.ir.nodes import Program
from flashc.ir.rewrite import substitute_sizes
from flashc.ops import registry

NOTICEABLE = 0.05


def leaned_on(tuning: Tuning, choice: Choice) -> tuple[Default, ...]:
    """The device's default numbers that matter to ``choice``.

    A rate matters if half of it changes the modelled time by more than 5 %, a capacity or limit if with half
    of it the tiles would break a constraint.
    """
    backend = backends.get(tuning.backend)
    env = environment(registry()[tuning.workload.op], tuning.workload.spec)
    numbers = {**env, **dict(choice.placed.fixed), **choice.tiles}
    program = _in_numbers(choice.placed, numbers)

    def matter(defaults: Sequence[Default]) -> bool:
        device = _halved(tuning.device, defaults)
        conditions = backend.constraints(program, device)
        time = modelled(program, device, backend, conditions)
        if abs(time.total.evaluate(numbers) / choice.picoseconds - 1) > NOTICEABLE:
            return True
        return any(not condition.holds(numbers) for condition in conditions)

    numeric = [d for d in tuning.device.defaults if isinstance(d.value, (int, float))]
    alike = sorted(numeric, key=lambda d: d.field.rpartition(".")[2])  # line sizes, latencies: tried together
    found = _mattering(alike, matter)
    return tuple(d for d in numeric if d in found)


def _mattering(defaults: Sequence[Default], matter: Callable[[Sequence[Default]], bool]) -> list[Default]:
    """Those that matter alone: a list that does not matter as a whole is dropped, others are halved."""
    if not defaults or not matter(defaults):
        return []
    if len(defaults) == 1:
        return list(defaults)
    middle = len(defaults) // 2
    return [*_mattering(defaults[:middle], matter), *_mattering(defaults[middle:], matter)]


def _in_numbers(placed: Program, numbers: Mapping[str, Any]) -> Program:
    """The program with every size but the tables a number: its walkers are then quick."""
    values = {name: value for name, value in numbers.items() if isinstance(value, int)}
    parts = {name: substitute_sizes(getattr(placed, name), values) for name in ("kernels", "axes", "tensors")}
    return dataclasses.replace(placed, **parts)


def _halved(device: Device, defaults: Sequence[Default]) -> Device:
    for default in defaults:
        device = _replaced(device, default.field.split("."), _half(default.value))
    return device


def _half(value: Any) -> float:
    return value // 2 if isinstance(value, int) else float(value) / 2


def _replaced(node: Any, path: Sequence[str], value: float) -> Any:
    """``node`` with another value at a field path of the device file: levels and matrix units go by name."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(node, Mapping):
        return {**node, key: _replaced(node[key], rest, value)}
    if isinstance(node, tuple):
        return tuple(_replaced(item, rest, value) if item.name == key else item for item in node)
    return dataclasses.replace(node, **{key: _replaced(getattr(node, key), rest, value)})
