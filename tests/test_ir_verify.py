"""The verifier: programs of every pass hold the rules, and each broken rule is named where it breaks."""

from __future__ import annotations

import pytest
from ir_programs import EXAMPLES, programs

from flashc.errors import IRError
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imax, imin
from flashc.ir.parser import parse_program
from flashc.ir.verify import verify
from flashc.ir.verify_values import rising

ROW_MAX = """
program toy.row_max (tile)
  sizes B, N, M, D
  fixed D = 8
  params scale: f32
  tiles Ti, Tj, stages
  axes b: B, i: N, j: M, k: D
  in q: f32[B, N, D]
  in keys: f32[B, M, D]
  in lengths: i32[B]
  temp half: f16[B, N]
  out o: f32[B, N]
  kernel toy
    par b: 1 @grid, i: Ti @grid
      qt[i, k]: f32 = load q[b, i, k]
      seq j: Tj law max stages stages where j >= i - 2, j < lengths[b]
        carry m[i]: f32 = -inf next m1
        kt[j, k]: f32 = load keys[b, j, k]
        s[i, j]: f32 = dot qt, kt over k atom fma lane i m 2 n 4 k 1
        x[i, j]: f32 = map where(indomain(j), s * scale, -inf)
        mt[i]: f32 = max x over j
        m1[i]: f32 = map max(m, mt)
      f[i]: f16 = map m
      store half[b, i] = f
      g[i]: f16 = load half[b, i]
      r[i]: f32 = copy g
      store o[b, i] = r
"""


def verified(text: str) -> None:
    verify(parse_program(text))


def changed(old: str, new: str, text: str = ROW_MAX) -> str:
    """``text`` with ``old`` replaced once; further lines of ``new`` get the indentation of the first."""
    (before,) = [line for line in text.splitlines() if old in line]
    indent = before[: len(before) - len(before.lstrip())]
    return text.replace(old, new.replace("\n", f"\n{indent}"), 1)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_programs_of_every_pass_hold_the_rules(example: str) -> None:
    for program in programs(example).values():
        verify(program)


def test_the_toy_holds_the_rules() -> None:
    verified(ROW_MAX)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("sizes B, N, M, D", "sizes B, N, M, D, N", "N occurs 2 times among sizes, tiles and axes"),
        ("tiles Ti", "tiles i", "i occurs 2 times among sizes, tiles and axes"),
        ("params scale: f32", "params N: f32",
         "N occurs 2 times among sizes, tiles, params and integer tensors"),
        ("in lengths: i32[B]", "in scale: i32[B]", "scale occurs 2 times among sizes, tiles, params"),
        ("in keys: f32", "in q: f32", "q occurs 2 times among tensors"),
        ("in keys: f32", "in inf: f32", "'inf' is no name; use letters, digits and _; none of and, ceil,"),
        ("fixed D = 8", "fixed K = 8", "fixed K is no size; list it in sizes (B, N, M, D)"),
        ("fixed D = 8", "fixed D = 8, D = 9", "D occurs 2 times among fixed sizes"),
        ("j: M,", "j: Mk,", "axis j has the extent Mk, and Mk is no size"),
        ("keys: f32[B, M, D]", "keys: f32[B, 2 * Mk, D]", "tensor keys has the extent 2 * Mk"),
        ("toy.row_max (tile)", "toy.row_max (bound)",
         "bound, with tiles Ti, Tj, stages; bind gives them numbers"),
    ],
)
def test_header_rules(old: str, new: str, problem: str) -> None:
    with pytest.raises(IRError) as caught:
        verified(changed(old, new))
    assert str(caught.value).startswith("program toy.row_max: ")
    assert problem in str(caught.value)


