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
from flashc.iomodel.checker_instance import check_instance, check_stored
from flashc.iomodel.checker_resident import check_resident
from flashc.iomodel.checker_text import must, must_equal, read_statement, split_reference
from flashc.iomodel.checker_values import (
    TooLongError,
    bounded,
    fraction,
    names,
    offsets,
    rank,
    same_product,
)

Json = dict[str, Any]
ORDER = "every operation is done (no Strassen), sums in any order"
ZERO = Fraction(0)


def check(certificate: Json) -> None:
    """Raises ValueError that names what does not hold."""
    must(isinstance(certificate, dict), "certificate: not an object")
    bounded(certificate)
    rule = certificate.get("rule")
    must(certificate.get("version") == 1, "version: only 1 is known")
    must(isinstance(rule, str) and rule in CHECKS, f"rule: {rule!r} is none of {', '.join(CHECKS)}")
    try:
        CHECKS[str(rule)](certificate)
    except TooLongError:
        raise ValueError("certificate: too long to check") from None
    except (LookupError, TypeError, ArithmeticError, AttributeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"certificate: malformed, {type(error).__name__}: {error}") from None


# -- compulsory traffic


def _compulsory(certificate: Json) -> None:
    evidence = certificate["evidence"]
    must_equal(
        "assumptions", certificate["assumptions"], ["each needed input element is read, each output element is written"]
    )
    sides = [*evidence["loaded"], *evidence["stored"]]
    for side, roles in (("loaded", ("in", "inout")), ("stored", ("out", "inout"))):
        must_equal(side, len({e["array"] for e in evidence[side]}), len(evidence[side]))
        for entry in evidence[side]:
            members = [a for a in evidence["arrays"].values() if entry["array"] == a["value"]]
            fits = [a for a in members if a["role"] in roles]
            must(
                bool(fits) and entry["width"] in {a["width"] for a in fits}, f"{side}: {entry['array']}: role or width"
            )
    text = " + ".join(f"{e['width']} * ({e['elements']})" for e in sides) or "0"
    must_equal("claim", certificate["claim"], {"text": text, "terms": []})
    check_instance(certificate, [])


# -- bounds that fall with the fast memory


def _statement(certificate: Json) -> None:
    must_equal("parts", len(certificate["evidence"]["parts"]), 1)
    _capacity(certificate, {})


def _sum(certificate: Json) -> None:
    evidence = certificate["evidence"]
    parts = {p["name"]: p for p in evidence["parts"]}
    grouped = [name for g in evidence["groups"] for name in g["statements"]]
    must_equal("groups", sorted(grouped), sorted(parts))
    must(len({p["sigma"] for p in parts.values()}) == 1, "sigma: differs among the parts")
    used: dict[str, int] = {}
    divisors: dict[tuple[str, str], int] = {}
    for at, group in enumerate(evidence["groups"]):
        members = [parts[name] for name in group["statements"]]
        for value in {v for p in members for v in _budgets(p)}:
            must(used.setdefault(value, at) == at, f"groups: two of them share {value}")
        for value, count in _division(group, members).items():
            divisors.update({(name, value): count for name in group["statements"]})
    _capacity(certificate, divisors)


def _division(group: Json, members: list[Json]) -> dict[str, int]:
    """Among how many statements each value is divided; that the others may count once is checked here."""
    budgets = [_budgets(p) for p in members]
    users = {v: sum(v in b for b in budgets) for b in budgets for v in b}
    must(group["way"] in ("pairs", "common", "divided"), f"groups: {group['way']!r} is no way to share items")
    if group["way"] == "pairs":
        edges = []
        for own, budget in zip(group["own"], budgets, strict=True):
            must(sorted(budget.values()) == [Fraction(1, 2)] * 3, "groups: pairs need three exponents of 1/2")
            must(own in budget and users[own] == 1, f"groups: {own} is not one statement's own")
            edges.append(frozenset(budget.keys() - {own}))
        must(len(set(edges)) == len(edges), "groups: two statements share both values")
        must(
            all({group["sides"][v] for v in e} == {0, 1} for e in edges), "groups: the sides do not divide the pairs"
        )
        return {}
    common = set(group["common"])
    if common:
        must(all(len({b.get(v) for b in budgets}) == 1 for v in common), "groups: a common exponent differs")
        rest = [sum((s for v, s in b.items() if v not in common), ZERO) for b in budgets]
        must(len(members) == 1 or min(rest) >= 1, "groups: the exponents besides the common ones are below 1")
    divisors = {v: n for v, n in users.items() if n > 1 and v not in common}
    must_equal("divisors", group["divisors"], divisors)
    return divisors


