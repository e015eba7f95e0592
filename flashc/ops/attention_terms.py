"""What programs of attention are made of, forwards and backwards: axes, kept region, logit, operands."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flashc.ir.intexpr import Const, IntExpr, Item, Sym, imax, imin
from flashc.ir.lift import lift
from flashc.ir.nodes import Domain, Kernel, Program, Stmt
from flashc.ir.scalar import Coord, Fetch, InDomain, Lit, Ref, Scalar, substitute, tanh, where
from flashc.ir.types import BOOL, DTYPES, F32, I32, Axis, Param, Tensor
from flashc.ops.attention_calls import WIDEST, offsets
from flashc.ops.attention_spec import AttentionSpec
from flashc.ops.build import cast, syms

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453
AXES = "bhijke"
b, h, i, j = syms("b h i j")
B, Hq, Hkv, G, Lq, Lk, D, E = syms("B Hq Hkv G Lq Lk D E")
SIZES = ("B", "Hq", "Hkv", "G", "Lq", "Lk", "D", "E")


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


def rows_domain(spec: AttentionSpec) -> Domain:
    """Query rows that see a key by position: the inverse of :func:`domain`, bounds of i in terms of j.

    No row sees a key beyond its length: there the lower bound is past every row.
    """
    left, right = spec.window or (-1, -1)
    row = j - query_offset(spec)
    lower: tuple[IntExpr, ...] = (row,) if spec.causal else ()
    lower += (row - Sym("window_right"),) if right >= 0 else ()
    if spec.kv_lengths is not None:
        beyond = j - Item("kv_lengths", (b,)) + 1
        lower += (imin(imax(beyond, Const(0)), Const(1)) * WIDEST,)
    return Domain(lower, (row + Sym("window_left") + 1,) if left >= 0 else ())


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


def finite(log: Scalar) -> Scalar:
    """A row maximum or log-sum-exp that can be subtracted: 0 for a row that has seen nothing."""
    return where(log.eq(Lit(-math.inf)), Lit(0.0), log)


def rounded(spec: AttentionSpec, name: str, axes: str) -> tuple[str, tuple[Stmt, ...]]:
    """A computed tile in the element type, as the matrix unit takes it: its name, and the statement that rounds."""
    if spec.dtype == "f32":
        return name, ()
    return f"{name}w", cast(f"{name}w", axes, name, DTYPES[spec.dtype])


def features(spec: AttentionSpec) -> tuple[Tensor, ...]:
    """Operands besides the matrices: bias, mask, lengths, offsets, slopes and captured tensors."""
    tensors = []
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
    return (*tensors, *(Tensor(n, DTYPES[t], tuple(map(Const, shape)), "in") for n, shape, t in spec.captures))


def matrices(spec: AttentionSpec) -> tuple[Tensor, Tensor, Tensor]:
    element = DTYPES[spec.dtype]
    return (
        Tensor("q", element, (B, Hq, Lq, D), "in"),
        Tensor("k", element, (B, Hkv, Lk, D), "in"),
        Tensor("v", element, (B, Hkv, Lk, E), "in"),
    )


def program(
    spec: AttentionSpec,
    name: str,
    tiles: str,
    axes: Sequence[Axis],
    tensors: Sequence[Tensor],
    kernels: Sequence[Kernel],
) -> Program:
    """A program called OPERATOR.SCHEDULE, with the sizes and parameters that all of them have."""
    operator, _, schedule = name.partition(".")
    params = ("scale",) + (("softcap",) if spec.softcap is not None else ())
    return Program(
        name=operator,
        schedule=schedule,
        axes=tuple(axes),
        sizes=(*SIZES, *offsets(spec)),
        fixed=(("D", spec.head_dim), ("E", spec.value_dim)),
        params=tuple(Param(p, F32) for p in params),
        tensors=tuple(tensors),
        tiles=tuple(tiles.split()),
        kernels=tuple(kernels),
    )
