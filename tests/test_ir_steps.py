"""Recurrences as tile programs: one task alone, all tasks in step, one launch per step; views and loops in reverse."""

from __future__ import annotations

import numpy as np
import pytest

from flashc.autotune import rates
from flashc.autotune.model import model_time
from flashc.compiler.tune import persistence_limits
from flashc.errors import IRError, UnsupportedError
from flashc.hwmodels import load_device
from flashc.ir.analysis import Pad, transfers
from flashc.ir.footprint import footprint
from flashc.ir.interp import interpret
from flashc.ir.nodes import GRID, Program, Sync, persistent
from flashc.ir.parser import parse_program
from flashc.ir.printer import print_program
from flashc.ir.rewrite import rewrite_body, rewrite_kernels, with_sizes
from flashc.ir.steps import barriers, launched, launches, recurrent_parts, refuse_recurrence, tasks
from flashc.ir.verify import verify
from flashc.ir.views import without_views

T, B, D = 5, 3, 8
SIZES = {"T": T, "B": B, "D": D}
HEADER = """
program linear.{name} (tile)
  sizes T, B, D
  tiles Tb, Tu
  axes t: T, b: B, u: D, k: D
  in x: f32[T, B, D]
  in r: f32[D, D]
  in start: f32[B, D]
  out h: f32[T + 1, B, D]
"""
ALONE = HEADER.format(name="alone").replace("Tb, Tu", "Tb") + """
  kernel steps
    par b: Tb @grid
      rt[u, k]: f32 = load r[u, k]
      h0[b, u]: f32 = load start[b, u]
      seq t: 1
        carry hs[b, u]: f32 = h0 next h1
        hk[b, k]: f32 = view hs
        xt[b, u]: f32 = load x[t, b, u]
        h1[b, u]: f32 = dot hk, rt over k init xt
        store h[t + 1, b, u] = h1
"""
PROLOGUE = """
  kernel first
    par b: Tb @grid
      h0[b, u]: f32 = load start[b, u]
      store h[0, b, u] = h0
"""
TOGETHER = HEADER.format(name="together") + PROLOGUE + """
  kernel steps
    par b: Tb @grid, u: Tu @grid
      rt[u, k]: f32 = load r[u, k]
      seq t: 1
        hk[b, k]: f32 = load h[t, b, k]
        xt[b, u]: f32 = load x[t, b, u]
        h1[b, u]: f32 = dot hk, rt over k init xt
        store h[t + 1, b, u] = h1
        sync grid
"""
APART = HEADER.format(name="apart") + "  temp g: f32[B, D]\n" + PROLOGUE + """
  kernel steps
    seq t: 1
      par b: Tb @grid, u: Tu @grid
        rt[u, k]: f32 = load r[u, k]
        hk[b, k]: f32 = load h[t, b, k]
        gt[b, u]: f32 = dot hk, rt over k
        store g[b, u] = gt
      par b: Tb @grid
        gt[b, u]: f32 = load g[b, u]
        xt[b, u]: f32 = load x[t, b, u]
        h1[b, u]: f32 = map gt + xt
        store h[t + 1, b, u] = h1
"""
TEXTS = {"alone": ALONE, "together": TOGETHER, "apart": APART}


def program(name: str, *changes: tuple[str, str]) -> Program:
    text = TEXTS[name]
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return parse_program(text)


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"x": (T, B, D), "r": (D, D), "start": (B, D)}
    return {name: rng.standard_normal(shape) / 3 for name, shape in shapes.items()}


def expected(given: dict[str, np.ndarray], order: range) -> np.ndarray:
    states, h = {}, given["start"]
    for t in order:
        h = states[t] = h @ given["r"].T + given["x"][t]
    return np.stack([states[t] for t in range(T)])


def ran(found: Program, tile_b: int = 2, tile_u: int = 3) -> np.ndarray:
    verify(found)
    return interpret(found, inputs(), {**SIZES, "Tb": tile_b, "Tu": tile_u}, exact=True).tensors["h"]


