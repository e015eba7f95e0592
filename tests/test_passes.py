"""Pass counts against the table of FuseMax (arXiv 2406.10491, section IV) and of what schedules do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from attention_cascades import build, statement

from flashc.compiler.workload import load_workload
from flashc.iomodel.from_program import cascade
from flashc.iomodel.passes import passes, program_passes, recomputes
from flashc.ir.intexpr import Sym
from flashc.ir.nodes import Kernel, Par, Program
from flashc.ir.scalar import Ref, exp2
from flashc.ir.types import F32, Tensor
from flashc.ops import registry
from flashc.ops.build import dot, elementwise, load, loops, reduce, store

SCORES = "s[i,j] += q[i,k] b[j,k]"
STABLE = [SCORES, "top[i] max= s[i,j]", "p[i,j] = s[i,j] top[i]", "l[i] += p[i,j]"]
# Rows of keys split into blocks: j = (x, y), x the block.
BLOCKS = ["s[i,x,y] += q[i,k] b[x,y,k]", "local[i,x] max= s[i,x,y]", "p[i,x,y] = s[i,x,y] local[i,x]",
          "part[i,x] += p[i,x,y]", "top[i] max= local[i,x]", "fix[i,x] = local[i,x] top[i]",
          "l[i] += part[i,x] fix[i,x]"]
# A running maximum and sums that are corrected by it: step x + 1 needs step x only.
RUNNING = [
    "s[i,x,y] += q[i,k] b[x,y,k]", "local[i,x] max= s[i,x,y]", "run[i,x+1] = run[i,x] local[i,x]",
    "p[i,x,y] = s[i,x,y] run[i,x+1]", "part[i,x] += p[i,x,y]", "pv[i,x,c] += p[i,x,y] v[x,y,c]",
    "fix[i,x] = run[i,x] run[i,x+1]", "l[i,x+1] = l[i,x] fix[i,x] part[i,x]",
    "o[i,x+1,c] = o[i,x,c] fix[i,x] pv[i,x,c]", "out[i,c] = o[i,X,c] l[i,X]",
]


@pytest.mark.parametrize(("lines", "index", "count"), [
    ([*STABLE, "w[i,j] = p[i,j] l[i]", "out[i,c] += w[i,j] v[j,c]"], "j", 3),  # PyTorch, FLAT
    ([*STABLE, "o[i,c] += p[i,j] v[j,c]", "out[i,c] = o[i,c] l[i]"], "j", 2),  # the division taken out of the sum
    ([*BLOCKS, "w[i,x,y] = p[i,x,y] fix[i,x] l[i]", "out[i,c] += w[i,x,y] v[x,y,c]"], ("x", "y"), 2),  # local maximum
    (RUNNING, ("x", "y"), 1),  # FlashAttention, FlashAttention-2
    ([SCORES, "p[i,j] = s[i,j]", "l[i] += p[i,j]", "o[i,c] += p[i,j] v[j,c]", "out[i,c] = o[i,c] l[i]"], "j", 1),
], ids=["3-pass", "2-pass", "2-pass local", "1-pass", "no maximum"])
def test_attention_cascades_have_the_published_number_of_passes(lines: list[str], index: Any, count: int) -> None:
    found = passes(build("q b v", "out", *map(statement, lines)), index)
    assert found.count == count
    assert f"{count} pass" in found.consequence


@pytest.mark.parametrize(("lines", "count"), [
    (["top[i] max= a[i,j]", "p[i,j] = a[i,j] top[i]", "l[i] += p[i,j]", "out[i,j] = p[i,j] l[i]"], 3),  # softmax
    (["s[i] += a[i,j]", "mean[i] = s[i]", "e[i,j] = a[i,j] mean[i]", "z[i] += e[i,j]", "out[i,j] = e[i,j] z[i]"], 3),
    (["s[i] += a[i,j]", "z[i] += a[i,j]", "var[i] = z[i] s[i]", "out[i,j] = a[i,j] s[i] var[i]"], 2),  # sum of squares
    (["z[i] += a[i,j]", "out[i,j] = a[i,j] z[i]"], 2),  # RMSNorm
    (["g[i] = a[i]", "out[i,j] = a[i,j] g[i]"], 1),  # a factor that no traversal makes
], ids=["softmax", "layernorm", "layernorm by moments", "rmsnorm", "scaling"])
def test_row_normalisations(lines: list[str], count: int) -> None:
    assert passes(build("a", "out", *map(statement, lines)), "j").count == count


def test_stages_name_what_each_pass_does() -> None:
    found = passes(build("q b v", "out", *map(statement, [*STABLE, "out[i,c] += p[i,j] v[j,c]"])), "j")
    assert found.stages == (("s", "top"), ("p", "l", "out"))
    assert found.extent == Sym("m")
    assert "m elements" in found.consequence


def test_an_index_that_no_statement_has_is_never_traversed() -> None:
    assert passes(build("q b v", "out", statement(SCORES)), "z").count == 0


def attention() -> tuple[Program, dict[str, Program]]:
    document = {"op": "attention", "batch": 1, "heads": 1, "seq": 64, "head_dim": 32, "dtype": "fp32"}
    operator, spec = registry()["attention"], load_workload(document).spec
    return operator.algorithm(spec), {p.schedule: p for p in operator.schedules(spec)}


def test_the_operators_own_statements_take_two_passes() -> None:
    algorithm, schedules = attention()
    assert passes(cascade(algorithm, schedules["q_stationary"]), "j").count == 2


@pytest.mark.parametrize(("schedule", "count"), [("q_stationary", 1), ("tile_fused", 1), ("stored_scores", 2)])
def test_schedules_go_through_the_keys_as_often_as_their_loops_do(schedule: str, count: int) -> None:
    found = program_passes(attention()[1][schedule], "j")
    assert found.count == count
    assert any("softmax" in stage for stages in found.stages for stage in stages)


def test_an_unfused_program_goes_through_the_keys_once_per_kernel() -> None:
    algorithm, _ = attention()
    around = loops(("b", 1), ("h", 1), ("i", Sym("Ti")))
    row = tuple(next(s.access.index for s in algorithm.kernels[0].body[0].body if s.out.name == "qt")[:3])  # type: ignore
    pair = (*row, "j")
    keys, values = algorithm.kernels[0].body[0].body[1:3]  # type: ignore[union-attr]
    query = algorithm.kernels[0].body[0].body[0]  # type: ignore[union-attr]
    scores = (query, keys, dot("s", "ij", "qt", "kt", "k"), store("scores", pair, "s"))
    softmax = (
        load("s", "ij", F32, "scores", pair), reduce("m", "i", "max", "s", "j"),
        elementwise("p", "ij", exp2(Ref("s") - Ref("m"))), store("weights", pair, "p"),
    )
    product = (load("p", "ij", F32, "weights", pair), values, dot("o", "ie", "p", "vt", "j"))
    kernels = tuple(Kernel(n, (Par(around, body),)) for n, body in numbered(scores, softmax, product))
    dims = algorithm.tensor("q").dims[:3]
    temps = tuple(Tensor(n, F32, (*dims, Sym("Lk")), "temp") for n in ("scores", "weights"))
    found = program_passes(replace(algorithm, kernels=kernels, tensors=(*algorithm.tensors, *temps)), "j")
    assert found.count == 3


def numbered(*bodies: Any) -> list[tuple[str, Any]]:
    return [(f"kernel{n}", body) for n, body in enumerate(bodies)]


@pytest.mark.parametrize(("op", "again"), [
    ("attention", dict.fromkeys(("q_stationary", "tile_fused", "stored_scores", "grouped_rows", "split_keys"), False)),
    ("attention_backward", {"kv_stationary": False, "q_stationary": False, "two_kernels": True}),
])
@pytest.mark.parametrize("more", [{}, {"heads": {"q": 4, "kv": 2}, "causal": True}])
def test_schedules_that_do_a_score_product_again_are_found(op: str, again: dict[str, bool], more: Any) -> None:
    workload = load_workload({"op": op, "batch": 1, "heads": 2, "seq": 64, "head_dim": 32, "dtype": "fp32", **more})
    found = {p.schedule: recomputes(p) for p in registry()[op].schedules(workload.spec)}
    assert found == again


def test_a_loop_over_value_columns_around_the_scores_does_them_again() -> None:
    program = attention()[1]["q_stationary"]
    outer = program.kernels[0].body[0]
    assert isinstance(outer, Par)
    split = replace(outer, loops=(*outer.loops, *loops(("e", Sym("Te")))))
    assert recomputes(replace(program, kernels=(Kernel("attention", (split,)),)))
