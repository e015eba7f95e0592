"""What a report says, as plain data: gathered once, then written as HTML, Markdown and JSON.

Amounts are bytes, seconds, operations. What is not known is None or an empty tuple, and the writers leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

CORES = "the cores"  # what is inside a boundary around each core's own memory

RowKind = Literal["bound", "compulsory", "chosen", "simulated", "optimum", "schedule", "naive"]


@dataclass(frozen=True)
class TrafficRow:
    """One line of the traffic table; ``loads`` and ``stores`` are None where only their sum is known."""

    kind: RowKind
    name: str
    loads: float | None
    stores: float | None
    total: float
    note: str = ""


@dataclass(frozen=True)
class LevelRow:
    """A boundary: what must cross it, what the chosen schedule moves across it, and the time either takes.

    ``counted``: "exact" where the schedule's own loads and stores cross it, "modelled" where a cache comes between.
    """

    name: str
    kind: str
    outer: str
    inner: str
    workers: int
    worker_bytes: int
    total_bytes: int
    bandwidth_gbs: float | None
    bound: float
    rule: str
    joined: float
    warm: float
    bound_seconds: float | None
    moved: float | None
    counted: str
    moved_seconds: float | None


@dataclass(frozen=True)
class TensorRow:
    """One tensor at the boundary; ``chunk_bytes``: read or written in contiguous pieces of at least this."""

    name: str
    role: str
    dtype: str
    compulsory: float | None
    loads: int
    stores: int
    chunk_bytes: int | None


@dataclass(frozen=True)
class Formula:
    """A closed form three ways: plain text, LaTeX and presentation MathML."""

    text: str
    latex: str
    mathml: str


@dataclass(frozen=True)
class Term:
    """A named formula: a term of a closed form and what it counts, or what a name in other formulas stands for."""

    name: str
    formula: Formula


@dataclass(frozen=True)
class Simulated:
    """Counts of the call with ``fast_bytes``, or of a part of it: ``cut`` gives a size's name, its value in the part
    and in the call. The program holds at most ``peak_bytes``. ``missing``: why caches were not simulated."""

    cut: tuple[tuple[str, int, int], ...]
    fast_bytes: int
    peak_bytes: int
    rows: tuple[TrafficRow, ...]
    missing: str


@dataclass(frozen=True)
class Tiling:
    """Tile sizes and the bytes they move."""

    tiles: Mapping[str, int]
    moved: float


@dataclass(frozen=True)
class TwoLevel:
    """The chosen schedule, from the two-level model to the device.

    ``optimum``: the least traffic that its tiles can have with that fast memory. ``forced``: the same with the
    device's ``streamed`` tiles, each statement on whole tiles; None where that does not fit. ``chosen``: its own.
    """

    schedule: str
    optimum: Tiling
    streamed: Mapping[str, int]
    forced: Tiling | None
    chosen: Tiling


@dataclass(frozen=True)
class PassRow:
    """How often an index must be gone through, and how often the chosen schedule does."""

    index: str
    needed: int
    schedule: int
    consequence: str


@dataclass(frozen=True)
class Series:
    """One line of a plot: points (x, y), x ascending."""

    name: str
    kind: RowKind
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Span:
    """A stretch of an x axis and what holds there."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Mark:
    """A labelled place on an x axis."""

    name: str
    x: float


@dataclass(frozen=True)
class Curves:
    """Traffic against fast memory, in bytes: the bound, each schedule's best, which rule and which schedule lead.

    ``chosen``: what the device's own choice moves with ``fast_bytes``.
    """

    series: tuple[Series, ...]
    rules: tuple[Span, ...]
    leaders: tuple[Span, ...]
    marks: tuple[Mark, ...]
    fast_bytes: int
    chosen: float


@dataclass(frozen=True)
class Roof:
    """Attainable operations per second: min(peak, intensity x bandwidth). ``moved``, ``bound``: bytes across it."""

    name: str
    bandwidth_gbs: float
    bound: float
    moved: float | None


@dataclass(frozen=True)
class Roofline:
    """``flops``: least operations of the call; ``attained``: per second at the predicted time."""

    flops: float
    peak: float
    dtype: str
    attained: float
    roofs: tuple[Roof, ...]


@dataclass(frozen=True)
class Request:
    """The contiguous run in which a tensor is read from or written to a disk, and the GB/s that gives."""

    tensor: str
    chunk_bytes: int
    throughput_gbs: float


@dataclass(frozen=True)
class Disk:
    """Throughput against the length of requests, as (bytes, GB/s), and where the tensors lie on that curve."""

    name: str
    curve: tuple[tuple[float, float], ...]
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Unit:
    """A unit of the time model and how long it is busy with all cores at work."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Rule:
    """One lower bound with that fast memory: what it gives and what its proof needs."""

    name: str
    total: float
    assumptions: tuple[str, ...]
    formula: Formula
    certificate: Mapping[str, Any]
    used: bool


@dataclass(frozen=True)
class SweepPoint:
    """One size of a sweep: the choice made for it."""

    value: int
    bound: float
    moved: float
    seconds: float
    least_seconds: float
    schedule: str
    tiles: Mapping[str, int]


@dataclass(frozen=True)
class Sweep:
    """How bound, traffic and time grow with one key of the workload; ``skipped``: values that no tiling fits."""

    key: str
    points: tuple[SweepPoint, ...]
    skipped: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Choice:
    """The schedule and tiles chosen for the device."""

    schedule: str
    tiles: Mapping[str, int]
    seconds: float
    bound_by: str
    units: tuple[Unit, ...]
    proof: str


@dataclass(frozen=True)
class Report:
    """Everything a report says about one workload on one device.

    ``outer``: the memory that the program's loads and stores reach, from ``inside``, where its tiles have
    ``fast_bytes``; ``holder`` says of what. ``needs_once``: the bound
    that decides there says nothing of schedules that compute a value again. Formulas have their sums by name:
    ``closed_form_sums`` and ``rule_sums`` say what the names stand for.
    """

    op: str
    source: str
    workload: tuple[tuple[str, str], ...]
    device: str
    device_title: str
    device_hash: str
    arch: str
    backend: str
    version: str
    outer: str
    inside: str
    holder: str
    fast_bytes: int
    needs_once: bool
    choice: Choice
    least_seconds: float
    verdict: tuple[str, ...]
    advice: tuple[str, ...]
    traffic: tuple[TrafficRow, ...]
    levels: tuple[LevelRow, ...]
    tensors: tuple[TensorRow, ...]
    curves: Curves
    roofline: Roofline
    disk: Disk | None
    closed_form: tuple[Term, ...]
    closed_form_sums: tuple[Term, ...]
    rules: tuple[Rule, ...]
    rule_sums: tuple[Term, ...]
    two_level: TwoLevel | None
    simulated: Simulated
    passes: tuple[PassRow, ...]
    defaults: tuple[tuple[str, str, str], ...]
    sweep: Sweep | None = None

    @property
    def own_level(self) -> LevelRow:
        """The boundary that the schedule's loads and stores cross."""
        return next(lv for lv in self.levels if lv.counted == "exact")

    def row(self, kind: RowKind) -> TrafficRow:
        """The first traffic row of that kind."""
        return next(r for r in self.traffic if r.kind == kind)
