"""Checks certificates of recurrent weights: that each step needs all of the state before it, and the numbers.

The certificate names, for each product of weights and a state, the statements that lead from an element of the state
back to the sum it is computed from. They are followed here again, subscript by subscript. Standard library only.
"""

from __future__ import annotations

import math
from typing import Any

from flashc.iomodel.checker_instance import bytes_of, check_stored
from flashc.iomodel.checker_text import must, must_equal, read_statement, split_reference
from flashc.iomodel.checker_values import TooLongError, evaluate, names, offsets

Json = dict[str, Any]
ASSUMPTIONS = [
    "every operation is done (no Strassen), sums in any order",
    "no product of a step is made before the whole state that the step reads is computed",
]
SAMPLES = ((5, 7, 11, 13, 17), (101, 89, 83, 79, 73), (2, 29, 3, 31, 19))
"""Sizes, by turns, at which two texts that should be one number are compared."""


def check_resident(certificate: Json) -> None:
    """Raises ValueError that names what does not hold."""
    evidence, claim = certificate["evidence"], certificate["claim"]
    must(claim["stride"] in (1, 2), "stride: each step, or every other one")
    must_equal("assumptions", certificate["assumptions"], ASSUMPTIONS[: 3 - claim["stride"]])
    for name, array in evidence["arrays"].items():
        must_equal("value", array["value"], array["storage"] or name)
    used: set[str] = set()
    found = [_layer(layer, evidence, used) for layer in evidence["layers"]]
    for expected, term in zip(found, claim["terms"], strict=True):
        must_equal("claim", sorted(term), sorted(expected))
        for field, text in expected.items():
            _same(field, term[field], text)
    text = " + ".join("({heads}) * resident({weights}, {steps})".format(**t) for t in claim["terms"])
    must_equal("claim", claim["text"], text)
    check_stored(evidence)
    if "instance" in certificate:
        _instance(certificate, found)


def _layer(layer: list[Json], evidence: Json, used: set[str]) -> Json:
    """Weights (bytes), heads and steps as texts. ``used``: weights that are counted already."""
    must(bool(layer), "layers: one is empty")
    frames, weights = set(), []
    for product in layer:
        ranges = _ranges(product, evidence)
        target, update, operands = read_statement(product["statement"])
        must(update != "=", f"statement: {product['statement']} is no sum")
        must(product["state"] in operands, f"state: {product['state']} is not read")
        state, out = _places(product["state"], ranges), dict(_places(target, ranges))
        rows = {n for n, _ in state if n in out and n != product["time"]}
        _one_step(product, ranges, state, rows, evidence)
        heads = [rows & _plain(w, operands, product["time"], ranges, evidence, used) for w in product["weights"]]
        must(bool(heads) and all(h == heads[0] for h in heads), "weights: of different heads, or none")
        shape = [(at, *ranges[n], n == product["time"], n in rows, n in heads[0]) for n, at in state]
        frames.add((split_reference(product["state"])[0], *shape))
        for reference in product["weights"]:
            array, subscripts = split_reference(reference)
            sides = [_extent(ranges[s]) for s in subscripts if s not in rows]
            weights.append(" * ".join([str(evidence["arrays"][array]["width"]), *sides]))
    must_equal("layers", len(frames), 1)
    return {
        "weights": " + ".join(weights),
        "heads": " * ".join(["1", *(_extent(ranges[h]) for h in sorted(heads[0]))]),
        "steps": _extent(ranges[product["time"]]),
    }


def _one_step(
    product: Json, ranges: dict[str, tuple[str, str]], state: list[tuple[str, int]], rows: set[str], evidence: Json
) -> None:
    """An element of the state is computed from the sum over the whole state one step before."""
    time, array, entries = product["time"], split_reference(product["state"])[0], state
    must(bool(product["hops"]), "hops: none")
    for hop in product["hops"]:
        inner = _ranges(hop, evidence)
        target, update, operands = read_statement(hop["statement"])
        must(update == "=" and hop["reads"] in operands, f"hops: {hop['reads']} is not read element by element")
        bound = _bound(target, array, entries, (inner, ranges), time, evidence)
        must(bound.keys() == inner.keys(), f"hops: {hop['statement']} has an index that its target lacks")
        array = split_reference(hop["reads"])[0]
        entries = [(bound[n][0], bound[n][1] + at) for n, at in _places(hop["reads"], inner)]
    target, _, _ = read_statement(product["statement"])
    bound = _bound(target, array, entries, (ranges, ranges), time, evidence)
    must_equal("time", bound.get(time), (time, -1))
    must(all(bound[n] == (n, 0) for n in rows), "rows: one depends on another")
    summed = {bound[n][0] for n in bound.keys() - rows - {time}}
    read = {n for n, _ in state} - bound.keys()
    must(bool(read) and summed == read, "state: not all of it is summed over")


