"""Attention bounds: recognised by shape, the counting argument against exhaustive search."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from attention_cascades import SIZES, WORD, backward, bound, build, plain, statement, words

from flashc.compiler.workload import load_workload
from flashc.errors import ArgumentError
from flashc.iomodel.attention import attention_bounds
from flashc.iomodel.attention_backward import KAPPA
from flashc.iomodel.attention_theorems import NO_RECOMPUTE
from flashc.iomodel.bound import LowerBound, best
from flashc.iomodel.from_program import cascade
from flashc.iomodel.statements import Array, Cascade, Index, Reference, Statement
from flashc.ir.intexpr import Const, Sym, imin
from flashc.ops import registry

# -- the counting argument, against every set of items of small problems


def subsets(counts: list[int]) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Every set of items as one boolean row per kind of item, and how many items each has."""
    total = sum(counts)
    bits = (np.arange(2**total)[:, None] >> np.arange(total)) & 1
    return np.split(bits.astype(bool), np.cumsum(counts)[:-1], axis=1), bits.sum(axis=1)


def forward_work(n: int, m: int, d: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Products p_ij v_jl that each set of items allows, scores computed in the block included."""
    (q, k, v, o, pair), size = subsets([n * d, m * d, m * d, n * d, n * m])
    work = np.zeros(len(size), dtype=int)
    for i, j in itertools.product(range(n), range(m)):
        rows = q[:, i * d:i * d + d].all(axis=1) & k[:, j * d:j * d + d].all(axis=1)
        there = rows | pair[:, i * m + j]
        for e in range(d):
            work += there & v[:, j * d + e] & o[:, i * d + e]
    return work, size


@pytest.mark.parametrize(("n", "m", "d"), [(3, 3, 1), (2, 4, 1), (2, 2, 2)])
def test_no_set_of_items_allows_more_products_than_chi(n: int, m: int, d: int) -> None:
    work, size = forward_work(n, m, d)
    for items in range(1, int(size.max()) + 1):
        chi = max(items**2 / (16 * d), (items / 3) ** 1.5)
        assert work[size == items].max() <= chi + 1e-9


def test_chi_is_reached_where_the_balanced_block_is_whole() -> None:
    work, size = forward_work(3, 3, 1)
    assert work[size == 12].max() == 9 == 12**2 / 16


@pytest.mark.parametrize("kept", list(KAPPA))
def test_no_set_of_items_allows_more_backward_products_than_chi(kept: tuple[str, ...]) -> None:
    n = m = 2
    (q, k, do, v, dq, dk, dv, pair), size = subsets([n, m, n, m, n, m, m, n * m])
    work = np.zeros(len(size), dtype=int)
    for i, j in itertools.product(range(n), range(m)):
        p = (q[:, i] & k[:, j]) | pair[:, i * m + j]
        ds = (q[:, i] & k[:, j] & do[:, i] & v[:, j]) | pair[:, i * m + j]
        work += ("dQ" in kept) & ds & k[:, j] & dq[:, i]
        work += ("dK" in kept) & ds & q[:, i] & dk[:, j]
        work += ("dV" in kept) & p & do[:, i] & dv[:, j]
    for items in range(1, int(size.max()) + 1):
        large = math.sqrt(27 / 256 * KAPPA[kept]) * items**2
        assert work[size == items].max() <= max(large, 2 / 9 * items**1.5) + 1e-9


@pytest.mark.parametrize("kept", list(KAPPA))
@pytest.mark.parametrize("items", [20.0, 300.0])
def test_backward_chi_is_the_maximum_of_the_seven_budget_problem(kept: tuple[str, ...], items: float) -> None:
    """A random search over real budgets (d = 1) comes close to chi for large blocks and never exceeds it."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(8), 64)

    def value(u: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        a, b, f, v, x, y, z, c = items * u.T
        gradients, scores = np.minimum(a, f) * np.minimum(b, v) + c, a * b + c
        parts = {"dQ": gradients * b * x, "dK": gradients * a * y, "dV": scores * f * z}
        return np.asarray(sum(np.sqrt(parts[g]) for g in kept))

    found = value(shares)
    for step in range(3000):
        tried = shares * np.exp(0.4 * 0.9975**step * rng.normal(size=shares.shape))
        tried /= tried.sum(axis=1, keepdims=True)
        better = value(tried) > found
        shares[better], found[better] = tried[better], value(tried)[better]
    chi = max(math.sqrt(27 / 256 * KAPPA[kept]) * items**2, 2 / 9 * items**1.5)
    assert found.max() <= chi
    if items == 300.0:
        assert found.max() > 0.98 * chi


# -- whole schedules: rows move, the best replacement, many orders


def belady(order: list[tuple[int, int]], capacity: int) -> int:
    """Rows loaded and stored when every pair needs its rows of Q, O, K and V at once, evicting the last needed."""
    needs = [(("q", i), ("o", i), ("k", j), ("v", j)) for i, j in order]
    later: dict[tuple[str, int], list[int]] = {}
    for step in range(len(needs) - 1, -1, -1):
        for row in needs[step]:
            later.setdefault(row, []).append(step)
    held: set[tuple[str, int]] = set()
    started: set[tuple[str, int]] = set()
    moved = 0
    for wanted in needs:
        for row in wanted:
            if row not in held:
                moved += row[0] != "o" or row in started
                if len(held) == capacity:
                    out = max(held - set(wanted), key=lambda r: later[r][-1] if later[r] else math.inf)
                    held.remove(out)
                    moved += out[0] == "o"
                held.add(row)
                started.add(row)
            later[row].pop()
    return moved + sum(row[0] == "o" for row in held)


def test_no_order_of_pairs_moves_less_than_theorem_a() -> None:
    n, d, ratios = 24, 1, []
    for capacity, rows, columns in itertools.product((8, 16, 24), (1, 2, 3, 4, 6, 8, 12), (1, 2, 4, 8)):
        blocks = itertools.product(range(0, n, rows), range(0, n, columns))
        order = [(i, j) for x, y in blocks for j in range(y, y + columns) for i in range(x, x + rows) if i < n > j]
        least = words(plain(), capacity * d, n=n, m=n, d=d, e=d) / d
        ratios.append(belady(order, capacity) / least)
    assert 1 <= min(ratios) < 2


# -- values


def test_equal_widths_give_the_published_form() -> None:
    pairs = SIZES["n"] * SIZES["m"]
    assert words(plain(), 8 * 64**2) == pytest.approx(4 * pairs * 64 * 32 / (8 * 64**2))
    assert words(plain(), 2 * 64**2) == pytest.approx(2 * pairs * 32 / math.sqrt(2 * 64**2))
    middle = (9.481 * 64**2 - 4 * 64**2) * pairs * 32 / (5.618 * 64**3)
    assert words(plain(), 4 * 64**2) == pytest.approx(middle, rel=1e-3)


def test_computed_once_counts_both_products() -> None:
    pairs, fast = SIZES["n"] * SIZES["m"], 64.0
    least = 2 * pairs * (64 + 32) / math.sqrt(fast) - pairs
    assert words(plain(), fast, "attention B") == pytest.approx(least)
    assert NO_RECOMPUTE in bound(plain(), "attention B").assumptions
    assert NO_RECOMPUTE not in bound(plain()).assumptions


def test_bytes_of_each_array_enter_under_the_root() -> None:
    wide = plain()
    arrays = tuple(Array(a.name, {"a": 1, "b": 2, "c": 4, "out": 8}.get(a.name, 4), a.role) for a in wide.arrays)
    mixed = bound(Cascade(wide.name, wide.sizes, arrays, wide.statements))
    fast = 10**6
    expected = 4 * SIZES["n"] * SIZES["m"] * 64 * 32 * math.sqrt(1 * 2 * 4 * 8) / fast
    assert mixed.capacity(SIZES, fast) == pytest.approx(expected)


@pytest.mark.parametrize(("storage", "constant"), [
    ({"b": "latent", "c": "latent"}, 2.0),
    ({"a": "x", "b": "x"}, 2.0),
    ({"a": "x", "b": "x", "c": "x"}, 4 / math.sqrt(27)),
])
def test_shared_storage_is_one_budget(storage: dict[str, str], constant: float) -> None:
    fast = 100 * 64**2
    least = constant * SIZES["n"] * SIZES["m"] * 64 * 32 / fast
    outputs = SIZES["n"] * 32
    found = bound(plain(storage=storage))
    assert found.capacity(SIZES, WORD * fast) / WORD == pytest.approx(least)
    assert found.at(SIZES, WORD * fast).loads == max(0, found.capacity(SIZES, WORD * fast) - WORD * outputs)


def test_backward_constants_are_what_the_proof_gives() -> None:
    sizes = {"n": 64, "m": 64, "d": 8}
    fast = 20 * 64
    unit = 64 * 64 * 8 * 8 / fast
    per = {"dq": 4 * math.sqrt(2), "dk": 4 * math.sqrt(2), "dk dv": 8.0, "dq dk dv": 24 / math.sqrt(3 * math.sqrt(3))}
    for kept, constant in per.items():
        found = bound(backward(kept), "attention backward A")
        assert found.capacity(sizes, WORD * fast) / WORD == pytest.approx(constant * unit, rel=1e-3)
        assert found.capacity(sizes, WORD * fast) / WORD <= constant * unit * (1 + 1e-12)
    once = bound(backward(), "attention backward B").at({"n": 9000, "m": 9000, "d": 64}, WORD * 100.0)
    assert once.total / WORD == pytest.approx(2 * 3.4 * 9000**2 * 64 / 10 - 2 * 9000**2)


def test_the_value_gradient_alone_is_a_forward_shape() -> None:
    alone = attention_bounds(backward("dv"))
    assert [b.rule for b in alone] == ["attention A", "attention B"]


# -- shapes


def both() -> list[Cascade]:
    return [plain(), backward()]


@pytest.mark.parametrize("found", both(), ids=["forward", "backward"])
def test_names_and_the_order_of_operands_play_no_part(found: Cascade) -> None:
    other = {a.name: f"z{n}" for n, a in enumerate(found.arrays)}

    def renamed(x: Reference) -> Reference:
        return Reference(other[x.array], tuple(s.subs({"i": Sym("u"), "j": Sym("w")}) for s in x.subscripts))

    statements = tuple(
        Statement(
            f"st{n}",
            tuple(Index({"i": "u", "j": "w"}.get(x.name, x.name), x.lower, x.upper) for x in s.indices[::-1]),
            renamed(s.target), s.update, tuple(map(renamed, s.operands[::-1])),
        )
        for n, s in enumerate(found.statements)
    )
    arrays = tuple(Array(other[a.name], a.width, a.role, a.storage) for a in found.arrays)
    again = Cascade("renamed", found.sizes, arrays, statements)
    for fast in (1e3, 1e5, 1e7):
        old, new = ({b.rule: b.at(SIZES, fast) for b in attention_bounds(c)} for c in (found, again))
        assert old == new
        assert old


def test_bands_and_triangles_count_their_own_pairs() -> None:
    upper = (Const(0), imin(Sym("i") + 1, Sym("m")))
    causal = build("a b c", "out", statement("s[i,j] += a[i,k] b[j,k]", j=upper), statement("p[i,j] = s[i,j]", j=upper),
                   statement("out[i,c] += p[i,j] c[j,c]", j=upper))
    ratio = words(causal, 64.0, n=512, m=512) / words(plain(), 64.0, n=512, m=512)
    assert ratio == pytest.approx(513 / 1024)


def test_a_count_stands_for_block_sparse_pairs() -> None:
    first, between, last = plain().statements
    sparse = Statement(last.name, last.indices, last.target, last.update, last.operands, Const(1000 * 32))
    found = bound(build("a b c", "out", first, between, sparse))
    assert found.capacity(SIZES, 2 * 64.0) == pytest.approx(2 * 2 * 1000 * 32 / 8)


def test_copies_casts_and_a_normalisation_after_the_sum_are_seen_through() -> None:
    long = build(
        "a b c", "out", statement("aa[i,k] = a[i,k]"), statement("s[i,j] += aa[i,k] b[j,k]"),
        statement("t[i,j] = s[i,j] bias[j]"), statement("top[i] max= t[i,j]"), statement("p[i,j] = t[i,j] top[i]"),
        statement("l[i] += p[i,j]"), statement("w[i,j] = p[i,j]"), statement("o[i,c] += w[i,j] c[j,c]"),
        statement("out[i,c] = o[i,c] l[i]"),
    )
    assert bound(long).at(SIZES, 1e4) == bound(plain()).at(SIZES, 1e4)


@pytest.mark.parametrize("lines", [
    ["s[i,j] += a[i,k] b[j,k]", "out[i,c] += s[i,j] c[j,c]"],  # a chain of products: another rule's
    ["x[i,k] += a[i,c] w[c,k]", "s[i,j] += x[i,k] b[j,k]", "p[i,j] = s[i,j]", "out[i,c] += p[i,j] c[j,c]"],  # Q is made
    ["s[i,j] += a[i,k] b[j,k]", "p[i,j] = s[i,j]", "out[j,c] += p[i,j] c[j,c]"],  # j is not summed with the values
    ["s[i,j] += a[i,k] b[j,k]", "p[i] += s[i,j]", "out[i,c] += p[i] c[i,c]"],  # no pair reaches the second sum
    ["s[i,j] += a[i,k] b[j,k]", "s[i,j] = w[i,j]", "p[i,j] = s[i,j]", "out[i,c] += p[i,j] c[j,c]"],  # written over
    ["s[i,j] = a[i] b[j]", "p[i,j] = s[i,j]", "out[i,c] += p[i,j] c[j,c]"],  # no contraction first
])
def test_other_shapes_get_no_attention_bound(lines: list[str]) -> None:
    assert attention_bounds(build("a b c w", "out", *map(statement, lines))) == ()


def operator_bounds(**more: Any) -> tuple[tuple[LowerBound, ...], dict[str, Any]]:
    document = {"op": "attention", "batch": 1, "heads": 8, "seq": 1024, "head_dim": 64, "dtype": "fp32", **more}
    workload = load_workload(document)
    operator, spec = registry()["attention"], workload.spec
    env = {**operator.sizes(spec), **operator.tables(spec)}
    return attention_bounds(cascade(operator.algorithm(spec), operator.schedules(spec)[0])), env


@pytest.mark.parametrize("more", [
    {"softcap": 30.0}, {"alibi": True}, {"mask": {"shape": [1, 1, 1024, 1024]}}, {"outputs": ["o", "lse"]},
    {"score": "score * 2"}, {"heads": {"q": 8, "kv": 2}}, {"heads": {"q": 8, "kv": 1}},
])
def test_the_operators_own_algorithm_has_the_shape(more: dict[str, Any]) -> None:
    plain_bounds, env = operator_bounds()
    bounds, varied = operator_bounds(**more)
    for fast in (1e4, 1e5, 1e6):
        assert [b.at(varied, fast) for b in bounds] == [b.at(env, fast) for b in plain_bounds]
    assert [b.rule for b in bounds] == ["attention A", "attention B"]


def test_causal_lengths_and_windows_of_the_operator_shrink_the_pairs() -> None:
    full, env = operator_bounds()
    for more, pairs in (({"causal": True}, 1024 * 1025 / 2), ({"kv_lengths": [100]}, 1024 * 100)):
        part, varied = operator_bounds(**more)
        ratio = part[0].capacity(varied, 1e5) / full[0].capacity(env, 1e5)  # type: ignore[attr-defined]
        assert ratio == pytest.approx(pairs / 1024**2)


def test_heads_and_batch_scale_linearly() -> None:
    one, env = operator_bounds(heads=1)
    many, varied = operator_bounds(heads=4, batch=3)
    for a, b in zip(one, many, strict=True):
        assert b.at(varied, 1e5).total == pytest.approx(12 * a.at(env, 1e5).total)


# -- what every bound promises


@pytest.mark.parametrize("found", both(), ids=["forward", "backward"])
def test_bounds_fall_with_memory_and_end_at_the_stores(found: Cascade) -> None:
    for one in attention_bounds(found):
        totals = [one.at(SIZES, 10 * 1.3**n).total for n in range(60)]
        assert totals == sorted(totals, reverse=True)
        end = one.at(SIZES, math.inf)
        assert (end.loads, end.total) == (0.0, end.stores)
        with pytest.raises(ArgumentError, match="positive"):
            one.at(SIZES, 0)


@pytest.mark.parametrize("found", both(), ids=["forward", "backward"])
def test_formula_is_the_bound_before_rounding_to_stores(found: Cascade) -> None:
    import sympy

    for one in attention_bounds(found):
        formula = one.formula()
        for fast in (100.0, 4 * 64.0**2 * WORD, 1e5):
            value = formula.subs({s: fast if s.name == "M" else SIZES[s.name] for s in formula.free_symbols})
            moved = one.at(SIZES, fast)
            if moved.loads:
                assert float(sympy.N(value)) == pytest.approx(moved.total)


def test_best_takes_the_larger_of_both_theorems() -> None:
    bounds = attention_bounds(plain())
    small, large = (best(bounds, SIZES, fast)[1].rule for fast in (64.0, 1e5))
    assert (small, large) == ("attention B", "attention A")


def test_stores_are_claimed_only_where_subscripts_tell_them() -> None:
    lower = (Sym("j"), Sym("n"))
    first, between, last = plain().statements
    indices = tuple(sorted(last.indices, key=lambda i: i.name == "i"))
    turned = Statement(last.name, tuple(Index(i.name, *lower) if i.name == "i" else i for i in indices), last.target,
                       last.update, last.operands)
    moved = bound(build("a b c", "out", first, between, turned)).at(SIZES, 1e3)
    assert moved.stores == 0
    assert moved.loads < bound(plain()).at(SIZES, 1e3).loads
