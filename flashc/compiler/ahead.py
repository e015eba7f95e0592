"""Compiling ahead: what a suite will run, built into the cache by a pool of processes.

Triton's launches find these kernels in its own cache: they pass the types, alignments and options of the build.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from flashc import backends
from flashc.compiler.kernel import compile_for
from flashc.compiler.workload import load_workload
from flashc.errors import FlashcError
from flashc.hwmodels.load import load_device
from flashc.ops import registry
from flashc.passes.bind import bind


@dataclass(frozen=True)
class Job:
    """One kernel to build: of a workload's document, for a device by its name. ``tiling`` is a schedule with its tile
    sizes; None stands for the solver's pick."""

    document: Mapping[str, Any]
    device: str
    tiling: tuple[str, Mapping[str, int]] | None = None


def build(job: Job) -> None:
    """Build into the cache. What fails here fails again where the kernel is used, and is reported there."""
    workload, device = load_workload(job.document), load_device(job.device)
    try:
        if job.tiling is None:
            compile_for(workload, device)
            return
        backend, (schedule, tiles) = backends.for_device(device), job.tiling
        program = next(p for p in registry()[workload.op].schedules(workload.spec) if p.schedule == schedule)
        bound = bind(backend.place(program, device), tiles)
        backend.build(backend.emit(bound, device), bound, device)
    except FlashcError:
        return


def build_all(jobs: Sequence[Job], workers: int, seconds: float) -> int:
    """Build the jobs in ``workers`` processes (in this one for 1); how many had not begun after ``seconds``."""
    if workers <= 1:
        for job in jobs:
            build(job)
        return 0
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = wait([pool.submit(build, job) for job in jobs], timeout=max(seconds, 0)).not_done
        return sum(future.cancel() for future in waiting)
