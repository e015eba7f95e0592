"""Recurrent weights that do not fit: the bound against schedules and exact optima, and what only looks like it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
from bound_cases import question
from hypothesis import given, settings
from hypothesis import strategies as st

from flashc.compiler.cascade_file import load_question
from flashc.iomodel.bound import LowerBound
from flashc.iomodel.bounds import certified, lower_bounds
from flashc.iomodel.checker import check

Run = tuple[int, int, int, int]  # step, row of the batch, unit, unit of the step before
WIDTH = 4


def resident(name: str, **sizes: int) -> tuple[LowerBound, LowerBound]:
    """The bound for any schedule and the one where steps do not overlap."""
    anyhow, apart = (b for b in lower_bounds(question(name, **sizes).cascade) if b.rule.startswith("weights"))
    return anyhow, apart


def words(steps: int, units: int, memory: int, rows: int = 1) -> tuple[float, float]:
    """Both bounds for the Elman example, in words."""
    sizes = {"t": steps, "b": rows, "d": units}
    anyhow, apart = (b.at(sizes, memory * WIDTH).loads / WIDTH for b in resident("elman"))
    return anyhow, apart


def loads(order: Iterable[Run], memory: int) -> int:
    """Weights loaded by a schedule, replaced as well as is possible (Belady). States cost nothing here.

    Refuses a product that is made before the state it reads is computed.
    """
    schedule = list(order)
    made: dict[tuple[int, int, int], int] = {}
    units = 1 + max(i for _, _, i, _ in schedule)
    for t, b, i, k in schedule:
        assert t == 0 or made[t - 1, b, k] == units, f"h[{t}, {b}, {k}] is not there"
        made[t, b, i] = made.get((t, b, i), 0) + 1
    weights = [(i, k) for _, _, i, k in schedule]
    following: list[float] = [float("inf")] * len(weights)
    last: dict[tuple[int, int], int] = {}
    for at in range(len(weights) - 1, -1, -1):
        following[at] = last.get(weights[at], float("inf"))
        last[weights[at]] = at
    held: dict[tuple[int, int], float] = {}
    count = 0
    for weight, again in zip(weights, following, strict=True):
        if weight not in held:
            count += 1
            if len(held) == memory:
                del held[max(held, key=lambda w: held[w])]
        held[weight] = again
    return count


def matrix(units: int) -> list[tuple[int, int]]:
    return list(product(range(units), repeat=2))


def back_and_forth(steps: int, units: int, rows: int = 1) -> Iterator[Run]:
    """Each step through the whole matrix, in turns from both ends; all rows of the batch at each weight."""
    for t in range(steps):
        for i, k in matrix(units)[:: 1 if t % 2 == 0 else -1]:
            yield from ((t, b, i, k) for b in range(rows))


def row_by_row(steps: int, units: int, rows: int) -> Iterator[Run]:
    for b in range(rows):
        yield from ((t, b, i, k) for t, _, i, k in back_and_forth(steps, units))


def wavefront(steps: int, units: int, rows: int) -> Iterator[Run]:
    """Row b of the batch is b steps behind row 0."""
    for wave in range(steps + rows - 1):
        for i, k in matrix(units)[:: 1 if wave % 2 == 0 else -1]:
            yield from ((wave - b, b, i, k) for b in range(rows) if 0 <= wave - b < steps)


def triangles(steps: int, units: int) -> Iterator[Run]:
    """One triangle of the matrix at a time, for two steps: upwards U[i, k], k < i, finishes row i of step t - 1, and as
    h[t, k] is there, it is used for step t as well; then downwards the other triangle, for steps t and t + 1."""
    yield from ((0, 0, i, k) for i, k in matrix(units) if k > i)
    for t in range(steps):
        upwards = t % 2 == 0
        for i in range(units) if upwards else range(units - 1, -1, -1):
            yield t, 0, i, i
            for k in range(i) if upwards else range(i + 1, units):
                yield t, 0, i, k
                if t + 1 < steps:
                    yield t + 1, 0, i, k


def any_order(steps: int, units: int, rows: int, seed: int) -> Iterator[Run]:
    """A random order in which every state is computed before it is read; it prefers weights it has just used."""
    chance = random.Random(seed)
    left = set(product(range(steps), range(rows), range(units), range(units)))
    made: dict[tuple[int, int, int], int] = {}
    greed, weight = chance.random(), (0, 0)
    while left:
        ready = sorted(r for r in left if r[0] == 0 or made.get((r[0] - 1, r[1], r[3])) == units)
        near = [r for r in ready if r[2:] == weight]
        run = chance.choice(near if near and chance.random() < greed else ready)
        left.remove(run)
        made[run[:3]] = made.get(run[:3], 0) + 1
        weight = run[2:]
        yield run


def fewest_loads(steps: int, units: int, memory: int) -> int:
    """Over all schedules of one row, by search over what is made and what is resident. States cost nothing."""
    weights = matrix(units)
    runs = [(t, 0, i, k) for t in range(steps) for i, k in weights]
    number = {run: at for at, run in enumerate(runs)}
    needs = [sum(1 << number[t - 1, 0, k, j] for j in range(units)) if t else 0 for t, _, _, k in runs]

    def worked(made: int, held: frozenset[tuple[int, int]]) -> int:
        """Everything that can be made with what is resident: it never does harm."""
        while True:
            more = [n for n, r in enumerate(runs) if not made >> n & 1 and r[2:] in held and needs[n] & ~made == 0]
            if not more:
                return made
            made |= sum(1 << n for n in more)

    level = {(0, frozenset[tuple[int, int]]())}
    done, seen = (1 << len(runs)) - 1, set(level)
    for count in range(1, len(runs) + 1):
        fresh = set()
        for made, held in level:
            for weight in set(weights) - held:
                kept = [held] if len(held) < memory else [frozenset(c) for c in combinations(held, memory - 1)]
                for rest in kept:
                    now = rest | {weight}
                    fresh.add((worked(made, now), now))
        level = fresh - seen
        seen |= level
        if any(made == done for made, _ in level):
            return count
    raise AssertionError("every product can be made with one load each")


def test_values_of_the_examples() -> None:
    """W + (ceil(T / 2) - 1) (W - M) for each head, and with T where steps do not overlap."""
    sizes = {"t": 1024, "b": 16, "n": 4, "d": 1024}
    matrices, memory = 4 * 1024**2 * 2, 4 << 20
    anyhow, apart = resident("lstm")
    assert anyhow.at(sizes, memory).loads == 4 * (matrices + 511 * (matrices - memory))
    assert apart.at(sizes, memory).loads == 4 * (matrices + 1023 * (matrices - memory))
    assert anyhow.at(sizes, matrices).loads == apart.at(sizes, 1e30).loads == 4 * matrices
    assert anyhow.at(sizes, memory).stores == 1024 * 16 * 4 * 1024 * 2
    assert apart.at({**sizes, "t": 1}, memory).loads == 4 * matrices
    for empty in ("t", "b", "n", "d"):
        assert anyhow.at({**sizes, empty: 0}, memory).loads == 0 == apart.at({**sizes, empty: 0}, memory).loads


def test_it_is_what_the_command_prints() -> None:
    asked = question("lstm")
    top = max(lower_bounds(asked.cascade), key=lambda b: b.at(asked.sizes, asked.fast_bytes or 0).total)
    assert top.rule == "weights S1, S2, S3, S4, steps apart"
    assert any(a.startswith("no product of a step is made before") for a in top.assumptions)


@pytest.mark.parametrize(
    ("steps", "units", "memory"), [(1, 4, 3), (2, 4, 7), (5, 4, 7), (6, 5, 24), (4, 3, 9), (4, 3, 12)]
)
def test_going_back_and_forth_meets_the_bound_where_steps_do_not_overlap(steps: int, units: int, memory: int) -> None:
    """M weights survive each turn: exactly the bound, states aside."""
    assert loads(back_and_forth(steps, units, 2), memory) == words(steps, units, memory, 2)[1]


@pytest.mark.parametrize(("steps", "units", "memory"), [(3, 8, 2), (7, 8, 2), (8, 8, 2), (9, 6, 12), (15, 10, 40)])
def test_overlapping_steps_load_half_as_much(steps: int, units: int, memory: int) -> None:
    """Steps are no barriers: U[i, k] serves two steps. The bound for any schedule is met up to the diagonal (and half a
    matrix for an even number of steps); the one for steps apart does not hold for it."""
    anyhow, apart = words(steps, units, memory)
    found = loads(triangles(steps, units), memory)
    assert anyhow <= found < apart
    assert found <= anyhow + (steps + 1) * units + (units**2 / 2 if steps % 2 == 0 else 0) + memory * steps / 2


@pytest.mark.parametrize("schedule", [back_and_forth, row_by_row, wavefront])
@pytest.mark.parametrize("memory", [1, 5, 15, 16, 20])
def test_batches_in_any_order_stay_above(schedule: Any, memory: int) -> None:
    steps, units, rows = 5, 4, 3
    found, (anyhow, apart) = loads(schedule(steps, units, rows), memory), words(steps, units, memory, rows)
    assert found >= apart >= anyhow


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(1, 10), st.integers(0, 10**6))
def test_random_orders_stay_above(steps: int, units: int, rows: int, memory: int, seed: int) -> None:
    assert loads(any_order(steps, units, rows, seed), memory) >= words(steps, units, memory, rows)[0]


@pytest.mark.parametrize(("steps", "memory"), [(s, m) for s in (1, 2, 3, 4) for m in (1, 2, 3, 4)])
def test_fewest_loads_of_two_units(steps: int, memory: int) -> None:
    fewest, (anyhow, apart) = fewest_loads(steps, 2, memory), words(steps, 2, memory)
    assert anyhow <= fewest <= apart
    assert fewest <= min(loads(triangles(steps, 2), memory), loads(back_and_forth(steps, 2), memory))


def test_a_barrier_at_every_step_is_no_bound() -> None:
    """Even the smallest network beats |U| + (T - 1) (|U| - M)."""
    assert fewest_loads(3, 2, 1) < words(3, 2, 1)[1] == 4 + 2 * 3


# -- which recurrences


ELMAN = {
    "arrays": {
        "U": {"role": "in", "dtype": "fp32"},
        "x": {"role": "in", "dtype": "fp32"},
        "g": {"role": "temp", "dtype": "fp32"},
        "h": {"role": "out", "dtype": "fp32"},
    },
    "statements": [
        {"do": "g[s, r, i] += U[i, k] * h[s, r, k]", "for": {"s": "t", "r": "b", "i": "d", "k": "d"}},
        {"do": "h[s + 1, r, i] = g[s, r, i] + x[s, r, i]", "for": {"s": "t", "r": "b", "i": "d"}},
    ],
}


def found(folder: Path, document: dict[str, Any]) -> list[LowerBound]:
    """The bounds of a cascade with sizes t, b, d, e; their certificates pass."""
    path = folder / "case.yaml"
    path.write_text(json.dumps({"sizes": {"t": 6, "b": 2, "d": 8, "e": 8}, **document}))
    asked = load_question(path)
    chosen = [b for b in lower_bounds(asked.cascade) if b.rule.startswith("weights")]
    for bound in chosen:
        check(json.loads(json.dumps(certified(bound, asked.sizes, 64))))
    return chosen


def edited(changes: dict[tuple[Any, ...], Any]) -> dict[str, Any]:
    document: dict[str, Any] = copy.deepcopy(ELMAN)
    for path, value in changes.items():
        place = document
        for key in path[:-1]:
            place = place[key]
        if path[-1] == "+":
            place.append(value)
        else:
            place[path[-1]] = value
    return document


S1, S2, LAST = ("statements", 0), ("statements", 1), ("statements", "+")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({(*S1, "do"): "g[s, r, i] += U[s, i, k] * h[s, r, k]"}, id="other weights each step"),
        pytest.param({(*S1, "do"): "g[s, r, i] += U[i, k] * x[s, r, k]"}, id="no recurrence"),
        pytest.param({(*S1, "do"): "g[s, r, i] += U[i, k] * h[s, r, i]"}, id="element by element"),
        pytest.param({(*S1, "do"): "g[s, r, i] += U[i, k] * h[s + 1, r, k]"}, id="the step itself"),
        pytest.param({(*S2, "do"): "h[s + 2, r, i] = g[s, r, i] + x[s, r, i]"}, id="two steps back"),
        pytest.param({(*S2, "do"): "h[s + 1, i, r] = g[s, r, i] + x[s, r, i]"}, id="rows and units exchanged"),
        pytest.param({(*S2, "do"): "h[s + 1, r, i + 1] = g[s, r, i]"}, id="another unit"),
        pytest.param({(*S2, "do"): "h[s + 1, r, i] = x[s, r, i]"}, id="the sum is not used"),
        pytest.param({(*S1, "for", "k"): "i"}, id="a triangle of the state"),
        pytest.param({(*S1, "for", "k"): "e"}, id="another range"),
        pytest.param({(*S2, "for", "i"): "d - 1"}, id="one unit is given"),
        pytest.param({(*S2, "for", "s"): ["1", "t"]}, id="one step is given"),
        pytest.param({(*S1, "count"): "t * d"}, id="sparse"),
        pytest.param({("arrays", "h", "role"): "inout"}, id="states that are given"),
        pytest.param({("arrays", "g", "role"): "inout"}, id="sums that are given"),
        pytest.param({("arrays", "U", "storage"): "s", ("arrays", "g", "storage"): "s"}, id="weights overwritten"),
        pytest.param({("arrays", "U", "role"): "inout"}, id="weights that may change"),
        pytest.param({LAST: {"do": "h[s + 1, r, i] = x[s, r, i]", "for": {"s": "t", "r": "b", "i": "d"}}}, id="reset"),
    ],
)
def test_what_only_looks_like_it(tmp_path: Path, changes: dict[tuple[Any, ...], Any]) -> None:
    assert len(found(tmp_path, ELMAN)) == 2
    assert found(tmp_path, edited(changes)) == []


def test_a_state_that_a_gate_passes_on_is_followed(tmp_path: Path) -> None:
    """Through an array in between, and with its indices under other names and in another order."""
    passed = edited({
        ("arrays", "z"): {"role": "temp", "dtype": "fp32"},
        S2: {"do": "z[p, q, s] = g[s, p, q]", "for": {"p": "b", "q": "d", "s": "t"}},
        LAST: {"do": "h[s + 1, r, i] = z[r, i, s] * h[s, r, i]", "for": {"r": "b", "s": "t", "i": "d"}},
    })  # fmt: skip
    assert len(found(tmp_path, passed)) == 2


def test_weights_are_counted_once_and_layers_add_up(tmp_path: Path) -> None:
    sizes = {"t": 6, "b": 2, "d": 8, "e": 8}
    one = found(tmp_path, ELMAN)
    gated = edited({
        ("arrays", "f"): {"role": "temp", "dtype": "fp32"},
        LAST: {"do": "f[s, r, i] += U[i, k] * h[s, r, k]", "for": {"s": "t", "r": "b", "i": "d", "k": "d"}},
        (*S2, "do"): "h[s + 1, r, i] = g[s, r, i] * f[s, r, i]",
    })  # fmt: skip
    stacked = edited({
        ("arrays", "V"): {"role": "in", "dtype": "fp32"},
        ("arrays", "f"): {"role": "temp", "dtype": "fp32"},
        ("arrays", "y"): {"role": "out", "dtype": "fp32"},
    })  # fmt: skip
    stacked["statements"] += [
        {"do": "f[s, r, i] += V[i, k] * y[s, r, k]", "for": {"s": "t", "r": "b", "i": "d", "k": "d"}},
        {"do": "y[s + 1, r, i] = f[s, r, i] + h[s + 1, r, i]", "for": {"s": "t", "r": "b", "i": "d"}},
    ]
    same, twice = found(tmp_path, gated), found(tmp_path, stacked)
    for memory in (64, 1 << 20):
        for at in (0, 1):
            assert same[at].at(sizes, memory).loads == one[at].at(sizes, memory).loads
            assert twice[at].at(sizes, memory).loads == 2 * one[at].at(sizes, memory).loads


# -- certificates


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["claim"].update(stride=1), "assumptions"),
        (lambda c: c["claim"]["terms"][0].update(heads="n + 1"), "heads"),
        (lambda c: c["evidence"]["layers"][0][0]["hops"].clear(), "hops"),
        (lambda c: c["evidence"]["layers"][0][0]["weights"].append("xi[s, r, m, i]"), "weights"),
        (lambda c: c["evidence"]["layers"][0].append(c["evidence"]["layers"][0][0]), "weights"),
        (lambda c: c["evidence"]["layers"][0][0]["hops"][1].update(reads="gf[s, r, m, i]"), "hops"),
        (lambda c: c["evidence"]["arrays"]["h"].update(role="inout"), "given"),
        (lambda c: c["evidence"]["arrays"]["Ui"].update(role="temp"), "input"),
        (lambda c: c["evidence"]["statements"].append("h[s, r, m, i] = xi[s, r, m, i]"), "given"),
        (lambda c: c["evidence"]["layers"][0][0]["domain"][4].__setitem__(2, "d + 1"), "domain"),
        (lambda c: c["instance"].update(loads=c["instance"]["loads"] + 1), "loads"),
    ],
)
def test_changed_certificates_are_refused(change: Any, complaint: str) -> None:
    asked = question("lstm", t=5, b=2, n=2, d=4)
    certificate = json.loads(json.dumps(certified(resident("lstm")[0], asked.sizes, 64)))
    check(certificate)
    change(certificate)
    with pytest.raises(ValueError, match=complaint):
        check(certificate)
