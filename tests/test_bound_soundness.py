"""Bounds against schedules that are easy to write down: cases in which a rule once claimed too much."""

from __future__ import annotations

import copy
import itertools
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from flashc.compiler.cascade_file import Question, load_question
from flashc.errors import IRError, WorkloadError
from flashc.iomodel.accesses import least_elements
from flashc.iomodel.bound import Moved, best
from flashc.iomodel.bounds import certified, lower_bounds
from flashc.iomodel.checker import check, main
from flashc.iomodel.checker_values import TooLongError, points, same_product
from flashc.iomodel.nests import Index, extreme
from flashc.iomodel.statements import Reference
from flashc.ir.intparse import parse_int

WORD = 4
SMALL = "{role: in, dtype: fp32}"


@pytest.fixture
def asked(tmp_path: Path) -> Any:
    def ask(sizes: str, arrays: str, statements: str) -> Question:
        path = tmp_path / "case.yaml"
        path.write_text(f"sizes: {{{sizes}}}\narrays: {{{arrays}}}\nstatements:\n{statements}")
        return load_question(path)

    return ask


def least(question: Question, fast: float) -> Moved:
    bounds = lower_bounds(question.cascade)
    for bound in bounds:
        check(certified(bound, question.sizes, fast))
    return best(bounds, question.sizes, fast)[0]


def test_every_statement_that_starts_a_value_counts(asked: Any) -> None:
    """T is made from A, B and C alone: with V resident, everything is read once."""
    n = 64
    question = asked(
        f"n: {n}, one: 1",
        "A: {role: in, dtype: fp32}, B: {role: in, dtype: fp32}, C: {role: in, dtype: fp32}, "
        "V: {role: in, dtype: fp32}, T: {role: temp, dtype: fp32}, O: {role: out, dtype: fp32}",
        "  - {do: 'T[i, j] = A[i] * B[j]', for: {i: n, j: n}}\n"
        "  - {do: 'T[i, j] += C[i]', for: {i: one, j: n}}\n"
        "  - {do: 'O[i, e] += T[i, j] * V[j, e]', for: {i: n, e: n, j: n}}\n",
    )
    read = WORD * (n * n + 2 * n + 1)
    assert least(question, WORD * (n * n + 4 * n)).loads <= read


def test_boundary_values_that_another_statement_makes_are_not_loaded(asked: Any) -> None:
    """A line that fits in fast memory is loaded once, however many steps are made."""
    n = 8
    question = asked(
        f"n: {n}, t: 100000",
        "I: {role: in, dtype: fp32}, A: {role: temp, dtype: fp32}, O: {role: out, dtype: fp32}",
        "  - {do: 'A[0, i] = I[i]', for: {i: n}}\n"
        "  - {do: 'A[s, 0] = 0', for: {s: t}}\n"
        "  - {do: 'A[s, n - 1] = 0', for: {s: t}}\n"
        "  - {do: 'A[s + 1, i] = A[s, i - 1] + A[s, i] + A[s, i + 1]', for: {s: t, i: [1, n - 1]}}\n"
        "  - {do: 'O[i] = A[t, i]', for: {i: n}}\n",
    )
    assert least(question, 100 * WORD).total <= 2 * n * WORD


def test_what_is_written_before_it_is_read_is_not_loaded(asked: Any) -> None:
    question = asked(
        "n: 64",
        "A: {role: inout, dtype: fp32}, C: {role: out, dtype: fp32}",
        "  - {do: 'A[i] = 0', for: {i: n}}\n  - {do: 'C[i] += A[i]', for: {i: n}}\n",
    )
    assert least(question, math.inf).loads == 0


def test_what_a_counted_statement_touches_is_not_known(asked: Any) -> None:
    question = asked(
        "n: 64",
        "A: {role: in, dtype: fp32}, C: {role: out, dtype: fp32}",
        "  - {do: 'C[i] += A[i, k]', for: {i: n, k: n}, count: 1}\n",
    )
    assert least(question, math.inf).total <= 2 * WORD


def test_names_of_one_storage_count_with_the_least_width(asked: Any) -> None:
    question = asked(
        "n: 64",
        "B: {role: in, width: 1, storage: x}, A: {role: in, width: 64, storage: x}, C: {role: out, dtype: fp32}",
        "  - {do: 'C[i] += A[0] * B[i]', for: {i: n}}\n",
    )
    assert least(question, math.inf).loads == 64


def test_a_factor_of_zero_is_refused(asked: Any) -> None:
    with pytest.raises(WorkloadError, match=r"case.yaml:4.*s \* i, and s is 0"):
        asked(
            "n: 8, s: 0",
            "A: {role: in, dtype: fp32}, C: {role: out, dtype: fp32}",
            "  - {do: 'C[i] += A[s * i]', for: {i: n}}\n",
        )


