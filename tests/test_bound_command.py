"""`flashc bound`: what it prints, its files and their errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest
from bound_cases import FILES, FOLDER

import flashc
from flashc.compiler.cascade_file import bound_schema, load_question, memory_bytes
from flashc.errors import WorkloadError
from flashc.iomodel.checker import check

if TYPE_CHECKING:
    from cli_runner import Runner

pytest_plugins = ("cli_runner",)

ROOT = Path(flashc.__file__).parent.parent
MATMUL = str(FOLDER / "matmul.yaml")
TEXT = (FOLDER / "matmul.yaml").read_text()


def schema(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((ROOT / "docs/schema" / f"{name}.schema.json").read_text())
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda f: f.stem)
def test_every_example_prints_its_bounds(run: Runner, path: Path) -> None:
    found = run("bound", path)
    assert found.code == 0
    assert "moves at least" in found.out
    assert "compulsory" in found.out


def test_text_names_formulas_numbers_and_assumptions(run: Runner) -> None:
    out = run("bound", MATMUL).out
    assert "16*k*m*n/sqrt(M)" in out
    assert "in words 2*k*m*n/sqrt(M)" in out
    assert "fast memory of 192 KiB" in out
    assert "no Strassen" in out
    assert "i=128 j=128" in out


def test_json_has_certificates_that_check(run: Runner) -> None:
    document = run("bound", MATMUL, "--json").document
    jsonschema.validate(document, schema("bound-result"))
    for certificate in document["certificates"]:
        jsonschema.validate(certificate, schema("certificate"))
        check(certificate)
    assert document["best"]["rule"] == "statement S1"
    assert document["bounds"][1]["formula_words"] == "2*k*m*n/sqrt(M)"


def test_a_workload_has_bounds_too(run: Runner) -> None:
    document = run("bound", ROOT / "examples" / "gemm.yaml", "--json", "--fast-memory", "192K").document
    jsonschema.validate(document, schema("bound-result"))
    assert document["best"]["rule"] == "statement acc"
    smaller = run("bound", ROOT / "examples" / "gemm.yaml", "--json", "--fast-memory", "192K", "--set", "m=64").document
    assert smaller["best"]["total"] < document["best"]["total"]


def test_sizes_and_memory_are_set_on_the_command_line(run: Runner) -> None:
    one, four = (run("bound", MATMUL, "--json", "--set", f"n={n}").document["bounds"][1] for n in (1024, 4096))
    assert four["loads"] > 3.9 * one["loads"]
    less, more = (run("bound", MATMUL, "--json", "--fast-memory", m).document["bounds"][1] for m in ("4K", "16K"))
    assert less["loads"] > 1.9 * more["loads"]


def test_latex(run: Runner) -> None:
    assert r"\frac{16 k m n}{\sqrt{M}}" in run("bound", MATMUL, "--latex").out


def test_without_sizes_there_are_formulas_only(run: Runner) -> None:
    found = run("bound", MATMUL, "--set", "n=")
    assert "n have no value" in found.out
    assert "16*k*m*n/sqrt(M)" in found.out
    document = run("bound", MATMUL, "--set", "n=", "--json").document
    jsonschema.validate(document, schema("bound-result"))
    assert document["best"] is None


def test_memory_is_read_in_powers_of_1024() -> None:
    assert [memory_bytes(t) for t in ("512", "192K", "40M", "80G", "1KiB")] == [512, 196608, 40 << 20, 80 << 30, 1024]


@pytest.mark.parametrize("text", ["", "0", "-1", "12X", "1.5K"])
def test_other_memory_is_refused(run: Runner, text: str) -> None:
    assert run("bound", MATMUL, "--fast-memory", text).code == 2


ERRORS = [
    ("A[i, l]", "A[i, q]", 9, "q"),
    ("C[i, j] +=", "C[i, j] -=", 9, "max="),
    ("C[i, j] +=", "D[i, j] +=", 9, "declared"),
    ("* B[l, j]", "* (B[l, j]", 9, "not closed"),
    ("* B[l, j]", "* B[l, j] ; x", 9, "expected a reference"),
    ("{i: m,", "{i: q,", 10, "declare q"),
    ("{i: m,", "{m: m,", 10, "not a size"),
    ("{role: in, dtype: fp32}", "{role: input, dtype: fp32}", 5, "in"),
    ("A: {role: in, dtype: fp32}", "A: {role: in}", 5, "exactly one"),
    ("C: {role: out,", "C: {role: in,", 9, "role"),
    ("fast_memory: 192K", "fast_memory: lots", 3, "192K"),
    ("fast_memory: 192K", "fast_memroy: 192K", 3, "did you mean"),
    ("m: 4096", "m: -4", 2, "0"),
    ("m: 4096", "min: 4096", 2, "symbol name"),
    ("sizes:", "size:", 2, "sizes"),
]


@pytest.mark.parametrize(("old", "new", "line", "says"), ERRORS)
def test_errors_name_the_line_and_the_fix(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in TEXT
    path = tmp_path / "wrong.yaml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(WorkloadError) as caught:
        load_question(path)
    message = str(caught.value)
    assert re.search(rf"wrong\.yaml:{line}\b", message), message
    assert says in message
    assert "fix: " in message


def test_an_unknown_size_is_refused(run: Runner) -> None:
    found = run("bound", MATMUL, "--set", "q=4")
    assert found.code == 3
    assert "one of m, n, k" in found.err


def test_the_committed_schema_is_the_one_in_use() -> None:
    assert schema("bound") == bound_schema()
