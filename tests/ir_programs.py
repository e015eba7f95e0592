"""The tile programs of every example workload: each schedule at each stage."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from flashc.backends.cpu.lower import lower
from flashc.backends.cpu.place import place
from flashc.compiler.workload import load_workload
from flashc.errors import UnsupportedError
from flashc.hwmodels import load_device
from flashc.ir.nodes import Program
from flashc.ops import registry
from flashc.passes.bind import bind
from flashc.passes.split import split

EXAMPLES = sorted(path.stem for path in (Path(__file__).parent.parent / "examples").glob("*.yaml"))
TILES = {"stages": 2, "mr": 2, "nr": 4}


@cache
def programs(example: str) -> dict[tuple[str, str], Program]:
    """(schedule, pass) -> program of one example, placed for a CPU that has bf16 dot products."""
    workload = load_workload(Path(__file__).parent.parent / "examples" / f"{example}.yaml")
    operator = registry()[workload.op]
    device = load_device("epyc_9755")
    found = {}
    for program in (operator.algorithm(workload.spec), *operator.schedules(workload.spec)):
        found[program.schedule, "tile"] = program
        try:
            placed = place(program, device)
        except UnsupportedError:  # dots without a lane axis in common
            continue
        bound = bind(placed, {tile: TILES.get(tile, 32) for tile in placed.tiles})
        passes = {"placed": placed, "bound": bound}
        passes |= {"split": split(program), "lowered": lower(bound)}
        found |= {(program.schedule, name): result for name, result in passes.items()}
    return found