def _capacity(certificate: Json, divisors: dict[tuple[str, str], int]) -> None:
    evidence, claim = certificate["evidence"], certificate["claim"]
    _values(evidence)
    for part, term in zip(evidence["parts"], claim["terms"], strict=True):
        must(part["statement"] in evidence["statements"], f"statement: {part['statement']} is not of the cascade")
        _part(part, evidence, divisors)
        expected = {k: part[k] for k in ("points", "constant", "factors")}
        must_equal("claim", term, {**expected, "memory_exponent": str(1 - fraction(part["sigma"]))})
    _started(certificate)
    must_equal("claim", claim["text"], " + ".join(map(_text, claim["terms"])))
    check_instance(certificate, claim["terms"])


def _part(part: Json, evidence: Json, divisors: dict[tuple[str, str], int]) -> None:
    indices = [d[0] for d in part["domain"]]
    target, update, operands = read_statement(part["statement"])
    allowed = [*operands, *([target] if update != "=" else [])]
    covered = dict.fromkeys(indices, ZERO)
    constant: list[list[str]] = []
    factors: list[list[str]] = []
    seen: set[str] = set()
    for a in part["accesses"]:
        array, subscripts = split_reference(a["reference"])
        exponent, value = fraction(a["exponent"]), evidence["arrays"][array]["value"]
        must(
            a["reference"] in allowed and a["reference"] not in seen,
            f"accesses: {a['reference']} is not made, or twice",
        )
        seen.add(a["reference"])
        must(exponent >= 0, f"exponent: {exponent} of {a['reference']} is negative")
        must_equal("budget", a["budget"], value)
        width = min(x["width"] for x in evidence["arrays"].values() if x["value"] == value)
        must_equal("width", fraction(a["width"]), Fraction(width, divisors.get((part["name"], value), 1)))
        must_equal("indices", a["indices"], sorted(set(indices) & {n for s in subscripts for n in names(s)}))
        for index in a["indices"]:
            covered[index] += exponent
        if exponent and a["reuse"] != "1":
            (constant if a["reuse"].isdigit() else factors).append([a["reuse"], str(-exponent)])
        if set(a["indices"]) <= set(subscripts):
            must_equal("reuse", a["reuse"], "1")
    for index, extent, exponent in part["uncovered"]:
        covered[index] += fraction(exponent)
        must(fraction(exponent) > 0, "uncovered: an exponent is not positive")
        (constant if extent.isdigit() else factors).append([extent, str(-fraction(exponent))])
    for index, total in covered.items():
        must(total >= 1, f"exponents: index {index} is covered {total} times, not once")
    budgets = _budgets(part)
    sigma = sum(budgets.values(), ZERO)
    must(sigma > 1 and str(sigma) == part["sigma"], f"sigma: {part['sigma']}, but the exponents add up to {sigma}")
    widths = {a["budget"]: fraction(a["width"]) for a in part["accesses"]}
    constant += [[str(widths[v] / s), str(s)] for v, s in budgets.items()]
    constant += [[str(sigma - 1), str(sigma - 1)], ["2", str(_mirrored(part))]]
    must(same_product(part["constant"], constant), f"constant: {part['constant']} does not follow")
    must_equal("factors", sorted(part["factors"]), sorted(factors))


