"""All lower bounds of a cascade: the rules in one list.

Model: two levels, every scalar operation of the stated algorithm is done (no Strassen), words are indivisible, sums may
be reassociated. What must move is the largest of the bounds; they are never added. docs/bounds.md has the proofs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flashc.iomodel.attention import attention_bounds
from flashc.iomodel.bound import Env, Json, LowerBound, Pooled
from flashc.iomodel.capacity import statement_bounds
from flashc.iomodel.compulsory import compulsory
from flashc.iomodel.recurrence import recurrence_bounds
from flashc.iomodel.resident import ResidentWeights, resident_bounds
from flashc.iomodel.statements import Cascade
from flashc.iomodel.sums import sum_bounds

RULES: tuple[Callable[[Cascade], Iterable[LowerBound]], ...] = (
    statement_bounds,
    sum_bounds,
    recurrence_bounds,
    resident_bounds,
    attention_bounds,
)


def lower_bounds(cascade: Cascade) -> tuple[LowerBound, ...]:
    """Every bound that the rules prove, symbolic in the sizes and in M; compulsory traffic first."""
    return (compulsory(cascade), *(bound for rule in RULES for bound in rule(cascade)))


def for_workers(bounds: Iterable[LowerBound], workers: int) -> tuple[LowerBound, ...]:
    """The bounds on what ``workers`` move that meet in the outer memory only, each with fast memory of its own.

    Those of blocks of transfers hold as they are (levels.py). Weights that stay may lie in all the memories together.
    """
    return tuple(Pooled(b, workers) if isinstance(b, ResidentWeights) else b for b in bounds)


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound for one call and one size of fast memory, in bytes; ``assumptions`` is what its proof needs."""

    name: str
    bytes: float
    loads: float
    stores: float
    assumptions: str


def evaluated(bounds: Iterable[LowerBound], sizes: Env, fast_bytes: float) -> tuple[Bound, ...]:
    """The bounds that say something for these sizes, largest first."""
    moved = [(b, b.at(sizes, fast_bytes)) for b in bounds]
    rows = [Bound(b.rule, m.total, m.loads, m.stores, "; ".join(b.assumptions)) for b, m in moved]
    return tuple(sorted((r for r in rows if r.name == "compulsory" or r.loads > 0), key=lambda r: -r.bytes))


def certified(bound: LowerBound, sizes: Env, fast_bytes: float) -> Json:
    """The certificate with its numbers for one call, which a checker can redo."""
    sizes = {name: value if isinstance(value, int) else list(map(int, value)) for name, value in sizes.items()}
    if isinstance(bound, Pooled):
        return certified(bound.bound, sizes, bound.memory(fast_bytes))
    moved = bound.at(sizes, fast_bytes)
    instance = {
        "sizes": sizes,
        "fast_bytes": fast_bytes,
        **bound.numbers(sizes),
        "loads": moved.loads,
        "stores": moved.stores,
        "total": moved.total,
    }
    return {**bound.certificate(), "instance": instance}