LOAD_Q = "qt[i, k]: f32 = load q[b, i, k]"
SEQ = "seq j: Tj law max stages stages where j >= i - 2, j < lengths[b]"
DOT = "dot qt, kt over k atom fma lane i m 2 n 4 k 1"


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        # loops
        ("par b: 1 @grid, i: Ti", "par b: 1 @grid, h: Ti", "par b",
         "h is no axis of the program; choose of b, i, j, k"),
        ("par b: 1 @grid, i: Ti", "par i: 1 @grid, i: Ti", "par i", "a loop over i encloses it"),
        ("i: Ti @grid", "i: T @grid", "par b", "the tile uses T; list it in tiles (Ti, Tj, stages)"),
        ("i: Ti @grid", "i: 0 @grid", "par b", "the tile is 0; tiles are at least 1"),
        (LOAD_Q, f"seq i: Ti\n  u: f32 = map 0.0\n{LOAD_Q}", "seq i", "a loop over i encloses it"),
        (LOAD_Q, f"par j: Tj\n{LOAD_Q}", "par j", "a par inside another loop"),
        (" stages stages", " stages S", "seq j", "S in S is unknown here"),
        ("stages stages", "stages stages part partial", "seq j", "part partial with side missing"),
        ("stages stages", "stages stages part full side left", "seq j", "part full with side left"),
        # domains
        ("j >= i - 2", "j >= 2 - i", "seq j", "the bound -i + 2 may fall as i grows"),
        ("j >= i - 2", "j >= i * N", "seq j", "the bound N * i may fall as i grows"),
        ("j >= i - 2", "j >= j - 2", "seq j", "j in j - 2 is unknown here"),
        ("j < lengths[b]", "j < lengths[i]", "seq j", "the bound lengths[i] may fall as i grows"),
        ("j < lengths[b]", "j < lengths[b, i]", "seq j", "lengths has 1 dimension(s), the index 2"),
        ("j < lengths[b]", "j < keys[b, 0, 0]", "seq j", "keys is no table of integers"),
        ("where j >= i - 2, j < lengths[b]", "", "x[i, j]", "indomain(j) outside a seq over j with bounds"),
        ("indomain(j)", "indomain(k)", "x[i, j]", "indomain(k) outside a seq over k with bounds"),
        ("x[i, j]: f32 = map where(indomain(j), s * scale", "x[j]: f32 = map where(indomain(j), 0.0", "x[j]",
         "indomain(j) varies along i, x does not"),
        # carried state
        ("next m1", "next m2", "carry m[i]",
         "m2 is not defined here; define it before; defined: kt, m, m1, mt, qt, s, x"),
        ("next m1", "next x", "carry m[i]", "it is replaced by `x[i, j]: f32`; make the two alike"),
        ("= -inf next", "= mt next", "carry m[i]", "mt is not defined here"),
        ("= -inf next", "= @j next", "carry m[i]", "@j varies along j, m does not"),
        ("carry m[i]: f32", "carry m[i, j]: f32", "carry m[i, j]",
         "m has the axis j that its loop runs along"),
        # definitions
        ("m1[i]: f32 = map", "m[i]: f32 = map", "m[i]", "m is defined before; rename one of them"),
        ("mt[i]: f32 = max", "qt[i]: f32 = max", "qt[i]", "qt is defined before"),
        ("f[i]: f16 = map m", "not[i]: f16 = map m", "not[i]", "'not' is no name; use letters, digits and _"),
        ("r[i]: f32 = copy", "mt[i]: f32 @l2 = copy", "mt[i]", "a block beside has `mt[i]: f32`"),
        ("g[i]: f16", "N[i]: f16", "N[i]", "N is a size, tile or parameter"),
        ("f[i]: f16 = map m", "f[i, h]: f16 = map m", "f[i, h]", "h is no axis of the program"),
        ("f[i]: f16 = map m", "f[b, i]: f16 = map m", "f[b, i]",
         "the axis b has tile 1 here, so it is a scalar"),
        ("f[i]: f16 = map m", "f[i, i]: f16 = map m", "f[i, i]", "f has an axis twice"),
        ("f[i]: f16 = map m", "f[i]: f16 @l2 {} = map m", "f[i]", "the layout has other axes than the value"),
        ("f[i]: f16 = map m", "f[i]: f16 {i T:1} = map m", "f[i]", "T in T is unknown here"),
        # uses
        ("store o[b, i] = r", "store o[b, i] = s", "store o", "s is not defined here"),
        (LOAD_Q, f"{LOAD_Q}\nkt[j, k]: f32 = load keys[b, j, k]\ny[j]: f32 = sum kt over k", "kt[j, k]",
         "kt is defined before"),
        (LOAD_Q, f"{LOAD_Q}\ny[j]: f32 = map 0.0\n{SEQ}\n  z[j]: f32 = map y", "z[j]",
         "y holds all of j, and this loop sees one tile of it; define it within the loop"),
        # access
        ("load q[b, i, k]", "load queries[b, i, k]", "qt[i, k]", "queries is no tensor of the program"),
        ("load q[b, i, k]", "load q[b, i]", "qt[i, k]",
         "q has 3 dimension(s), the index 2; give one for each"),
        ("load q[b, i, k]", "load q[b, 2 * i, k]", "qt[i, k]",
         "the index 2 * i computes with the tiled axis i"),
        ("load q[b, i, k]", "load q[i, i, k]", "qt[i, k]", "an axis indexes two dimensions"),
        ("load q[b, i, k]", "load q[c, i, k]", "qt[i, k]", "c in c is unknown here"),
        ("load q[b, i, k]", "load q[b, 0, k]", "qt[i, k]",
         "the index takes tiles of k; give the value these axes"),
        ("qt[i, k]: f32", "qt[i, k]: f16", "qt[i, k]", "q holds f32; load that"),
        ("g[i]: f16 = load half[b, i]", "g[i]: f32 = load o[b, i]", "g[i]",
         "o is read before anything is stored to it"),
        ("store o[b, i] = r", "store q[b, i, 0] = r", "store q",
         "q is an input; store to an out or temp tensor"),
        ("store o[b, i] = r", "store o[b, 0] = r", "store o",
         "the index takes tiles of none; index with the axes of r[i]"),
        ("store o[b, i] = r", "y[i]: bool = map true\nstore o[b, i] = y", "store o",
         "y is bool, the tensor f32"),
        ("store o[b, i] = r", "store o[b, i] += r", "store o[b, i] += r",
         "o is read before anything is stored to it"),
        # arithmetic
        ("copy g", "copy qt", "r[i]", "the source is `qt[i, k]: f32`; a copy keeps axes and kind"),
        (DOT, "dot qt, kt over i", "s[i, j]",
         "the operands are `qt[i, k]: f32` and `kt[j, k]: f32`; sum over axes that both"),
        ("s[i, j]: f32 = dot", "s[i]: f32 = dot", "s[i]",
         "every axis of theirs is either in the result or summed over"),
        ("s[i, j]: f32 = dot", "s[i, j, k]: f32 = dot", "s[i, j, k]",
         "every axis of theirs is either in the result"),
        ("s[i, j]: f32 = dot", "s[i, j]: bool = dot", "s[i, j]", "a dot takes and gives numbers"),
        ("lane i", "lane b", "s[i, j]", "the lane axis b is none of the dot's; choose of i, j, k"),
        ("atom fma lane i m 2", "atom fma lane i m mr", "s[i, j]", "mr in 4 * mr is unknown here"),
        ("n 4 k 1", "n 4 k 1 init qt", "s[i, j]", "qt[i, k]: f32 varies along k, s does not"),
        ("max x over j", "max x over k", "mt[i]", "x has no axis k; reduce over one of i, j"),
        ("mt[i]: f32 = max", "mt[j]: f32 = max", "mt[j]",
         "the source is `x[i, j]: f32`; keep all its axes but the reduced"),
        ("mt[i]: f32 = max", "mt[i]: i32 = max", "mt[i]",
         "the source is f32; reduce numbers to numbers of the same kind"),
        ("map max(m, mt)", "map max(m, x)", "m1[i]",
         "x[i, j]: f32 varies along j, m1 does not; add the axis to it"),
        ("map max(m, mt)", "map max(m, @j)", "m1[i]", "@j varies along j, m1 does not"),
        ("map max(m, mt)", "map max(m, @h)", "m1[i]", "h is no axis of the program"),
        ("map max(m, mt)", "map max(m, m == mt)", "m1[i]", "max takes numbers, got float and bool"),
        ("map max(m, mt)", "map m < mt", "m1[i]",
         "m < mt is bool, m1 is f32; convert it, or change the type"),
        ("map max(m, mt)", "map lengths[@b, 0]", "m1[i]", "lengths has 1 dimension(s), the index 2"),
        ("map max(m, mt)", "map o[@b, @i]", "m1[i]", "o is read before anything is stored to it"),
        ("map max(m, mt)", "map lengths[@b] + lengths", "m1[i]", "lengths is not defined here"),
        # lowering
        (LOAD_Q, f"alloc qt[i, k]: f32 count 64 slot qt\n{LOAD_Q}", "alloc qt", "an alloc in a tile program"),
    ],
)  # fmt: skip
def test_kernel_rules(old: str, new: str, line: str, problem: str) -> None:
    with pytest.raises(IRError) as caught:
        verified(changed(old, new))
    assert str(caught.value).startswith(f"kernel toy: `{line}")
    assert problem in str(caught.value)


