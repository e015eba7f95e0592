"""The deriver against published bounds: constants of single statements, sums, stencils, and Polybench."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sympy
from bound_cases import FILES, ROOT, M, bounds, examples_table, leading_words, published, question, same

from flashc.iomodel.bound import best
from flashc.iomodel.bounds import lower_bounds
from flashc.iomodel.capacity import Capacity

# Leading terms of loads in words: exact where tools and papers agree, and constants proved tight.
EXACT = {
    "matmul": ("statement", "m n k", "2*m*n*k/sqrt(M)"),
    "batched_matmul": ("statement", "b m n k", "2*b*m*n*k/sqrt(M)"),
    "mttkrp3": ("statement", "n", "3*n**4/M**Rational(2, 3)"),
    "mttkrp4": ("statement", "n", "4*n**5/M**Rational(3, 4)"),
    "ttmc": ("statement", "n", "4*n**5/M"),
    "conv2d": ("statement", "b c k p q", "2*9*b*c*k*p*q/sqrt(4*M)"),
    "lu": ("statement", "n", "2*n**3/(3*sqrt(M))"),
    "floyd_warshall": ("statement", "n", "n**3/sqrt(M)"),
    "energy": ("statement", "n", "n**2/(4*M)"),
    "2mm": ("sum", "ni nj nk nl", "2*ni*nj*(nk + nl)/sqrt(M)"),
    "gate_up": ("sum", "m n k", "4*m*n*k/sqrt(M)"),
    "attention": ("sum", "n d", "4*n**2*d/sqrt(M)"),
    "chain": (
        "sum", "ni nj nk nl np nq nr ns",
        "2*np*nl*(ni*nj*nk + nq*(nj*nk + nr*(nk + ns)))/sqrt(M)",
    ),
}  # fmt: skip
# (IOLB's value, the tight or SOAP value that no bound may exceed)
BETWEEN = {
    "syrk": ("statement", "n k", "k*n**2/(2*sqrt(M))", "k*n**2/(sqrt(2)*sqrt(M))"),
    "syr2k": ("statement", "n k", "k*n**2/sqrt(M)", "sqrt(2)*k*n**2/sqrt(M)"),
    "cholesky": ("statement", "n", "n**3/(6*sqrt(M))", "n**3/(3*sqrt(2)*sqrt(M))"),
    "covariance": ("statement", "m n", "m**2*n/(2*sqrt(M))", "m**2*n/(sqrt(2)*sqrt(M))"),
    "jacobi1d": ("recurrence", "n t", "n*t/(4*M)", "2*n*t/M"),
    "jacobi2d": ("recurrence", "n t", "2*n**2*t/(3*sqrt(3)*sqrt(M))", "4*n**2*t/sqrt(M)"),
    "seidel2d": ("recurrence", "n t", "2*n**2*t/(3*sqrt(3)*sqrt(M))", "4*n**2*t/sqrt(M)"),
    "heat3d": ("recurrence", "n t", "9*3**Rational(1, 3)*n**3*t/(16*M**Rational(1, 3))", "6*n**3*t/M**Rational(1, 3)"),
}
# Kernels without reuse: words that must be loaded.
READ_ONCE = {
    "matvec": ("m n", "m*n"),
    "atax": ("m n", "m*n"),
    "bicg": ("m n", "m*n"),
    "mvt": ("n", "n**2"),
    "gesummv": ("n", "2*n**2"),
    "gemver": ("n", "n**2"),
    "trisolv": ("n", "n**2/2"),
}


def largest(name: str, rule: str) -> Any:
    """The largest leading term in words among the bounds of a rule, compared far out."""
    found = [leading_words(name, b) for b in bounds(name, rule)]
    return max(found, key=lambda f: float(f.subs(dict.fromkeys(f.free_symbols, 1000))))


@pytest.mark.parametrize("name", EXACT)
def test_leading_terms_that_sources_agree_on(name: str) -> None:
    rule, names, text = EXACT[name]
    assert same(largest(name, rule), published(text, names))


@pytest.mark.parametrize("name", BETWEEN)
def test_bounds_lie_between_what_is_proved_and_what_is_refuted_or_attained(name: str) -> None:
    rule, names, low, high = BETWEEN[name]
    found = largest(name, rule)
    lowest, highest = (sympy.simplify(found / published(text, names)) for text in (low, high))
    assert lowest >= 1
    assert highest <= 1


def test_exchanging_indices_reaches_the_tight_constants() -> None:
    for name in ("syrk", "cholesky", "covariance", "syr2k"):
        rule, names, _, tight = BETWEEN[name]
        assert same(largest(name, rule), published(tight, names))


@pytest.mark.parametrize("name", READ_ONCE)
def test_kernels_without_reuse_are_bound_by_compulsory_loads(name: str) -> None:
    names, text = READ_ONCE[name]
    sizes = dict.fromkeys(names.split(), 5000)
    asked = question(name, **sizes)
    moved, bound = best(lower_bounds(asked.cascade), asked.sizes, 4 * 4096.0)
    expected = float(published(text, names).subs(dict.fromkeys(published(text, names).free_symbols, 5000)))
    assert bound.rule == "compulsory"
    assert moved.loads / 4 == pytest.approx(expected, rel=3e-3)


def test_every_polybench_example_has_an_oracle() -> None:
    assert {f.stem for f in FILES} == {*EXACT, *BETWEEN, *READ_ONCE, "mixed_widths", "elman", "lstm"}


def test_bytes_weigh_operands_by_their_width() -> None:
    (bound,) = bounds("mixed_widths", "statement")
    assert same(bound.formula(), published("2*m*n*k*sqrt(2*1*4)/sqrt(M)", "m n k"))


def test_small_dimensions_give_their_own_bound_for_large_memory() -> None:
    asked = question("mttkrp3", n=16)
    main, small = (b for b in lower_bounds(asked.cascade) if b.rule.startswith("statement"))
    assert small.rule == "statement S1, small i"
    crossing = 4 * (3 / 2) ** 6 * 16**3
    for fast, larger in ((crossing / 2, main), (crossing * 2, small)):
        values = {b.rule: sum(t.value(asked.sizes, fast) for t in b.terms) for b in (main, small)}
        assert max(values, key=lambda rule: values[rule]) == larger.rule


def test_the_bound_of_a_thin_product_stays_below_a_known_schedule() -> None:
    """k = 1: keep 10 entries of A, stream B, store C; the form 2mnk/sqrt(M) + mn would exceed it."""
    n, fast = 1000, 12
    asked = question("matmul", m=n, n=n, k=1)
    moved, _ = best(lower_bounds(asked.cascade), asked.sizes, 4 * fast)
    schedule = n + n * (n // 10) + n * n
    assert moved.total / 4 <= schedule
    assert 2 * n * n / math.sqrt(fast) + n * n > schedule


@pytest.mark.parametrize("path", FILES, ids=lambda f: f.stem)
def test_bounds_fall_with_memory_and_end_in_compulsory(path: Any) -> None:
    asked = question(path.stem)
    found = lower_bounds(asked.cascade)
    for bound in found:
        values = [bound.at(asked.sizes, 2.0**k).total for k in range(4, 40, 3)]
        assert values == sorted(values, reverse=True)
    everything, _ = best(found, asked.sizes, math.inf)
    assert everything.total == found[0].at(asked.sizes, math.inf).total


def test_batches_add_up() -> None:
    for fast in (1e3, 1e5, 1e9):
        one, many = (
            best(lower_bounds(asked.cascade), asked.sizes, fast)[0]
            for asked in (question("batched_matmul", b=1), question("batched_matmul", b=7))
        )
        assert many.total == pytest.approx(7 * one.total)


@pytest.mark.parametrize("tile", [4, 16, 64])
def test_a_tiled_product_comes_near_its_bound_and_never_below(tile: int) -> None:
    """A tile x tile block of C stays, columns of A and rows of B pass: tile^2 + 2 tile words."""
    n = 1024
    fast = 4 * (tile * tile + 2 * tile)
    moved = 4 * (2 * n**3 // tile + n * n)
    asked = question("matmul", m=n, n=n, k=n)
    bound, _ = best(lower_bounds(asked.cascade), asked.sizes, fast)
    assert 1 <= moved / bound.total < 1 + 3 / tile + 0.05


def test_a_sum_of_attention_s_two_products_is_the_theorem_without_recomputation() -> None:
    asked = question("attention")
    by_rule = {b.rule: b for b in reversed(lower_bounds(asked.cascade))}
    for fast in (1e3, 1e4, 1e5):
        ours, theirs = (by_rule[r].at(asked.sizes, fast).total for r in ("sum S1 + S5", "attention B"))
        assert ours == pytest.approx(theirs)


def test_the_leading_term_is_the_limit_of_the_numbers() -> None:
    for name in ("cholesky", "syrk", "lu", "2mm", "jacobi2d", "conv2d"):
        asked = question(name)
        big = dict.fromkeys(asked.cascade.sizes, 3000)
        for bound in lower_bounds(asked.cascade):
            if isinstance(bound, Capacity):
                formula = bound.formula()
                values = {s: big.get(s.name, 1024) for s in formula.free_symbols if s != M}
                number = sum(t.value(big, 1024) for t in bound.terms)
                assert number == pytest.approx(float(formula.subs(values).subs(M, 1024)), rel=5e-3)


def test_the_documentation_has_the_table_of_the_examples() -> None:
    text = (ROOT / "docs" / "bounds.md").read_text(encoding="utf-8")
    assert examples_table() in text, "run `python tests/bound_cases.py` and paste"
