"""The expression grammar (docs/expressions.md): Python's own parser is the oracle for precedence."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashc.errors import ExpressionError
from flashc.ir.scalar import Coord, Fetch, InDomain, Lit, Ref, Scalar, call, where
from flashc.ir.scalar_parse import MAX_NESTING, MAX_TOKENS, USER_FUNCTIONS, parse_ir_scalar, parse_scalar

COORDS = ("b", "h", "i", "j", "qpos")
B, H, R, J, QPOS = map(Coord, COORDS)
SCORE = Ref("score")
DOCS = Path(__file__).parent.parent / "docs" / "expressions.md"


def parse(text: str) -> Scalar:
    return parse_scalar(
        text,
        coords=COORDS,
        refs=["score"],
        tensors={"table": 2, "slope": 1},
        source="w.yaml:3: score",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("score", SCORE),
        ("qpos", QPOS),
        ("12", Lit(12)),
        ("1.5", Lit(1.5)),
        (".5", Lit(0.5)),
        ("2.", Lit(2.0)),
        ("1e-3", Lit(0.001)),
        ("2E+2", Lit(200.0)),
        ("inf", Lit(math.inf)),
        ("-inf", Lit(-math.inf)),
        ("true", Lit(True)),
        ("false", Lit(False)),
        ("-3", Lit(-3)),
        ("- -i", R),
        ("(i)", R),
        ("@i", R),
        ("i + j * h", R + J * H),
        ("(i + j) * h", (R + J) * H),
        ("i - j - h", (R - J) - H),
        ("i - (j - h)", R - (J - H)),
        ("i / j / h", (R / J) / H),
        ("i // 16 % 2", (R // 16) % 2),
        ("-i * j", -R * J),
        ("-(i * j)", -(R * J)),
        ("i < j", R < J),
        ("i <= j", R <= J),
        ("i > j", R > J),
        ("i >= j", R >= J),
        ("i == j", R.eq(J)),
        ("i != j", R.ne(J)),
        ("i < j and j < h or b > 0", ((R < J) & (J < H)) | (B > 0)),
        ("i < j and (j < h or b > 0)", (R < J) & ((J < H) | (B > 0))),
        ("not i == j", ~R.eq(J)),
        ("not i < j and j < h", ~(R < J) & (J < H)),
        ("not (not i < j)", R < J),
        ("abs(qpos - j)", abs(QPOS - J)),
        ("max(i, j, h)", call("max", call("max", R, J), H)),
        ("min(i, 3)", call("min", R, 3)),
        ("exp(score) + exp2(score)", call("exp", SCORE) + call("exp2", SCORE)),
        ("log(log2(score))", call("log", call("log2", SCORE))),
        ("20 * tanh(score / 20)", call("tanh", SCORE / 20) * 20),
        ("where(j <= i, score, -inf)", where(J <= R, SCORE, -math.inf)),
        ("score - slope[h] * abs(i - j)", SCORE - Fetch("slope", (H,)) * abs(R - J)),
        ("table[h, j - i + 3]", Fetch("table", (H, J - R + 3))),
        ("slope[table[b, h] // 2]", Fetch("slope", (Fetch("table", (B, H)) // 2,))),
        ("  score\n  + 1 ", SCORE + 1),
    ],
)
def test_means(text: str, expected: Scalar) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "column", "problem", "allowed", "fix"),
    [
        ("", 1, "unexpected 'end of the expression'", "a number, a name", "grammar"),
        ("score +", 8, "unexpected 'end of the expression'", "a number, a name", "grammar"),
        ("scor + 1", 1, "unknown name 'scor'", "score", "did you mean 'score'?"),
        ("score + k", 9, "unknown name 'k'", "b, false, h, i, inf, j, qpos", "grammar"),
        ("@k", 2, "unknown coordinate 'k'", "b, h, i, j, qpos", "grammar"),
        ("sqrt(score)", 1, "unknown function 'sqrt'", ", ".join(USER_FUNCTIONS), "exp(0.5 * log(x))"),
        ("tan(score)", 1, "unknown function 'tan'", ", ".join(USER_FUNCTIONS), "did you mean 'tanh'?"),
        ("to_int(score)", 1, "unknown function 'to_int'", ", ".join(USER_FUNCTIONS), "grammar"),
        ("indomain(j)", 1, "unknown function 'indomain'", ", ".join(USER_FUNCTIONS), "grammar"),
        ("__import__(i)", 1, "unknown function '__import__'", ", ".join(USER_FUNCTIONS), "grammar"),
        ("score.real", 6, "unexpected '.real'", "numbers, names", "grammar"),
        ("score ** 2", 7, "unexpected '**'", "an operator", "exp(y * log(x))"),
        ("score ^ 2", 7, "unexpected '^'", "numbers, names", "exp(y * log(x))"),
        ("i = j", 3, "unexpected '='", "==", "write `==`"),
        ("i < j & j < h", 7, "unexpected '&'", "and", "write `and`"),
        ("!(i < j)", 1, "unexpected '!'", "not", "write `not`"),
        ("score if i else 0", 7, "unexpected 'if'", "an operator", "where(condition, a, b)"),
        ("i < j < h", 7, "chained comparison", "one comparison", "a < b and b < c"),
        ("i + not j", 5, "`not` after an operator", "before a comparison", "bracket it"),
        ("(i + j", 7, "unexpected 'end of the expression'", "`)` here", "grammar"),
        ("i + j)", 6, "unexpected ')'", "an operator, or the end", "grammar"),
        ("score score", 7, "unexpected 'score'", "an operator, or the end", "grammar"),
        ("max(i j)", 7, "unexpected 'j'", "`,` or `)`", "grammar"),
        ("table[h, j", 11, "unexpected 'end of the expression'", "`,` or `]`", "grammar"),
        ("table", 1, "'table' without an index", "2 index(es)", "table[.., ..]"),
        ("table[h]", 1, "1 index(es)", "exactly 2", "one index per dimension"),
        ("score[h]", 1, "'score' is not a captured tensor", "slope, table", "captures: {score: {shape"),
        ("abs", 1, "'abs' is a function", "a call", "write abs(..)"),
        ("abs()", 1, "abs with 0 argument(s)", "1", "count"),
        ("min(i)", 1, "min with 1 argument(s)", "2 or more", "count"),
        ("where(i < j, score)", 1, "where with 2 argument(s)", "3", "count"),
        ("1 // 0", 3, "divides by zero", "operands", "correct"),
        ("true + 1", 6, "'+' takes numbers, got bool and int", "operands", "correct"),
        ("9223372036854775808", 1, "too large", "below 2^63", "float"),
        ("1e999", 1, "too large", "1.8e308", "inf"),
        ("1abc", 1, "unexpected '1abc'", "numbers", "grammar"),
        ("1.2.3", 1, "unexpected '1.2.3'", "numbers", "grammar"),
        ("score ± 1", 7, "unexpected '±'", "numbers", "grammar"),
        ("“score”", 1, "unexpected '“'", "numbers", "grammar"),
        ("(" * 99 + "i" + ")" * 99, MAX_NESTING + 1, "nested too deeply", str(MAX_NESTING), "precomputed"),
        ("- " * 99 + "i", 2 * MAX_NESTING + 1, "nested too deeply", str(MAX_NESTING), "precomputed"),
        ("i" + " + i" * 300, 1, "602 symbols", str(MAX_TOKENS), "precomputed"),
    ],
)
def test_errors_name_place_column_allowed_and_fix(
    text: str, column: int, problem: str, allowed: str, fix: str
) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    first, shown, caret, allowed_line, fix_line = str(caught.value).split("\n")
    assert (
        first.startswith("w.yaml:3: score: ") and problem in first and first.endswith(f"at column {column}")
    )
    assert (shown, caret) == (f"    {text}", " " * (column + 3) + "^")
    assert allowed in allowed_line.removeprefix("  allowed: ")
    assert fix in fix_line.removeprefix("  fix: ")


def test_the_longest_admitted_expression_can_be_walked() -> None:
    expr = parse("score" + " + i" * (MAX_TOKENS // 2 - 1))
    assert parse_ir_scalar(str(expr)) == expr


def test_ir_text_admits_any_name_and_every_function() -> None:
    expr = where(
        InDomain("kv") & call("isfinite", Ref("m")), call("to_float", Fetch("lengths", ())), -math.inf
    )
    assert str(expr) == "where(indomain(kv) and isfinite(m), to_float(lengths[]), -inf)"
    assert parse_ir_scalar(str(expr)) == expr


def test_the_documentation_lists_every_function_and_its_examples_parse() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert all(f"`{name}(" in text for name in USER_FUNCTIONS)
    examples = re.findall(r"^    (?:score|keep): (.+)$", text, re.MULTILINE)
    tensors = {"slope": 1, "table": 2, "document": 2, "prefix": 1}
    assert len(examples) >= 6
    for example in examples:
        parse_scalar(example, coords=COORDS, refs=["score"], tensors=tensors, source=example)


# --- Python's parser as the oracle ----------------------------------------------------------------

_SYMBOLS = ["+", "-", "*", "/", "//", "%", "<", "<=", ">", ">=", "==", "!=", "and", "or"]
_TEXT = st.recursive(
    st.sampled_from(["b", "h", "i", "j"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(_SYMBOLS), inner).map(" ".join),
        st.tuples(inner, st.sampled_from(_SYMBOLS), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda text: f"-{text}"),
        inner.map(lambda text: f"not {text}"),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"abs({text})"),
    ),
    max_leaves=8,
)
_BINARY = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.And: "and",
    ast.Or: "or",
    ast.USub: "neg",
    ast.Not: "not",
}


def _from_python(node: ast.expr) -> Scalar | None:
    """Python's syntax tree as our expression; None where it chains comparisons."""
    match node:
        case ast.Name(id=name):
            return Coord(name)
        case ast.BinOp(left=left, op=op, right=right) | ast.Compare(left=left, ops=[op], comparators=[right]):
            return _applied(op, left, right)
        case ast.UnaryOp(op=op, operand=operand):
            return _applied(op, operand)
        case ast.BoolOp(op=op, values=values):
            return _applied(op, *values)
        case ast.Call(args=[operand]):
            inner = _from_python(operand)
            return None if inner is None else abs(inner)
    return None


def _applied(op: ast.AST, *operands: ast.expr) -> Scalar | None:
    first, *others = map(_from_python, operands)
    if first is None or None in others:
        return None
    if not others:
        return call(_BINARY[type(op)], first)
    for other in others:
        assert first is not None and other is not None
        first = call(_BINARY[type(op)], first, other)
    return first


@given(_TEXT)
def test_precedence_and_associativity_are_pythons(text: str) -> None:
    try:
        expected = _from_python(ast.parse(text, mode="eval").body)
    except SyntaxError:
        expected = None
    if expected is None:
        with pytest.raises(ExpressionError, match="chained comparison|`not` after"):
            parse(text)
        return
    assert parse(text) == expected
    assert parse_ir_scalar(str(expected)) == expected
