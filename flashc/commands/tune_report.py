"""What `flashc tune` says about a tuning, as blocks of text and tables."""

from __future__ import annotations

from collections.abc import Sequence

from flashc.autotune import Check
from flashc.backends.base import KernelResources
from flashc.commands.levels import level_rows
from flashc.commands.render import (
    Block,
    Lines,
    Table,
    capacity,
    factor,
    percent,
    picoseconds,
    tiles_text,
    traffic,
)
from flashc.compiler.artefacts import Artefacts
from flashc.compiler.leaning import leaned_on
from flashc.compiler.neighbours import slower_by, tightest
from flashc.compiler.tune import Choice, Tuning
from flashc.iomodel.levels import Boundary

_SIGNS = {"<=": "at most", "==": "exactly", "!=": "other than", "%==0": "a multiple of"}
TIE = "equal by the model; ties go to larger tiles, fewer warps and stages"


def tuning_blocks(tuning: Tuning, *, every_default: bool = False) -> list[Block]:
    """The best choice: tiles, limits, time, traffic and bounds, proof, defaults; then what was rejected."""
    best = tuning.best
    blocks: list[Block] = [
        _headline(tuning),
        _tiles(tuning, best),
        _limits(best),
        _time(best),
        _traffic(tuning, best),
    ]
    blocks.append(Lines("proof", (best.proof,)))
    blocks.append(_defaults(tuning, best, every_default))
    if len(tuning.ranked) > 1:
        blocks.append(ranking(tuning.ranked, best, f"best {len(tuning.ranked)}"))
    blocks.append(_rejected(tuning))
    return blocks


def ranking(choices: Sequence[Choice], best: Choice, title: str) -> Table:
    """Choices with their time, what makes each slower than ``best``, and the limit each comes nearest to."""
    rows = tuple((c.schedule, tiles_text(c.tiles), *standing(c, best)) for c in choices)
    columns = ("schedule", "tiles", "predicted", "behind", "nearest limit", "because")
    return Table(title, columns, rows, frozenset({"predicted", "behind"}))


def standing(choice: Choice, best: Choice) -> tuple[str, str, str, str]:
    """Time, how far behind ``best`` in percent, the limit it comes nearest to, and why it is behind."""
    time, limit = picoseconds(choice.picoseconds), nearest_limit(choice)
    more = choice.picoseconds - best.picoseconds
    if choice is best:
        return time, "", limit, ""
    if more <= 0:
        return time, "0 %", limit, TIE
    unit, grown = slower_by(choice, best)
    return time, f"+{percent(more / best.picoseconds)}", limit, f"{unit} +{picoseconds(grown)}"


def nearest_limit(choice: Choice) -> str:
    """The limit of which the choice uses the largest share."""
    found = tightest(choice)
    return "" if found is None else f"{found.name}: {found.needs} of {found.limit} {found.unit}"


def artefact_blocks(made: Artefacts) -> list[Block]:
    """Compiled resources beside predicted ones, tilings cut for spilling, files, and what is missing."""
    absent = "binary" if "source" in made.files else "source and binary"
    return [_resources(made), _spilled(made), files_block(made), missing_block(made.missing, absent)]


def files_block(made: Artefacts) -> Lines:
    width = max(map(len, made.files), default=0)
    return Lines("written", tuple(f"{role:{width}}  {path}" for role, path in made.files.items()))


def missing_block(missing: str | None, absent: str = "source and binary") -> Lines:
    if missing is None:
        return Lines("", ())
    return Lines("missing", (f"{absent}: {missing}",))


def _headline(tuning: Tuning) -> Lines:
    best, device = tuning.best, tuning.device
    where = f"{device.name} ({device.title}), backend {tuning.backend}"
    choice = f"{best.schedule} {tiles_text(best.tiles)}"
    busy = best.units.get(best.bound_by, 0)
    time = f"{picoseconds(best.picoseconds)} predicted, bound by {best.bound_by} ({picoseconds(busy)})"
    return Lines(
        f"{tuning.workload.op} {tuning.workload.source} on {where}",
        (f"schedule   {choice}", f"time       {time}"),
    )


def _tiles(tuning: Tuning, choice: Choice) -> Table:
    rows = level_rows(tuning, choice)
    several = len({r.kernel for r in rows}) > 1
    columns = ("kernel", "level", "of", "tile", "bytes")
    text = tuple(
        (r.kernel, r.level, r.what, r.tile, "" if r.bytes is None else capacity(r.bytes)) for r in rows
    )
    right = frozenset({"bytes"})
    if several:
        return Table("tiles", columns, text, right)
    return Table("tiles", columns[1:], tuple(row[1:] for row in text), right)


def _limits(choice: Choice) -> Table:
    columns = ("constraint", "needs", "", "limit", "used")
    return Table("limits", columns, tuple(map(_limit, choice.checks)), frozenset({"needs", "limit", "used"}))