@pytest.mark.parametrize("subscripts", [("i - 5*j", "k - 5*l"), ("i + 2*j", "k"), ("i - j", "k + l"), ("i + 3*j",)])
@pytest.mark.parametrize("lengths", [(2, 10), (0, 4), (4, 0), (1, 1), (5, 3)])
def test_sums_of_indices_never_count_more_elements_than_there_are(
    subscripts: tuple[str, ...], lengths: tuple[int, int]
) -> None:
    names, (short, long) = "ijkl", lengths
    indices = [Index(x, parse_int("0"), parse_int("m" if x in "jl" else "n")) for x in names]
    reference = Reference("A", tuple(map(parse_int, subscripts)))
    ranges = [range(long if x in "jl" else short) for x in names]
    points = [dict(zip(names, p, strict=True)) for p in itertools.product(*ranges)]
    true = len({tuple(x.evaluate(p) for x in reference.subscripts) for p in points})
    assert least_elements(reference, indices).evaluate({"n": short, "m": long}) <= true


@pytest.mark.parametrize(("target", "allowed"), [("C[i, j]", True), ("C[i, 0]", False)])
def test_indices_are_exchanged_only_where_images_are_as_large(asked: Any, target: str, allowed: bool) -> None:
    """A narrow V[i, l] beside the wide P[i, l] and P[j, l] takes part of the exponent; its image is V[j, l]."""
    question = asked(
        "n: 8, k: 8",
        "P: {role: in, width: 8}, V: {role: in, width: 1}, C: {role: inout, width: 4}",
        f"  - {{do: '{target} += P[i, l] * P[j, l]', for: {{i: n, j: [0, i], l: k}}}}\n"
        "  - {do: 'C[i, j] += P[i, l] * P[j, l] * V[i, l]', for: {i: n, j: [0, i], l: k}}\n",
    )
    parts = {p["name"]: p for b in lower_bounds(question.cascade) for p in b.certificate()["evidence"].get("parts", [])}
    assert bool(parts["S1"]["swap"]) == allowed if "S1" in parts else not allowed
    weighed = {a["reference"]: Fraction(a["exponent"]) for a in parts["S2"]["accesses"]}
    assert weighed["V[i, l]"] > 0
    assert parts["S2"]["swap"] is None


def test_exchanging_indices_needs_images_as_large_as_the_accesses() -> None:
    """P is mapped to itself, V is not, and its image V[j, l] may have more elements than V[i, l]."""
    path = Path(__file__).parent.parent / "examples" / "bounds" / "syrk.yaml"
    question = load_question(path)
    certificate = next(c for c in (b.certificate() for b in lower_bounds(question.cascade)) if c["rule"] == "statement")
    part = certificate["evidence"]["parts"][0]
    assert part["swap"]
    image = next(a for a in part["accesses"] if a["mirrored"])
    image["indices"] = image["indices"][:1]
    image["reference"] = image["reference"].replace(", j]", ", 0]")
    with pytest.raises(ValueError):
        check(certificate)


def test_two_statements_of_one_name_are_refused(asked: Any) -> None:
    with pytest.raises(WorkloadError, match=r"case.yaml:5.*S2"):
        asked(
            "n: 8",
            "A: {role: in, dtype: fp32}, C: {role: out, dtype: fp32}",
            "  - {name: S2, do: 'C[i] += A[i]', for: {i: n}}\n  - {do: 'C[i] += A[i]', for: {i: n}}\n",
        )


def test_ranges_of_products_of_indices_hold_every_value() -> None:
    ranges = {"i": (parse_int("-5"), parse_int("5")), "j": (parse_int("-2"), parse_int("8"))}
    for text in ("i*i", "i*j", "-i*j", "n*i*j", "i*i - j"):
        expr = parse_int(text)
        values = [expr.evaluate({"i": i, "j": j, "n": 3}) for i in range(-5, 5) for j in range(-2, 8)]
        assert extreme(expr, ranges, True).evaluate({"n": 3}) >= max(values)
        assert extreme(expr, ranges, False).evaluate({"n": 3}) <= min(values)


def test_a_sum_that_would_take_for_ever_is_refused(asked: Any) -> None:
    question = asked(
        "n: 1000000000000",
        "A: {role: in, dtype: fp32}, C: {role: out, dtype: fp32}",
        "  - {do: 'C[i, j] += A[i, k]', for: {i: n, j: [0, i // 2 + 1], k: [0, j // 2 + 1]}}\n",
    )
    with pytest.raises(IRError, match="smaller sizes"):
        least(question, 1024)


# -- the checker


def test_products_of_powers_with_large_denominators_are_compared_at_once() -> None:
    left = [[str(Fraction(n + 2, n + 1)), f"1/{10**9 + n}"] for n in range(40)]
    assert same_product(left, left[::-1])
    assert not same_product(left, left[1:])
    assert same_product([["4", "1/2"], ["3/2", "2"]], [["9/2", "1"]])


