"""Lower bounds on the traffic between slow memory and a fast memory of M bytes, for any schedule of the statements.

Model: two levels, every scalar multiply-add of the stated algorithm is done (no Strassen), words are indivisible, sums
may be reassociated. The bound of a kernel is the largest of its parts; parts are never added.

    compulsory     every input element read once, every output element written once
    matmul         2 m n k / sqrt(M) words for C = A B (Smith, Lowery, Langou, van de Geijn 2017, arXiv 1702.02017)
    attention A    contraction -> row-wise map -> contraction, scores may be recomputed: with items of q, k, v, o and
                   pairs in a block of X items, work <= sqrt(v o (a b / d^2 + c)), so chi(X) = max(X^2/(16 d_k),
                   (X/3)^(3/2)) and Q >= max over X > M of (X - M) |E| d_v / chi(X); for M >= 4.74 d^2 that is
                   4 |E| d_k d_v / M (after Saha & Ye 2024, arXiv 2402.07443, with constants)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashc.hwmodels.model import Device
from flashc.iomodel.regions import distinct_elements, kept_pairs
from flashc.ir.analysis import operands, sites
from flashc.ir.nodes import Dot, Load, Map, Program, Reduce, Stmt, outputs_of


@dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound in bytes on loads + stores; ``assumptions`` is what its proof needs."""

    name: str
    bytes: float
    assumptions: str


def lower_bounds(
    algorithm: Program, schedule: Program, sizes: Mapping[str, Any], fast_bytes: int | None
) -> tuple[Bound, ...]:
    """Every bound that applies, largest first. ``schedule`` (any of the operator's) supplies the kept region."""
    found = [compulsory(schedule, sizes)]
    if fast_bytes:
        found += _contraction_bounds(algorithm, schedule, sizes, fast_bytes)
    return tuple(sorted(found, key=lambda b: -b.bytes))


def compulsory(schedule: Program, sizes: Mapping[str, Any]) -> Bound:
    total = sum(
        count.evaluate(sizes) * schedule.tensor(name).dtype.bytes for name, count in distinct_elements(schedule).items()
    )
    return Bound("compulsory", float(total), "each needed input element is read, each output element is written")


def fast_memory_bytes(device: Device) -> int:
    """Memory private to one core, all levels: the M of traffic between the shared memory system and one core."""
    private = [lv.capacity_bytes for lv in device.levels if lv.per == "core" and lv.capacity_bytes]
    return sum(private)


def _contraction_bounds(
    algorithm: Program, schedule: Program, sizes: Mapping[str, Any], fast_bytes: int
) -> Sequence[Bound]:
    stmts = [s.stmt for k in algorithm.kernels for s in sites(algorithm, k)]
    dots = [s for s in stmts if isinstance(s, Dot)]
    if len(dots) == 2 and _softmax_between(stmts, dots[0], dots[1]):
        return [_attention(algorithm, schedule, dots, sizes, fast_bytes)]
    if len(dots) == 1:
        return [_matmul(algorithm, dots[0], sizes, fast_bytes)]
    return []


def _softmax_between(stmts: Sequence[Stmt], first: Dot, second: Dot) -> bool:
    """True where the second contraction sums over an axis of the first one's output, through a row-wise reduction."""
    derived = {first.out.name}
    reduced = False
    for stmt in stmts:
        out = outputs_of(stmt)
        if isinstance(stmt, Map | Reduce) and out is not None and derived & set(operands(stmt)):
            derived.add(out.name)
            reduced = reduced or (isinstance(stmt, Reduce) and stmt.over in second.over)
    return (
        reduced
        and second.a in derived
        and set(second.over) <= set(first.out.axes)
        and not set(first.over) & set(second.out.axes)
    )


def _extent(program: Program, axis: str, sizes: Mapping[str, Any]) -> int:
    return program.axis(axis).extent.evaluate({**dict(program.fixed), **sizes})


def _widths(program: Program, dots: Sequence[Dot]) -> list[int]:
    names = {n for d in dots for n in (d.a, d.b)}
    loads = [s.stmt for k in program.kernels for s in sites(program, k) if isinstance(s.stmt, Load)]
    inputs = [program.tensor(x.access.tensor).dtype.bytes for x in loads if x.out.name in names]
    return [*inputs, *(t.dtype.bytes for t in program.tensors if t.role == "out")]


def _attention(
    algorithm: Program, schedule: Program, dots: Sequence[Dot], sizes: Mapping[str, Any], fast_bytes: int
) -> Bound:
    d_k = math.prod(_extent(algorithm, a, sizes) for a in dots[0].over)
    d_v = math.prod(_extent(algorithm, a, sizes) for a in dots[1].out.axes if a not in dots[0].out.axes)
    pairs = kept_pairs(schedule).evaluate({**dict(schedule.fixed), **sizes})
    width = min(_widths(algorithm, dots))
    words = attention_words(pairs, d_k, d_v, fast_bytes / width)
    return Bound(
        "attention A", words * width, "element-wise exact attention, Q, K, V as inputs, scores may be recomputed"
    )


def attention_words(pairs: float, d_k: int, d_v: int, fast: float) -> float:
    """Theorem A in words: loads + stores for ``pairs`` kept (row, column) pairs and ``fast`` words of fast memory."""
    crossing = 256 * d_k * d_k / 27

    def at(block: float) -> float:
        chi = max(block * block / (16 * d_k), (block / 3) ** 1.5)
        return (block - fast) * pairs * d_v / chi if block > fast else 0.0

    return max(at(2 * fast), at(3 * fast), at(crossing))


def _matmul(algorithm: Program, dot: Dot, sizes: Mapping[str, Any], fast_bytes: int) -> Bound:
    axes = {*dot.out.axes, *dot.over}
    scalars = [t.axis for k in algorithm.kernels for s in sites(algorithm, k) if s.stmt is dot for t in s.trips]
    volume = math.prod(_extent(algorithm, a, sizes) for a in axes | set(scalars))
    width = min(_widths(algorithm, [dot]))
    words = 2.0 * volume / math.sqrt(fast_bytes / width)
    return Bound("matmul", words * width, "no algebraic cancellation (no Strassen), products summed in any order")
