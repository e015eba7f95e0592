"""The text of tile programs: what is printed parses back to the same program, and mistakes are located."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_programs import EXAMPLES, programs

from flashc.errors import ExpressionError, IRError
from flashc.ir import nodes, types
from flashc.ir.intexpr import Const, IntExpr, Item, Sym, ceil_div, imax, imin, isum
from flashc.ir.parser import parse_program
from flashc.ir.printer import print_program
from flashc.ir.scalar import FUNCTIONS, Coord, Fetch, InDomain, Lit, Ref, Scalar, call
from flashc.ir.verify import verify

Golden = Callable[[str, str], None]
DOCS = Path(__file__).parent.parent / "docs" / "ir.md"


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_program_parses_back(example: str) -> None:
    for program in programs(example).values():
        assert parse_program(print_program(program)) == program


@pytest.mark.parametrize(
    ("example", "schedule", "stage"),
    [
        ("causal_bf16", "q_stationary", "tile"),
        ("causal_bf16", "q_stationary", "lowered"),
        ("everything", "stored_scores", "tile"),
        ("everything", "tile_fused", "tile"),
        ("gemm", "output_stationary", "placed"),
    ],
)
def test_printed_programs(example: str, schedule: str, stage: str, golden: Golden) -> None:
    golden(f"{example}.{schedule}.{stage}", print_program(programs(example)[schedule, stage]))


def test_the_documented_example_is_a_well_formed_program() -> None:
    text = DOCS.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    program = parse_program(text)
    verify(program)
    assert parse_program(print_program(program)) == program


# -- random programs

KEYWORDS = "load store over next dot init part seq lane count carry where order m n k"
NAMES = st.sampled_from([*KEYWORDS.split(), "acc", "x_1", "Tj"])
LEVELS = st.sampled_from(["memory", "l2", "swizzle"])


def _tuples(items: st.SearchStrategy, least: int = 0) -> st.SearchStrategy:
    return st.lists(items, min_size=least, max_size=3).map(tuple)


def _call(fn: str, args: list[Scalar]) -> Scalar:
    try:
        return call(fn, *args[: FUNCTIONS[fn].arity])
    except ExpressionError:  # literals of a wrong kind
        return args[0]


SYMBOLS = st.builds(Sym, NAMES)
INTS: st.SearchStrategy[IntExpr] = st.recursive(
    st.builds(Const, st.integers(-9, 9)) | SYMBOLS,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda a, b: a * b, SYMBOLS, SYMBOLS),
        st.builds(lambda a, b: (a + 1) // b, SYMBOLS, st.builds(Const, st.integers(1, 9)) | SYMBOLS),
        st.builds(lambda a, b: a % b, SYMBOLS, SYMBOLS),
        st.builds(ceil_div, inner, SYMBOLS),
        st.builds(imin, inner, inner),
        st.builds(imax, inner, inner),
        st.builds(lambda n, body: isum("v", n, imin(body, Sym("v"))), SYMBOLS, inner),
        st.builds(Item, NAMES, _tuples(inner, 1)),
    ),
    max_leaves=4,
)
# to_int of an infinity folds to -2^63, the one 64-bit literal that has no text.
CALLED = sorted(FUNCTIONS.keys() - {"to_int"})
LITERALS = st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False)
SCALARS: st.SearchStrategy[Scalar] = st.recursive(
    st.builds(Lit, LITERALS) | st.builds(Coord, NAMES) | st.builds(Ref, NAMES) | st.builds(InDomain, NAMES),
    lambda inner: st.one_of(
        st.builds(Fetch, NAMES, _tuples(inner)),
        st.builds(_call, st.sampled_from(CALLED), st.lists(inner, min_size=3, max_size=3)),
    ),
    max_leaves=6,
)
MODES = st.builds(types.Mode, NAMES, INTS, INTS, st.sampled_from(["lane", "reg", "offset"]))
NUMBERS = st.integers(-9, 9)
LAYOUTS = st.builds(types.Layout, _tuples(MODES), st.none() | st.tuples(NUMBERS, NUMBERS, NUMBERS))
DTYPES = st.sampled_from(list(types.DTYPES.values()))
VALUES = st.builds(types.Value, NAMES, _tuples(NAMES), DTYPES, st.none() | LEVELS, st.none() | LAYOUTS)
ACCESSES = st.builds(nodes.Access, NAMES, _tuples(INTS))
ATOMS = st.builds(nodes.Atom, NAMES, st.none() | NAMES, INTS, INTS, NUMBERS)
LOOPS = st.builds(nodes.Loop, NAMES, INTS, st.sampled_from(["serial", "grid", "order"]))
INITS = st.none() | SCALARS
LEAVES = st.one_of(
    st.builds(nodes.Load, VALUES, ACCESSES),
    st.builds(nodes.Store, ACCESSES, NAMES, st.booleans()),
    st.builds(nodes.Copy, VALUES, NAMES),
    st.builds(nodes.View, VALUES, NAMES),
    st.builds(nodes.Dot, VALUES, NAMES, NAMES, _tuples(NAMES), INITS, st.booleans(), st.none() | ATOMS),
    st.builds(nodes.Map, VALUES, SCALARS),
    st.builds(nodes.Reduce, VALUES, st.sampled_from(["max", "sum", "min"]), NAMES, NAMES),
    st.builds(nodes.Alloc, VALUES, INTS, NAMES),
    st.builds(nodes.Sync, LEVELS),
)


def _loops(inner: st.SearchStrategy) -> st.SearchStrategy:
    body = _tuples(inner)
    carries = _tuples(st.builds(nodes.Carry, VALUES, SCALARS, NAMES))
    domains = st.none() | st.builds(nodes.Domain, _tuples(INTS), _tuples(INTS))
    parts, sides = st.sampled_from(["all", "partial", "full"]), st.sampled_from(["", "left", "right"])
    seqs = st.builds(nodes.Seq, LOOPS, body, carries, domains, st.none() | NAMES, INTS, parts, sides, st.booleans())
    return seqs | st.builds(nodes.Par, _tuples(LOOPS), body, st.sampled_from(["natural", "longest"]))


STATEMENTS = st.recursive(LEAVES, _loops, max_leaves=4)
ROLES = st.sampled_from(["in", "out", "temp"])
PROGRAMS = st.builds(
    nodes.Program,
    name=NAMES,
    schedule=NAMES,
    axes=_tuples(st.builds(types.Axis, NAMES, INTS)),
    sizes=_tuples(NAMES),
    fixed=_tuples(st.tuples(NAMES, NUMBERS)),
    params=_tuples(st.builds(types.Param, NAMES, DTYPES)),
    tensors=_tuples(st.builds(types.Tensor, NAMES, DTYPES, _tuples(INTS), ROLES)),
    tiles=_tuples(NAMES),
    kernels=_tuples(st.builds(nodes.Kernel, NAMES, _tuples(STATEMENTS))),
    stage=st.sampled_from(["tile", "placed", "bound", "lowered"]),
    notes=_tuples(st.text(max_size=20)),
)


@settings(deadline=None)
@given(PROGRAMS)
def test_random_programs_parse_back(program: nodes.Program) -> None:
    assert parse_program(print_program(program)) == program


LITERAL_VALUES = [math.inf, -math.inf, -0.0, 0.1, 1e-300, 5e-324, 1.7976931348623157e308, 2**62 + 1]


@pytest.mark.parametrize("value", LITERAL_VALUES)
def test_literals_keep_their_value(value: float) -> None:
    text = f"program p.s (tile)\n  kernel k\n    x: f32 = map {value!r}\n"
    (stmt,) = parse_program(text).kernels[0].body
    assert stmt == nodes.Map(types.Value("x", (), types.F32), Lit(value))
    assert print_program(parse_program(text)) == text


# -- reading what people write

HAND_WRITTEN = """
# a comment, and four spaces per level
program copy.plain (tile)
    sizes N   # elements
    tiles T
    axes i: N
    in a: f32[N]
    out c: f32[N]
    note "# is no comment here"

    kernel copy
        par i: T @grid
            x[i]: f32 = load a[i]
            store c[i] = x
