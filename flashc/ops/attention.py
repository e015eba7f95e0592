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

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flashc.ir.intexpr import Const, IntExpr, Item, Sym
from flashc.ir.lift import inside, lift
from flashc.ir.nodes import Domain, Kernel, Load, Par, Program, Seq, Stmt
from flashc.ir.scalar import (
    Coord,
    Fetch,
    InDomain,
    Lit,
    Ref,
    Scalar,
    exp2,
    log2,
    maximum,
    substitute,
    tanh,
    where,
)
from flashc.ir.types import BOOL, DTYPES, F32, I32, Axis, Param, Tensor
from flashc.ops.attention_spec import SCHEMA, AttentionSpec, parse
from flashc.ops.base import Operator
from flashc.ops.build import (
    carry,
    cast,
    dot,
    elementwise,
    load,
    loops,
    over,
    reduce,
    store,
    syms,
)
from flashc.ops.grouping import Grouping, grouped
from flashc.ops.splitting import Splitting, split_loop

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453
WIDEST = 2**30  # a wider window excludes nothing more, and positions stay within 32 bits
AXES = "bhijke"
b, h, i, j = syms("b h i j")
B, Hq, Hkv, G, Lq, Lk, D, E = syms("B Hq Hkv G Lq Lk D E")
Q_TILE = ("b", "h", "i", "k")
K_TILE = (b, h // G, "j", "k")
V_TILE = (b, h // G, "j", "e")
O_TILE = ("b", "h", "i", "e")
ROW = ("b", "h", "i")


def query_offset(spec: AttentionSpec) -> IntExpr:
    """Position of local query row 0 among the keys: given, or bottom-right aligned."""
    if isinstance(spec.q_offset, tuple):
        return Item("q_offset", (b,))
    if spec.q_offset is not None:
        return Sym("q_offset")
    end = Item("kv_lengths", (b,)) if spec.kv_lengths is not None else Lk
    return end - Lq


def domain(spec: AttentionSpec) -> Domain:
    """Keys that a query row may see by position: causal, window and lengths."""
    left, right = spec.window or (-1, -1)
    qpos = i + query_offset(spec)
    lower = (qpos - Sym("window_left"),) if left >= 0 else ()
    upper: tuple[IntExpr, ...] = (Item("kv_lengths", (b,)),) if spec.kv_lengths is not None else ()
    upper += (qpos + 1,) if spec.causal else ()
    upper += (qpos + Sym("window_right") + 1,) if right >= 0 else ()
    return Domain(lower, upper)


def _broadcast(tensor: str, shape: Sequence[int]) -> Fetch:
    """``tensor[b, h, i, j]`` with index 0 along dimensions of size 1."""
    full = (1,) * (4 - len(shape)) + tuple(shape)
    return Fetch(tensor, tuple(Coord(a) if n != 1 else Lit(0) for a, n in zip("bhij", full, strict=True)))


def logit(spec: AttentionSpec, score: Scalar, kept: Scalar = InDomain("j")) -> Scalar:  # noqa: B008 - immutable
    """The base-2 logit of a raw dot product; -inf where the pair is not kept."""
    qpos = lift(i + query_offset(spec), AXES)
    user: dict[Scalar, Scalar] = {Coord("qpos"): qpos}
    x: Scalar = score * Ref("scale")
    if spec.softcap is not None:
        x = Ref("softcap") * tanh(x / Ref("softcap"))
    if spec.bias_shape is not None:
        bias = _broadcast("bias", spec.bias_shape)
        x = x + bias
        kept = kept & bias.ne(Lit(-math.inf))
    if spec.alibi:
        x = x - Fetch("alibi_slopes", (Coord("h"),)) * abs(qpos - Coord("j"))
    if spec.score is not None:
        x = substitute(spec.score, {**user, Ref("score"): x})
    plain = x == score * Ref("scale")
    x = score * (Ref("scale") * Lit(LOG2E)) if plain else x * Lit(LOG2E)
    if spec.mask_shape is not None:
        kept = kept & _broadcast("mask", spec.mask_shape)
    if spec.keep is not None:
        kept = kept & substitute(spec.keep, user)
    return where(kept, x, Lit(-math.inf))


def _finite(row_max: Scalar) -> Scalar:
    """A row maximum that can be subtracted: 0 for a row that has seen nothing."""
    return where(row_max.eq(Lit(-math.inf)), Lit(0.0), row_max)


def _normalised(acc: str, total: str) -> Scalar:
    return where(Ref(total).eq(Lit(0.0)), Lit(0.0), Ref(acc) / Ref(total))


def _lse(spec: AttentionSpec, row_max: str, total: str) -> tuple[Stmt, ...]:
    if "lse" not in spec.outputs:
        return ()
    value = where(Ref(total).eq(Lit(0.0)), Lit(-math.inf), (Ref(row_max) + log2(Ref(total))) * Lit(LN2))
    return (elementwise("lse", "i", value), store("lse", ROW, "lse"))


def _weights(spec: AttentionSpec) -> tuple[str, tuple[Stmt, ...]]:
    """The probabilities in the element type of V, as the matrix unit takes them."""
    if spec.dtype == "f32":
        return "p", ()
    return "pw", cast("pw", "ij", "p", DTYPES[spec.dtype])


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
        elementwise("p", "ij", exp2(Ref("x") - _finite(Ref("m1")))),
        elementwise("alpha", "i", exp2(Ref("m") - _finite(Ref("m1")))),
        reduce("lt", "i", "sum", "p", "j"),
        elementwise("l1", "i", Ref("l") * Ref("alpha") + Ref("lt")),
    )


def _program(spec: AttentionSpec, schedule: str, tiles: str, *kernels: Kernel, temps: Sequence[Tensor] = ()) -> Program:
    element = DTYPES[spec.dtype]
    tensors = [
        Tensor("q", element, (B, Hq, Lq, D), "in"),
        Tensor("k", element, (B, Hkv, Lk, D), "in"),
        Tensor("v", element, (B, Hkv, Lk, E), "in"),
    ]
    full = (B, Hq, Lq, Lk)
    for name, shape, dtype in (("bias", spec.bias_shape, DTYPES[spec.bias_dtype]), ("mask", spec.mask_shape, BOOL)):
        if shape is not None:
            sides = (1,) * (4 - len(shape)) + tuple(shape)
            dims = tuple(n if side != 1 else Const(1) for n, side in zip(full, sides, strict=True))
            tensors.append(Tensor(name, dtype, dims, "in"))
    if spec.kv_lengths is not None:
        tensors.append(Tensor("kv_lengths", I32, (B,), "in"))
    if isinstance(spec.q_offset, tuple):
        tensors.append(Tensor("q_offset", I32, (B,), "in"))
    if spec.alibi:
        tensors.append(Tensor("alibi_slopes", F32, (Hq,), "in"))
    tensors += [Tensor(n, DTYPES[t], tuple(map(Const, shape)), "in") for n, shape, t in spec.captures]
    tensors.append(Tensor("o", element, (B, Hq, Lq, E), "out"))
    if "lse" in spec.outputs:
        tensors.append(Tensor("lse", F32, (B, Hq, Lq), "out"))
    axes = zip(AXES, (B, Hq, Lq, Lk, D, E), strict=True)
    names = ("B", "Hq", "Hkv", "G", "Lq", "Lk", "D", "E", *_offsets(spec))
    params = ("scale",) + (("softcap",) if spec.softcap is not None else ())
    return Program(
        name="attention",
        schedule=schedule,
        axes=tuple(Axis(a, n) for a, n in axes),
        sizes=names,
        fixed=(("D", spec.head_dim), ("E", spec.value_dim)),
        params=tuple(Param(p, F32) for p in params),
        tensors=(*tensors, *temps),
        tiles=tuple(tiles.split()),
        kernels=kernels,
    )


def _offsets(spec: AttentionSpec) -> dict[str, int]:
    """Run-time integers besides the extents, with their values for this spec."""
    left, right = spec.window or (-1, -1)
    values = {"window_left": left, "window_right": right}
    found = {name: min(value, WIDEST) for name, value in values.items() if value >= 0}
    if isinstance(spec.q_offset, int):
        found["q_offset"] = spec.q_offset
    return found


def algorithm(spec: AttentionSpec) -> Program:
    """The operator with nothing tiled but the independent rows: 3 passes over the keys, scores materialised."""
    weights, rounding = _weights(spec)
    body = (
        _q(spec),
        _k(spec),
        _v(spec),
        dot("s", "ij", "qt", "kt", "k"),
        elementwise("x", "ij", logit(spec, Ref("s"), inside(domain(spec), "j", AXES))),
        reduce("m", "i", "max", "x", "j"),
        elementwise("p", "ij", exp2(Ref("x") - _finite(Ref("m")))),
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
    weights, rounding = _weights(spec)
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
    weights, rounding = _weights(spec)
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
    weights, rounding = _weights(spec)
    pair = (*ROW, "j")
    rows = (
        _score_slices(spec, Tk),
        elementwise("x", "ij", logit(spec, Ref("s"))),
        store("scores", pair, "x"),
        reduce("mt", "i", "max", "x", "j"),
        elementwise("m1", "i", maximum(Ref("m"), Ref("mt"))),
        elementwise("p", "ij", exp2(Ref("x") - _finite(Ref("m1")))),
        reduce("lt", "i", "sum", "p", "j"),
        elementwise("l1", "i", Ref("l") * exp2(Ref("m") - _finite(Ref("m1"))) + Ref("lt")),
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
        elementwise("p", "ij", where(kept, exp2(Ref("x") - _finite(Ref("m"))), Lit(0.0))),
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


def sizes(spec: AttentionSpec) -> dict[str, int]:
    extents = {
        "B": spec.batch,
        "Hq": spec.heads_q,
        "Hkv": spec.heads_kv,
        "G": spec.heads_q // spec.heads_kv,
        "Lq": spec.seq_q,
        "Lk": spec.seq_kv,
        "D": spec.head_dim,
        "E": spec.value_dim,
    }
    return {**extents, **_offsets(spec)}


def params(spec: AttentionSpec) -> dict[str, float]:
    scale = spec.scale if spec.scale is not None else 1.0 / math.sqrt(spec.head_dim)
    return {"scale": scale, **({"softcap": spec.softcap} if spec.softcap is not None else {})}


def tables(spec: AttentionSpec) -> dict[str, Sequence[int]]:
    found = {"kv_lengths": spec.kv_lengths, "q_offset": spec.q_offset}
    return {name: value for name, value in found.items() if isinstance(value, tuple)}


def standard_slopes(heads: int) -> list[float]:
    """ALiBi slopes (Press et al. 2022): 2^(-8 n / H), interleaved where H is not a power of two."""
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (n + 1) / power) for n in range(power)]
    extra = [2.0 ** (-4.0 * (2 * n + 1) / power) for n in range(heads - power)]
    return slopes + extra


def defaults(spec: AttentionSpec) -> dict[str, Any]:
    """The lengths and offsets written in the workload, and the standard ALiBi slopes."""
    return {**tables(spec), **({"alibi_slopes": standard_slopes(spec.heads_q)} if spec.alibi else {})}


def examples(spec: AttentionSpec, rng: Any) -> dict[str, Any]:
    """A mask that keeps about 3 pairs in 4."""
    if spec.mask_shape is None:
        return {}
    return {"mask": rng.random((1,) * (4 - len(spec.mask_shape)) + tuple(spec.mask_shape)) < 0.75}


def reduced(spec: AttentionSpec) -> AttentionSpec:
    """The same features on at most 2 batches, 2 key heads, lengths of 150: two tiles and a tail for interpreters."""
    batch, group = min(spec.batch, 2), min(spec.heads_q // spec.heads_kv, 2)
    heads_kv, n, m = min(spec.heads_kv, 2), min(spec.seq_q, 150), min(spec.seq_kv, 150)
    full = (batch, heads_kv * group, n, m)

    def shrunk(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return (
            None
            if shape is None
            else tuple(1 if s == 1 else f for s, f in zip(shape, full[-len(shape) :], strict=True))
        )

    lengths = spec.kv_lengths and tuple(x * m // max(spec.seq_kv, 1) for x in spec.kv_lengths[:batch])
    offset = spec.q_offset[:batch] if isinstance(spec.q_offset, tuple) else spec.q_offset
    window = spec.window and (min(spec.window[0], 40), min(spec.window[1], 40))
    return dataclasses.replace(
        spec,
        batch=batch,
        heads_q=heads_kv * group,
        heads_kv=heads_kv,
        seq_q=n,
        seq_kv=m,
        kv_lengths=lengths,
        q_offset=offset,
        window=window,
        bias_shape=shrunk(spec.bias_shape),
        mask_shape=shrunk(spec.mask_shape),
    )


def peers(spec: AttentionSpec, tensors: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """torch's scaled_dot_product_attention, where it offers the same feature set; for one query of grouped heads
    also as its users write it, with the heads of a group as query rows."""
    import torch

    beyond = (spec.softcap, spec.window, spec.kv_lengths, spec.score, spec.keep, spec.bias_shape and spec.mask_shape)
    shifted = spec.q_offset is not None or (spec.causal and spec.seq_q != spec.seq_kv)
    if any(x is not None for x in beyond) or spec.alibi or shifted or "lse" in spec.outputs:
        return {}
    extra = tensors.get("bias", tensors.get("mask"))
    if spec.causal and extra is not None:
        return {}

    def run() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(
            tensors["q"],
            tensors["k"],
            tensors["v"],
            attn_mask=extra,
            is_causal=spec.causal,
            scale=spec.scale,
            enable_gqa=spec.heads_q != spec.heads_kv,
        )

    if spec.heads_q == spec.heads_kv or spec.seq_q != 1 or extra is not None:
        return {"torch SDPA": run}

    def packed() -> Any:
        q, shape = tensors["q"], (spec.batch, spec.heads_kv, -1, spec.head_dim)
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(q.reshape(shape), tensors["k"], tensors["v"], scale=spec.scale)

    return {"torch SDPA": run, "torch SDPA, a group's heads as rows": packed}


OPERATOR = Operator(
    name="attention",
    schema=SCHEMA,
    parse=parse,
    algorithm=algorithm,
    schedules=schedules,
    sizes=sizes,
    params=params,
    tables=tables,
    defaults=defaults,
    examples=examples,
    reduced=reduced,
    peers=peers,
    derive=lambda found: {"G": found["Hq"] // max(found["Hkv"], 1)},
)
