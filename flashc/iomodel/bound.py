"""What every lower bound offers: its value for a call, its leading term as a closed form, and its certificate.

Model (Hong & Kung 1981, with constants): fast memory of M bytes, unbounded slow memory that holds the inputs at the
start and the outputs at the end. Every operation of the statements is done (no algebraic cancellation), and a sum may
be taken in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Json = dict[str, Any]
Env = Mapping[str, Any]  # sizes by symbol, run-time tables by name


LONG = 32  # characters of a list of names; a longer one is told by its first


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that must cross; ``total`` is proved for loads and stores together and may exceed the sum of the two."""

    loads: float
    stores: float
    total: float


class LowerBound(Protocol):
    """A proved bound, symbolic in the sizes and in M. ``rule`` names the proof, ``assumptions`` what it needs."""

    @property
    def rule(self) -> str: ...

    @property
    def assumptions(self) -> tuple[str, ...]: ...

    def at(self, sizes: Env, fast_bytes: float) -> Moved:
        """Bytes for these sizes with ``fast_bytes`` of fast memory (``math.inf``: everything fits); cold start."""
        ...

    def formula(self) -> Any:
        """The leading term of ``total`` in bytes as a sympy expression in the sizes and M (bytes)."""
        ...

    def certificate(self) -> Json:
        """Everything an independent checker needs (docs/schema/certificate.schema.json)."""
        ...

    def numbers(self, sizes: Env) -> Json:
        """The counts of one call that the bound is computed from, for the certificate's instance."""
        ...


@dataclass(frozen=True, slots=True)
class Pooled:
    """A bound that holds for several equal memories only if all of them count as one: what stays in it may lie in any.

    The certificate is that of ``bound``, for the size that :meth:`memory` gives.
    """

    bound: LowerBound
    memories: int

    @property
    def rule(self) -> str:
        return self.bound.rule

    @property
    def assumptions(self) -> tuple[str, ...]:
        return self.bound.assumptions

    def memory(self, fast_bytes: float) -> float:
        return fast_bytes * self.memories

    def at(self, sizes: Env, fast_bytes: float) -> Moved:
        return self.bound.at(sizes, self.memory(fast_bytes))

    def formula(self) -> Any:
        from flashc.iomodel.monomial import fast_symbol

        return self.bound.formula().subs(fast_symbol(), self.memories * fast_symbol())

    def certificate(self) -> Json:
        return self.bound.certificate()

    def numbers(self, sizes: Env) -> Json:
        return self.bound.numbers(sizes)


def best(bounds: Sequence[LowerBound], sizes: Env, fast_bytes: float) -> tuple[Moved, LowerBound]:
    """The largest total, with loads and stores each the largest that any bound proves, and the rule that gives it."""
    values = [b.at(sizes, fast_bytes) for b in bounds]
    top = max(range(len(values)), key=lambda n: values[n].total)
    loads, stores = max(v.loads for v in values), max(v.stores for v in values)
    return Moved(loads, stores, max(values[top].total, loads + stores)), bounds[top]


def warm(moved: Moved, fast_bytes: float) -> Moved:
    """The same bound for a run that starts with fast memory full of what it likes: M bytes of loads less."""
    return Moved(max(moved.loads - fast_bytes, 0.0), moved.stores, max(moved.total - fast_bytes, moved.stores))


def listed(names: Sequence[str], between: str) -> str:
    """Names of statements as a rule's name has them."""
    whole = between.join(names)
    return whole if len(whole) <= LONG else f"{names[0]} and {len(names) - 1} more"
