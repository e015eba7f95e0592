"""What to see in each plot and table, in a sentence or two."""

from __future__ import annotations

from flashc.report import numbers
from flashc.report.facts import PassRow, Report, Simulated

FIXED = {
    "roofline": (
        "Each slanted line is a memory level: left of its corner a kernel waits for that level. Where a filled sign "
        "lies left of the hollow one of its kind, a better schedule could move fewer bytes across that level."
    ),
    "levels": (
        "The bound at a level holds with all memory inside it, for workers that meet only in the outer memory. "
        "Least time is the bound over the bandwidth: no schedule is faster."
    ),
    "warm": (
        "A run that starts with every memory inside full of what it likes saves at most their capacity. If the workers "
        "could hand each other data without the outer memory, the bound for all of them as one memory would hold."
    ),
    "disk": (
        "Requests of c bytes reach c / (t0 / qd + c / B): short ones wait for their first byte, long ones run at the "
        "disk's bandwidth. The vertical lines are the contiguous runs of the chosen schedule's accesses: larger tiles "
        "along the last dimension, or operands stored tile by tile, move them to the right."
    ),
    "tensors": "How often each tensor crosses to the cores, and the shortest contiguous run of an access to it.",
    "closed_form": (
        "Bytes that the chosen schedule moves, term by term, in sizes and tile sizes; with the numbers of this call "
        "it equals the exact count."
    ),
    "defaults": (
        "The device model has no source for these, and half of one would change the time by more than 5 % or break "
        "a limit."
    ),
}


def captions(report: Report) -> dict[str, str]:
    """Captions by the name of what they stand under."""
    found = {
        **FIXED,
        "traffic": _traffic(report),
        "simulated": _simulated(report),
        "time": f"Of {numbers.time(report.choice.seconds)} predicted: each unit alone, all cores at work.",
        "check": _check(),
        "passes": " ".join(map(_passes, report.passes)),
        "two_level": _two_level(report),
    }
    if report.sweep is not None:
        key = report.sweep.key
        found["sweep_traffic"] = (
            f"Bytes between {report.outer} and {report.inside} as {key} grows; tiles are chosen anew for each size."
        )
        found["sweep_time"] = f"Predicted time, and the least that arithmetic and bounds allow, as {key} grows."
    return found


def _traffic(report: Report) -> str:
    return (
        "No schedule lies below the thick line. Vertical lines are memories of this device; the blue one is "
        f"{numbers.held(report.fast_bytes)} {report.holder}, and the star on it what the device's tiles move. The "
        "bands say which proof gives the bound there, and which schedule moves least."
    )


def _simulated(report: Report) -> str:
    found = report.simulated
    cut = (f"{name} = {numbers.grouped(part)} of {numbers.grouped(whole)}" for name, part, whole in found.cut)
    parts = ", ".join(cut)
    what = f"A part of the call ({parts})" if parts else "The whole call"
    return (
        f"{what}, run tile by tile with {numbers.held(found.fast_bytes)}, beside its own bound. {_peak(found)} The "
        "exact count must equal the closed form. A cache may also keep what one task leaves for the next, and so move "
        "less."
    )


def _peak(found: Simulated) -> str:
    if not found.peak_bytes:
        return "Nothing was run."
    peak = numbers.held(found.peak_bytes)
    if found.peak_bytes <= found.fast_bytes:
        return f"The schedule's tiles take at most {peak} at once."
    return f"Its whole tiles would take {peak} at once; it reads operands where they lie, a few rows at a time."


def _passes(row: PassRow) -> str:
    times = "once" if row.schedule == 1 else f"{row.schedule} times"
    running = ", with a state that it corrects as it goes" if row.schedule < row.needed else ""
    return f"Along {row.index}: {row.consequence}. The chosen schedule goes through it {times}{running}."


def _two_level(report: Report) -> str:
    return (
        f"In the two-level model only {numbers.held(report.fast_bytes)} and the bytes moved count: tiles may have any "
        "size, work goes row by row, nothing is loaded ahead. A device wants whole tiles for its matrix or vector "
        "instructions, buffers ahead and several tasks per core, and trades traffic that it can hide for time."
    )


def _check() -> str:
    return (
        "A certificate holds the statements, the exponents of each access and the constant in exact fractions, and the "
        "numbers of this call. A checker that shares no code with the deriver redoes all of it: "
        "python -m flashc.iomodel.checker report.json"
    )
