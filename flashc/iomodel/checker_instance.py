"""The numbers of a certificate's instance, computed again: counts, the bound, and what is taken off it."""

from __future__ import annotations

import math
from typing import Any

from flashc.iomodel.checker_text import must, must_equal, split_reference
from flashc.iomodel.checker_values import (
    TooLongError,
    elements,
    evaluate,
    fraction,
    names,
    offsets,
    points,
    product,
    reached,
)

Json = dict[str, Any]


def check_instance(certificate: Json, terms: list[Json]) -> None:
    """Loads, stores and total from ``terms``; nothing to do without an instance. Raises ValueError."""
    found = certificate.get("instance")
    if found is None:
        return
    evidence, sizes, values = certificate["evidence"], found["sizes"], found["values"]
    for part in evidence.get("parts", []):
        _counted(part, sizes, values)
    for text, number in values.items():
        must(isinstance(number, int), f"values: {text} = {number!r} is not a whole number")
        try:
            must_equal(f"values: {text}", number, evaluate(text, sizes))
        except TooLongError:
            must(number >= 0, f"values: {text} is negative")
    fast = max(float(found["fast_bytes"]), 1.0)
    moved = sum(_moved(t, values) * fast ** float(fraction(t["memory_exponent"])) for t in terms)
    free, stored, loaded = (bytes_of(evidence.get(side, []), values) for side in ("free", "stored", "loaded"))
    loads = loaded + max(0.0, moved - free)
    for field, value in (("loads", loads), ("stores", stored), ("total", loads + stored)):
        close = math.isclose(found[field], value, rel_tol=1e-9, abs_tol=1e-6)
        must(close, f"{field}: {found[field]}, but the evidence gives {value}")
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
            used = elements(part["domain"], split_reference(a["reference"])[1], sizes)
        except TooLongError:
            continue
        must(begun >= used, f"free: {begun} elements of {a['budget']}, but {used} are used")


def _moved(term: Json, values: Json) -> float:
    if any(values[text] <= 0 for text, _ in term["factors"]):
        return 0.0
    scale = math.prod(values[text] ** float(fraction(e)) for text, e in term["factors"])
    return float(values[term["points"]] * product(term["constant"]) * scale)


def _counted(part: Json, sizes: Json, values: Json) -> None:
    """The points of the nest, and the reuse of unfolded accesses, counted again."""
    if not part["counted"]:
        try:
            must_equal("points", values[part["points"]], points(part["domain"], sizes))
        except TooLongError:
            must(values[part["points"]] >= 0, "points: negative")
    try:
        spans = reached(part["domain"], sizes)
    except TooLongError:
        return
    if not all(spans.values()):
        return
    box = not any(names(b) & spans.keys() for _, *bounds in part["domain"] for b in bounds)
    for name, extent, _ in part.get("uncovered", []):
        found = evaluate(extent, sizes)
        must(found == spans[name] if box else found >= spans[name], f"uncovered: {found} values of {name}")
    for a in part.get("accesses", []):
        needed = _reuse(split_reference(a["reference"])[1], spans, sizes)
        must(evaluate(a["reuse"], sizes) >= needed, f"reuse: {a['reuse']} of {a['reference']} is below {needed}")


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


def bytes_of(entries: list[Json], values: Json) -> float:
    """Bytes of arrays' elements, by the values of their counts."""
    return float(sum(e["width"] * max(values[e["elements"]], 0) for e in entries))


def check_stored(evidence: Json) -> None:
    """Outputs are written; names of one storage count once."""
    outs = {(a["storage"] or n, a["width"]) for n, a in evidence["arrays"].items() if a["role"] in ("out", "inout")}
    must({(e["array"], e["width"]) for e in evidence["stored"]} <= outs, "stored: something that is no output")
    must_equal("stored", len({e["array"] for e in evidence["stored"]}), len(evidence["stored"]))