def _mirrored(part: Json) -> Fraction:
    """The power of 2 that exchanging two indices gains."""
    if part["swap"] is None:
        must(not any(a["mirrored"] for a in part["accesses"]), "mirrored: without a swap")
        return ZERO
    larger, smaller = part["swap"]
    domain = {name: (lower, upper) for name, lower, upper in part["domain"]}
    must(larger.isidentifier() and smaller.isidentifier(), f"swap: {larger!r}, {smaller!r} are no indices")
    below = re.fullmatch(rf"{larger}( - \d+)?", domain[smaller][1]) is not None
    above = re.fullmatch(rf"{smaller} \+ [1-9]\d*", domain[larger][0]) is not None
    must(below or above, f"swap: {smaller} is not kept below {larger}")
    must(not part["uncovered"] and not part["counted"], "swap: with uncovered indices or a count")
    exchanged = {larger: smaller, smaller: larger}
    made = {(a["reference"], a["budget"]) for a in part["accesses"]}
    for a in part["accesses"]:
        ends = {larger, smaller} & set(a["indices"])
        must(
            not a["mirrored"] or fraction(a["exponent"]) == 0 or len(ends) != 1,
            f"swap: the image of {a['reference']} may be larger than itself",
        )
        other = re.sub(r"[A-Za-z_][\w.]*(?!\w*\[)", lambda m: exchanged.get(m[0], m[0]), a["reference"])
        must(a["mirrored"] or (other, a["budget"]) in made, f"swap: {other} is not read")
        must(a["mirrored"] or a["reuse"] == "1", "swap: of an access with reuse")
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
        target, update, operands = read_statement(text)
        for operand in operands if update == "=" else ():
            if split_reference(operand)[1] == split_reference(target)[1]:
                join(split_reference(operand)[0], split_reference(target)[0])
    for name, a in arrays.items():
        must(a["value"] in {*arrays, a["storage"]}, f"value: {a['value']} of {name} is no array")
        for other, b in arrays.items():
            must(
                a["value"] != b["value"] or joined[name] == joined[other], f"value: {name} and {other} are not one"
            )
            same = a["storage"] and a["storage"] == b["storage"]
            must(not same or a["value"] == b["value"], f"value: {name} and {other} share storage")


def _started(certificate: Json) -> None:
    """Elements that come into being in fast memory are taken off; where they are read, each is computed once."""
    evidence, arrays = certificate["evidence"], certificate["evidence"]["arrays"]
    chosen = [read_statement(p["statement"]) for p in evidence["parts"]]
    read = {arrays[split_reference(o)[0]]["value"] for _, _, operands in chosen for o in operands}
    summed = {arrays[split_reference(t)[0]]["value"] for t, update, _ in chosen if update != "="}
    expected: list[tuple[str, int]] = []
    once: list[str] = []
    for value in read | summed:
        width = min(a["width"] for a in arrays.values() if a["value"] == value)
        begun = [b for b in map(_begun(arrays, value), map(read_statement, evidence["statements"])) if b]
        if not begun and all(a["role"] in ("out", "temp") for a in arrays.values() if a["value"] == value):
            uses = [split_reference(o)[0] for _, _, operands in chosen for o in operands]
            begun = [array for array in uses if arrays[array]["value"] == value]
        expected += [(b, width) for b in begun]
        once += [f"each element of {b} is computed once" for b in begun if value in read]
    must_equal("free", sorted((e["array"], e["width"]) for e in evidence["free"]), sorted(expected))
    once += [f"{p['name']} runs {p['points']} times" for p in evidence["parts"] if p["counted"]]
    must_equal("assumptions", sorted(certificate["assumptions"]), sorted({ORDER, *once}))
    check_stored(evidence)


