"""Certificates: every one passes a checker that shares no code with the deriver, and a changed one does not."""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bound_cases import FILES, FOLDER

import flashc
from flashc.compiler.cascade_file import load_question
from flashc.iomodel.bounds import certified, lower_bounds
from flashc.iomodel.checker import check

ROOT = Path(flashc.__file__).parent.parent
WORKLOADS = sorted((ROOT / "examples").glob("*.yaml"))
SCHEMA = json.loads((ROOT / "docs/schema/certificate.schema.json").read_text())
CHECKERS = ("checker", "checker_text", "checker_values", "checker_instance", "checker_attention", "checker_resident")
Json = dict[str, Any]


def certificates(path: Path, *sizes: str) -> list[Json]:
    """As a reader of JSON sees them, with an instance; ``sizes`` as on the command line."""
    asked = load_question(path, sizes)
    fast = asked.fast_bytes or 192 * 1024
    made = [certified(b, asked.sizes, fast) for b in lower_bounds(asked.cascade)]
    return [json.loads(json.dumps(c)) for c in made]


@pytest.mark.parametrize("path", [*FILES, *WORKLOADS], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_certificates_of_every_example_pass(path: Path) -> None:
    found = certificates(path)
    assert found
    for certificate in found:
        check(certificate)
        jsonschema.validate(certificate, SCHEMA)
        check({k: v for k, v in certificate.items() if k != "instance"})


def test_the_checker_imports_nothing_but_the_standard_library_and_itself() -> None:
    allowed = set(sys.stdlib_module_names)
    for name in CHECKERS:
        source = (ROOT / "flashc/iomodel" / f"{name}.py").read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                parts = (node.module or "").split(".")
                inside = parts[:2] == ["flashc", "iomodel"] and {*parts[2:], *(a.name for a in node.names)} & set(
                    CHECKERS
                )
                assert parts[0] in allowed or inside
            if isinstance(node, ast.Import):
                assert all(a.name.split(".")[0] in allowed for a in node.names)


def paths_to(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every leaf of a document."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths_to(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from paths_to(item, (*path, at))
    else:
        yield path


def changed(certificate: Json, path: tuple[Any, ...]) -> Json:
    """The certificate with one leaf another value."""
    result = copy.deepcopy(certificate)
    place = result
    for key in path[:-1]:
        place = place[key]
    old = place[path[-1]]
    if isinstance(old, bool):
        place[path[-1]] = not old
    elif isinstance(old, int | float):
        place[path[-1]] = old + 1 + abs(old) // 7
    elif isinstance(old, str) and old.isdigit():
        place[path[-1]] = str(int(old) + 5)
    elif isinstance(old, str):
        place[path[-1]] = "7/5" if old.replace("/", "").replace("-", "").isdigit() else f"{old} + 1"
    else:
        place[path[-1]] = ["x", "y"]
    return result


# What is computed is the claim's subject, not part of its proof: of another program another claim may hold as well.
SUBJECT = ({"arrays", "statements", "sizes", "fast_bytes"}, {"name"})
TESTED = [
    "matmul", "mixed_widths", "mttkrp3", "syrk", "cholesky", "conv2d", "2mm", "gate_up", "jacobi2d", "matvec", "lstm",
]  # fmt: skip


@pytest.mark.parametrize("name", TESTED)
def test_a_certificate_with_any_changed_leaf_is_refused(name: str) -> None:
    known = load_question(FOLDER / f"{name}.yaml").cascade.sizes
    for certificate in certificates(FOLDER / f"{name}.yaml", *(f"{n}={20 + at}" for at, n in enumerate(known))):
        for path in paths_to(certificate):
            if SUBJECT[0] & set(path[:2]) or path[-1] in SUBJECT[1]:
                continue
            with pytest.raises(ValueError):
                check(changed(certificate, path))
                pytest.fail(f"{certificate['rule']} of {name}: {path} may be anything", pytrace=False)


@pytest.mark.parametrize("name", ["matmul", "syrk", "2mm"])
@pytest.mark.parametrize("field", ["fast_bytes", "loads", "stores", "total"])
def test_a_certificate_with_other_numbers_is_refused(name: str, field: str) -> None:
    for certificate in certificates(FOLDER / f"{name}.yaml"):
        if field == "fast_bytes" and (certificate["rule"] == "compulsory" or certificate["instance"]["loads"] == 0):
            continue
        with pytest.raises(ValueError, match="loads|stores|total"):
            check(changed(certificate, ("instance", field)))


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("arrays", "A", "width"), 8, "width"),
        (("arrays", "A", "value"), "B", "value"),
        (("arrays", "C", "role"), "inout", "free"),
        (("arrays", "A", "role"), "temp", "free"),
        (("statements", 0), "C[i, j] += A[i, l] * B[l, i]", "statement"),
        (("parts", 0, "statement"), "C[i, j] += A[i, l] * B[l, i]", "statement"),
    ],
)
def test_a_proof_for_another_program_is_refused(path: tuple[Any, ...], value: Any, complaint: str) -> None:
    certificate = certificates(FOLDER / "matmul.yaml")[1]
    place = certificate["evidence"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=complaint):
        check(certificate)


def test_larger_exponents_a_missing_access_and_a_made_up_one_are_refused() -> None:
    certificate = certificates(FOLDER / "matmul.yaml")[1]
    for edit in (
        lambda p: p["accesses"].pop(),
        lambda p: p["accesses"].append({**p["accesses"][0], "reference": "D[i, l]"}),
        lambda p: p["accesses"].append(p["accesses"][0]),
        lambda p: p["accesses"][0].update(indices=["i", "j", "l"]),
        lambda p: p["uncovered"].append(["i", "m", "1/2"]),
        lambda p: p.update(swap=["i", "j"]),
    ):
        wrong = copy.deepcopy(certificate)
        edit(wrong["evidence"]["parts"][0])
        with pytest.raises(ValueError):
            check(wrong)


def test_two_names_of_one_array_may_not_have_budgets_of_their_own() -> None:
    """SYRK with a budget for each access would claim twice what is true."""
    certificate = next(c for c in certificates(FOLDER / "syrk.yaml") if c["rule"] == "statement")
    part = certificate["evidence"]["parts"][0]
    for access, exponent in zip(part["accesses"], ("1/2", "1/2", "1/2"), strict=True):
        access.update(exponent=exponent, budget=access["reference"], mirrored=False)
    part.update(swap=None)
    with pytest.raises(ValueError, match="budget"):
        check(certificate)


def test_temps_must_be_taken_off() -> None:
    certificate = next(c for c in certificates(FOLDER / "2mm.yaml") if c["rule"] == "sum")
    certificate["evidence"]["free"] = []
    with pytest.raises(ValueError, match="free"):
        check(certificate)


def test_the_checker_runs_on_files(tmp_path: Path) -> None:
    good = certificates(FOLDER / "matmul.yaml")
    (tmp_path / "good.json").write_text(json.dumps({"certificates": good}))
    (tmp_path / "bad.json").write_text(json.dumps(changed(good[1], ("instance", "total"))))
    command = [sys.executable, "-m", "flashc.iomodel.checker"]
    passed = subprocess.run([*command, str(tmp_path / "good.json")], capture_output=True, text=True, check=False)
    failed = subprocess.run([*command, str(tmp_path / "bad.json")], capture_output=True, text=True, check=False)
    assert (passed.returncode, failed.returncode) == (0, 1)
    assert "total" in failed.stdout
