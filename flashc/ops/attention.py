"""Scaled dot-product attention: one algorithm, five schedules.

    S = Q K^T;  X = logit(S);  P = softmax(X) along keys;  O = P V;  LSE = log sum exp X

The logit is, in this order: scale, softcap, + bias + ALiBi, the score expression, then the kept region (causal, window,
lengths as a ``Domain``; mask and ``keep`` as a predicate). Logits are kept in base 2 so that the exponential is exp2.
A row with nothing to attend to gives 0 and LSE = -inf.

Schedules (traffic leading terms for n queries, m keys, head size d, fast memory M words; Dao et al. 2022, Dao 2023,
Saha & Ye 2024, and the walkers in flashc.ir.analysis for the exact figures):
    q_stationary   4 n m d^2 / M        online softmax, FlashAttention-2 order
    tile_fused     4.9 n m d / sqrt(M)  score tile resident, Q, K, V by column slices, O read-modify-write
    stored_scores  4 n m d / sqrt(M) + n m   scores written once
    grouped_rows   as q_stationary, with n times the query heads of a key head for n: K and V pass by once per group
    split_keys     as grouped_rows, and n e + 2 n words more per part of the keys, written and read
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flashc.ir.intexpr import IntExpr, Sym
from flashc.ir.lift import inside
from flashc.ir.nodes import Domain, Kernel, Load, Par, Program, Seq, Stmt
from flashc.ir.scalar import InDomain, Lit, Ref, Scalar, exp2, log2, maximum, where
from flashc.ir.types import DTYPES, F32, Axis, Tensor
from flashc.ops.attention_calls import defaults, examples, params, peers, reduced, sizes, tables
from flashc.ops.attention_spec import SCHEMA, AttentionSpec, parse
from flashc.ops.attention_terms import (
    AXES,
    LN2,
    B,
    D,
    E,
    G,
    Hkv,
    Hq,
    Lk,
    Lq,
    domain,
    features,
    finite,
    h,
    logit,
    matrices,
    program,
    rounded,
    rows_domain,
)
from flashc.ops.base import Operator
from flashc.ops.build import carry, dot, elementwise, load, loops, over, reduce, store, syms
from flashc.ops.grouping import Grouping, grouped
from flashc.ops.splitting import Splitting, split_loop

EXTENTS = (B, Hq, Lq, Lk, D, E)
Q_TILE = ("b", "h", "i", "k")
K_TILE = ("b", h // G, "j", "k")
V_TILE = ("b", h // G, "j", "e")
O_TILE = ("b", "h", "i", "e")
ROW = ("b", "h", "i")


def _normalised(acc: str, total: str) -> Scalar:
    return where(Ref(total).eq(Lit(0.0)), Lit(0.0), Ref(acc) / Ref(total))


def _lse(spec: AttentionSpec, row_max: str, total: str) -> tuple[Stmt, ...]:
    if "lse" not in spec.outputs:
        return ()
    value = where(Ref(total).eq(Lit(0.0)), Lit(-math.inf), (Ref(row_max) + log2(Ref(total))) * Lit(LN2))
    return (elementwise("lse", "i", value), store("lse", ROW, "lse"))


def _output(spec: AttentionSpec, acc: str, total: str) -> tuple[Stmt, ...]:
    return (elementwise("out", "ie", _normalised(acc, total), DTYPES[spec.dtype]), store("o", O_TILE, "out"))


def _q(spec: AttentionSpec) -> Load:
    return load("qt", "ik", DTYPES[spec.dtype], "q", Q_TILE)


def _k(spec: AttentionSpec) -> Load:
    return load("kt", "jk", DTYPES[spec.dtype], "k", K_TILE)


def _v(spec: AttentionSpec) -> Load:
    return load("vt", "je", DTYPES[spec.dtype], "v", V_TILE)


def _online(spec: AttentionSpec) -> tuple[Stmt, ...]:
    """One step of the online softmax (Milakov & Gimelshein 2018) on the score tile ``s``: m, l -> m1, l1, alpha, p."""
    return (
        elementwise("x", "ij", logit(spec, Ref("s"))),
        reduce("mt", "i", "max", "x", "j"),
        elementwise("m1", "i", maximum(Ref("m"), Ref("mt"))),
        elementwise("p", "ij", exp2(Ref("x") - finite(Ref("m1")))),
        elementwise("alpha", "i", exp2(Ref("m") - finite(Ref("m1")))),
        reduce("lt", "i", "sum", "p", "j"),
        elementwise("l1", "i", Ref("l") * Ref("alpha") + Ref("lt")),
    )


def _program(spec: AttentionSpec, schedule: str, tiles: str, *kernels: Kernel, temps: Sequence[Tensor] = ()) -> Program:
    outputs = [Tensor("o", DTYPES[spec.dtype], (B, Hq, Lq, E), "out")]
    if "lse" in spec.outputs:
        outputs.append(Tensor("lse", F32, (B, Hq, Lq), "out"))
    tensors = (*matrices(spec), *features(spec), *outputs, *temps)
    axes = [Axis(a, n) for a, n in zip(AXES, EXTENTS, strict=True)]
    return program(spec, f"attention.{schedule}", tiles, axes, tensors, kernels)


def algorithm(spec: AttentionSpec) -> Program:
    """The operator with nothing tiled but the independent rows: 3 passes over the keys, scores materialised."""
    weights, rounding = rounded(spec, "p", "ij")
    body = (
        _q(spec),
        _k(spec),
        _v(spec),
        dot("s", "ij", "qt", "kt", "k"),
        elementwise("x", "ij", logit(spec, Ref("s"), inside(domain(spec), "j", AXES))),
        reduce("m", "i", "max", "x", "j"),
        elementwise("p", "ij", exp2(Ref("x") - finite(Ref("m")))),
        reduce("l", "i", "sum", "p", "j"),
        *rounding,
        dot("acc", "ie", weights, "vt", "j", zero_skips=True),
        *_output(spec, "acc", "l"),
        *_lse(spec, "m", "l"),
    )
    par = Par(loops(("b", 1), ("h", 1), ("i", Sym("Ti"))), body)
    return _program(spec, "algorithm", "Ti", Kernel("attention", (par,)))


def q_stationary(spec: AttentionSpec) -> Program:
    """A block of query rows keeps Q, O and the softmax state on chip and streams K and V once."""
    Ti, Tj = syms("Ti Tj")
    weights, rounding = rounded(spec, "p", "ij")
    step = (
        _k(spec),
        dot("s", "ij", "qt", "kt", "k"),
        *_online(spec),
        *rounding,
        _v(spec),
        dot("acc1", "ie", weights, "vt", "j", Ref("acc") * Ref("alpha"), zero_skips=True),
    )
    state = (carry("m", "i", -math.inf, "m1"), carry("l", "i", 0.0, "l1"), carry("acc", "ie", 0.0, "acc1"))
    keys = Seq(over("j", Tj), step, state, domain(spec), "softmax", Sym("stages"))
    body = (_q(spec), keys, *_output(spec, "acc", "l"), *_lse(spec, "m", "l"))
    par = Par(loops(("b", 1), ("h", 1), ("i", Ti)), body, "longest")
    return _program(spec, "q_stationary", "Ti Tj stages", Kernel("attention", (par,)))


def _score_slices(spec: AttentionSpec, tile: IntExpr) -> Seq:
    """s = Q K^T accumulated over slices of the head dimension, so that only the score tile stays resident."""
    step = (_q(spec), _k(spec), dot("s1", "ij", "qt", "kt", "k", Ref("s")))
    return Seq(over("k", tile), step, (carry("s", "ij", 0.0, "s1"),), law="add")


def tile_fused(spec: AttentionSpec) -> Program:
    """The score tile is resident; Q, K and V pass by in column slices and O is read, rescaled and written per tile."""
    Ti, Tj, Tk, Te = syms("Ti Tj Tk Te")
    weights, rounding = rounded(spec, "p", "ij")
    clear = Seq(over("e", Te), (elementwise("zero", "ie", Lit(0.0)), store("partial", O_TILE, "zero")))
    accumulate = Seq(
        over("e", Te),
        (
            _v(spec),
            load("part", "ie", F32, "partial", O_TILE),
            dot("part1", "ie", weights, "vt", "j", Ref("part") * Ref("alpha"), zero_skips=True),
            store("partial", O_TILE, "part1"),
        ),
    )
    step = (_score_slices(spec, Tk), *_online(spec), *rounding, accumulate)
    state = (carry("m", "i", -math.inf, "m1"), carry("l", "i", 0.0, "l1"))
    keys = Seq(over("j", Tj), step, state, domain(spec), "softmax")
    finish = Seq(over("e", Te), (load("acc", "ie", F32, "partial", O_TILE), *_output(spec, "acc", "l")))
    par = Par(loops(("b", 1), ("h", 1), ("i", Ti)), (clear, keys, finish, *_lse(spec, "m", "l")), "longest")
    temp = Tensor("partial", F32, (B, Hq, Lq, E), "temp")
    return _program(spec, "tile_fused", "Ti Tj Tk Te", Kernel("attention", (par,)), temps=(temp,))


def stored_scores(spec: AttentionSpec) -> Program:
    """Two matrix products with the logits written between them; the softmax is finished on the way into the second."""
    Ti, Tj, Tk, Ri, Rj, Re = syms("Ti Tj Tk Ri Rj Re")
    weights, rounding = rounded(spec, "p", "ij")
    pair = (*ROW, "j")
    rows = (
        _score_slices(spec, Tk),
        elementwise("x", "ij", logit(spec, Ref("s"))),
        store("scores", pair, "x"),
        reduce("mt", "i", "max", "x", "j"),
        elementwise("m1", "i", maximum(Ref("m"), Ref("mt"))),
        elementwise("p", "ij", exp2(Ref("x") - finite(Ref("m1")))),
        reduce("lt", "i", "sum", "p", "j"),
        elementwise("l1", "i", Ref("l") * exp2(Ref("m") - finite(Ref("m1"))) + Ref("lt")),
    )
    state = (carry("m", "i", -math.inf, "m1"), carry("l", "i", 0.0, "l1"))
    first = Seq(over("j", Tj), rows, state, domain(spec), "softmax")
    statistics = (store("row_max", ROW, "m"), store("row_sum", ROW, "l"))
    scores = Par(loops(("b", 1), ("h", 1), ("i", Ti)), (first, *statistics, *_lse(spec, "m", "l")), "longest")
    # A pair that a mask, `keep` or a bias of -inf excludes has the logit -inf; what the domain excludes was never
    # stored.
    masked = any(x is not None for x in (spec.mask_shape, spec.keep, spec.bias_shape))
    kept = InDomain("j") & (Ref("x") > Lit(-math.inf)) if masked else InDomain("j")
    step = (
        load("x", "ij", F32, "scores", pair),
        elementwise("p", "ij", where(kept, exp2(Ref("x") - finite(Ref("m"))), Lit(0.0))),
        *rounding,
        _v(spec),
        dot("acc1", "ie", weights, "vt", "j", Ref("acc"), zero_skips=True),
    )
    second = Seq(over("j", Rj), step, (carry("acc", "ie", 0.0, "acc1"),), domain(spec), "add", Sym("stages"))
    values = Par(
        loops(("b", 1), ("h", 1), ("i", Ri), ("e", Re)),
        (
            load("m", "i", F32, "row_max", ROW),
            load("l", "i", F32, "row_sum", ROW),
            second,
            *_output(spec, "acc", "l"),
        ),
        "longest",
    )
    temps = (
        Tensor("scores", F32, (B, Hq, Lq, Lk), "temp"),
        Tensor("row_max", F32, (B, Hq, Lq), "temp"),
        Tensor("row_sum", F32, (B, Hq, Lq), "temp"),
    )
    kernels = (Kernel("scores", (scores,)), Kernel("values", (values,)))
    return _program(spec, "stored_scores", "Ti Tj Tk Ri Rj Re stages", *kernels, temps=temps)


def grouped_rows(spec: AttentionSpec) -> Program:
    """q_stationary with the query heads of one key head as further rows of its tiles: they share each K and V tile."""
    return grouped(q_stationary(spec), "grouped_rows", Grouping("h", Hkv, "g", G, "Tg"))


def split_keys(spec: AttentionSpec) -> Program:
    """grouped_rows with the keys in parts that run in parallel, for few heads and many cores."""
    return split_loop(grouped_rows(spec), "split_keys", Splitting("j", "c", "Tn"))


FEW_QUERIES = 128
"""More query rows make tasks enough for all cores without splitting the keys."""


def schedules(spec: AttentionSpec) -> tuple[Program, ...]:
    whole = (q_stationary(spec), tile_fused(spec), stored_scores(spec), grouped_rows(spec))
    return (*whole, split_keys(spec)) if spec.seq_q <= FEW_QUERIES else whole


# -- how it is done elsewhere, for comparison


def unfused(spec: AttentionSpec) -> Program:
    """Three kernels that pass scores and probabilities through slow memory in the element type, as eager frameworks do.

    Pairs that do not count are computed all the same and masked on the way into the softmax.
    """
    Ti, Tj, Ri = syms("Ti Tj Ri")
    element = DTYPES[spec.dtype]
    pair = (*ROW, "j")
    raw, rounding = rounded(spec, "s", "ij")
    scores = (_q(spec), _k(spec), dot("s", "ij", "qt", "kt", "k"), *rounding, store("scores", pair, raw))
    softmax = (
        load("s", "ij", element, "scores", pair),
        elementwise("x", "ij", logit(spec, Ref("s"), inside(domain(spec), "j", AXES))),
        reduce("m", "i", "max", "x", "j"),
        elementwise("p", "ij", exp2(Ref("x") - finite(Ref("m")))),
        reduce("l", "i", "sum", "p", "j"),
        elementwise("share", "ij", _normalised("p", "l"), element),
        store("probabilities", pair, "share"),
        *_lse(spec, "m", "l"),
    )
    step = (
        load("pt", "ij", element, "probabilities", pair),
        _v(spec),
        dot("acc1", "ie", "pt", "vt", "j", Ref("acc"), zero_skips=True),
    )
    product = Seq(over("j", Tj), step, (carry("acc", "ie", 0.0, "acc1"),), law="add")
    values = (product, elementwise("out", "ie", Ref("acc"), element), store("o", O_TILE, "out"))
    heads = (("b", 1), ("h", 1))
    kernels = (
        Kernel("scores", (Par(loops(*heads, ("i", Ti), ("j", Tj)), scores),)),
        Kernel("softmax", (Par(loops(*heads, ("i", Ri)), softmax),)),
        Kernel("values", (Par(loops(*heads, ("i", Ti)), values),)),
    )
    temps = [Tensor(name, element, (B, Hq, Lq, Lk), "temp") for name in ("scores", "probabilities")]
    return _program(spec, "unfused", "Ti Tj Ri", *kernels, temps=temps)


def kv_stationary(spec: AttentionSpec) -> Program:
    """The order of FlashAttention (Dao et al. 2022, algorithm 1): keys outside, O rescaled in slow memory each time.

    The first block of keys writes O and the softmax state of every row; the others read, update and write them.
    Words: loads 2 m d + T (2 n d + 2 n) - (n d + 2 n), stores T (n d + 2 n) for T blocks of keys.
    """
    Ti, Tj = syms("Ti Tj")
    element = DTYPES[spec.dtype]
    weights, rounding = rounded(spec, "p", "ij")
    state = (load("m", "i", F32, "row_max", ROW), load("l", "i", F32, "row_sum", ROW))

    def step(maximum_so_far: Scalar, before: Scalar) -> tuple[Stmt, ...]:
        """``before``: what the rows have summed up to now, on the scale of the new maximum."""
        return (
            _q(spec),
            dot("s", "ij", "qt", "kt", "k"),
            elementwise("x", "ij", logit(spec, Ref("s"), inside(domain(spec), "j", AXES))),
            reduce("mt", "i", "max", "x", "j"),
            elementwise("m1", "i", maximum_so_far),
            elementwise("p", "ij", exp2(Ref("x") - finite(Ref("m1")))),
            reduce("lt", "i", "sum", "p", "j"),
            elementwise("l1", "i", before + Ref("lt")),
            *rounding,
        )

    def written(acc: Stmt) -> tuple[Stmt, ...]:
        return (acc, *_output(spec, "acc", "l1"), store("row_max", ROW, "m1"), store("row_sum", ROW, "l1"))

    start = (
        *step(Ref("mt"), Lit(0.0)),
        *written(dot("acc", "ie", weights, "vt", "j", zero_skips=True)),
    )
    kept = Ref("l") * exp2(Ref("m") - finite(Ref("m1")))
    update = (
        *state,
        load("ot", "ie", element, "o", O_TILE),
        *step(maximum(Ref("m"), Ref("mt")), kept),
        *written(dot("acc", "ie", weights, "vt", "j", Ref("ot") * kept, zero_skips=True)),
    )
    first = Seq(over("j", Tj), (_k(spec), _v(spec), Seq(over("i", Ti), start)), domain=Domain(upper=(Tj,)))
    rows = Seq(over("i", Ti), update, domain=rows_domain(spec))
    others = Seq(over("j", Tj), (_k(spec), _v(spec), rows), domain=Domain(lower=(Tj,)))
    log = (Seq(over("i", Ti), (*state, *_lse(spec, "m", "l"))),) if "lse" in spec.outputs else ()
    par = Par(loops(("b", 1), ("h", 1)), (first, others, *log))
    temps = [Tensor(name, F32, (B, Hq, Lq), "temp") for name in ("row_max", "row_sum")]
    return _program(spec, "kv_stationary", "Ti Tj", Kernel("attention", (par,)), temps=temps)


OPERATOR = Operator(
    name="attention",
    schema=SCHEMA,
    parse=parse,
    algorithm=algorithm,
    schedules=schedules,
    baselines=lambda spec: (unfused(spec), kv_stationary(spec)),
    sizes=sizes,
    params=params,
    tables=tables,
    defaults=defaults,
    examples=examples,
    reduced=reduced,
    peers=peers,
    derive=lambda found: {"G": found["Hq"] // max(found["Hkv"], 1)},
)
