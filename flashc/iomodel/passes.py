"""How many times a cascade must go through an index: the pass count of FuseMax (Nayak et al. 2024, arXiv 2406.10491).

A traversal of an index starts a new pass when it needs a value that is complete only after the one before it: a softmax
needs the maximum of the whole row before it can exponentiate the row's first element. Only what the statements need of
each other counts, so the number holds for every schedule of them. With N passes either the row stays live between
them, or what was read or computed along it is read N times.

State that can be corrected later (a running maximum, and sums that are rescaled when it changes) is a statement along
the index whose value for one step needs the steps before it only: it is available while the traversal goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from flashc.iomodel.statements import Cascade, Index, Reference, Statement
from flashc.ir.analysis import sites
from flashc.ir.intexpr import Const, IntExpr, Sym
from flashc.ir.nodes import Dot, Kernel, Load, Par, Program, Seq, Stmt, outputs_of

Availability = tuple[int, bool]
"""In which pass a value appears, and whether only when that pass is over (pass 0: before the first one)."""
START: Availability = (0, True)


@dataclass(frozen=True, slots=True)
class PassCount:
    """``stages``: what traverses the index in each pass. ``extent``: how many elements the index has."""

    count: int
    stages: tuple[tuple[str, ...], ...]
    extent: IntExpr

    @property
    def consequence(self) -> str:
        """What fast memory or traffic has to pay."""
        if self.count <= 1:
            return "1 pass: every element is read once, with a state that does not grow with the row"
        return (
            f"{self.count} passes: either {self.extent} elements of each row stay live between them, or what is needed "
            f"again is read {self.count} times"
        )


def passes(cascade: Cascade, index: str | Sequence[str]) -> PassCount:
    """Passes over ``index``; several names are one index that has been split, as in ("j1", "j0").

    A statement that has all of them traverses; one that has some of them works on a summary, which is small.
    """
    family = frozenset({index} if isinstance(index, str) else index)
    ready: dict[str, Availability] = {}
    stages: dict[int, list[str]] = {}
    for statement in cascade.statements:
        own = family & {i.name for i in statement.indices}
        reads = [o for o in statement.operands if o.array != statement.target.array]
        found = [_at_element(o, ready, own) for o in reads]
        level = _traversal(found) if own == family else max(found, default=START)
        if own == family:
            stages.setdefault(level[0], []).append(statement.name)
        over = bool(own) and not own & _mentioned(statement.target)
        ready[statement.target.array] = max((level[0], level[1] or over), ready.get(statement.target.array, START))
    return PassCount(
        max(stages, default=0),
        tuple(tuple(stages[n]) for n in sorted(stages)),
        _extent(cascade.statements, family),
    )


def _at_element(operand: Reference, ready: dict[str, Availability], own: frozenset[str]) -> Availability:
    """When an operand's element is there: a state read at a fixed place is its last step's, after the traversal."""
    level, over = ready.get(operand.array, START)
    fixed = bool(own) and operand.array in ready and not own & _mentioned(operand)
    return level, over or fixed


def _traversal(found: Iterable[Availability]) -> Availability:
    """The pass of a statement that goes through the index: after every value that is complete only later."""
    return max((level + over for level, over in found), default=1), False


def _extent(statements: Sequence[Statement], family: frozenset[str]) -> IntExpr:
    ranges: dict[str, Index] = {i.name: i for s in statements for i in s.indices if i.name in family}
    total: IntExpr = Const(1)
    for index in ranges.values():
        total = total * (index.upper - index.lower)
    return total


def _mentioned(reference: Reference) -> frozenset[str]:
    return frozenset().union(*(x.symbols() for x in reference.subscripts))


# -- tile programs


def program_passes(program: Program, axis: str) -> PassCount:
    """How often a schedule goes through ``axis`` in slow memory: its loops over it, kernel after kernel.

    A kernel that holds the axis whole goes through it once and keeps the row live.
    """
    stages = [stage for kernel in program.kernels for stage in _walk(kernel, kernel.body, axis)]
    return PassCount(len(stages), tuple((stage,) for stage in stages), program.axis(axis).extent)


def _walk(kernel: Kernel, body: Sequence[Stmt], axis: str) -> list[str]:
    found: list[str] = []
    for stmt in body:
        match stmt:
            case Par(loops=loops) if axis in [x.axis for x in loops]:
                found.append(f"{kernel.name}: parallel over {axis}")
            case Seq(loop=loop, law=law) if loop.axis == axis:
                found.append(f"{kernel.name}: {law or 'loop'} over {axis}")
            case Par() | Seq():
                found += _walk(kernel, stmt.body, axis)
    if not found and any(axis in _axes(s) for s in body):
        found.append(f"{kernel.name}: whole {axis}")
    return found


def _axes(stmt: Stmt) -> tuple[str, ...]:
    out = outputs_of(stmt)
    return out.axes if out is not None else ()


def _parts(seq: Seq) -> Iterator[tuple[str, str]]:
    """(part, axis): axes whose coordinates divide the loop among them, one part beginning where the last one ends."""
    if seq.domain is None:
        return
    for lower in seq.domain.lower:
        for part in lower.symbols():
            if lower.subs({part: Sym(part) + 1}) in seq.domain.upper:
                yield part, seq.loop.axis


def recomputes(program: Program) -> bool:
    """Whether a schedule does some products of two loaded tiles more than once: again per step of a loop that neither
    tile depends on, or in another place that loads the same two tensors."""
    seen: set[frozenset[str]] = set()
    for kernel in program.kernels:
        walked = tuple(sites(program, kernel))
        loads = {s.stmt.out.name: s.stmt.access for s in walked if isinstance(s.stmt, Load)}
        parts = {pair for s in walked if isinstance(s.stmt, Seq) for pair in _parts(s.stmt)}
        for site in walked:
            stmt = site.stmt
            if not isinstance(stmt, Dot) or not {stmt.a, stmt.b} <= loads.keys():
                continue
            factors = [loads[stmt.a], loads[stmt.b]]
            depends = {s for access in factors for x in access.index for s in x.symbols()}
            depends |= {part for part, axis in parts if axis in depends}
            tensors = frozenset(access.tensor for access in factors)
            if tensors in seen or any(t.axis not in depends for t in site.trips):
                return True
            seen.add(tensors)
    return False
