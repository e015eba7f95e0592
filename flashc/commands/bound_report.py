"""What `flashc bound` prints: formulas, numbers, assumptions and certificates of lower bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flashc.commands.render import Block, Lines, Table, capacity, tiles_text, traffic
from flashc.compiler.cascade_file import Question
from flashc.iomodel.bound import LowerBound, best
from flashc.iomodel.bounds import certified
from flashc.iomodel.capacity import Capacity
from flashc.iomodel.monomial import fast_symbol
from flashc.iomodel.named_sums import named_sums, pieces
from flashc.iomodel.tiles import box


def blocks(question: Question, bounds: Sequence[LowerBound]) -> list[Block]:
    """The largest bound, then every rule with its formula, and what is assumed."""
    return [_largest(question, bounds), _table(question, bounds), _formulas(question, bounds), _assumptions(bounds)]


def document(question: Question, bounds: Sequence[LowerBound]) -> dict[str, Any]:
    """Everything as versioned JSON (docs/schema/bound-result.schema.json)."""
    numbers = not question.missing
    fast = _fast(question)
    moved = best(bounds, question.sizes, fast) if numbers else None
    return {
        "schema": "flashc.bound/1",
        "name": question.cascade.name,
        "source": question.source,
        "fast_memory_bytes": question.fast_bytes,
        "sizes": {n: v if isinstance(v, int) else list(map(int, v)) for n, v in question.sizes.items()},
        "missing": list(question.missing),
        "best": moved and {"rule": moved[1].rule, "loads": moved[0].loads, "stores": moved[0].stores,
                           "total": moved[0].total},
        "bounds": [_bound_json(question, b) for b in bounds],
        "certificates": [_certificate(question, b) for b in bounds],
    }  # fmt: skip


def latex_lines(question: Question, bounds: Sequence[LowerBound]) -> list[str]:
    """One line per rule: bytes, as LaTeX."""
    import sympy

    return [f"{b.rule}: {sympy.latex(b.formula())}" for b in _shown(question, bounds)]


def words(question: Question, bound: LowerBound) -> str | None:
    """The formula in words of a fast memory of M words, where all arrays have one width."""
    formula = _in_words(question, bound)
    return None if formula is None else str(formula)


def _in_words(question: Question, bound: LowerBound) -> Any:
    widths = {a.width for a in question.cascade.arrays}
    if len(widths) != 1:
        return None
    import sympy

    width = widths.pop()
    scaled = bound.formula().subs(fast_symbol(), width * fast_symbol())
    if not isinstance(scaled, sympy.Piecewise):
        return sympy.powdenest(sympy.expand(scaled / width))
    return sympy.Piecewise(*((sympy.powdenest(sympy.expand(x / width)), when) for x, when in scaled.args))


def _fast(question: Question) -> float:
    return math.inf if question.fast_bytes is None else question.fast_bytes


def _shown(question: Question, bounds: Sequence[LowerBound]) -> list[LowerBound]:
    """One bound per rule, the largest where there are several with numbers; those that vanish are left out."""
    if question.missing or question.fast_bytes is None:
        return list({(b.rule, str(b.formula())): b for b in bounds}.values())
    moved = [(b.at(question.sizes, question.fast_bytes), b) for b in bounds]
    ordered = sorted((m.total, -n) for n, (m, b) in enumerate(moved) if m.loads > 0 or b.rule == "compulsory")
    found: dict[str, LowerBound] = {}
    for _, n in reversed(ordered):
        found.setdefault(bounds[-n].rule, bounds[-n])
    return list(found.values())


def _largest(question: Question, bounds: Sequence[LowerBound]) -> Lines:
    title = f"{question.cascade.name} {question.source}"
    if question.missing:
        needed = " ".join(f"--set {s}=..." for s in question.missing)
        return Lines(title, (f"no numbers: {', '.join(question.missing)} have no value; give them with {needed}",))
    fast = _fast(question)
    moved, bound = best(bounds, question.sizes, fast)
    memory = "unlimited fast memory" if math.isinf(fast) else f"fast memory of {capacity(fast)}"
    lines = [
        f"{memory}: a schedule for which what is listed below holds moves at least {traffic(moved.total)}, "
        f"by the rule {bound.rule}",
        f"loads {traffic(moved.loads)}, stores {traffic(moved.stores)}",
    ]
    if isinstance(bound, Capacity) and not math.isinf(fast):
        tiles = {p.statement.name: box(p, question.sizes, fast) for p in bound.chosen}
        lines += [f"a tile of {name} to start a search from: {tiles_text(tile)}" for name, tile in tiles.items()]
    return Lines(title, tuple(lines))


def _table(question: Question, bounds: Sequence[LowerBound]) -> Table:
    columns = ("rule", "loads", "stores", "total")
    note = "bounds are not added: the largest one counts"
    if question.missing:
        return Table("", columns, ())
    moved = [(b.rule, b.at(question.sizes, _fast(question))) for b in _shown(question, bounds)]
    rows = tuple((rule, traffic(m.loads), traffic(m.stores), traffic(m.total)) for rule, m in moved)
    return Table("lower bounds", columns, rows, frozenset(columns[1:]), note)


def _formulas(question: Question, bounds: Sequence[LowerBound]) -> Lines:
    shown = _shown(question, bounds)
    formulas = [(b.formula(), _in_words(question, b)) for b in shown]
    names = named_sums([f for f, _ in formulas])
    lines: list[str] = []
    for b, (in_bytes, in_words) in zip(shown, formulas, strict=True):
        lines.append(b.rule)
        lines += [f"    {x.subs(names)}    {when}".rstrip() for x, when in pieces(in_bytes)]
        if in_words is not None:
            lines += [f"    in words {x.subs(names)}    {when}".rstrip() for x, when in pieces(in_words)]
    lines += [f"where {name} = {total}" for total, name in names.items()]
    return Lines("leading terms in bytes, M the bytes (words) of fast memory", tuple(lines))


def _assumptions(bounds: Sequence[LowerBound]) -> Lines:
    users: dict[str, list[str]] = {}
    for b in bounds:
        for text in b.assumptions:
            users.setdefault(text, []).append(b.rule)
    lines = tuple(f"{', '.join(dict.fromkeys(rules))}: {text}" for text, rules in users.items())
    return Lines("holds if", lines)


def _bound_json(question: Question, bound: LowerBound) -> dict[str, Any]:
    import sympy

    formula = bound.formula()
    moved = None if question.missing else bound.at(question.sizes, _fast(question))
    tiles = {}
    if isinstance(bound, Capacity) and not question.missing and question.fast_bytes is not None:
        tiles = {p.statement.name: box(p, question.sizes, question.fast_bytes) for p in bound.chosen}
    return {
        "rule": bound.rule,
        "assumptions": list(bound.assumptions),
        "formula_bytes": str(formula),
        "formula_words": words(question, bound),
        "latex": sympy.latex(formula),
        "loads": moved and moved.loads,
        "stores": moved and moved.stores,
        "total": moved and moved.total,
        "tiles": tiles,
    }


def _certificate(question: Question, bound: LowerBound) -> dict[str, Any]:
    if question.missing or question.fast_bytes is None:
        return bound.certificate()
    return certified(bound, question.sizes, question.fast_bytes)