def _limit(check: Check) -> tuple[str, ...]:
    used = percent(check.needs / check.limit) if check.op == "<=" and check.limit > 0 else ""
    return check.name, _amount(check.needs, check), _SIGNS[check.op], _amount(check.limit, check), used


def _amount(number: int, check: Check) -> str:
    if check.unit == "B" and abs(number) >= 1 << 20:
        return f"{number} B ({capacity(number)})"
    return f"{number} {check.unit}".rstrip()


def _time(choice: Choice) -> Table:
    longest = max(choice.units.values(), default=0)
    ordered = sorted(choice.units.items(), key=lambda u: -u[1])
    rows = tuple(
        (unit, picoseconds(time), percent(time / longest) if longest else "") for unit, time in ordered
    )
    note = f"{picoseconds(choice.picoseconds)} in all, with partly filled waves, steps and launches"
    return Table(
        "time by unit", ("unit", "busy", "of longest"), rows, frozenset({"busy", "of longest"}), note
    )


def _traffic(tuning: Tuning, choice: Choice) -> Table:
    moved = choice.traffic_bytes
    rows = tuple(
        (b.name, traffic(b.bytes), factor(moved / b.bytes) if b.bytes else "-", b.assumptions)
        for b in tuning.bounds
    )
    title, note = _boundary(tuning.boundary)
    columns = ("lower bound", "bytes", "moved / bound", "holds if")
    return Table(f"{title}: {traffic(moved)}", columns, rows, frozenset({"bytes", "moved / bound"}), note)


def _boundary(boundary: Boundary | None) -> tuple[str, str]:
    """What the traffic is between, and the fast memory of its bounds."""
    cores = "traffic between the cores and shared memory"
    if boundary is None:
        return cores, "fast memory of the bounds: unlimited, the device does not tell all sizes"
    held, inside = capacity(boundary.worker_bytes), boundary.inner[0].name
    if boundary.private:
        return cores, f"fast memory of the bounds: {held}, all that is private to one core"
    note = f"fast memory of the bounds: {held}, {inside} and all inside it; tiles that cores share are in {inside}"
    return f"traffic between {boundary.outer.name} and {inside}", note


def _defaults(tuning: Tuning, choice: Choice, every: bool) -> Lines:
    """Numbers of the device model that no source gives."""
    defaults = tuning.device.defaults
    if not defaults:
        return Lines("", ())
    heavy = leaned_on(tuning, choice)
    shown = defaults if every else heavy
    lines = [f"{'* ' if d in heavy else '  '}{d.field} = {d.value}: {d.reason}" for d in shown]
    title = f"defaults: {len(defaults)} numbers of the device have no source, {len(heavy)} matter here (*)"
    if len(shown) < len(defaults):
        lines.append("  --explain lists all")
    return Lines(title, tuple(lines))


def _rejected(tuning: Tuning) -> Lines:
    lines: list[str] = []
    for item in tuning.rejected:
        lines.append(f"{item.schedule}: no tile sizes meet all of")
        lines += [f"  {line}" for line in str(item.conflict).splitlines()]
    return Lines("rejected schedules", tuple(lines)) if lines else Lines("", ())


def _resources(made: Artefacts) -> Table:
    """Registers, spills and shared memory: what the compiled kernel takes, beside what was predicted."""
    rows: list[tuple[str, ...]] = []
    for found in made.resources:
        rows += [row for row in _compared(made.tuning.best, found) if row[2]]
    columns = ("kernel", "resource", "compiled", "predicted")
    return Table("compiled beside predicted", columns, tuple(rows), frozenset({"compiled", "predicted"}))


def _compared(choice: Choice, found: KernelResources) -> list[tuple[str, ...]]:
    live, shared = predicted(choice, found.kernel, "regs_min_live"), predicted(choice, found.kernel, "smem")
    return [
        (found.kernel, "registers per thread", _text(found.registers), _text(live, "at least ")),
        (found.kernel, "shared memory, B", _text(found.shared_bytes), _text(shared, "at most ")),
        (found.kernel, "spilled per thread, B", _text(found.spill_bytes), "0"),
    ]


def predicted(choice: Choice, kernel: str, name: str) -> int | None:
    """What the device's constraint of that name says the kernel needs."""
    return next((c.needs for c in choice.checks if c.name == f"device.{name}.{kernel}"), None)


def _text(number: int | None, before: str = "") -> str:
    return "" if number is None else f"{before}{number}"


def _spilled(made: Artefacts) -> Lines:
    lines = tuple(
        f"{tiles_text(tiles)}: {found.kernel} spilled {found.spill_bytes} B per thread"
        for tiles, found in made.spilled
    )
    return Lines("cut because compiled code spilled", lines) if lines else Lines("", ())
