"""`--explain`: why this schedule and these tiles, and why not the next ones, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashc.commands.render import Block, Table
from flashc.commands.tune_report import ranking, standing
from flashc.compiler.neighbours import Neighbour, neighbours, other_schedules, slower_by
from flashc.compiler.tune import Choice, Tuning


@dataclass(frozen=True)
class Explanation:
    """The best choice's neighbours, and the best of each schedule that lost."""

    tuning: Tuning
    neighbours: tuple[Neighbour, ...]
    schedules: tuple[Choice, ...]


def explanation(tuning: Tuning, spilled: Sequence[Mapping[str, int]] = ()) -> Explanation:
    """``spilled``: tilings that were cut because compiled code spilled."""
    return Explanation(tuning, neighbours(tuning, spilled), other_schedules(tuning, spilled))


def blocks(found: Explanation) -> list[Block]:
    best = found.tuning.best
    rows = tuple(_row(n, best) for n in found.neighbours)
    columns = ("tile", "predicted", "behind", "nearest limit", "because")
    why_not = Table("why not the next tile sizes", columns, rows, frozenset({"predicted", "behind"}))
    return [why_not, ranking(found.schedules, best, "why not another schedule, at its best")]


def as_json(found: Explanation) -> dict[str, Any]:
    best = found.tuning.best
    return {
        "neighbours": [_neighbour_json(n, best) for n in found.neighbours],
        "schedules": [{"schedule": c.schedule, **_choice_json(c, best)} for c in found.schedules],
    }


def _row(found: Neighbour, best: Choice) -> tuple[str, ...]:
    changed = f"{found.symbol} {best.tiles[found.symbol]} -> {found.tiles[found.symbol]}"
    if found.choice is None:
        return changed, "", "", "", f"infeasible: {found.violated}"
    return changed, *standing(found.choice, best)


def _neighbour_json(found: Neighbour, best: Choice) -> dict[str, Any]:
    if found.choice is not None:
        return {"symbol": found.symbol, **_choice_json(found.choice, best)}
    broken = found.violated
    assert broken is not None
    numbers = {"name": broken.name, "needs": broken.needs, "limit": broken.limit, "op": broken.op}
    return {
        "symbol": found.symbol,
        "tiles": dict(found.tiles),
        "violated": {**numbers, "unit": broken.unit, "knob": broken.knob},
    }


def _choice_json(choice: Choice, best: Choice) -> dict[str, Any]:
    unit, more = slower_by(choice, best)
    slower = {"unit": unit, "unit_more_seconds": more * 1e-12}
    return {"tiles": dict(choice.tiles), "predicted_seconds": choice.picoseconds * 1e-12, "slower": slower}
