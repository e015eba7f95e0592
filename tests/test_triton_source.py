"""What the Triton backend prints: two whole sources, and the parts that are easy to get wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from triton_cases import ATTENTION, DEVICES, FEATURES, GEMM, SMALL_TILES, bound, programs

import flashc.backends.triton
from flashc.backends.triton import BACKEND
from flashc.backends.triton.arguments import stride_unit
from flashc.backends.triton.place import matrix_unit
from flashc.backends.triton.printer import print_kernel
from flashc.backends.triton.scalars import Text, elementwise, integer
from flashc.backends.triton.source import emit, printed_kernels
from flashc.errors import UnsupportedError
from flashc.hwmodels import load_device
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imax
from flashc.ir.nodes import Dot, Kernel, Loop, Par, Program
from flashc.ir.scalar import Coord, Lit, Ref, Scalar, call
from flashc.ir.types import F16, Axis, Tensor, Value
from flashc.ops import registry

Golden = Callable[[str, str], None]
A100 = load_device(DEVICES["sm_80"])


def _source(workload: dict[str, Any], schedule: str) -> str:
    program = next(p for p in programs(workload) if p.schedule == schedule)
    return BACKEND.emit(bound(program, SMALL_TILES), A100)


def test_attention_source(golden: Golden) -> None:
    golden(
        "attention", _source({**ATTENTION, "causal": True, "head_dim": 40, "window": [9, 0]}, "q_stationary")
    )


def test_gemm_source(golden: Golden) -> None:
    golden("gemm", _source({**FEATURES["gemm_epilogue"], "transpose_b": True}, "output_stationary"))


@pytest.mark.parametrize("feature", sorted(FEATURES))
def test_every_source_is_python(feature: str) -> None:
    for program in programs(FEATURES[feature]):
        source = emit(bound(program, SMALL_TILES), "a test")
        compile(source, feature, "exec")
        assert source.count("@triton.jit") >= len(program.kernels)


def test_no_operator_is_named_in_the_backend() -> None:
    folder = Path(flashc.backends.triton.__file__).parent
    words = "|".join(registry())
    named = [
        p.name
        for p in folder.glob("*.py")
        if re.search(rf"\b({words}|softmax|query|queries)\b", p.read_text())
    ]
    assert named == []


# -- expressions


def _int_text(expr: IntExpr, *nonnegative: str) -> str:
    return str(integer(expr, lambda node: Text(str(node)), nonnegative, set()))


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (Sym("a") - Sym("b") * 2 + 1, "a - 2 * b + 1"),
        ((Sym("a") + Sym("b")) * Sym("c"), "(a + b) * c"),
        (Sym("n") // 4, "n // 4"),
        (Sym("x") // 4, "floor_div(x, 4)"),
        (imax(Sym("x"), 0) // 4, "tl.maximum(x, 0) // 4"),
        (ceil_div(Sym("n"), 16), "tl.cdiv(n, 16)"),
        (ceil_div(Sym("x"), 16), "-floor_div(-x, 16)"),
        (Sym("x") % 4, "floor_mod(x, 4)"),
        (-Sym("x"), "-x"),
    ],
)
def test_integer_expressions(expr: IntExpr, text: str) -> None:
    assert _int_text(expr, "n") == text


def _scalar_text(expr: Scalar) -> str:
    def leaf(node: Scalar) -> Text:
        assert isinstance(node, Coord | Ref)
        return Text(node.axis if isinstance(node, Coord) else node.name)

    return str(elementwise(expr, leaf, {"s": "float", "n": "int"}, set()))


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        ((Coord("j") <= Coord("i")) & ~(Coord("j") < 3), "(j <= i) & ~(j < 3)"),
        (Ref("s") - (Ref("s") - 1.0), "s - (s - 1.0)"),
        (Coord("j") * 1000, "j.to(tl.int64) * 1000"),
        ((Coord("j") - Coord("i")) // 7, "floor_div(j - i, 7)"),
        ((Coord("j") + 2) % 7, "(j + 2) % 7"),
        (call("tanh", Ref("s")), "tanh(s)"),
        (call("exp", Coord("i")), "tl.exp(i.to(tl.float32))"),
        (call("isfinite", Ref("s")), 'tl.abs(s) < float("inf")'),
        (
            call("where", Ref("s").eq(Lit(float("-inf"))), 0.0, Ref("s")),
            'tl.where(s == float("-inf"), 0.0, s)',
        ),
    ],
)
def test_elementwise_expressions(expr: Scalar, text: str) -> None:
    assert _scalar_text(expr) == text


# -- the launch


@pytest.mark.parametrize(
    ("dims", "unit"), [((8, 64), 16), ((8, 40), 8), ((8, 33), 1), ((8, "n"), 1), (("n", 72), 8)]
)
def test_strides_are_multiples_of_what_the_fixed_dimensions_give(
    dims: tuple[int | str, ...], unit: int
) -> None:
    sizes = tuple(Const(d) if isinstance(d, int) else Sym(d) for d in dims)
    assert stride_unit(Tensor("x", F16, sizes, "in"), 0) == unit


def test_only_pointers_and_free_strides_are_specialised() -> None:
    """A new length, batch or number of heads must not compile anything."""
    (kernel,) = printed_kernels(
        bound(programs({**ATTENTION, "mask": {"shape": [1, 1, 37, 45]}})[0], SMALL_TILES)
    )
    free = {a.name for a in kernel.arguments if a.specialised and a.kind != "pointer"}
    assert free == {"mask_stride_2"}


def test_longest_tiles_come_first() -> None:
    """Causal rows near the end have the most keys: their tiles come first, all heads together."""
    causal = _source({**ATTENTION, "causal": True}, "q_stationary")
    assert "i0 = (tl.cdiv(Lq, 32) - 1 - task) * BLOCK_I" in causal
    assert "i0 = (task % tl.cdiv(Lq, 32)) * BLOCK_I" in _source(ATTENTION, "q_stationary")


def test_a_workspace_is_read_back_behind_a_barrier() -> None:
    source = _source(ATTENTION, "tile_fused")
    lines = [line.strip() for line in source.splitlines()]
    loads = [n for n, line in enumerate(lines) if line.startswith("part = tl.load(part_at")]
    assert loads and all("tl.debug_barrier()" in lines[n - 2 : n] for n in loads)


def test_full_tiles_have_no_predicate_and_no_bounds_check_on_the_looped_axis() -> None:
    source = _source({**ATTENTION, "causal": True}, "q_stationary")
    inside, border = (
        source.split(f"# j: {part}")[1] for part in ("tiles wholly inside", "tiles at the border right")
    )
    inside = inside.split("# j:")[0]
    assert "j_ok" not in inside and "dot_zero_skips" not in inside
    assert "j_ok" in border and "dot_zero_skips" in border


def test_the_end_of_an_axis_alone_needs_no_care_with_zeros() -> None:
    assert "dot_zero_skips" not in _source({**ATTENTION, "batch": 2, "kv_lengths": [3, 4]}, "q_stationary")


# -- what Triton cannot do


def _product(out: tuple[str, ...], a: tuple[str, ...], b: tuple[str, ...]) -> Program:
    axes = tuple(Axis(n, Const(32)) for n in "ijkl")
    dot = Dot(Value("c", out, F16), "a", "b", ("k",))
    par = Par((Loop("i", Const(16)),), (dot,))
    return Program("toy", "toy", axes, (), (), (), (), (), (Kernel("toy", (par,)),))


def test_an_axis_of_run_time_extent_must_be_tiled() -> None:
    loaded = {**GEMM, "dtype": "fp16"}
    operator = registry()["gemm"]
    from flashc.compiler.workload import load_workload

    algorithm = operator.algorithm(load_workload(loaded).spec)
    with pytest.raises(UnsupportedError, match="extent of axis"):
        emit(bound(algorithm, {"Ti": 16, "warps": 4}), "a test")


def test_a_kernel_is_one_parallel_loop() -> None:
    program = _product(("i", "j"), ("i", "k"), ("k", "j"))
    with pytest.raises(UnsupportedError, match="one parallel loop"):
        print_kernel(program, Kernel("toy", ()))


# -- placement


@pytest.mark.parametrize(
    ("target", "dtype", "unit"),
    [("sm_80", "bf16", "mma_bf16"), ("sm_80", "f32", None), ("gfx942", "f16", "mfma_f16_32x32x8")],
)
def test_matrix_units(target: str, dtype: str, unit: str | None) -> None:
    found = matrix_unit(load_device(DEVICES[target]), dtype)
    assert (found.name if found else None) == unit


def test_domains_are_powers_of_two_that_the_extents_need() -> None:
    program = programs({**ATTENTION, "seq": {"q": 100, "kv": 5000}})[0]
    placed = BACKEND.place(program, A100)
    sizes = {"B": 1, "Hq": 2, "Hkv": 1, "G": 2, "Lq": 100, "Lk": 5000}
    domains = BACKEND.domains(placed, A100, sizes)
    assert domains["Ti"] == (16, 32, 64, 128) and domains["Tj"] == (16, 32, 64, 128, 256)
    assert domains["stages"] == (1, 2, 3, 4, 5) and domains["warps"][0] == 1
    amd = load_device(DEVICES["gfx942"])
    assert BACKEND.domains(BACKEND.place(program, amd), amd, sizes)["stages"] == (1, 2)


def test_placement_puts_dot_operands_in_shared_memory() -> None:
    from flashc.ir.footprint import values_of

    placed = BACKEND.place(programs(ATTENTION)[0], A100)
    levels = {name: value.level for name, (value, _, _) in values_of(placed, placed.kernels[0]).items()}
    assert {n for n, level in levels.items() if level == "smem"} == {"qt", "kt", "vt"}
    assert {level for n, level in levels.items() if n not in ("qt", "kt", "vt")} == {"reg"}
