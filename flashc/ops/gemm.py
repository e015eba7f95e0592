"""Matrix product, batched and with transposes: C[b, i, j] = epilogue(sum_k A[b, i, k] B[b, k, j])."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flashc.ir.intexpr import Const, Sym
from flashc.ir.nodes import Kernel, Load, Par, Program, Seq, Stmt
from flashc.ir.scalar import Ref
from flashc.ir.types import DTYPES, Axis, Tensor
from flashc.ops.base import Operator
from flashc.ops.build import carry, dot, elementwise, load, loops, over, store, syms
from flashc.ops.gemm_spec import SCHEMA, GemmSpec, parse

B, M, N, K = syms("B M N K")


def _operands(spec: GemmSpec) -> tuple[Load, Load]:
    element = DTYPES[spec.dtype]
    left = ("b", "k", "i") if spec.transpose_a else ("b", "i", "k")
    right = ("b", "j", "k") if spec.transpose_b else ("b", "k", "j")
    return (load("at", "".join(left[1:]), element, "a", left), load("bt", "".join(right[1:]), element, "b", right))


def _finish(spec: GemmSpec) -> tuple[Stmt, ...]:
    value = spec.epilogue if spec.epilogue is not None else Ref("acc")
    return (elementwise("out", "ij", value, DTYPES[spec.out_dtype]), store("c", ("b", "i", "j"), "out"))


def _program(spec: GemmSpec, schedule: str, tiles: str, body: tuple[Stmt, ...]) -> Program:
    element = DTYPES[spec.dtype]
    captures = tuple(Tensor(n, DTYPES[t], tuple(map(Const, shape)), "in") for n, shape, t in spec.captures)
    return Program(
        name="gemm", schedule=schedule, sizes=("B", "M", "N", "K"), fixed=(), params=(),
        axes=tuple(Axis(a, n) for a, n in zip("bijk", (B, M, N, K), strict=True)),
        tensors=(
            Tensor("a", element, (B, K, M) if spec.transpose_a else (B, M, K), "in"),
            Tensor("b", element, (B, N, K) if spec.transpose_b else (B, K, N), "in"),
            *captures,
            Tensor("c", DTYPES[spec.out_dtype], (B, M, N), "out"),
        ),
        tiles=tuple(tiles.split()), kernels=(Kernel("gemm", body),),
    )


def algorithm(spec: GemmSpec) -> Program:
    """One contraction and its epilogue; only the rows are blocked."""
    body = (*_operands(spec), dot("acc", "ij", "at", "bt", "k"), *_finish(spec))
    return _program(spec, "algorithm", "Ti", (Par(loops(("b", 1), ("i", Sym("Ti"))), body),))


def output_stationary(spec: GemmSpec) -> Program:
    """An output tile stays on chip while slices of A and B pass by (Smith et al. 2017: 2 m n k / sqrt(M) traffic)."""
    Ti, Tj, Tk = syms("Ti Tj Tk")
    step = (*_operands(spec), dot("acc1", "ij", "at", "bt", "k", Ref("acc")))
    slices = Seq(over("k", Tk), step, (carry("acc", "ij", 0.0, "acc1"),), law="add", stages=Sym("stages"))
    body = (Par(loops(("b", 1), ("i", Ti), ("j", Tj)), (slices, *_finish(spec))),)
    return _program(spec, "output_stationary", "Ti Tj Tk stages", body)


def unblocked(spec: GemmSpec) -> Program:
    """One element of the output at a time, each from a whole row of A and column of B: 2 m n k words and m n more."""
    element = DTYPES[spec.dtype]
    row = ("b", "k", "i") if spec.transpose_a else ("b", "i", "k")
    column = ("b", "j", "k") if spec.transpose_b else ("b", "k", "j")
    value = spec.epilogue if spec.epilogue is not None else Ref("acc")
    body = (
        load("at", "k", element, "a", row),
        load("bt", "k", element, "b", column),
        dot("acc", "", "at", "bt", "k"),
        elementwise("out", "", value, DTYPES[spec.out_dtype]),
        store("c", ("b", "i", "j"), "out"),
    )
    return _program(spec, "unblocked", "", (Par(loops(("b", 1), ("i", 1), ("j", 1)), body),))


def sizes(spec: GemmSpec) -> dict[str, int]:
    return {"B": spec.batch, "M": spec.m, "N": spec.n, "K": spec.k}


def reduced(spec: GemmSpec) -> GemmSpec:
    """At most two batches of 150 x 150 x 150."""
    return dataclasses.replace(
        spec, batch=min(spec.batch, 2), m=min(spec.m, 150), n=min(spec.n, 150), k=min(spec.k, 150)
    )


def peers(spec: GemmSpec, tensors: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """torch.matmul, where there is no epilogue that it cannot do."""
    import torch

    if spec.epilogue is not None or spec.out_dtype != spec.dtype:
        return {}
    a = tensors["a"].transpose(1, 2) if spec.transpose_a else tensors["a"]
    b = tensors["b"].transpose(1, 2) if spec.transpose_b else tensors["b"]
    return {"torch.matmul": lambda: torch.matmul(a, b)}


OPERATOR = Operator(
    name="gemm", schema=SCHEMA, parse=parse, algorithm=algorithm, schedules=lambda spec: (output_stationary(spec),),
    baselines=lambda spec: (unblocked(spec),),
    sizes=sizes, params=lambda _spec: {}, reduced=reduced, peers=peers,
)
