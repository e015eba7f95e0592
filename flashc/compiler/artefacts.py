"""Artefacts: the source and binary of a tuning's choice, checked against what the compiler really used.

A kernel that spills registers is a wrong prediction: the tiling is cut from the space (with every larger one) and the
problem is solved again, until a compiled kernel does not spill or the attempts run out; then the least spilling is kept
and reported.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flashc import backends
from flashc.autotune import Condition
from flashc.backends.base import Backend, Built, KernelResources
from flashc.compiler.tune import Choice, Tuning, as_json, spill_cut, tune
from flashc.errors import InfeasibleError
from flashc.ir.printer import print_program

Spill = tuple[Mapping[str, int], KernelResources]


@dataclass(frozen=True)
class Artefacts:
    """What was produced: files by role, compiled resources, tilings that spilled on the way, and what is missing."""

    tuning: Tuning
    files: Mapping[str, Path]
    resources: tuple[KernelResources, ...]
    spilled: tuple[Spill, ...]
    missing: str | None


def produce(
    tuning: Tuning, directory: Path, *, attempts: int = 8, progress: Callable[[str], None] | None = None
) -> Artefacts:
    """Emit, compile and write the best choice into ``directory``.

    Where the backend cannot emit for the device only the prediction and the program are written, and where
    nothing here compiles for it, no binary; ``missing`` says why. Raises CompilerMissingError and CompileError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    backend = backends.get(tuning.backend)
    if tuning.missing is not None:
        return Artefacts(tuning, _write_records(tuning, directory), (), (), tuning.missing)
    tuning, built, spilled = compile_choice(tuning, backend, attempts, progress or (lambda _text: None))
    files = {role: _copied(path, directory) for role, path in built.files.items()}
    return Artefacts(tuning, {**files, **_write_records(tuning, directory)}, built.resources, spilled, built.missing)


def compile_choice(
    tuning: Tuning, backend: Backend, attempts: int, progress: Callable[[str], None]
) -> tuple[Tuning, Built, tuple[Spill, ...]]:
    """Build the best choice; after a spill cut it and solve again, at most ``attempts`` builds."""
    cuts: dict[str, list[Condition]] = {}
    spilled: list[Spill] = []
    tried: list[tuple[int, Tuning, Built]] = []
    for attempt in range(attempts):
        choice = tuning.best
        progress(f"compiling {choice.schedule} {_tiles(choice)}")
        built = build_choice(choice, backend, tuning)
        worst = max(built.resources, key=lambda r: r.spill_bytes or 0)
        tried.append((worst.spill_bytes or 0, tuning, built))
        if not worst.spill_bytes:
            break
        spilled.append((choice.tiles, worst))
        cuts.setdefault(choice.schedule, []).append(spill_cut(choice, attempt))
        try:
            found = tune(tuning.workload, tuning.device, backend=tuning.backend, cuts=cuts, top_k=len(tuning.ranked))
        except InfeasibleError:
            break
        tuning = replace(found, seconds=tuning.seconds + found.seconds)
    _, kept, result = min(tried, key=lambda t: t[0])
    return kept, result, tuple(spilled)


def build_choice(choice: Choice, backend: Backend, tuning: Tuning) -> Built:
    program = choice.program
    return backend.build(backend.emit(program, tuning.device), program, tuning.device)


def _tiles(choice: Choice) -> str:
    return " ".join(f"{k}={v}" for k, v in choice.tiles.items())


def _copied(path: Path, directory: Path) -> Path:
    target = directory / path.name
    shutil.copyfile(path, target)
    return target


def _write_records(tuning: Tuning, directory: Path) -> dict[str, Path]:
    record, program = directory / "tune.json", directory / "program.txt"
    record.write_text(json.dumps(as_json(tuning), indent=2) + "\n")
    program.write_text(print_program(tuning.best.program))
    return {"tune": record, "program": program}
