"""Results of suites and of searches for better tiles as tables; benchmarks/*.py print the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashc.commands.render import Block, Lines, Table, factor, percent, seconds, tiles_text
from flashc.compiler.regret import Outcome, mean_regret
from flashc.compiler.suite import Case, group_means, problems
from flashc.system.units import flops

Json = Mapping[str, Any]


def result_blocks(result: Json) -> list[Block]:
    """A result document: machine, checks, times, means by group, regret, what was skipped and what went wrong."""
    spent = f"{result['seconds']:.0f} of {result['budget']:.0f} s" if "budget" in result else ""
    blocks: list[Block] = [Lines(f"suite {result['suite']}, {result['date']} {spent}".rstrip(), _machine(result))]
    if result["checks"]:
        passed = sum(c["passed"] for c in result["checks"])
        blocks.append(Lines("", (f"{passed} of {len(result['checks'])} checks against float64 pass",)))
    blocks += timed_blocks(result["rows"])
    if result["regret"]:
        blocks.append(_regret_table(result["regret"]))
    blocks.append(Lines("skipped", tuple(f"{s['what']}: {s['why']}" for s in result["skipped"])))
    blocks.append(Lines("FAILED", tuple(problems(result))))
    return [b for b in blocks if isinstance(b, Table) or b.lines]


def timed_blocks(rows: Sequence[Json]) -> list[Block]:
    """flashc beside its peers, and the ratio to the fastest of them by group."""
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in (*row["peers"], *row["refused"])))
    columns = ("workload", "flashc", "model", "useful", "traffic", "of limit", *names, "ratio", "tiles")
    body = tuple(
        (
            Case(r["group"], r["workload"]).label, seconds(r["seconds"]), seconds(r["predicted"]),
            flops(r["gflops"] * 1e9, "FLOP/s"), flops(r["gbs"] * 1e9, "B/s"), percent(r["share"]),
            *(seconds(r["peers"][name]) if name in r["peers"] else "-" for name in names),
            factor(r["ratio"]) if r["ratio"] else "-", f"{r['schedule']} {tiles_text(r['tiles'])}",
        )
        for r in rows
    )
    means = tuple((g, factor(mean), factor(least)) for g, mean, least in group_means(rows))
    limit = "of the peak, or of the bandwidth where that takes longer"
    note = f"useful: work of the kept region; traffic: compulsory bytes; of limit: {limit}; ratio: to the fastest peer"
    return [
        Table("flashc beside PyTorch", columns, body, frozenset(columns[1:-1]), note),
        Table("by group", ("group", "geometric mean", "least"), means, frozenset(("geometric mean", "least"))),
    ]


def plan_blocks(steps: Sequence[Json], device: str) -> list[Block]:
    """What a run would do, in order."""
    columns = ("phase", "group", "workload", "runs", "model", "picked")
    rows = tuple(
        (s["phase"], s["group"], s["label"], str(s["runs"]), seconds(s["predicted"]),
         f"{s['schedule']} {tiles_text(s['tiles'])}")
        for s in steps
    )
    busy = sum(s["runs"] * s["predicted"] for s in steps)
    note = f"modelled time of flashc's own runs: {seconds(busy)}; nothing was compiled or run"
    return [Table(f"{len(steps)} cases on {device}", columns, rows, frozenset(("runs", "model")), note)]


def outcome_blocks(outcomes: Sequence[Outcome]) -> list[Block]:
    """How good the solver's picks are."""
    columns = ("workload", "tilings", "best", "worst", "spread", "pick", "regret", "ordered", "picked", "fastest")
    table = Table("Regret of the solver's pick", columns, tuple(map(_outcome, outcomes)), frozenset(columns[1:8]))
    mean = mean_regret(outcomes)
    text = () if mean is None else (f"regret: geometric mean {percent(mean[0])}, worst {percent(mean[1])}",)
    failed = tuple(f for o in outcomes for f in o.failed)
    return [table, Lines("", text), *([Lines("FAILED", failed)] if failed else [])]


def _outcome(o: Outcome) -> tuple[str, ...]:
    best, worst = (f(o.timed, key=lambda t: t.seconds) for f in (min, max))
    pick = o.timed[0].choice
    return (
        o.name, str(len(o.timed)), seconds(best.seconds), seconds(worst.seconds), f"{o.spread:.1f}x",
        seconds(o.pick), percent(o.regret) if o.counts else "(flat)", percent(o.ordered),
        f"{pick.schedule} {tiles_text(pick.tiles)}", f"{best.choice.schedule} {tiles_text(best.choice.tiles)}",
    )


def _regret_table(outcomes: Sequence[Json]) -> Table:
    columns = ("workload", "tilings", "spread", "pick", "best", "regret", "ordered", "left out")
    rows = tuple(
        (
            o["name"], str(len(o["tilings"])), f"{o['spread']:.1f}x", seconds(o["pick"]), seconds(o["best"]),
            percent(o["regret"]) if o["counts"] else "(flat)", percent(o["ordered"]), str(o["left_out"]),
        )
        for o in outcomes
    )
    return Table("Regret of the solver's pick", columns, rows, frozenset(columns[1:]))


def _machine(result: Json) -> tuple[str, ...]:
    rest = {k: v for k, v in result["machine"].items() if k not in ("versions", "peaks") and v is not None}
    groups = (rest, result["machine"]["peaks"], result["machine"]["versions"])
    return tuple(", ".join(f"{k} {_short(v)}" for k, v in group.items()) for group in groups if group)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