@pytest.mark.parametrize("name", list(TEXTS))
def test_every_way_of_stepping_gives_the_same_states(name: str) -> None:
    np.testing.assert_allclose(ran(program(name))[1:], expected(inputs(), range(T)), rtol=1e-12)


@pytest.mark.parametrize("name", list(TEXTS))
def test_a_loop_in_reverse_begins_at_the_last_step(name: str) -> None:
    changes = [("seq t: 1", "seq t: 1 reverse"), ("store h[t + 1, b, u]", "store h[t, b, u]")]
    if name != "alone":
        changes += [("load h[t, b, k]", "load h[t + 1, b, k]"), ("store h[0, b, u]", "store h[T, b, u]")]
    found = ran(program(name, *changes))[:T]
    np.testing.assert_allclose(found, expected(inputs(), range(T - 1, -1, -1)), rtol=1e-12)


def test_tiles_in_reverse_are_those_of_the_loop_forward() -> None:
    text = """
program last.tile (tile)
  sizes N
  axes i: N
  in a: f32[N]
  out o: f32
  kernel last
    par
      seq i: 4 reverse where i < 10
        carry s: f32 = 0.0 next s1
        x[i]: f32 = load a[i]
        y: f32 = max x over i
        s1: f32 = map 2.0 * s + y
      store o[] = s
""".replace("out o: f32\n", "out o: f32[]\n")
    found = parse_program(text)
    verify(found)
    result = interpret(found, {"a": np.arange(12.0)}, {"N": 12}, exact=True).tensors["o"]
    assert result == 9 * 4 + 7 * 2 + 3


def test_without_its_barrier_a_step_reads_what_is_not_there_yet() -> None:
    wrong = ran(program("together", ("        sync grid\n", "")))
    assert not np.allclose(wrong[1:], expected(inputs(), range(T)), equal_nan=True)


@pytest.mark.parametrize("name", list(TEXTS))
def test_the_text_parses_back(name: str) -> None:
    found = program(name)
    assert parse_program(print_program(found)) == found


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("alone", "hk[b, k]: f32 = view hs", "hk[b, k]: f64 = view hs", "a view renames axes and keeps their number"),
        ("alone", "hk[b, k]: f32 = view hs", "hk[b]: f32 = view hs", "a view renames axes and keeps their number"),
        ("alone", "hk[b, k]: f32 = view hs", "hk[b, t]: f32 = view hs", "a loop cuts u or t into tiles"),
        ("alone", "k: D\n", "k: D + 1\n", "u and k differ in extent; rename to an axis of the same extent"),
        ("alone", "hk[b, k]: f32 = view hs", "hk[b, k]: f32 = view none", "none is not defined here"),
        ("alone", "hk[b, k]: f32 = view hs", "hk[b, k]: f32 {b 2:D, k D:1} = view hs", "give the view the same layout"),
        ("alone", "store h[t + 1, b, u] = h1", "store h[t + 1, b, u] = h1\n      sync grid", "put it into the body"),
        ("together", "seq t: 1", "seq t: 1 where t < b", "the bound b gives the tasks different steps"),
        ("together", "sync grid", "sync grid\n        par\n          z: f32 = map 0.0", "a par inside another loop"),
        ("apart", "seq t: 1", "seq t: Tb", "give it tile 1, and no state, bounds or stages"),
        ("apart", "seq t: 1", "seq t: 1 where t < 3", "give it tile 1, and no state, bounds or stages"),
        ("apart", "h1[b, u]: f32 = map gt + xt", "h1[b, u]: f32 = map gt + xt + hk", "hk is not defined here"),
    ],
)
def test_broken_rules(name: str, old: str, new: str, problem: str) -> None:
    with pytest.raises(IRError) as caught:
        verify(program(name, (old, new)))
    assert problem in str(caught.value)