"""


def test_comments_and_any_indentation() -> None:
    program = parse_program(HAND_WRITTEN)
    verify(program)
    assert program.notes == ("# is no comment here",)
    assert [type(s).__name__ for s in program.kernels[0].body[0].body] == ["Load", "Store"]


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ("program copy.plain (tile)", "program copy (tile)", 3, "expected NAME.SCHEDULE"),
        ("program copy.plain (tile)", "program copy.plain (tiled)", 3, "one of tile, placed, bound, lowered"),
        ("program copy.plain", "schedule copy.plain", 3, "expected 'program'"),
        ("    sizes N ", "    size N ", 4, "one of sizes, fixed, params, tiles, axes"),
        ("    tiles T", "    tiles T\n    tiles U", 6, "one line of tiles"),
        ("    tiles T", "    tiles T,", 5, "expected a tile symbol"),
        ("    tiles T", "      tiles T", 5, "expected nothing indented below line 4"),
        ("    tiles T", "   tiles T", 5, "expected 4 spaces, as on line 4"),
        ("    tiles T", "tiles T", 5, "expected nothing after the program"),
        ("in a: f32[N]", "in a: fp32[N]", 7, "one of f64, f32, f16, bf16, i64, i32, bool"),
        ("in a: f32[N]", "in a: f32[N + ]", 7, "expected a number, a name or '('"),
        ('note "# is no comment here"', "note hello", 9, "double quotes"),
        ("par i: T @grid", "par i: T grid", 12, "expected @MAP, order or the end of the line"),
        ("par i: T @grid", "for i: T @grid", 12, "expected store, alloc, sync, par, seq or"),
        ("load a[i]", "fetch a[i]", 13, "one of load, copy, view, dot, map, max, min, sum"),
        ("load a[i]", "load a", 13, "expected '['"),
        ("load a[i]", "map exp(a", 13, "allowed: `,` or `)`"),
        ("load a[i]", "map exp(a, a)", 13, "exp with 2 argument(s)"),
        ("load a[i]", "dot a", 13, "expected ','"),
        ("load a[i]", "dot a, b over i skip", 13, "over, zero_skips, atom, init (in this order)"),
        ("load a[i]", "dot a, b over i atom fma m 2", 13, "expected 'n'"),
        ("load a[i]", "max a along i", 13, "expected 'over'"),
        ("x[i]: f32 = load", "x[i] = load", 13, "expected ':' and an element type"),
        ("x[i]: f32 = load", "x[i]: f32 @l2 {i 4} = load", 13, "AXIS SHAPE:STRIDE"),
        ("x[i]: f32 = load", "x[i]: f32 {i 4:1 vector} = load", 13, "one of lane, reg"),
        ("x[i]: f32 = load", "x[i]: f32 {} swizzle 3 = load", 13, "BITS, BASE, SHIFT"),
        ("store c[i] = x", "store c[i] = x + 1", 14, "expected the end of the line"),
        ("store c[i] = x", "carry c: f32 = 0.0 next x", 14, "only as the first lines below a seq"),
        ("store c[i] = x", "seq i: T\n                carry c: f32 = 0.0", 15, "expected `INIT next NAME`"),
        ("store c[i] = x", "seq i: T stages 2 law add", 14, "law, stages, part, side, where (in this order)"),
        ("store c[i] = x", "seq i: T where N <= i", 14, "a bound is `i >= EXPR` or `i < EXPR`"),
        ("store c[i] = x", "seq i: T part left", 14, "one of all, partial, full"),
    ],
)
def test_mistakes_are_located(old: str, new: str, line: int, expected: str) -> None:
    with pytest.raises(IRError) as caught:
        parse_program(HAND_WRITTEN.replace(old, new, 1))
    assert f"line {line}" in str(caught.value)
    assert expected in str(caught.value)


def test_a_mistake_shows_the_line_and_a_caret() -> None:
    with pytest.raises(IRError) as caught:
        parse_program("program p.s (tile)\n  sizes N, 3\n")
    assert str(caught.value) == "line 2, column 12: expected a size, found '3'\n  sizes N, 3\n           ^"


def test_an_empty_text_says_how_a_program_begins() -> None:
    with pytest.raises(IRError, match=r"line 1: empty text; expected `program NAME.SCHEDULE \(STAGE\)`"):
        parse_program("# nothing\n")
