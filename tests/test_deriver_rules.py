"""What the rules rest on, by brute force: the inequalities on sets of points, and optimal play of the pebble game."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
from bound_cases import FILES, question

from flashc.iomodel.accesses import access, least_elements, most_elements
from flashc.iomodel.bounds import lower_bounds
from flashc.iomodel.capacity import Capacity
from flashc.iomodel.derive import Part
from flashc.iomodel.exponents import covered, vertices
from flashc.iomodel.recurrence import constants, distances
from flashc.iomodel.statements import Cascade, Index, Reference, Statement
from flashc.ir.intparse import parse_int

SMALL = 4  # extent of every size in sets of points
Point = dict[str, int]


def walk(indices: Sequence[Index], sizes: Point) -> Iterator[Point]:
    """Every point of a nest, with the sizes."""
    if not indices:
        yield sizes
        return
    first, *rest = indices
    for value in range(first.lower.evaluate(sizes), first.upper.evaluate(sizes)):
        yield from walk(rest, {**sizes, first.name: value})


def element(reference: Reference, point: Point) -> tuple[int, ...]:
    return tuple(x.evaluate(point) for x in reference.subscripts)


def items(part: Part, points: Sequence[Point]) -> set[tuple[str, tuple[int, ...]]]:
    """Elements that the points touch, by the value they belong to."""
    return {(s.budget, element(s.access.reference, p)) for s in part.shares for p in points}


def log_chi(part: Part, sizes: Point, block: float) -> float:
    """The logarithm of the most points that items of ``block`` bytes allow, as the bound uses it."""
    term = part.term()
    sigma = float(term.sigma)
    scale = sum(math.log(b) * float(e) for b, e in term.powers)
    scale += sum(math.log(x.evaluate(sizes)) * float(e) for x, e in term.factors)
    return sigma * math.log(block / sigma) + (sigma - 1) * math.log(sigma - 1) - scale


def chosen_sets(points: Sequence[Point], rng: random.Random) -> Iterator[list[Point]]:
    """Boxes and random sets of points; boxes are where the inequalities are tight."""
    if not points:
        return
    names = [n for n in points[0] if any(p[n] != points[0][n] for p in points)]
    for _ in range(60):
        low, high = {}, {}
        for n in names:
            ends = sorted(rng.choice(points)[n] for _ in "ab")
            low[n], high[n] = ends
        yield [p for p in points if all(low[n] <= p[n] <= high[n] for n in names)]
        share = rng.random()
        yield [p for p in points if rng.random() < share]


def capacities(name: str) -> list[Capacity]:
    return [b for b in lower_bounds(question(name).cascade) if isinstance(b, Capacity) and b.chosen]


@pytest.mark.parametrize("path", FILES, ids=lambda f: f.stem)
def test_no_set_of_points_does_more_than_its_items_allow(path: object) -> None:
    """Statements of a bound play together: sum of work / chi(bytes of all items) stays at most 1."""
    name = getattr(path, "stem", "")
    rng = random.Random(name)
    for bound in capacities(name):
        asked = question(name)
        sizes = {n: 3 if len(asked.cascade.sizes) > 5 else SMALL for n in asked.cascade.sizes}
        nests = [
            rng.sample(a, min(len(a), 1000)) for p in bound.chosen for a in [list(walk(p.statement.indices, sizes))]
        ]
        for sets in zip(*(chosen_sets(n, rng) for n in nests), strict=True):
            touched = set().union(*(items(p, e) for p, e in zip(bound.chosen, sets, strict=True)))
            true_widths = {a["value"]: a["width"] for a in bound.context["arrays"].values()}
            for a in bound.context["arrays"].values():
                true_widths[a["value"]] = min(true_widths[a["value"]], a["width"])
            block = sum(true_widths[value] for value, _ in touched)
            if block:
                work = sum(len(e) / math.exp(log_chi(p, sizes, block)) for p, e in zip(bound.chosen, sets, strict=True))
                assert work <= 1 + 1e-9


@pytest.mark.parametrize("name", ["jacobi1d", "jacobi2d", "seidel2d", "heat3d"])
def test_no_set_of_results_outgrows_what_it_reads_from_outside(name: str) -> None:
    statement = question(name).cascade.statements[0]
    steps = [d for _, d in distances(statement)]
    chosen = next(b for b in lower_bounds(question(name).cascade) if b.rule.startswith("recurrence"))
    used = [tuple(d) for d in chosen.certificate()["evidence"]["parts"][0]["distances"]]
    n = len(used)
    sigma = n / (n - 1)
    kappa = math.factorial(n - 1) ** sigma / math.factorial(n)
    rng = random.Random(name)
    for trial in range(120):
        side = rng.randrange(2, 6 if n < 4 else 4)
        grid = list(itertools.product(range(side), repeat=n))
        share = rng.choice([0.2, 0.7, 1.0])
        inside = {p for p in grid if rng.random() < share}
        if trial % 3 == 0:  # the shape that attains the bound: a simplex below a corner, along the distances used
            inside = {
                tuple(-sum(c * d[axis] for c, d in zip(p, used, strict=True)) for axis in range(n))
                for p in grid
                if sum(p) < side
            }
        outside = {back for p in inside for d in steps if (back := tuple(map(int.__sub__, p, d))) not in inside}
        assert len(inside) <= kappa * len(outside) ** sigma + 1e-9


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_a_simplex_attains_the_constant_of_recurrences(dimensions: int) -> None:
    """Points with coordinates >= 0 that add up to less than L, items on the plane where they add up to L."""
    length = 400
    points = math.comb(length + dimensions - 1, dimensions)
    below = math.comb(length + dimensions - 1, dimensions - 1)
    sigma, _ = constants(dimensions, 1)
    kappa = math.factorial(dimensions - 1) ** float(sigma) / math.factorial(dimensions)
    assert points / (kappa * below ** float(sigma)) == pytest.approx(1, abs=0.02)


def test_vertices_are_exact_and_cover() -> None:
    rows = [frozenset({0, 1}), frozenset({0, 2}), frozenset({1, 2})]
    found = vertices(rows, 3)
    assert (Fraction(1, 2),) * 3 in found
    assert all(min(p) >= 0 for p in found)
    feasible = [p for p in found if all(covered(p, r) >= 1 for r in rows)]
    assert min(sum(p) for p in feasible) == Fraction(3, 2)


NESTS = [
    ("i:0:n j:0:i+1", "i j", "i", "j", "j i"),
    ("i:0:n j:0:i+1 k:0:j", "i k", "j k", "i j", "k"),
    ("k:0:n i:k+1:n j:k+1:n", "i k", "k j", "i j", "j"),
    ("x:0:n r:0:3", "2*x+r", "x+r", "x r", "r"),
    ("c:0:n g:0:2 j:0:n", "2*c+g j", "2*c+g", "c j", "3*c+2*g"),
    ("x:0:n y:0:n z:0:2", "x+y+z", "x+y z", "x-y", "x"),
]


@pytest.mark.parametrize("text", NESTS, ids=lambda t: t[0])
def test_counts_of_elements_hold_the_true_number(text: tuple[str, ...]) -> None:
    nest = [part.split(":") for part in text[0].split()]
    indices = tuple(Index(n, parse_int(low), parse_int(high)) for n, low, high in nest)
    for subscripts in text[1:]:
        reference = Reference("A", tuple(map(parse_int, subscripts.split())))
        statement = Statement("S", indices, reference, "=", ())
        for n in range(1, 7):
            points = list(walk(indices, {"n": n}))
            true = len({element(reference, p) for p in points})
            assert least_elements(reference, indices).evaluate({"n": n}) <= true
            assert most_elements(reference, indices).evaluate({"n": n}) >= true
            assert statement.points().evaluate({"n": n}) == len(points)
            seen = access(reference, statement)
            assert seen is not None
            unfolded = {tuple(p[i] for i in sorted(seen.indices)): element(reference, p) for p in points}
            most = max(list(unfolded.values()).count(e) for e in set(unfolded.values())) if unfolded else 0
            assert most <= seen.reuse.evaluate({"n": n})


# -- optimal play


def least_traffic(products: Sequence[tuple[frozenset[str], str]], fast: int, given: bool) -> int:
    """Loads and stores of the best run, by Dijkstra's algorithm: every product needs its inputs and a sum in ``fast``
    words.

    A state is the inputs present and, per result, the products summed in the word in fast memory and in its copy in
    slow memory (-1: no such word). Sums start empty, or, if ``given``, with a value in slow memory that must end up in
    the result (one more bit); a second partial sum may be started and added later; what is dropped may be computed
    again.
    """
    results = sorted({r for _, r in products})
    value = 1 << len(products) if given else 0
    full = tuple(sum(1 << n for n, (_, r) in enumerate(products) if r == name) | value for name in results)
    start = (frozenset[str](), tuple((-1, value if given else -1) for _ in results))
    best = {start: 0}
    queue: list[tuple[int, int, object]] = [(0, 0, start)]
    ticket = itertools.count(1)
    while queue:
        cost, _, state = heapq.heappop(queue)
        present, sums = state  # type: ignore[misc]
        if cost > best[state]:  # type: ignore[index]
            continue
        if all(slow == f for (_, slow), f in zip(sums, full, strict=True)):
            return cost
        for step, after in _moves(present, sums, products, results, fast):
            if cost + step < best.get(after, 1 << 30):
                best[after] = cost + step
                heapq.heappush(queue, (cost + step, next(ticket), after))
    raise AssertionError("the fast memory is too small")


State = tuple[frozenset[str], tuple[tuple[int, int], ...]]


def _moves(
    present: frozenset[str],
    sums: tuple[tuple[int, int], ...],
    products: Sequence[tuple[frozenset[str], str]],
    results: list[str],
    fast: int,
) -> Iterator[tuple[int, State]]:
    used = len(present) + sum(word >= 0 for word, _ in sums)

    def put(at: int, word: int, slow: int) -> tuple[tuple[int, int], ...]:
        return (*sums[:at], (word, slow), *sums[at + 1 :])

    for n, (needs, result) in enumerate(products):
        at = results.index(result)
        word, slow = sums[at]
        if word >= 0 and not word >> n & 1 and needs <= present:
            yield 0, (present, put(at, word | 1 << n, slow))
            if slow < 0 or not slow >> n & 1:
                return  # it costs nothing and stands in no one's way
    if used == fast:
        for name in present:
            yield 0, (present - {name}, sums)
    else:
        for name in {n for needs, _ in products for n in needs} - present:
            yield 1, (present | {name}, sums)
    for at, (word, slow) in enumerate(sums):
        if word >= 0:
            yield 0, (present, put(at, -1, slow))
            yield 1, (present, put(at, word, word))
            if slow > 0 and not word & slow:
                yield 1, (present, put(at, word | slow, -1))
        elif used < fast:
            yield 0, (present, put(at, 0, slow))
            if slow >= 0:
                yield 1, (present, put(at, slow, slow))


def game(name: str, fast: int, **sizes: int) -> tuple[int, float]:
    """The least traffic of an example's first statement, in words, and what the bounds say."""
    asked = question(name, **sizes)
    first = asked.cascade.statements[0]
    arrays = tuple(a for a in asked.cascade.arrays if a.name in {r.array for r in (first.target, *first.operands)})
    cascade = Cascade(name, asked.cascade.sizes, arrays, (first,))
    products = [
        (frozenset(f"{o.array}{element(o, p)}" for o in first.operands), f"{element(first.target, p)}")
        for p in walk(first.indices, dict(sizes))
    ]
    given = cascade.array(first.target.array).role == "inout"
    bound = max(b.at(sizes, 4 * fast).total for b in lower_bounds(cascade)) / 4
    return least_traffic(products, fast, given), bound


GAMES = [
    ("matmul", 3, {"m": 2, "n": 2, "k": 1}),
    ("matmul", 4, {"m": 2, "n": 2, "k": 1}),
    ("matmul", 3, {"m": 1, "n": 2, "k": 2}),
    ("matmul", 3, {"m": 2, "n": 1, "k": 2}),
    ("syrk", 3, {"n": 2, "k": 1}),
    ("syrk", 4, {"n": 2, "k": 1}),
    ("energy", 3, {"n": 2}),
    ("matvec", 3, {"m": 2, "n": 2}),
]


@pytest.mark.parametrize(("name", "fast", "sizes"), GAMES, ids=lambda x: str(x))
def test_optimal_play_moves_no_less_than_the_bound(name: str, fast: int, sizes: dict[str, int]) -> None:
    optimum, bound = game(name, fast, **sizes)
    assert optimum >= bound - 1e-9
