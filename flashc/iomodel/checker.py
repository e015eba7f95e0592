"""Checks certificates of lower bounds without the code that made them: standard library only, exact fractions.

    python -m flashc.iomodel.checker FILE...

A certificate says which accesses a statement makes, with which exponents, and what constant follows. The check reads
the statement's text again, repeats the argument from it, and redoes the numbers of the instance, if there is one.
docs/bounds.md has the rules.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from flashc.iomodel import checker_attention
from flashc.iomodel.checker_values import (
    TooLongError,
    bounded,
    elements,
    evaluate,
    fraction,
    names,
    offsets,
    points,
    product,
    rank,
    reached,
    same_product,
)

Json = dict[str, Any]
REFERENCE = re.compile(r"([A-Za-z_][\w.]*)\[([^\]]*)\]")
UPDATE = re.compile(r"\s(\+=|max=|min=|=)\s")
ORDER = "every operation is done (no Strassen), sums in any order"
ZERO = Fraction(0)


def check(certificate: Json) -> None:
    """Raises ValueError that names what does not hold."""
    _require(isinstance(certificate, dict), "certificate: not an object")
    bounded(certificate)
    rule = certificate.get("rule")
    _require(certificate.get("version") == 1, "version: only 1 is known")
    _require(isinstance(rule, str) and rule in CHECKS, f"rule: {rule!r} is none of {', '.join(CHECKS)}")
    try:
        CHECKS[str(rule)](certificate)
    except TooLongError:
        raise ValueError("certificate: too long to check") from None
    except (LookupError, TypeError, ArithmeticError, AttributeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"certificate: malformed, {type(error).__name__}: {error}") from None


# -- compulsory traffic


def _compulsory(certificate: Json) -> None:
    evidence = certificate["evidence"]
    _same(
        "assumptions", certificate["assumptions"], ["each needed input element is read, each output element is written"]
    )
    sides = [*evidence["loaded"], *evidence["stored"]]
    for side, roles in (("loaded", ("in", "inout")), ("stored", ("out", "inout"))):
        _same(side, len({e["array"] for e in evidence[side]}), len(evidence[side]))
        for entry in evidence[side]:
            members = [a for a in evidence["arrays"].values() if entry["array"] == a["value"]]
            fits = [a for a in members if a["role"] in roles]
            _require(
                bool(fits) and entry["width"] in {a["width"] for a in fits}, f"{side}: {entry['array']}: role or width"
            )
    text = " + ".join(f"{e['width']} * ({e['elements']})" for e in sides) or "0"
    _same("claim", certificate["claim"], {"text": text, "terms": []})
    _instance(certificate, [])


# -- bounds that fall with the fast memory


def _statement(certificate: Json) -> None:
    _same("parts", len(certificate["evidence"]["parts"]), 1)
    _capacity(certificate, {})


def _sum(certificate: Json) -> None:
    evidence = certificate["evidence"]
    parts = {p["name"]: p for p in evidence["parts"]}
    grouped = [name for g in evidence["groups"] for name in g["statements"]]
    _same("groups", sorted(grouped), sorted(parts))
    _require(len({p["sigma"] for p in parts.values()}) == 1, "sigma: differs among the parts")
    used: dict[str, int] = {}
    divisors: dict[tuple[str, str], int] = {}
    for at, group in enumerate(evidence["groups"]):
        members = [parts[name] for name in group["statements"]]
        for value in {v for p in members for v in _budgets(p)}:
            _require(used.setdefault(value, at) == at, f"groups: two of them share {value}")
        for value, count in _division(group, members).items():
            divisors.update({(name, value): count for name in group["statements"]})
    _capacity(certificate, divisors)


def _division(group: Json, members: list[Json]) -> dict[str, int]:
    """Among how many statements each value is divided; that the others may count once is checked here."""
    budgets = [_budgets(p) for p in members]
    users = {v: sum(v in b for b in budgets) for b in budgets for v in b}
    _require(group["way"] in ("pairs", "common", "divided"), f"groups: {group['way']!r} is no way to share items")
    if group["way"] == "pairs":
        edges = []
        for own, budget in zip(group["own"], budgets, strict=True):
            _require(sorted(budget.values()) == [Fraction(1, 2)] * 3, "groups: pairs need three exponents of 1/2")
            _require(own in budget and users[own] == 1, f"groups: {own} is not one statement's own")
            edges.append(frozenset(budget.keys() - {own}))
        _require(len(set(edges)) == len(edges), "groups: two statements share both values")
        _require(
            all({group["sides"][v] for v in e} == {0, 1} for e in edges), "groups: the sides do not divide the pairs"
        )
        return {}
    common = set(group["common"])
    if common:
        _require(all(len({b.get(v) for b in budgets}) == 1 for v in common), "groups: a common exponent differs")
        rest = [sum((s for v, s in b.items() if v not in common), ZERO) for b in budgets]
        _require(len(members) == 1 or min(rest) >= 1, "groups: the exponents besides the common ones are below 1")
    divisors = {v: n for v, n in users.items() if n > 1 and v not in common}
    _same("divisors", group["divisors"], divisors)
    return divisors


def _capacity(certificate: Json, divisors: dict[tuple[str, str], int]) -> None:
    evidence, claim = certificate["evidence"], certificate["claim"]
    _values(evidence)
    for part, term in zip(evidence["parts"], claim["terms"], strict=True):
        _require(part["statement"] in evidence["statements"], f"statement: {part['statement']} is not of the cascade")
        _part(part, evidence, divisors)
        expected = {k: part[k] for k in ("points", "constant", "factors")}
        _same("claim", term, {**expected, "memory_exponent": str(1 - fraction(part["sigma"]))})
    _started(certificate)
    _same("claim", claim["text"], " + ".join(map(_text, claim["terms"])))
    _instance(certificate, claim["terms"])


def _part(part: Json, evidence: Json, divisors: dict[tuple[str, str], int]) -> None:
    indices = [d[0] for d in part["domain"]]
    target, update, operands = _read(part["statement"])
    allowed = [*operands, *([target] if update != "=" else [])]
    covered = dict.fromkeys(indices, ZERO)
    constant: list[list[str]] = []
    factors: list[list[str]] = []
    seen: set[str] = set()
    for a in part["accesses"]:
        array, subscripts = _split(a["reference"])
        exponent, value = fraction(a["exponent"]), evidence["arrays"][array]["value"]
        _require(
            a["reference"] in allowed and a["reference"] not in seen,
            f"accesses: {a['reference']} is not made, or twice",
        )
        seen.add(a["reference"])
        _require(exponent >= 0, f"exponent: {exponent} of {a['reference']} is negative")
        _same("budget", a["budget"], value)
        width = min(x["width"] for x in evidence["arrays"].values() if x["value"] == value)
        _same("width", fraction(a["width"]), Fraction(width, divisors.get((part["name"], value), 1)))
        _same("indices", a["indices"], sorted(set(indices) & {n for s in subscripts for n in names(s)}))
        for index in a["indices"]:
            covered[index] += exponent
        if exponent and a["reuse"] != "1":
            (constant if a["reuse"].isdigit() else factors).append([a["reuse"], str(-exponent)])
        if set(a["indices"]) <= set(subscripts):
            _same("reuse", a["reuse"], "1")
    for index, extent, exponent in part["uncovered"]:
        covered[index] += fraction(exponent)
        _require(fraction(exponent) > 0, "uncovered: an exponent is not positive")
        (constant if extent.isdigit() else factors).append([extent, str(-fraction(exponent))])
    for index, total in covered.items():
        _require(total >= 1, f"exponents: index {index} is covered {total} times, not once")
    budgets = _budgets(part)
    sigma = sum(budgets.values(), ZERO)
    _require(sigma > 1 and str(sigma) == part["sigma"], f"sigma: {part['sigma']}, but the exponents add up to {sigma}")
    widths = {a["budget"]: fraction(a["width"]) for a in part["accesses"]}
    constant += [[str(widths[v] / s), str(s)] for v, s in budgets.items()]
    constant += [[str(sigma - 1), str(sigma - 1)], ["2", str(_mirrored(part))]]
    _require(same_product(part["constant"], constant), f"constant: {part['constant']} does not follow")
    _same("factors", sorted(part["factors"]), sorted(factors))


def _mirrored(part: Json) -> Fraction:
    """The power of 2 that exchanging two indices gains."""
    if part["swap"] is None:
        _require(not any(a["mirrored"] for a in part["accesses"]), "mirrored: without a swap")
        return ZERO
    larger, smaller = part["swap"]
    domain = {name: (lower, upper) for name, lower, upper in part["domain"]}
    _require(larger.isidentifier() and smaller.isidentifier(), f"swap: {larger!r}, {smaller!r} are no indices")
    below = re.fullmatch(rf"{larger}( - \d+)?", domain[smaller][1]) is not None
    above = re.fullmatch(rf"{smaller} \+ [1-9]\d*", domain[larger][0]) is not None
    _require(below or above, f"swap: {smaller} is not kept below {larger}")
    _require(not part["uncovered"] and not part["counted"], "swap: with uncovered indices or a count")
    exchanged = {larger: smaller, smaller: larger}
    made = {(a["reference"], a["budget"]) for a in part["accesses"]}
    for a in part["accesses"]:
        ends = {larger, smaller} & set(a["indices"])
        _require(
            not a["mirrored"] or fraction(a["exponent"]) == 0 or len(ends) != 1,
            f"swap: the image of {a['reference']} may be larger than itself",
        )
        other = re.sub(r"[A-Za-z_][\w.]*(?!\w*\[)", lambda m: exchanged.get(m[0], m[0]), a["reference"])
        _require(a["mirrored"] or (other, a["budget"]) in made, f"swap: {other} is not read")
        _require(a["mirrored"] or a["reuse"] == "1", "swap: of an access with reuse")
    return 1 - sum((fraction(a["exponent"]) for a in part["accesses"] if a["mirrored"]), ZERO)


def _budgets(part: Json) -> dict[str, Fraction]:
    found: dict[str, Fraction] = {}
    for a in part["accesses"]:
        found[a["budget"]] = found.get(a["budget"], ZERO) + fraction(a["exponent"])
    return {v: s for v, s in found.items() if s}


def _values(evidence: Json) -> None:
    """Arrays of one value: of one storage, or joined by statements that act element by element."""
    arrays = evidence["arrays"]
    joined = {name: name for name in arrays}

    def join(a: str, b: str) -> None:
        joined.update({n: joined[b] for n, j in joined.items() if j == joined[a]})

    for name, a in arrays.items():
        for other, b in arrays.items():
            if a["storage"] and a["storage"] == b["storage"]:
                join(name, other)
    for text in evidence["statements"]:
        target, update, operands = _read(text)
        for operand in operands if update == "=" else ():
            if _split(operand)[1] == _split(target)[1]:
                join(_split(operand)[0], _split(target)[0])
    for name, a in arrays.items():
        _require(a["value"] in {*arrays, a["storage"]}, f"value: {a['value']} of {name} is no array")
        for other, b in arrays.items():
            _require(
                a["value"] != b["value"] or joined[name] == joined[other], f"value: {name} and {other} are not one"
            )
            same = a["storage"] and a["storage"] == b["storage"]
            _require(not same or a["value"] == b["value"], f"value: {name} and {other} share storage")


def _started(certificate: Json) -> None:
    """Elements that come into being in fast memory are taken off; where they are read, each is computed once."""
    evidence, arrays = certificate["evidence"], certificate["evidence"]["arrays"]
    chosen = [_read(p["statement"]) for p in evidence["parts"]]
    read = {arrays[_split(o)[0]]["value"] for _, _, operands in chosen for o in operands}
    summed = {arrays[_split(t)[0]]["value"] for t, update, _ in chosen if update != "="}
    expected: list[tuple[str, int]] = []
    once: list[str] = []
    for value in read | summed:
        width = min(a["width"] for a in arrays.values() if a["value"] == value)
        begun = [b for b in map(_begun(arrays, value), map(_read, evidence["statements"])) if b]
        if not begun and all(a["role"] in ("out", "temp") for a in arrays.values() if a["value"] == value):
            uses = [_split(o)[0] for _, _, operands in chosen for o in operands]
            begun = [array for array in uses if arrays[array]["value"] == value]
        expected += [(b, width) for b in begun]
        once += [f"each element of {b} is computed once" for b in begun if value in read]
    _same("free", sorted((e["array"], e["width"]) for e in evidence["free"]), sorted(expected))
    once += [f"{p['name']} runs {p['points']} times" for p in evidence["parts"] if p["counted"]]
    _same("assumptions", sorted(certificate["assumptions"]), sorted({ORDER, *once}))
    _stored(evidence)


def _stored(evidence: Json) -> None:
    """Outputs are written; names of one storage count once."""
    outs = {(a["storage"] or n, a["width"]) for n, a in evidence["arrays"].items() if a["role"] in ("out", "inout")}
    _require({(e["array"], e["width"]) for e in evidence["stored"]} <= outs, "stored: something that is no output")
    _same("stored", len({e["array"] for e in evidence["stored"]}), len(evidence["stored"]))


def _begun(arrays: Json, value: str) -> Callable[[tuple[str, str, list[str]]], str]:
    """The array in which a statement starts elements of the value, if it does."""

    def begun(statement: tuple[str, str, list[str]]) -> str:
        target, update, operands = statement
        array = _split(target)[0]
        if arrays[array]["value"] != value:
            return ""
        if update == "=":
            return "" if any(arrays[_split(o)[0]]["value"] == value for o in operands) else array
        return array if arrays[array]["role"] in ("out", "temp") else ""

    return begun


# -- recurrences


def _recurrence(certificate: Json) -> None:
    evidence, term = certificate["evidence"]["parts"][0], certificate["claim"]["terms"][0]
    _same("parts", (len(certificate["evidence"]["parts"]), len(certificate["claim"]["terms"])), (1, 1))
    _require(evidence["statement"] in certificate["evidence"]["statements"], "statement: not of the cascade")
    indices = [d[0] for d in evidence["domain"]]
    target, update, operands = _read(evidence["statement"])
    _same("update", update, "=")
    _values(certificate["evidence"])
    _only_writer(certificate["evidence"], evidence["statement"])
    for reference, distance in zip(evidence["reads"], evidence["distances"], strict=True):
        _require(
            reference in operands and _split(reference)[0] == _split(target)[0], f"reads: {reference} is not a result"
        )
        written, read = (_shift(r, indices) for r in (target, reference))
        _same("distances", distance, [written[i] - read[i] for i in indices])
    count = len(evidence["distances"])
    _require(count >= 2 and rank(evidence["distances"]) == count, "distances: fewer than two, or not independent")
    sigma, width = Fraction(count, count - 1), evidence["width"]
    arrays = certificate["evidence"]["arrays"]
    value = arrays[_split(target)[0]]["value"]
    _same("width", width, str(min(a["width"] for a in arrays.values() if a["value"] == value)))
    constant = [[str(sigma - 1), str(sigma - 1)], [str(sigma), str(-sigma)], [width, str(sigma)]]
    constant += [[str(math.factorial(count - 1)), str(-sigma)], [str(math.factorial(count)), "1"]]
    _same("sigma", evidence["sigma"], str(sigma))
    _require(same_product(evidence["constant"], constant), f"constant: {evidence['constant']} does not follow")
    claimed = {"points": evidence["points"], "constant": evidence["constant"], "factors": []}
    _same("claim", term, {**claimed, "memory_exponent": str(1 - sigma)})
    _same("claim", certificate["claim"]["text"], _text(term))
    _same("free", certificate["evidence"]["free"], [])
    _stored(certificate["evidence"])
    distinct = f"what {evidence['name']} reads and no statement writes are distinct inputs"
    counted = [f"{evidence['name']} runs {evidence['points']} times"] if evidence["counted"] else []
    _same("assumptions", certificate["assumptions"], [ORDER, *counted, distinct])
    _instance(certificate, [term])


def _only_writer(evidence: Json, statement: str) -> None:
    """Boundary values that another statement computes would not be loaded."""
    arrays = evidence["arrays"]
    written = [arrays[_split(_read(s)[0])[0]]["value"] for s in evidence["statements"]]
    own = arrays[_split(_read(statement)[0])[0]]["value"]
    _require(written.count(own) == 1, f"statement: others write {own} as well")


def _shift(reference: str, indices: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for subscript in _split(reference)[1]:
        steps, rest = offsets(subscript, indices, {})
        _require(list(steps.values()) == [1], f"reads: {reference} is not at a constant distance")
        found[next(iter(steps))] = rest
    _same("reads", sorted(found), sorted(indices))
    return found


# -- instances


def _instance(certificate: Json, terms: list[Json]) -> None:
    found = certificate.get("instance")
    if found is None:
        return
    evidence, sizes, values = certificate["evidence"], found["sizes"], found["values"]
    for part in evidence.get("parts", []):
        _counted(part, sizes, values)
    for text, number in values.items():
        _require(isinstance(number, int), f"values: {text} = {number!r} is not a whole number")
        try:
            _same(f"values: {text}", number, evaluate(text, sizes))
        except TooLongError:
            _require(number >= 0, f"values: {text} is negative")
    fast = max(float(found["fast_bytes"]), 1.0)
    moved = sum(_moved(t, values) * fast ** float(fraction(t["memory_exponent"])) for t in terms)
    free, stored, loaded = (_bytes(evidence.get(side, []), values) for side in ("free", "stored", "loaded"))
    loads = loaded + max(0.0, moved - free)
    for field, value in (("loads", loads), ("stores", stored), ("total", loads + stored)):
        close = math.isclose(found[field], value, rel_tol=1e-9, abs_tol=1e-6)
        _require(close, f"{field}: {found[field]}, but the evidence gives {value}")
    for part in evidence["parts"] if "free" in evidence and certificate["rule"] != "recurrence" else []:
        _enough_taken_off(part, evidence, sizes, values)


def _enough_taken_off(part: Json, evidence: Json, sizes: Json, values: Json) -> None:
    """A value that is no input comes into being in fast memory: not fewer elements than a statement uses of it."""
    arrays = evidence["arrays"]
    for a in part["accesses"]:
        own = {n for n, x in arrays.items() if x["value"] == a["budget"]}
        if any(arrays[n]["role"] in ("in", "inout") for n in own) or part["counted"]:
            continue
        begun = sum(values[e["elements"]] for e in evidence["free"] if e["array"] in own)
        try:
            used = elements(part["domain"], _split(a["reference"])[1], sizes)
        except TooLongError:
            continue
        _require(begun >= used, f"free: {begun} elements of {a['budget']}, but {used} are used")


def _moved(term: Json, values: Json) -> float:
    if any(values[text] <= 0 for text, _ in term["factors"]):
        return 0.0
    scale = math.prod(values[text] ** float(fraction(e)) for text, e in term["factors"])
    return float(values[term["points"]] * product(term["constant"]) * scale)


def _counted(part: Json, sizes: Json, values: Json) -> None:
    """The points of the nest, and the reuse of unfolded accesses, counted again."""
    if not part["counted"]:
        try:
            _same("points", values[part["points"]], points(part["domain"], sizes))
        except TooLongError:
            _require(values[part["points"]] >= 0, "points: negative")
    try:
        spans = reached(part["domain"], sizes)
    except TooLongError:
        return
    if not all(spans.values()):
        return
    box = not any(names(b) & spans.keys() for _, *bounds in part["domain"] for b in bounds)
    for name, extent, _ in part.get("uncovered", []):
        found = evaluate(extent, sizes)
        _require(found == spans[name] if box else found >= spans[name], f"uncovered: {found} values of {name}")
    for a in part.get("accesses", []):
        needed = _reuse(_split(a["reference"])[1], spans, sizes)
        _require(evaluate(a["reuse"], sizes) >= needed, f"reuse: {a['reuse']} of {a['reference']} is below {needed}")


def _reuse(subscripts: list[str], spans: dict[str, int], sizes: Json) -> int:
    """The most values of the indices that name one element, where they take ``spans`` values each."""
    forms = [offsets(s, list(spans), sizes)[0] for s in subscripts]
    told = {next(iter(f)) for f in forms if len(f) == 1}
    reuse = 1
    for form in sorted(forms, key=len):
        fresh = {i: c for i, c in form.items() if i not in told}
        told |= fresh.keys()
        if len(fresh) == 2:
            (x, a), (y, b) = fresh.items()
            common = math.gcd(a, b)
            reuse *= min(-(-spans[x] // (abs(b) // common)), -(-spans[y] // (abs(a) // common)))
        elif len(fresh) > 2:
            reuse *= math.prod(sorted(spans[i] for i in fresh)[:-1])
    vanished = {i for s in subscripts for i in names(s) & spans.keys()} - told
    return reuse * math.prod(spans[i] for i in vanished)


def _bytes(entries: list[Json], values: Json) -> float:
    return float(sum(e["width"] * max(values[e["elements"]], 0) for e in entries))


# -- text


def _read(text: str) -> tuple[str, str, list[str]]:
    left, update, right = UPDATE.split(text, maxsplit=1)
    return left, update, [m[0] for m in REFERENCE.finditer(right)]


def _split(reference: str) -> tuple[str, list[str]]:
    found = REFERENCE.fullmatch(reference)
    _require(found is not None, f"reference: {reference!r} is not an element of an array")
    assert found is not None
    return found[1], [s.strip() for s in re.split(r",(?![^(]*\))", found[2])]


def _text(term: Json) -> str:
    factors = [f"({term['points']})"] + [f"({b})^({e})" for b, e in [*term["constant"], *term["factors"]]]
    return " * ".join(factors) + f" / M^({-Fraction(term['memory_exponent'])})"


def _same(field: str, found: Any, expected: Any) -> None:
    _require(found == expected, f"{field}: {found!r}, but the evidence gives {expected!r}")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


CHECKS: dict[str, Callable[[Json], None]] = {
    "compulsory": _compulsory,
    "statement": _statement,
    "sum": _sum,
    "recurrence": _recurrence,
    **checker_attention.CHECKS,
}


def main(paths: list[str]) -> int:
    """Checks every certificate in JSON files: one certificate, a list, or a document with a list `certificates`."""
    return 1 if sum([_wrong(path) for path in paths]) else 0


def _wrong(path: str) -> int:
    """How many certificates of a file do not hold; a file that cannot be read counts as one."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        print(f"{path}: {error}")
        return 1
    whole = found.get("certificates", [found]) if isinstance(found, dict) else found
    listed = whole if isinstance(whole, list) else [whole]
    failed = 0
    for at, certificate in enumerate(listed):
        try:
            check(certificate)
        except ValueError as error:
            failed += 1
            print(f"{path}: certificate {at}: {error}")
    print(f"{path}: {len(listed)} certificates, {failed} wrong")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