@pytest.mark.parametrize("text", ["2^9^9^9", "2^2^2^2^2^2", "n^1000000000", "(" * 3000, "-" * 4000 + "1", "open"])
def test_expressions_that_would_take_for_ever_are_refused(text: str) -> None:
    certificate = compulsory_certificate()
    certificate["evidence"]["loaded"][0]["elements"] = text
    certificate["instance"]["values"] = {**certificate["instance"]["values"], text: 1}
    certificate["claim"]["text"] = " + ".join(
        f"{e['width']} * ({e['elements']})" for s in ("loaded", "stored") for e in certificate["evidence"][s]
    )
    with pytest.raises(ValueError):
        check(certificate)


def compulsory_certificate() -> Any:
    path = Path(__file__).parent.parent / "examples" / "bounds" / "matmul.yaml"
    question = load_question(path)
    bound = next(b for b in lower_bounds(question.cascade) if b.rule == "compulsory")
    return copy.deepcopy(certified(bound, question.sizes, 4096))


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"version": 1, "rule": []}, {"version": 1, "rule": "sum"}])
def test_what_is_no_certificate_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        check(value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -1, "1", 10**300, None])
def test_numbers_that_are_none_are_refused(number: Any) -> None:
    for field in ("loads", "stores", "total"):
        certificate = compulsory_certificate()
        certificate["instance"][field] = number
        with pytest.raises(ValueError):
            check(certificate)


@pytest.mark.parametrize("exponent", ["1/0", "1e999999999", "0x10", "nan", "1/" + "9" * 50, None, 0.5])
def test_exponents_that_are_no_fractions_are_refused(exponent: Any) -> None:
    path = Path(__file__).parent.parent / "examples" / "bounds" / "matmul.yaml"
    certificate = next(
        c for c in (b.certificate() for b in lower_bounds(load_question(path).cascade)) if c["rule"] == "statement"
    )
    certificate["evidence"]["parts"][0]["accesses"][0]["exponent"] = exponent
    with pytest.raises(ValueError):
        check(certificate)


def test_a_reuse_of_one_is_refused_where_ranges_depend_on_each_other(asked: Any) -> None:
    """A[x + r] with r below x: many pairs name one element."""
    question = asked(
        "n: 12, c: 12",
        f"A: {SMALL}, W: {SMALL}, O: {{role: out, dtype: fp32}}",
        "  - {do: 'O[x, k] += A[x + r] * W[r, k]', for: {x: n, r: [0, x + 1], k: c}}\n",
    )
    for bound in lower_bounds(question.cascade):
        certificate = certified(bound, question.sizes, 48)
        check(certificate)
        for part in certificate["evidence"].get("parts", []):
            folded = next(a for a in part["accesses"] if a["reuse"] != "1")
            gone = folded["reuse"]
            folded["reuse"] = "1"
            for factors in (part["factors"], certificate["claim"]["terms"][0]["factors"]):
                factors[:] = [f for f in factors if f[0] != gone]
            with pytest.raises(ValueError):
                check(certificate)


def test_values_that_come_into_being_must_be_taken_off() -> None:
    path = Path(__file__).parent.parent / "examples" / "bounds" / "2mm.yaml"
    question = load_question(path)
    sizes = dict.fromkeys(question.cascade.sizes, 12)
    forged = 0
    for bound in lower_bounds(question.cascade):
        certificate = certified(bound, sizes, 400)
        for entry in certificate["evidence"].get("free", []):
            instance = certificate["instance"]
            gained = entry["width"] * instance["values"][entry["elements"]]
            entry["elements"] = "0"
            instance["values"]["0"] = 0
            instance["loads"] += gained
            instance["total"] += gained
            with pytest.raises(ValueError, match="free: "):
                check(certificate)
            forged += 1
    assert forged


@pytest.mark.parametrize("field", ["accumulator_bytes", "stored_bytes"])
def test_outputs_of_attention_are_counted_again(field: str) -> None:
    path = Path(__file__).parent.parent / "examples" / "bounds" / "attention.yaml"
    question = load_question(path)
    bounds = [b for b in lower_bounds(question.cascade) if b.rule.startswith("attention")]
    assert len(bounds) == 2
    for bound in bounds:
        certificate = certified(bound, {"n": 8, "d": 4}, 40)
        check(certificate)
        instance = certificate["instance"]
        if field == "accumulator_bytes":
            instance["loads"] += instance[field]
            instance["total"] += instance[field]
            instance[field] = 0
            certificate["evidence"][field] = "0"
        else:
            instance["stores"] += instance[field]
            instance["total"] += instance[field]
            instance[field] *= 2
        with pytest.raises(ValueError, match=field):
            check(certificate)


def test_files_that_are_no_json_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    for text in ("", "[" * 100_000, "[1]", '{"certificates": 3}', "nonsense"):
        path.write_text(text)
        assert main([str(path)]) == 1
    assert main([str(tmp_path / "missing.json")]) == 1
    assert "Traceback" not in capsys.readouterr().out


def test_sums_inside_a_nest_share_its_budget() -> None:
    with pytest.raises(TooLongError):
        points([["i", "0", "199999"], ["j", "0", "sum(v < 199999: i)"], ["k", "0", "j"]], {})