def test_a_tensor_and_a_value_of_one_name_may_not_differ_in_kind() -> None:
    text = changed("map where(indomain(j), s * scale, -inf)", "map flags[@b] + flags")
    text = changed("s[i, j]: f32 =", "flags[i, j]: f32 =", text)
    text = changed("in lengths", "in flags: i32[B]\nin lengths", text)
    with pytest.raises(IRError, match="flags names things of different kinds; rename the value"):
        verified(text)


def test_a_kernel_is_one_par() -> None:
    with pytest.raises(IRError, match="kernel toy: `kernel toy`: a kernel is one par"):
        verified(changed("par b: 1 @grid, i: Ti @grid", "seq i: Ti"))


def test_every_output_is_stored() -> None:
    with pytest.raises(IRError, match="program toy.row_max: nothing is stored to the out tensor o"):
        verified(changed("store o[b, i] = r", "store half[b, i] = g"))


def test_bound_programs_have_numbers_for_tiles() -> None:
    bound = ROW_MAX.replace("(tile)", "(bound)").replace("  tiles Ti, Tj, stages\n", "")
    numbers = bound.replace("stages stages", "stages 2").replace("Ti", "4").replace("Tj", "N")
    with pytest.raises(IRError, match="`seq j: N law max .*`: the tile N is not a number; bind its symbols"):
        verified(numbers)
    verified(numbers.replace("j: N law", "j: 8 law"))