def _bound(
    target: str,
    array: str,
    entries: list[tuple[str, int]],
    both: tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]],
    time: str,
    evidence: Json,
) -> dict[str, tuple[str, int]]:
    """The writer's indices in terms of the product's: which one, and how many steps before."""
    inner, ranges = both
    must_equal("hops", split_reference(target)[0], array)
    own = evidence["arrays"][array]
    writers = [s for s in evidence["statements"] if split_reference(read_statement(s)[0])[0] == array]
    must(len(writers) == 1 and own["role"] in ("out", "temp") and not own["storage"], f"hops: {array} may be given")
    found = {}
    for (name, at), (source, shift) in zip(_places(target, inner), entries, strict=True):
        must_equal(f"domain of {name}", inner[name], ranges[source])
        must(shift - at in ((0, -1) if source == time else (0,)), f"hops: {target} is of another step or element")
        found[name] = (source, shift - at)
    return found


def _plain(
    reference: str,
    operands: list[str],
    time: str,
    ranges: dict[str, tuple[str, str]],
    evidence: Json,
    used: set[str],
) -> set[str]:
    """The indices of weights: an input that nothing writes, the same in every step, not counted before."""
    array = split_reference(reference)[0]
    own = evidence["arrays"][array]
    written = {split_reference(read_statement(s)[0])[0] for s in evidence["statements"]}
    must(reference in operands and array not in written, f"weights: {reference} is not read, or is written")
    must(own["role"] == "in" and not own["storage"] and array not in used, f"weights: {array} is no input, or twice")
    used.add(array)
    places = _places(reference, ranges)
    must(all(at == 0 and n != time for n, at in places), f"weights: {reference} changes with the step")
    return {n for n, _ in places}


def _ranges(entry: Json, evidence: Json) -> dict[str, tuple[str, str]]:
    """Lower and upper bound of each index; none depends on another index."""
    must(entry["statement"] in evidence["statements"], f"statement: {entry['statement']} is not of the cascade")
    found = {name: (lower, upper) for name, lower, upper in entry["domain"]}
    must_equal("domain", len(found), len(entry["domain"]))
    must(not any(names(b) & found.keys() for bounds in found.values() for b in bounds), "domain: no box")
    return found


def _places(reference: str, ranges: dict[str, tuple[str, str]]) -> list[tuple[str, int]]:
    """Each subscript as an index and a number; every index at most once."""
    found = []
    for subscript in split_reference(reference)[1]:
        steps, rest = offsets(subscript, list(ranges), {})
        must(list(steps.values()) == [1], f"subscripts: {reference} is not an index and a number")
        found.append((next(iter(steps)), rest))
    must_equal("subscripts", len({n for n, _ in found}), len(found))
    return found


def _extent(bounds: tuple[str, str]) -> str:
    return f"(({bounds[1]}) - ({bounds[0]}))"


def _same(field: str, text: str, expected: str) -> None:
    for sample in SAMPLES:
        sizes = {n: sample[at % len(sample)] + at // len(sample) for at, n in enumerate(sorted(names(expected)))}
        must_equal(field, evaluate(text, sizes), evaluate(expected, sizes))


def _instance(certificate: Json, found: list[Json]) -> None:
    instance, evidence, claim = certificate["instance"], certificate["evidence"], certificate["claim"]
    sizes, values, loads = instance["sizes"], instance["values"], 0.0
    for text, number in values.items():
        try:
            must_equal(f"values: {text}", number, evaluate(text, sizes))
        except TooLongError:
            must(number >= 0, f"values: {text} is negative")
    for expected, term, domains in zip(found, claim["terms"], evidence["layers"], strict=True):
        weights, heads, steps = (evaluate(expected[f], sizes) for f in ("weights", "heads", "steps"))
        must_equal("values", [values[term[f]] for f in ("weights", "heads", "steps")], [weights, heads, steps])
        spans = [evaluate(_extent((low, high)), sizes) for p in domains for _, low, high in p["domain"]]
        again = -(-steps // claim["stride"]) - 1
        whole = heads * (weights + again * max(0.0, weights - float(instance["fast_bytes"])))
        loads += whole if min(spans) > 0 else 0.0
    stores = bytes_of(evidence["stored"], values)
    for field, value in (("loads", loads), ("stores", stores), ("total", loads + stores)):
        close = math.isclose(instance[field], value, rel_tol=1e-9, abs_tol=1e-6)
        must(close, f"{field}: {instance[field]}, but the evidence gives {value}")