def test_launches_and_barriers_are_counted() -> None:
    counted = {}
    for name in TEXTS:
        found = program(name)
        kernels = found.kernels
        each = [(launches(found, k), barriers(found, k), persistent(k)) for k in kernels]
        counted[name] = [(a.evaluate(SIZES), b.evaluate(SIZES), alive) for a, b, alive in each]
    assert counted["alone"] == [(1, 0, False)]
    assert counted["together"] == [(1, 0, False), (1, T, True)]
    assert counted["apart"] == [(1, 0, False), (2 * T, 0, False)]
    assert [len(launched(k)) for k in program("apart").kernels] == [1, 2]


def test_what_does_not_change_from_step_to_step_is_loaded_once() -> None:
    sizes = {**SIZES, "Tb": 2, "Tu": 4}

    def loads_of_r(name: str) -> int:
        found = program(name)
        moved = transfers(found, found.kernels[-1])
        return sum(t.elements.evaluate(sizes) for t in moved if t.tensor == "r")

    assert loads_of_r("together") == 2 * D * D  # two tiles along b
    assert loads_of_r("apart") == 2 * D * D * T
    for name in TEXTS:
        found = program(name)
        counted = interpret(found, inputs(), sizes).traffic
        total = sum(t.bytes.evaluate(sizes) for k in found.kernels for t in transfers(found, k))
        assert counted.bytes == total


def test_a_view_takes_no_room() -> None:
    found = program("alone")
    room = footprint(found, found.kernels[0], None).evaluate({**SIZES, "Tb": 2})
    assert room == 4 * (D * D + 3 * 2 * D)  # r; old state, the step's input in whose place the new one is; h0
    (par,) = without_views(found.kernels[0].body)
    assert not any("view" in line for line in print_program(rewrite_kernels(
        found, lambda k: type(k)(k.name, (par,)))).splitlines())


def test_a_persistent_kernel_has_at_most_a_task_per_core() -> None:
    found = with_sizes(program("together"), SIZES)
    device = load_device("a100")
    (limit,) = persistence_limits(found, device)
    assert limit.name == "device.persistent.steps"
    assert limit.left.evaluate({"Tb": 2, "Tu": 3}) == 2 * 3
    assert limit.right.evaluate({}) == device.cores
    assert persistence_limits(with_sizes(program("apart"), SIZES), device) == ()


def test_each_step_costs_a_barrier_or_a_launch() -> None:
    device = load_device("a100")
    launch = int(device.launch_overhead_us * 1e6)

    def seconds(name: str, steps: int) -> int:
        tiles = {"Tb": B, "Tu": D, "B": B, "D": D, "T": steps}
        time = model_time(with_sizes(program(name), tiles), device, Pad(lambda _axis, n: n))
        return time.total.evaluate({})

    assert seconds("together", 2000) - seconds("together", 1000) >= 1000 * rates.barrier_ps(device)
    assert seconds("apart", 2000) - seconds("apart", 1000) >= 1000 * 2 * launch
    assert seconds("together", 1000) < seconds("apart", 1000)


def test_who_cannot_read_a_recurrence_says_so() -> None:
    assert recurrent_parts(program("alone")) == ("view",)
    assert recurrent_parts(program("together")) == ("sync grid",)
    assert recurrent_parts(program("apart")) == ("one launch per step",)
    with pytest.raises(UnsupportedError, match=r"the printer does not read linear\.together yet: it has `sync grid`"):
        refuse_recurrence(program("together"), "the printer")


def test_tasks_of_a_launch() -> None:
    found = program("apart")
    assert [tasks(found, p).evaluate({**SIZES, "Tb": 2, "Tu": 3}) for p in found.kernels[1].pars] == [6, 2]


def test_a_barrier_survives_rewriting() -> None:
    found = program("together")
    body = rewrite_body(found.kernels[1].body, lambda stmt: () if stmt == Sync(GRID) else (stmt,))
    assert "sync" not in print_program(rewrite_kernels(found, lambda k: type(k)(k.name, body)))