# -- names


SPLIT = """
program sum.rows (lowered)
  sizes N, M
  axes i: N, j: M
  in a: f32[N, M]
  out c: f32[N]
  kernel sum
    par i: 4 @grid
      alloc t[i]: f32 count 4 slot t
      seq j: 8 law add part full
        carry t[i]: f32 = 0.0 next t1
        x[i, j]: f32 = load a[i, j]
        y[i]: f32 = sum x over j
        t1[i]: f32 = map t + y
      seq j: 8 law add part partial side right
        carry t[i]: f32 = t next t1
        x[i, j]: f32 = load a[i, j]
        y[i]: f32 = sum x over j
        t1[i]: f32 = map t + y
      store c[i] = t
"""


def test_a_loop_may_continue_the_state_of_the_loop_beside_it() -> None:
    verified(SPLIT)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("carry t[i]: f32 = t next", "carry t[i]: f32 = 0.0 next", "t is defined before"),
        ("carry t[i]: f32 = t next", "carry t[i]: f16 = t next", "t is defined before"),
        ("alloc t[i]: f32 count 4", "alloc t[i]: f16 count 4", "no statement defines t so"),
        ("alloc t[i]: f32 count 4", "alloc u[i]: f32 count 4", "no statement defines u so"),
        ("alloc t[i]: f32 count 4", "alloc t[i]: f32 count Ti", "Ti in Ti is unknown here"),
        ("slot t", "slot t\nalloc t[i]: f32 count 4 slot u", "t has a buffer already"),
    ],
)
def test_rules_of_continued_state_and_buffers(old: str, new: str, problem: str) -> None:
    with pytest.raises(IRError) as caught:
        verified(changed(old, new, SPLIT))
    assert problem in str(caught.value)


# -- bounds


i, n = Sym("i"), Sym("n")
RISING = [
    i, n, Const(-3), n // 2 - n * n, i - n, 3 * i, imin(i, n), imax(i, 2 * i),
    (i + 1) // 4, ceil_div(i, 4), 4 * (i // 4),
]  # fmt: skip
FALLING = [-i, n - i, i % 4, i * n, n // (i + 1), i // n, i * i, imin(i, -i), -(i // 2)]


@pytest.mark.parametrize("bound", RISING)
def test_bounds_that_never_fall(bound: IntExpr) -> None:
    assert rising(bound, frozenset({"i"}))
    values = [bound.evaluate({"i": value, "n": 7}) for value in range(20)]
    assert values == sorted(values)


@pytest.mark.parametrize("bound", FALLING)
def test_bounds_that_may_fall(bound: IntExpr) -> None:
    assert not rising(bound, frozenset({"i"}))
