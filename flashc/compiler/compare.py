"""Two result files of the same suite: what became slower, worse chosen, wrong or went missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashc.compiler.suite import SCHEMA, Case, problems
from flashc.errors import ArgumentError

Json = Mapping[str, Any]
REGRET = 0.02  # by which a regret must rise to be told


@dataclass(frozen=True)
class Change:
    """A timed workload in both files: seconds before and after, and the sum of both spreads."""

    group: str
    label: str
    before: float
    after: float
    sigma: float

    @property
    def ratio(self) -> float:
        """Time after over time before: above 1 is slower."""
        return self.after / self.before

    def slower(self, threshold: float) -> bool:
        """By more than ``threshold`` and by more than three sigma."""
        return self.ratio > 1 + threshold and self.after - self.before > 3 * self.sigma

    def faster(self, threshold: float) -> bool:
        return self.ratio < 1 / (1 + threshold) and self.before - self.after > 3 * self.sigma


@dataclass(frozen=True)
class Comparison:
    """``notes`` say in what else the files differ (machine, versions); ``regressions`` is all that became worse."""

    changes: tuple[Change, ...]
    regressions: tuple[str, ...]
    notes: tuple[str, ...]


def read_result(path: Path) -> dict[str, Any]:
    """A result file. Raises ArgumentError for any other."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{path}: no result file can be read there: {error}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise ArgumentError(f"{path}: schema is {schema!r}; allowed: {SCHEMA!r}, as `flashc bench --suite` writes it")
    assert isinstance(found, dict)
    return found


def compare(before: Json, after: Json, threshold: float = 0.05) -> Comparison:
    """``threshold``: the share by which a time must grow. Raises ArgumentError for results of two suites."""
    if before["suite"] != after["suite"]:
        suites = f"{before['suite']!r}, the other of {after['suite']!r}"
        raise ArgumentError(f"one result is of suite {suites}; compare two of the same")
    old, new = _by_workload(before, "rows"), _by_workload(after, "rows")
    changes = tuple(_change(old[key], new[key]) for key in old if key in new)
    slower = tuple(
        f"{c.group}: {c.label}: {c.ratio:.2f}x the time" for c in changes if c.slower(threshold)
    )
    gone = tuple(f"{_name(old[key])}: timed before, not any more" for key in old if key not in new)
    wrong = tuple(text for text in problems(after) if text not in problems(before))
    return Comparison(changes, (*wrong, *slower, *_regrets(before, after), *gone), tuple(_differences(before, after)))


def _by_workload(result: Json, part: str) -> dict[str, Json]:
    return {json.dumps([r.get("group", r.get("name")), r["workload"]], sort_keys=True): r for r in result[part]}


def _change(old: Json, new: Json) -> Change:
    label = Case(new["group"], new["workload"]).label
    return Change(new["group"], label, old["seconds"], new["seconds"], old["sigma"] + new["sigma"])


def _name(row: Json) -> str:
    return f"{row['group']}: {Case(row['group'], row['workload']).label}"


def _regrets(before: Json, after: Json) -> Iterator[str]:
    old, new = _by_workload(before, "regret"), _by_workload(after, "regret")
    for key in old:
        if key not in new:
            yield f"regret of {old[key]['name']}: measured before, not any more"
        elif new[key]["counts"] and new[key]["regret"] > old[key]["regret"] + REGRET:
            yield f"regret of {new[key]['name']}: {old[key]['regret']:.1%} before, {new[key]['regret']:.1%} now"


def _differences(before: Json, after: Json) -> Iterator[str]:
    """In machine, device model, driver and versions."""
    flat = [{**{k: v for k, v in r["machine"].items() if k not in ("versions", "peaks")}, **r["machine"]["versions"]}
            for r in (before, after)]
    for key in dict.fromkeys((*flat[0], *flat[1])):
        old, new = flat[0].get(key), flat[1].get(key)
        if old != new:
            yield f"{key}: {old} before, {new} now"