def _begun(arrays: Json, value: str) -> Callable[[tuple[str, str, list[str]]], str]:
    """The array in which a statement starts elements of the value, if it does."""

    def begun(statement: tuple[str, str, list[str]]) -> str:
        target, update, operands = statement
        array = split_reference(target)[0]
        if arrays[array]["value"] != value:
            return ""
        if update == "=":
            return "" if any(arrays[split_reference(o)[0]]["value"] == value for o in operands) else array
        return array if arrays[array]["role"] in ("out", "temp") else ""

    return begun


# -- recurrences


def _recurrence(certificate: Json) -> None:
    evidence, term = certificate["evidence"]["parts"][0], certificate["claim"]["terms"][0]
    must_equal("parts", (len(certificate["evidence"]["parts"]), len(certificate["claim"]["terms"])), (1, 1))
    must(evidence["statement"] in certificate["evidence"]["statements"], "statement: not of the cascade")
    indices = [d[0] for d in evidence["domain"]]
    target, update, operands = read_statement(evidence["statement"])
    must_equal("update", update, "=")
    _values(certificate["evidence"])
    _only_writer(certificate["evidence"], evidence["statement"])
    for reference, distance in zip(evidence["reads"], evidence["distances"], strict=True):
        own = split_reference(reference)[0] == split_reference(target)[0]
        must(reference in operands and own, f"reads: {reference} is not a result")
        written, read = (_shift(r, indices) for r in (target, reference))
        must_equal("distances", distance, [written[i] - read[i] for i in indices])
    count = len(evidence["distances"])
    must(count >= 2 and rank(evidence["distances"]) == count, "distances: fewer than two, or not independent")
    sigma, width = Fraction(count, count - 1), evidence["width"]
    arrays = certificate["evidence"]["arrays"]
    value = arrays[split_reference(target)[0]]["value"]
    must_equal("width", width, str(min(a["width"] for a in arrays.values() if a["value"] == value)))
    constant = [[str(sigma - 1), str(sigma - 1)], [str(sigma), str(-sigma)], [width, str(sigma)]]
    constant += [[str(math.factorial(count - 1)), str(-sigma)], [str(math.factorial(count)), "1"]]
    must_equal("sigma", evidence["sigma"], str(sigma))
    must(same_product(evidence["constant"], constant), f"constant: {evidence['constant']} does not follow")
    claimed = {"points": evidence["points"], "constant": evidence["constant"], "factors": []}
    must_equal("claim", term, {**claimed, "memory_exponent": str(1 - sigma)})
    must_equal("claim", certificate["claim"]["text"], _text(term))
    must_equal("free", certificate["evidence"]["free"], [])
    check_stored(certificate["evidence"])
    distinct = f"what {evidence['name']} reads and no statement writes are distinct inputs"
    counted = [f"{evidence['name']} runs {evidence['points']} times"] if evidence["counted"] else []
    must_equal("assumptions", certificate["assumptions"], [ORDER, *counted, distinct])
    check_instance(certificate, [term])


def _only_writer(evidence: Json, statement: str) -> None:
    """Boundary values that another statement computes would not be loaded."""
    arrays = evidence["arrays"]
    written = [arrays[split_reference(read_statement(s)[0])[0]]["value"] for s in evidence["statements"]]
    own = arrays[split_reference(read_statement(statement)[0])[0]]["value"]
    must(written.count(own) == 1, f"statement: others write {own} as well")


def _shift(reference: str, indices: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for subscript in split_reference(reference)[1]:
        steps, rest = offsets(subscript, indices, {})
        must(list(steps.values()) == [1], f"reads: {reference} is not at a constant distance")
        found[next(iter(steps))] = rest
    must_equal("reads", sorted(found), sorted(indices))
    return found


def _text(term: Json) -> str:
    factors = [f"({term['points']})"] + [f"({b})^({e})" for b, e in [*term["constant"], *term["factors"]]]
    return " * ".join(factors) + f" / M^({-Fraction(term['memory_exponent'])})"


CHECKS: dict[str, Callable[[Json], None]] = {
    "compulsory": _compulsory,
    "statement": _statement,
    "sum": _sum,
    "recurrence": _recurrence,
    "resident": check_resident,
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
