"""Backward pass of scaled dot-product attention: one algorithm, three schedules.

    P = exp(logit(Q K^T) - LSE);  dV = P^T dO;  dP = dO V^T;  delta = rowsum(dO * O)
    dS = P * (dP - delta) * d logit / d score;  dQ = dS K;  dK = dS^T Q

The weights P are recomputed from LSE (natural log, as the forward pass gives it); delta is the row sum of P * dP in
another form (Dao et al. 2022, appendix B). dK and dV add up over the query heads that share a key head: query head
``c G + g`` is member g of key head c. Logits are those of the forward pass, in base 2.

Schedules, each after a kernel that stores delta (reads 2 n d words, writes n). Leading terms for n queries, m keys,
head size d, fast memory M words; flashc.ir.analysis gives the exact figures:
    kv_stationary   16 n m d^2 / M   K, V, dK, dV resident; dQ accumulated in slow memory (FlashAttention-2 order)
    q_stationary    18 n m d^2 / M   Q, dO, dQ resident; dK and dV accumulated in slow memory
    two_kernels     14 n m d^2 / M   dK and dV with K, V resident (8), then dQ with Q, dO, dQ resident (6); 7 dots
What is accumulated in slow memory is stored as zeros first, so each of its elements moves twice in every pass over it:
n d loads and n d stores more in all than where the first pass would write without reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flashc.ir.intexpr import IntExpr, Sym
from flashc.ir.lift import inside, lift
from flashc.ir.nodes import Carry, Kernel, Load, Par, Program, Seq, Stmt
from flashc.ir.scalar import Coord, InDomain, Lit, Ref, Scalar, exp2, substitute, tanh, where
from flashc.ir.types import DTYPES, F32, Axis, Tensor, Value
from flashc.ops import attention_calls
from flashc.ops.attention_backward_spec import SCHEMA, parse
from flashc.ops.attention_calls import defaults, params, reduced, sizes, tables
from flashc.ops.attention_spec import AttentionSpec
from flashc.ops.attention_terms import (
    AXES,
    LOG2E,
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
    logit,
    matrices,
    program,
    rounded,
    rows_domain,
)
from flashc.ops.base import Operator
from flashc.ops.build import Index, accumulate, carry, dot, elementwise, load, loops, over, reduce, store, syms

HEAD = Sym("c") * G + Sym("g")
Q_TILE = ("b", HEAD, "i", "k")
O_TILE = ("b", HEAD, "i", "e")
ROW = ("b", HEAD, "i")
PAIR = ("b", HEAD, "i", "j")
HEADS = (("b", 1), ("c", 1), ("g", 1))
K_TILE = ("b", "c", "j", "k")
V_TILE = ("b", "c", "j", "e")
DIMS = {"dq": (B, Hq, Lq, D), "dk": (B, Hkv, Lk, D), "dv": (B, Hkv, Lk, E)}
PLACES: dict[str, tuple[str, Index]] = {"dq": ("ik", Q_TILE), "dk": ("jk", K_TILE), "dv": ("je", V_TILE)}


# -- operands


def _tile(spec: AttentionSpec, name: str, axes: str, tensor: str, index: Index) -> Load:
    return load(name, axes, DTYPES[spec.dtype], tensor, index)


def _keys(spec: AttentionSpec) -> tuple[Load, Load]:
    return (_tile(spec, "kt", "jk", "k", K_TILE), _tile(spec, "vt", "je", "v", V_TILE))


def _queries(spec: AttentionSpec) -> tuple[Load, Load, Load]:
    """A block of rows: Q, the gradient of the output, and one log-sum-exp per row."""
    return (
        _tile(spec, "qt", "ik", "q", Q_TILE),
        _tile(spec, "gt", "ie", "do", O_TILE),
        load("lset", "i", F32, "lse", ROW),
    )


_DELTA = load("delta", "i", F32, "delta", ROW)


def _delta(spec: AttentionSpec) -> tuple[Stmt, ...]:
    """``delta`` of the rows whose dO is ``gt``."""
    return (
        _tile(spec, "ot", "ie", "o", O_TILE),
        elementwise("go", "ie", Ref("gt") * Ref("ot")),
        reduce("delta", "i", "sum", "go", "e"),
    )


# -- one tile of pairs


def weights(spec: AttentionSpec, kept: Scalar) -> tuple[Stmt, ...]:
    """``x`` and ``p`` from the scores ``s``: base-2 logits, and the weights that the forward pass had."""
    head: dict[Scalar, Scalar] = {Coord("h"): lift(HEAD, "cg")}
    return (
        elementwise("x", "ij", substitute(logit(spec, Ref("s"), kept), head)),
        elementwise("p", "ij", exp2(Ref("x") - finite(Ref("lset")) * Lit(LOG2E))),
    )


def score_gradient(spec: AttentionSpec) -> Scalar:
    """dS from ``p``, ``dp``, ``delta`` and, with a softcap, ``s``."""
    slope: Scalar = Ref("scale")
    if spec.softcap is not None:
        bent = tanh(Ref("s") * Ref("scale") / Ref("softcap"))
        slope = slope * (Lit(1.0) - bent * bent)
    return Ref("p") * (Ref("dp") - Ref("delta")) * slope


def _pairs(spec: AttentionSpec, kept: Scalar) -> tuple[str, str, tuple[Stmt, ...]]:
    """Names of P and dS as the matrix unit takes them, and the statements from Q, K, V, dO to them."""
    p, round_p = rounded(spec, "p", "ij")
    ds, round_ds = rounded(spec, "ds", "ij")
    body = (
        dot("s", "ij", "qt", "kt", "k"),
        *weights(spec, kept),
        *round_p,
        dot("dp", "ij", "gt", "vt", "e"),
        elementwise("ds", "ij", where(Ref("x").eq(Lit(-math.inf)), Lit(0.0), score_gradient(spec))),
        *round_ds,
    )
    return p, ds, body


# -- results


def _result(spec: AttentionSpec, tensor: str, value: str) -> tuple[Stmt, ...]:
    """The f32 value rounded into an output."""
    axes, index = PLACES[tensor]
    name, rounding = rounded(spec, value, axes)
    return (*rounding, store(tensor, index, name))


def _sum_of(spec: AttentionSpec, tensor: str) -> str:
    """The tensor that f32 contributions to an output add up in: the output itself if it is f32, else a workspace."""
    return tensor if spec.dtype == "f32" else f"{tensor}_sum"


def _zero(spec: AttentionSpec, tensor: str) -> tuple[Stmt, ...]:
    axes, index = PLACES[tensor]
    return (elementwise(f"{tensor}_zero", axes, Lit(0.0)), store(_sum_of(spec, tensor), index, f"{tensor}_zero"))


def _add(spec: AttentionSpec, tensor: str, value: str) -> Stmt:
    return accumulate(_sum_of(spec, tensor), PLACES[tensor][1], value)


def _finish(spec: AttentionSpec, tensors: Sequence[str], *around: tuple[str, IntExpr | int]) -> tuple[Kernel, ...]:
    """The kernel that rounds finished sums into the outputs, where they are not the outputs themselves."""
    if spec.dtype == "f32":
        return ()
    body: tuple[Stmt, ...] = ()
    for tensor in tensors:
        axes, index = PLACES[tensor]
        body += (load(f"{tensor}_all", axes, F32, f"{tensor}_sum", index), *_result(spec, tensor, f"{tensor}_all"))
    return (Kernel("finish", (Par(loops(*around), body),)),)


# -- programs


def _program(spec: AttentionSpec, schedule: str, tiles: str, *kernels: Kernel, temps: Sequence[Tensor] = ()) -> Program:
    element = DTYPES[spec.dtype]
    given = (
        Tensor("o", element, (B, Hq, Lq, E), "in"),
        Tensor("do", element, (B, Hq, Lq, E), "in"),
        Tensor("lse", F32, (B, Hq, Lq), "in"),
    )
    outputs = [Tensor(name, element, dims, "out") for name, dims in DIMS.items()]
    tensors = (*matrices(spec), *given, *features(spec), *outputs, *temps)
    extents = zip("bcgijke", (B, Hkv, G, Lq, Lk, D, E), strict=True)
    axes = [Axis(name, extent) for name, extent in extents]
    return program(spec, f"attention_backward.{schedule}", tiles, axes, tensors, kernels)


def over_members(state: Sequence[Carry], body: tuple[Stmt, ...]) -> Seq:
    """The query heads that share a key head, one after the other."""
    return Seq(over("g", 1), body, tuple(state), law="add")


def state(name: str, axes: str, init: str, after: str) -> Carry:
    """A component that continues ``init``."""
    return Carry(Value(name, tuple(axes), F32), Ref(init), after)


def algorithm(spec: AttentionSpec) -> Program:
    """Nothing tiled: each key head with its query heads, scores and their gradients materialised."""
    p, ds, pairs = _pairs(spec, inside(domain(spec), "j", AXES))
    member = (
        *_queries(spec),
        *_delta(spec),
        *pairs,
        dot("dv1", "je", p, "gt", "i", Ref("dvs")),
        dot("dk1", "jk", ds, "qt", "i", Ref("dks")),
        dot("dqs", "ik", ds, "kt", "j", zero_skips=True),
        *_result(spec, "dq", "dqs"),
    )
    sums = (carry("dvs", "je", 0.0, "dv1"), carry("dks", "jk", 0.0, "dk1"))
    body = (*_keys(spec), over_members(sums, member), *_result(spec, "dv", "dvs"), *_result(spec, "dk", "dks"))
    kernel = Kernel("gradients", (Par(loops(("b", 1), ("c", 1)), body),))
    return _program(spec, "algorithm", "", kernel)


def _preprocess(spec: AttentionSpec, *also: Stmt) -> Kernel:
    rows = loops(*HEADS, ("i", Sym("Di")))
    body = (_tile(spec, "gt", "ie", "do", O_TILE), *_delta(spec), store("delta", ROW, "delta"), *also)
    return Kernel("delta", (Par(rows, body),))


_DELTAS = Tensor("delta", F32, (B, Hq, Lq), "temp")


def _workspaces(spec: AttentionSpec, *tensors: str) -> tuple[Tensor, ...]:
    sums = () if spec.dtype == "f32" else tuple(Tensor(f"{t}_sum", F32, DIMS[t], "temp") for t in tensors)
    return (_DELTAS, *sums)


def _kv_kernel(spec: AttentionSpec, *, add_dq: bool) -> Kernel:
    """A block of keys keeps K, V, dK and dV on chip; the rows that see them stream past, head by head."""
    Ti, Tj = syms("Ti Tj")
    p, ds, pairs = _pairs(spec, InDomain("i"))
    step = (
        *_queries(spec),
        _DELTA,
        *pairs,
        dot("dv1", "je", p, "gt", "i", Ref("dvr")),
        dot("dk1", "jk", ds, "qt", "i", Ref("dkr")),
    )
    if add_dq:
        step += (dot("dqt", "ik", ds, "kt", "j", zero_skips=True), _add(spec, "dq", "dqt"))
    sums = (state("dvr", "je", "dvs", "dv1"), state("dkr", "jk", "dks", "dk1"))
    rows = Seq(over("i", Ti), step, sums, rows_domain(spec), "add")
    totals = (carry("dvs", "je", 0.0, "dvr"), carry("dks", "jk", 0.0, "dkr"))
    body = (*_keys(spec), over_members(totals, (rows,)), *_result(spec, "dv", "dvs"), *_result(spec, "dk", "dks"))
    return Kernel("gradients" if add_dq else "keys", (Par(loops(("b", 1), ("c", 1), ("j", Tj)), body, "longest"),))


def _q_kernel(spec: AttentionSpec, rows: IntExpr, columns: IntExpr, *, add_dkv: bool) -> Kernel:
    """A block of rows keeps Q, dO and dQ on chip; K and V stream past."""
    p, ds, pairs = _pairs(spec, InDomain("j"))
    step = (*_keys(spec), *pairs)
    if add_dkv:
        step += (dot("dvt", "je", p, "gt", "i"), _add(spec, "dv", "dvt"))
        step += (dot("dkt", "jk", ds, "qt", "i"), _add(spec, "dk", "dkt"))
    step += (dot("dq1", "ik", ds, "kt", "j", Ref("dqs"), zero_skips=True),)
    keys = Seq(over("j", columns), step, (carry("dqs", "ik", 0.0, "dq1"),), domain(spec), "add")
    body = (*_queries(spec), _DELTA, keys, *_result(spec, "dq", "dqs"))
    around = loops(*HEADS, ("i", rows))
    return Kernel("gradients" if add_dkv else "queries", (Par(around, body, "longest"),))


def kv_stationary(spec: AttentionSpec) -> Program:
    """Fused, key blocks resident; every block adds to dQ."""
    finish = _finish(spec, ["dq"], *HEADS, ("i", Sym("Di")))
    kernels = (_preprocess(spec, *_zero(spec, "dq")), _kv_kernel(spec, add_dq=True), *finish)
    return _program(spec, "kv_stationary", "Ti Tj Di", *kernels, temps=_workspaces(spec, "dq"))


def q_stationary(spec: AttentionSpec) -> Program:
    """Fused, row blocks resident; every block adds to dK and dV."""
    Ti, Tj, Rj = syms("Ti Tj Rj")
    around = (("b", 1), ("c", 1), ("j", Rj))
    zero = Kernel("zero", (Par(loops(*around), (*_zero(spec, "dk"), *_zero(spec, "dv"))),))
    gradients = _q_kernel(spec, Ti, Tj, add_dkv=True)
    kernels = (_preprocess(spec), zero, gradients, *_finish(spec, ["dk", "dv"], *around))
    return _program(spec, "q_stationary", "Ti Tj Rj Di", *kernels, temps=_workspaces(spec, "dk", "dv"))


def two_kernels(spec: AttentionSpec) -> Program:
    """dK and dV with key blocks resident, then dQ with row blocks resident; nothing is accumulated in slow memory."""
    Ri, Rj = syms("Ri Rj")
    kernels = (_preprocess(spec), _kv_kernel(spec, add_dq=False), _q_kernel(spec, Ri, Rj, add_dkv=False))
    return _program(spec, "two_kernels", "Ti Tj Ri Rj Di", *kernels, temps=_workspaces(spec))


# -- how it is done elsewhere, for comparison


def unfused(spec: AttentionSpec) -> Program:
    """Probabilities P and gradients dP and dS pass through slow memory in the element type, as eager frameworks do.

    The first two kernels make P anew, which a framework would keep from the forward pass. delta is taken as the row sum
    of P * dP, so ``o`` is not read; that is the same number where ``lse`` and ``o`` are those of q, k and v.
    """
    (qt, gt, _), (kt, vt) = _queries(spec), _keys(spec)
    p, ds = _pair_tile(spec, "p", "probabilities"), _pair_tile(spec, "ds", "dscores")
    kernels = (
        _product_of_rows(spec, "s", "scores", (qt, kt), "k"),
        _row_kernel(spec, "probabilities", _probabilities(spec)),
        _sum_over_rows(spec, "dv", p, gt),
        _product_of_rows(spec, "dp", "dprobabilities", (gt, vt), "e"),
        _row_kernel(spec, "dscores", _softmax_gradient(spec)),
        _sum_over_keys(spec, ds, kt),
        _sum_over_rows(spec, "dk", ds, qt),
    )
    names = ("scores", "probabilities", "dprobabilities", "dscores")
    temps = [Tensor(name, DTYPES[spec.dtype], (B, Hq, Lq, Lk), "temp") for name in names]
    return _program(spec, "unfused", "Ti Tj Ri", *kernels, temps=temps)


def _pair_tile(spec: AttentionSpec, name: str, tensor: str) -> Load:
    return _tile(spec, name, "ij", tensor, PAIR)


def _pair_store(spec: AttentionSpec, name: str, tensor: str) -> tuple[Stmt, ...]:
    stored, rounding = rounded(spec, name, "ij")
    return (*rounding, store(tensor, PAIR, stored))


def _product_of_rows(spec: AttentionSpec, name: str, tensor: str, operands: tuple[Load, Load], over: str) -> Kernel:
    """A matrix of pairs: rows of queries times rows of keys."""
    a, b = operands
    body = (a, b, dot(name, "ij", a.out.name, b.out.name, over), *_pair_store(spec, name, tensor))
    return Kernel(tensor, (Par(loops(*HEADS, ("i", Sym("Ti")), ("j", Sym("Tj"))), body),))


def _row_kernel(spec: AttentionSpec, tensor: str, body: tuple[Stmt, ...]) -> Kernel:
    return Kernel(tensor, (Par(loops(*HEADS, ("i", Sym("Ri"))), body),))


def _probabilities(spec: AttentionSpec) -> tuple[Stmt, ...]:
    kept = inside(domain(spec), "j", AXES)
    lse = load("lset", "i", F32, "lse", ROW)
    return (_pair_tile(spec, "s", "scores"), lse, *weights(spec, kept), *_pair_store(spec, "p", "probabilities"))


def _softmax_gradient(spec: AttentionSpec) -> tuple[Stmt, ...]:
    """dS from P and dP, and from S with a softcap; what lies under a probability of 0 is not looked at."""

    def guarded(expr: Scalar) -> Scalar:
        return where(Ref("p").eq(Lit(0.0)), Lit(0.0), expr)

    return (
        *((_pair_tile(spec, "s", "scores"),) if spec.softcap is not None else ()),
        _pair_tile(spec, "p", "probabilities"),
        _pair_tile(spec, "dp", "dprobabilities"),
        elementwise("pdp", "ij", guarded(Ref("p") * Ref("dp"))),
        reduce("delta", "i", "sum", "pdp", "j"),
        elementwise("ds", "ij", guarded(score_gradient(spec))),
        *_pair_store(spec, "ds", "dscores"),
    )


def _sum_over_rows(spec: AttentionSpec, tensor: str, pairs: Load, rows: Load) -> Kernel:
    """dK or dV: the transpose of a matrix of pairs times rows of queries, over all query heads of a key head."""
    axes, _ = PLACES[tensor]
    step = (pairs, rows, dot("part1", axes, pairs.out.name, rows.out.name, "i", Ref("part")))
    each = Seq(over("i", Sym("Ti")), step, (state("part", axes, "total", "part1"),), law="add")
    body = (over_members((carry("total", axes, 0.0, "part"),), (each,)), *_result(spec, tensor, "total"))
    return Kernel(tensor, (Par(loops(("b", 1), ("c", 1), ("j", Sym("Tj"))), body),))


def _sum_over_keys(spec: AttentionSpec, pairs: Load, keys: Load) -> Kernel:
    step = (pairs, keys, dot("total1", "ik", "ds", "kt", "j", Ref("total"), zero_skips=True))
    each = Seq(over("j", Sym("Tj")), step, (carry("total", "ik", 0.0, "total1"),), law="add")
    return Kernel("dq", (Par(loops(*HEADS, ("i", Sym("Ti"))), (each, *_result(spec, "dq", "total"))),))


def examples(spec: AttentionSpec, rng: Any) -> dict[str, Any]:
    """The forward pass' own, and log-sum-exps of the size that normal logits have."""
    lse = math.log(max(spec.seq_kv, 1)) + rng.random((spec.batch, spec.heads_q, spec.seq_q))
    return {**attention_calls.examples(spec, rng), "lse": lse}


OPERATOR = Operator(
    name="attention_backward",
    schema=SCHEMA,
    parse=parse,
    algorithm=algorithm,
    schedules=lambda spec: (kv_stationary(spec), q_stationary(spec), two_kernels(spec)),
    baselines=lambda spec: (unfused(spec),),
    sizes=sizes,
    params=params,
    tables=tables,
    defaults=defaults,
    examples=examples,
    reduced=reduced,
    derive=lambda found: {"G": found["Hq"] // max(found["Hkv"], 1)},
)
