"""Certificates of attention bounds: honest ones pass their check, and one spoiled field is refused."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from typing import Any

import pytest
from attention_cascades import backward, plain

from flashc.iomodel.attention import attention_bounds
from flashc.iomodel.attention_theorems import BlockBound, ComputedOnceBound
from flashc.iomodel.bounds import certified
from flashc.iomodel.checker_attention import CHECKS

TINY = {"n": 4, "m": 5, "d": 2, "e": 3}


def certificates() -> list[dict[str, Any]]:
    shared = plain(storage={"b": "latent", "c": "latent"})
    cascades = [plain(), shared, backward("dq"), backward()]
    made: list[dict[str, Any]] = []
    for found in cascades:
        sizes = {name: TINY[name] for name in found.sizes}
        for one in attention_bounds(found):
            assert isinstance(one, BlockBound | ComputedOnceBound)
            made.append(json.loads(json.dumps(certified(one, sizes, 16.0))))
    return made


@pytest.mark.parametrize("certificate", certificates(), ids=lambda c: c["rule"])
def test_certificates_pass_their_check(certificate: dict[str, Any]) -> None:
    CHECKS[certificate["rule"]](certificate)


READER = {"accumulator_bytes", "stored_bytes", "work", "score_bytes", "depth", "array", "storage", "statement"}
"""Evidence for the reader: closed forms whose values an instance carries, and names (a storage may be renamed)."""


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(tree, dict):
        return [x for key, value in tree.items() for x in leaves(value, (*path, key))]
    if isinstance(tree, list):
        return [x for key, value in enumerate(tree) for x in leaves(value, (*path, key))]
    return [path]


def spoiled(certificate: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    result = copy.deepcopy(certificate)
    at = result
    for key in path[:-1]:
        at = at[key]
    old = at[path[-1]]
    at[path[-1]] = old - 1 if isinstance(old, int | float) else f"{old}x" if old is not None else "7"
    return result


@pytest.mark.parametrize("certificate", certificates(), ids=lambda c: c["rule"])
def test_every_corrupted_field_is_refused(certificate: dict[str, Any]) -> None:
    missed = []
    for path in leaves(certificate):
        if path[-1] in READER and path[0] == "evidence":
            continue
        try:
            CHECKS[certificate["rule"]](spoiled(certificate, path))
        except (ValueError, KeyError, SyntaxError):
            continue
        missed.append(path)
    assert missed == []


def test_a_larger_constant_is_refused_even_if_the_claim_agrees_with_itself() -> None:
    for certificate in certificates():
        if certificate["rule"] == "attention backward A":
            certificate["evidence"]["kappa"] = str(Fraction(certificate["evidence"]["kappa"]) * Fraction(99, 100))
            with pytest.raises(ValueError, match="kappa"):
                CHECKS[certificate["rule"]](certificate)
