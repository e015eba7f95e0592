"""What every schedule would move with a given fast memory: its best tiles in the two-level model, and the device's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flashc.autotune.two_level import Optimum, optimum
from flashc.iomodel.closed_form import level_traffic
from flashc.ir.analysis import sites
from flashc.ir.intexpr import Sym
from flashc.ir.nodes import Program, Seq
from flashc.report.case import Case
from flashc.report.facts import RowKind, Tiling, TrafficRow, TwoLevel
from flashc.report.numbers import tiles as tiles_text


def all_schedules(case: Case) -> Iterator[tuple[RowKind, Program]]:
    """What the solver chooses between, and how the operator is computed elsewhere."""
    for program in case.schedules:
        yield "schedule", program
    for program in case.operator.baselines(case.tuning.workload.spec):
        yield "naive", program


def least(case: Case, program: Program, fast_bytes: int) -> Optimum | None:
    """The schedule's best tiles with that much fast memory; None where none fit."""
    return optimum(program, case.sizes, fast_bytes, "bytes")


def schedule_rows(case: Case) -> tuple[TrafficRow, ...]:
    """Every schedule with its best tiles for the fast memory, loads and stores apart, least first."""
    rows = []
    for kind, program in all_schedules(case):
        found = least(case, program, case.fast_bytes)
        if found is not None:
            rows.append(_row(case, kind, program, dict(found.tiles)))
    return tuple(sorted(rows, key=lambda row: row.total))


def _row(case: Case, kind: RowKind, program: Program, tiles: Mapping[str, int]) -> TrafficRow:
    counted = level_traffic(program)
    env = {**case.sizes, **dict(program.fixed), **tiles}
    loads, stores = (float(counted.bytes(direction=way).evaluate(env)) for way in ("read", "write"))
    note = tiles_text({n: v for n, v in tiles.items() if n != "stages"})
    name = f"{program.schedule}, " + ("best tiles" if kind == "schedule" else "as a baseline")
    return TrafficRow(kind, name, loads, stores, loads + stores, note)


def two_level(case: Case) -> TwoLevel | None:
    """The chosen schedule's steps from the two-level optimum to the device: streamed tile, then everything else.

    None where the schedule has no tiles that fit in the two-level model.
    """
    chosen = case.tuning.best
    program = next(p for p in case.schedules if p.schedule == chosen.schedule)
    free = least(case, program, case.fast_bytes)
    if free is None:
        return None
    streamed = {t: chosen.tiles[t] for t in streamed_tiles(program)}
    forced = optimum(program, case.sizes, case.fast_bytes, "bytes", fixed=streamed, whole_tiles=True)
    return TwoLevel(
        chosen.schedule,
        _tiling(free),
        streamed,
        None if forced is None else _tiling(forced),
        Tiling({t: chosen.tiles[t] for t in program.tiles}, float(chosen.traffic_bytes)),
    )


def streamed_tiles(program: Program) -> tuple[str, ...]:
    """Tile symbols of sequential loops: what passes through fast memory while other tiles stay."""
    loops = [s.stmt.loop for k in program.kernels for s in sites(program, k) if isinstance(s.stmt, Seq)]
    return tuple(dict.fromkeys(str(loop.tile) for loop in loops if isinstance(loop.tile, Sym)))


def _tiling(found: Optimum) -> Tiling:
    return Tiling({n: v for n, v in found.tiles if n != "stages"}, float(found.traffic))
