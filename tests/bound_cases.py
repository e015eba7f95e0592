"""Published leading terms for examples/bounds, in words of a fast memory of M words, and helpers to compare with them.

Sources: Smith et al. arXiv 1702.02017 (matmul); Ballard, Knight, Rouse 1708.07401 (MTTKRP); IOLB, Olivry et al. PLDI
2020 (arXiv 1911.06664) and SOAP, Kwasniewski et al. SPAA 2021 (2105.07203) for Polybench; Beaumont et al. 2202.10217
(SYRK, Cholesky).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sympy

from flashc.commands.bound_report import words
from flashc.compiler.cascade_file import Question, load_question
from flashc.iomodel.bound import LowerBound
from flashc.iomodel.bounds import lower_bounds
from flashc.iomodel.monomial import fast_symbol

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "bounds"
FILES = sorted(FOLDER.glob("*.yaml"))
M = fast_symbol()


def question(name: str, **sizes: int) -> Question:
    return load_question(FOLDER / f"{name}.yaml", [f"{n}={v}" for n, v in sizes.items()])


def bounds(name: str, rule: str) -> list[LowerBound]:
    """Those of one rule: compulsory, statement, sum or recurrence."""
    return [b for b in lower_bounds(question(name).cascade) if b.rule.split()[0] == rule and ", small" not in b.rule]


def published(text: str, names: str) -> Any:
    """A formula in the symbols of the closed forms."""
    symbols = {n: sympy.Symbol(n, integer=True, nonnegative=True) for n in names.split()}
    return sympy.sympify(text, {**symbols, "M": M})


def leading_words(name: str, bound: LowerBound) -> Any:
    """The leading term in words, where all arrays have one width."""
    (width,) = {a.width for a in question(name).cascade.arrays}
    return sympy.expand(bound.formula().subs(M, width * M) / width)


def same(left: Any, right: Any) -> bool:
    return bool(sympy.simplify(left / right - 1) == 0)


def examples_table() -> str:
    """The table of docs/bounds.md: per example the rule with the largest leading term far out, and that term."""
    rows = ["| example | rule | leading term of loads and stores, bytes | in words |", "|---|---|---|---|"]
    for path in FILES:
        asked = load_question(path)
        found = lower_bounds(asked.cascade)
        big = dict.fromkeys(asked.cascade.sizes, 1 << 20)
        top = max(found, key=lambda b: b.at(big, 1 << 16).total)
        in_words = words(asked, top)
        formula = f"`{top.formula()}`"
        rows.append(f"| [{path.stem}](../examples/bounds/{path.name}) | {top.rule} | {formula} | `{in_words or '-'}` |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(examples_table())
