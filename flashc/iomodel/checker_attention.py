"""Checks attention certificates without the code that made them: standard library only, exact fractions.

Each check takes a certificate and raises ValueError with the field that is wrong. It looks at the subscripts that the
counting argument needs, recomputes every constant from the evidence, and, where the certificate carries an instance,
counts its statements again (where they are few) and redoes the bound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from flashc.iomodel.checker_text import must, must_equal
from flashc.iomodel.checker_values import LIMIT, TooLongError, elements, evaluate, fraction, points, spend

Json = dict[str, Any]
ASSUMPTIONS = [
    "every multiply-add of the statements is done; sums may be taken in any order, products are not regrouped; "
    "a pair that is counted is summed over all its terms",
    "the operands of the first contraction and the values are inputs, at most copied or mapped element by element",
    "no value is held or moved in fewer bytes than its array's elements have",
]
ONCE = "scores are computed once"
BLOCK = {"large": "X = 2 M", "small": "X = 3 M", "between": "X = crossing"}
# What each gradient's product adds to (row items)^2 (column items) and (row items) (column items)^2.
GRADIENTS = {"dQ": (0, 1), "dK": (1, 0), "dV": (1, 0)}
Subscripts = dict[str, list[str]]


def check_forward(certificate: Json) -> None:
    """Theorem A."""
    evidence = _header(certificate, ASSUMPTIONS)
    _structure(evidence["scores"], evidence["mixing"])
    storages, widths = _storages(evidence["items"], ("row", "column", "value"))
    out, pair = _width(evidence["accumulator_width"]), _width(evidence["pair_width"])
    roles = Counter(storages.values())
    shares = {**{s: str(Fraction(n, 4)) for s, n in roles.items()}, "accumulators": "1/4"}
    must_equal("budgets", evidence["budgets"], shares)
    large = Fraction(1, 4 * out)
    for storage, n in roles.items():
        large *= Fraction(n, 4 * widths[storage]) ** n
    value = widths[storages["value"]]
    small = Fraction(4, 81 * value * pair * out) if len(roles) == 1 else Fraction(1, 27 * value * pair * out)
    _block_claim(certificate, large, small)
    _block_instance(certificate, [evidence["mixing"]], [evidence["scores"]])


def check_forward_once(certificate: Json) -> None:
    """Theorem B."""
    evidence = _header(certificate, [ONCE, *ASSUMPTIONS])
    _structure(evidence["scores"], evidence["mixing"])
    storages, widths = _storages(evidence["items"], ("row", "column", "value"))
    out, pair = _width(evidence["accumulator_width"]), _width(evidence["pair_width"])
    roles = [widths[storages[r]] for r in ("row", "column", "value")]
    must(storages["row"] != storages["column"], "items: the rows and columns of the scores share storage")
    shared = storages["value"] in (storages["row"], storages["column"])
    weight = fraction(evidence["weight"])
    must(0 < weight <= 1 and (not shared or 2 * weight**2 <= 1), "weight: above what the shared items allow")
    squares = [weight**2 * roles[0] * roles[1] * pair, weight**2 * roles[2] * out * pair]
    must_equal("started", evidence["started"], "each score once")
    _once_claim(certificate, squares, [evidence["scores"]["statement"], evidence["mixing"]["statement"]])
    _once_instance(certificate, squares, [evidence["scores"], evidence["mixing"]], [evidence["scores"]], pair)


def check_backward(certificate: Json) -> None:
    """The backward pass with recomputation."""
    evidence = _header(certificate, ASSUMPTIONS)
    names, width, kappa = evidence["gradients"], _width(evidence["width"]), fraction(evidence["kappa"])
    _backward_structure(evidence, names)
    rows, columns = (sum(GRADIENTS[n][side] for n in names) for side in (0, 1))
    must(_cubic_below(rows, columns, 8 * kappa), f"kappa: {kappa} is below the largest block of {names}")
    must_equal("budgets", evidence["budgets"], {"inputs": "3/4", "accumulators": "1/4"})
    _block_claim(certificate, Fraction(27, 256) * kappa / width**4, Fraction(4, 81) / width**3)
    _block_instance(certificate, [evidence["mixing"][n] for n in names], evidence["scores"])


def check_backward_once(certificate: Json) -> None:
    """The backward pass without recomputation."""
    evidence = _header(certificate, [ONCE, *ASSUMPTIONS])
    names = ["dK", "dQ", "dV"]
    _backward_structure(evidence, names)
    widths = {role: _width(item["width"]) for role, item in evidence["items"].items()}
    outs = {name: _width(evidence["accumulator_widths"][name]) for name in names}
    pair, weight = _width(evidence["pair_width"]), fraction(evidence["weight"])
    must(weight > 0 and 2 * weight**2 <= 1, "weight: above what the shared items of dO allow")
    squares = [
        Fraction(widths["k"] * outs["dQ"] * pair),
        Fraction(widths["q"] * outs["dK"] * pair),
        weight**2 * pair * widths["do"] * widths["v"],
        weight**2 * pair * widths["do"] * outs["dV"],
    ]
    mixing, scores = evidence["mixing"], evidence["scores"]
    counted = [mixing["dQ"], mixing["dK"], scores[1], mixing["dV"]]
    must_equal("started", evidence["started"], "S and dP once per pair")
    _once_claim(certificate, squares, [s["statement"] for s in counted])
    _once_instance(certificate, squares, counted, scores, pair)


CHECKS: dict[str, Callable[[Json], None]] = {
    "attention A": check_forward,
    "attention B": check_forward_once,
    "attention backward A": check_backward,
    "attention backward B": check_backward_once,
}
"""The check of each rule."""


# -- evidence


def _header(certificate: Json, assumptions: list[str]) -> Json:
    must_equal("version", certificate["version"], 1)
    must(certificate["rule"] in CHECKS, f"rule: {certificate['rule']!r} is unknown")
    must_equal("assumptions", certificate["assumptions"], assumptions)
    evidence: Json = certificate["evidence"]
    return evidence


def _storages(items: Json, roles: tuple[str, ...]) -> tuple[dict[str, str], dict[str, int]]:
    """The storage of each role, and the narrowest width of each storage."""
    must_equal("items", sorted(items), sorted(roles))
    storages = {role: str(items[role]["storage"]) for role in roles}
    widths: dict[str, int] = {}
    for role, storage in storages.items():
        width = _width(items[role]["width"])
        widths[storage] = min(widths.get(storage, width), width)
    return storages, widths


def _structure(scores: Json, mixing: Json) -> None:
    """A pair is known by its two rows; each index of the mixing product stands alone in two of three lists."""
    target, row, column = (_alone(scores, role) for role in ("target", "row", "column"))
    summed = {name for name, _, _ in scores["indices"]} - target
    must(bool(summed) and summed <= row & column, "scores: a summed index is missing from a row or a column")
    must(target <= row | column, "scores: an index of a pair is alone in neither its row nor its column")
    must(len(target) == len(scores["subscripts"]["target"]), "scores: a pair's subscripts are not plain")
    lists = [_alone(mixing, role) for role in ("target", "pair", "value")]
    for name, _, _ in mixing["indices"]:
        must(sum(name in alone for alone in lists) >= 2, f"mixing: index {name} is alone in less than two lists")
    pair = mixing["subscripts"]["pair"]
    must(len(lists[1]) == len(pair) == len(target), "mixing: the pair's subscripts are not those of a score")


def _backward_structure(evidence: Json, names: list[str]) -> None:
    must_equal("items", sorted(evidence["items"]), ["do", "k", "q", "v"])
    storages = {str(item["storage"]) for item in evidence["items"].values()}
    must(len(storages) == 4, "items: inputs of the backward pass share storage")
    known = bool(names) and set(names) <= GRADIENTS.keys() and names == sorted(set(names))
    must(known and ("dV" not in names or "dK" in names), f"gradients: {names} has no proof")
    must_equal("mixing", sorted(evidence["mixing"]), sorted(names))
    for scores in evidence["scores"]:
        for mixing in evidence["mixing"].values():
            _structure(scores, mixing)


def _alone(statement: Json, role: str) -> set[str]:
    """Indices that are a subscript of their own."""
    names = {name for name, _, _ in statement["indices"]}
    return names & set(statement["subscripts"][role])


def _cubic_below(rows: int, columns: int, limit: Fraction) -> bool:
    """Whether rows r^2 (1 - r) + columns r (1 - r)^2 <= limit for 0 <= r <= 1.

    Their difference a r^3 + b r^2 + c r + limit is positive at both ends. Without a positive discriminant it changes
    its sign at most once on the whole line, hence nowhere between the ends.
    """
    a, b, c, d = rows - columns, 2 * columns - rows, -columns, limit
    discriminant = 18 * a * b * c * d - 4 * b**3 * d + b**2 * c**2 - 4 * a * c**3 - 27 * a**2 * d**2
    return limit > 0 and discriminant <= 0


# -- claims


def _block_claim(certificate: Json, large: Fraction, small: Fraction) -> None:
    claim = {
        "chi": "max(sqrt(large) X^2 / depth, sqrt(small) X^(3/2))",
        "large": str(large),
        "small": str(small),
        "crossing_per_depth_squared": str(small / large),
        "total": "max over X > M of (X - M) work / chi(X)",
        "loads": "total - accumulator_bytes",
        "stores": "stored_bytes",
    }
    must_equal("claim", certificate["claim"], claim)
    must_equal("block", certificate["evidence"]["block"], BLOCK)


def _once_claim(certificate: Json, squares: list[Fraction], contractions: list[str]) -> None:
    claim = {
        "squares": [str(s) for s in squares],
        "total": "sum of 2 sqrt(square) work / sqrt(M) - score_bytes",
        "loads": "total - accumulator_bytes",
        "stores": "stored_bytes",
    }
    must_equal("claim", certificate["claim"], claim)
    must_equal("block", certificate["evidence"]["block"], "X = 3 M")
    must_equal("terms", [t["contraction"] for t in certificate["evidence"]["terms"]], contractions)


# -- instances


def _block_instance(certificate: Json, mixing: list[Json], scores: list[Json]) -> None:
    found = certificate.get("instance")
    if found is None:
        return
    work, depth = found["work"], found["depth"]
    _counted("work", work, mixing, found["sizes"])
    must_equal("depth", depth, min(_depth(s, found["sizes"]) for s in scores))
    _computed(work, mixing, scores, found["sizes"])
    large, small = (float(fraction(certificate["claim"][k])) for k in ("large", "small"))
    capacity = 0.0
    if work and not math.isinf(found["fast_bytes"]):
        fast = _positive(found["fast_bytes"])
        block = min(max(2 * fast, small / large * depth**2), 3 * fast)
        capacity = (block - fast) * work / max(math.sqrt(large) * block**2 / depth, math.sqrt(small) * block**1.5)
    evidence = certificate["evidence"]
    _outputs(certificate, found, mixing, _width(evidence.get("accumulator_width", evidence.get("width"))))
    _moved(found, capacity)


def _once_instance(
    certificate: Json, squares: list[Fraction], counted: list[Json], scores: list[Json], pair: int
) -> None:
    found = certificate.get("instance")
    if found is None:
        return
    for work, statement in zip(found["works"], counted, strict=True):
        _counted("works", work, [statement], found["sizes"])
    for number, statement in zip(found["pairs"], scores, strict=True):
        _counted("pairs", number * _depth(statement, found["sizes"]), [statement], found["sizes"])
    must_equal("score_bytes", found["score_bytes"], sum(found["pairs"]) * pair)
    work = sum(math.sqrt(s) * n for s, n in zip(squares, found["works"], strict=True))
    evidence = certificate["evidence"]
    widths = evidence.get("accumulator_widths", {"": evidence.get("accumulator_width")})
    mixed = list(evidence["mixing"].values()) if len(widths) > 1 else [evidence["mixing"]]
    _outputs(certificate, found, mixed, min(map(_width, widths.values())))
    _moved(found, 2 * work / math.sqrt(_positive(found["fast_bytes"])) - found["score_bytes"])


def _outputs(certificate: Json, found: Json, mixing: list[Json], width: int) -> None:
    """The bytes of outputs are those of the evidence, and every element that is summed up has an accumulator."""
    for field in ("accumulator_bytes", "stored_bytes"):
        try:
            must_equal(field, found[field], evaluate(certificate["evidence"][field], found["sizes"]))
        except TooLongError:
            continue
    try:
        summed = sum(elements(m["indices"], m["subscripts"]["target"], found["sizes"]) for m in mixing)
    except TooLongError:
        return
    least = width * summed
    must(found["accumulator_bytes"] >= least, f"accumulator_bytes: {found['accumulator_bytes']}, at least {least}")


def _moved(found: Json, capacity: float) -> None:
    loads = max(capacity - found["accumulator_bytes"], 0.0)
    must(found["accumulator_bytes"] >= 0 and found["stored_bytes"] >= 0, "instance: negative bytes")
    for field, value in (("loads", loads), ("stores", found["stored_bytes"]), ("total", loads + found["stored_bytes"])):
        close = math.isclose(found[field], value, rel_tol=1e-9, abs_tol=1e-6)
        must(close, f"{field}: {found[field]}, but the evidence gives {value}")


def _counted(field: str, work: int, statements: list[Json], sizes: Json) -> None:
    """The number of points, counted again where the nests are small enough."""
    try:
        found = sum(_number(s, sizes) for s in statements)
    except TooLongError:
        return
    must_equal(field, work, found)


def _number(statement: Json, sizes: Json) -> int:
    if statement["count"] is not None:
        return evaluate(statement["count"], sizes)
    return points(statement["indices"], sizes)


def _computed(work: int, mixing: list[Json], scores: list[Json], sizes: Json) -> None:
    """Whether the score products compute every pair that is mixed."""
    if work > LIMIT:
        return
    left = [4 * LIMIT]
    try:
        known = [_elements(product, "target", sizes, left) for product in scores]
        mixed = [_elements(m, "pair", sizes, left) for m in mixing]
    except TooLongError:
        return
    for product, made in zip(scores, known, strict=True):
        for pairs in mixed:
            enough = _number(product, sizes) >= len(pairs) * _depth(product, sizes)
            must(enough and pairs <= made, "scores: a pair that is mixed is not computed")


def _elements(statement: Json, role: str, sizes: Json, left: list[int]) -> set[tuple[int, ...]]:
    parts = statement["subscripts"][role]
    return {tuple(evaluate(x, env) for x in parts) for env in _environments(statement["indices"], sizes, left)}


def _environments(indices: list[list[str]], env: Json, left: list[int]) -> Iterator[Json]:
    spend(left, 1)
    if not indices:
        yield env
        return
    name, lower, upper = indices[0]
    for value in range(evaluate(lower, env, left), evaluate(upper, env, left)):
        yield from _environments(indices[1:], {**env, name: value}, left)


def _depth(scores: Json, sizes: Json) -> int:
    summed = [i for i in scores["indices"] if i[0] not in scores["subscripts"]["target"]]
    return math.prod(evaluate(upper, sizes) - evaluate(lower, sizes) for _, lower, upper in summed)


def _width(value: Any) -> int:
    must(isinstance(value, int) and value > 0, f"width: {value!r} is not a positive number of bytes")
    return int(value)


def _positive(value: float) -> float:
    must(value > 0, f"fast_bytes: {value} is not positive")
    return value
