"""What the numbers mean, in sentences: the verdict at the top of a report, and what would help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from flashc.report import numbers
from flashc.report.facts import CORES, LevelRow, Report

NEAR = 1.25  # a ratio up to this is called near
HEAVY = 0.4  # share of the longest unit's time from which another unit is named

UNITS = {
    "matrix": "multiply-adds",
    "vector": "vector arithmetic",
    "exp": "exponentials",
    "loads": "loads through the shared cache",
    "memory": "main memory",
    "jumps": "jumps from row to row of what is loaded",
    "launch": "the launch",
}


def told(report: Report) -> Report:
    """The report with its sentences."""
    return replace(report, verdict=tuple(_verdict(report)), advice=tuple(_advice(report)))


def unit_name(name: str) -> str:
    """A unit of the time model in words; a memory goes by its name."""
    return UNITS.get(name, f"reads of {name.upper()}")


def binding(report: Report) -> LevelRow | None:
    """The memory level whose bound takes longest; None where arithmetic takes longer still."""
    timed = [lv for lv in report.levels if lv.bound_seconds is not None and lv.kind != "storage"]
    slowest = max(timed, key=lambda lv: lv.bound_seconds or 0.0, default=None)
    arithmetic = report.roofline.flops / report.roofline.peak
    return slowest if slowest and (slowest.bound_seconds or 0.0) > arithmetic else None


def _verdict(report: Report) -> Iterator[str]:
    chosen, bound, choice = report.row("chosen"), report.row("bound"), report.choice
    ratio = numbers.ratio(chosen.total / bound.total)
    who = "that computes nothing twice " if report.needs_once else ""
    yield (
        f"Moves {numbers.moved(chosen.total)} between {report.outer} and {report.inside}, {ratio} the "
        f"{numbers.moved(bound.total)} that no schedule {who}can go below with {numbers.held(report.fast_bytes)} "
        f"{report.holder}."
    )
    longest = choice.units[0].seconds if choice.units else 0.0
    yield (
        f"Schedule {choice.schedule} with {numbers.tiles(choice.tiles)} is predicted to take "
        f"{numbers.time(choice.seconds)}, bound by {unit_name(choice.bound_by)} ({numbers.time(longest)})."
    )
    yield f"No kernel can take less than {numbers.time(report.least_seconds)}: {_why_least(report)}."
    yield from _on_disk(report)


def _why_least(report: Report) -> str:
    slow = binding(report)
    if slow is None:
        return f"that is the arithmetic at the {report.roofline.dtype} peak"
    return f"that is the bound on {slow.name} at {numbers.bandwidth(slow.bandwidth_gbs or 0.0)}"


def _on_disk(report: Report) -> Iterator[str]:
    disk = next((lv for lv in report.levels if lv.kind == "storage"), None)
    if disk is None or disk.bound_seconds is None:
        return
    share = disk.bound_seconds / report.choice.seconds
    times = numbers.percent(share) + " of" if share < 1 else numbers.ratio(share)
    yield (
        f"With the operands on {disk.outer.upper()} to begin with and the results written back, the disk alone needs "
        f"{numbers.time(disk.bound_seconds)}, {times} the predicted time, in requests as long as the accesses are "
        "contiguous."
    )


def _advice(report: Report) -> Iterator[str]:
    yield from _of_the_bottleneck(report)
    yield from _of_tiles(report)
    yield from _of_other_units(report)
    yield from _of_main_memory(report)


def _of_the_bottleneck(report: Report) -> Iterator[str]:
    units = {u.name: u.seconds for u in report.choice.units}
    longest, loads = report.choice.bound_by, units.get("loads")
    if loads is None or longest not in units:
        return
    bound, chosen = report.row("bound").total, report.row("chosen").total
    if longest == "loads":
        own = min(loads, report.own_level.moved_seconds or loads)
        yield (
            f"Fewer bytes to the cores: the schedule's own loads and stores take {numbers.time(own)} and would take "
            f"{numbers.time(own * bound / chosen)} at the bound. Larger tiles, or cores that share what they load, get "
            "there."
        )
        if loads > own * NEAR:
            yield f"The other {numbers.time(loads - own)} of traffic is {_other_loads(report)}"
        return
    yield (
        f"Less traffic would not help: {unit_name(longest)} take {numbers.time(units[longest])}, all loads "
        f"{numbers.time(loads)}, and most of those are hidden. Traffic could grow "
        f"{numbers.ratio(units[longest] / loads)} before it took longer."
    )


def _other_loads(report: Report) -> str:
    if report.inside != CORES:
        return (
            f"what the cores read again of the tiles in {report.inside}: a schedule that keeps them in a core's own "
            "memory helps more."
        )
    return (
        f"what matrix and vector units hand each other through {report.outer}: a schedule that needs fewer such "
        "hand-overs, or narrower ones, helps more."
    )


def _of_tiles(report: Report) -> Iterator[str]:
    found = report.two_level
    if found is None or found.chosen.moved <= NEAR * found.optimum.moved:
        return
    best = found.optimum
    wanted = numbers.tiles(found.streamed)
    costs = "" if found.forced is None else numbers.ratio(found.forced.moved / best.moved)
    step = f"{wanted}, which whole tiles need, costs {costs} of that; " if costs and wanted else ""
    held = numbers.held(report.simulated.peak_bytes)
    yield (
        f"With all {numbers.held(report.fast_bytes)} for its tiles {found.schedule} could move "
        f"{numbers.moved(best.moved)} ({numbers.tiles(best.tiles)}); {step}the rest of "
        f"{numbers.ratio(found.chosen.moved / best.moved)} is that the choice holds only {held} of tiles and leaves "
        "room for buffers and further tasks."
    )


def _of_other_units(report: Report) -> Iterator[str]:
    first, *others = report.choice.units
    heavy = [u for u in others if u.seconds > HEAVY * first.seconds and u.name not in ("loads", "memory")]
    if heavy:
        named = " and ".join(f"{unit_name(u.name)} ({numbers.time(u.seconds)})" for u in heavy)
        yield f"Overlapping {named} with {unit_name(first.name)} better: what is not hidden of them adds to the time."
    idle = 1 - first.seconds / report.choice.seconds
    if idle > 1 - 1 / NEAR:
        yield (
            f"{numbers.percent(idle)} of the predicted time is not {unit_name(first.name)}: partly filled waves, loop "
            "steps, latency and what other units leave unhidden."
        )


def _of_main_memory(report: Report) -> Iterator[str]:
    outer = next((lv for lv in report.levels if lv.counted == "modelled"), None)
    if outer is None or outer.moved is None or not outer.bound:
        return
    ratio = outer.moved / outer.bound
    if ratio <= NEAR:
        yield (
            f"{outer.outer.upper()} traffic is {numbers.ratio(ratio)} its bound already: only narrower types, or "
            "fusing what comes before or after, can lower it."
        )
        return
    yield (
        f"{outer.outer.upper()} traffic is {numbers.ratio(ratio)} its bound: an order of tasks that keeps more of the "
        "operands in the shared cache would lower it."
    )
