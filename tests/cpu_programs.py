"""Tile programs compiled for a CPU with tile sizes of the test's choice, and CPUs narrower than this machine's."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from flashc import backends
from flashc.backends.cpu.lower import lower
from flashc.backends.cpu.place import place
from flashc.compiler.arguments import invocation
from flashc.compiler.workload import Workload, load_workload
from flashc.hwmodels import load_device
from flashc.hwmodels.model import Device
from flashc.ir.nodes import Program
from flashc.ops import Operator, registry
from flashc.passes.bind import bind

Array = np.ndarray[Any, np.dtype[Any]]
CPU = backends.get("cpu")
TILES = {"Ti": 32, "Tj": 48, "Tk": 16, "Te": 16, "Ri": 32, "Rj": 32, "Re": 32, "stages": 1, "mr": 2, "nr": 4,
         "Tg": 2, "Tn": 1, "kr": 4}
x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="for x86-64 machines")


def portable(width_bits: int = 128) -> Device:
    """A CPU of which only the baseline instruction set is used."""
    model = load_device("zen3")
    vector = dataclasses.replace(model.vector, width_bits=width_bits)
    return dataclasses.replace(
        model, name=f"portable_{width_bits}", vector=vector, features=frozenset(), targets={"cpu": ("x86-64",)}
    )


def device(name: str) -> Device:
    """``portable`` or a device by name; skips the test where this machine cannot run its code."""
    found = portable() if name == "portable" else load_device(name)
    absent = CPU.absent(found)
    if absent:
        pytest.skip(absent)
    return found


def workload(**keys: Any) -> Workload:
    base = {"op": "attention", "batch": 2, "heads": {"q": 4, "kv": 2}, "seq": {"q": 50, "kv": 70}, "head_dim": 40}
    return load_workload({**(base if keys.get("op", "attention") == "attention" else {}), **keys})


def schedule(given: Workload, name: str) -> Program:
    return next(p for p in registry()[given.op].schedules(given.spec) if p.schedule == name)


def bound(program: Program, target: Device, **tiles: int) -> Program:
    placed = place(program, target)
    return bind(placed, {t: {**TILES, **tiles}[t] for t in placed.tiles})


def lowered(program: Program, target: Device, **tiles: int) -> Program:
    return lower(bound(program, target, **tiles))


def run(program: Program, target: Device, given: Workload, inputs: Mapping[str, Any], **outputs: Any) -> dict[str, Any]:
    """Compile a bound program, call it with its outputs and workspaces poisoned, and return all tensors."""
    operator: Operator = registry()[given.op]
    built = CPU.build(CPU.emit(program, target), program, target)
    sizes, params = operator.sizes(given.spec), operator.params(given.spec)
    call = invocation(program, inputs, sizes, params, operator.derive, outputs)
    for tensor in program.tensors:
        if tensor.role != "in":
            call.tensors[tensor.name][...] = np.nan
    CPU.load(built, program, target)(call)
    return dict(call.tensors)
