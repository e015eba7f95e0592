"""Emitted source compiled by Triton for every target, with no GPU: files, resources, cache and failures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from triton_cases import ATTENTION, DEVICES, FEATURES, GEMM, bound, programs

from flashc.backends.base import Built, Invocation
from flashc.backends.triton import BACKEND
from flashc.backends.triton.build import signature
from flashc.backends.triton.run import aligned
from flashc.backends.triton.source import printed_kernels
from flashc.errors import CompileError, CompilerMissingError, DeviceAbsentError, UnsupportedError
from flashc.hwmodels import load_device
from flashc.ir.nodes import Program

pytestmark = [pytest.mark.triton, pytest.mark.timeout(600)]
TILES = {"Tg": 2, "Tn": 2, "Ti": 64, "Tj": 32, "Tk": 32, "Te": 32, "Ri": 64, "Rj": 32, "Re": 32}
TILES |= {"stages": 2, "warps": 4}
CAUSAL = {**ATTENTION, "causal": True, "head_dim": 64}
EVERYTHING = {
    **CAUSAL,
    "batch": 2,
    "kv_lengths": [45, 20],
    "window": [20, 3],
    "alibi": True,
    "softcap": 5.0,
    "head_dim": 40,
    "mask": {"shape": [1, 1, 37, 45]},
    "bias": {"shape": [2, 37, 45], "dtype": "fp16"},
    "outputs": ["o", "lse"],
    "dtype": "bf16",
}


def _built(program: Program, target: str, tiles: dict[str, int] | None = None) -> Built:
    device = load_device(DEVICES[target])
    placed = bound(program, tiles or TILES, target)
    return BACKEND.build(BACKEND.emit(placed, device), placed, device)


def _check(built: Built, program: Program, target: str) -> None:
    binary = "hsaco" if target.startswith("gfx") else "cubin"
    for kernel, found in zip(program.kernels, built.resources, strict=True):
        assert built.files[f"{kernel.name}.{binary}"].stat().st_size > 1000
        assert found.registers is not None and 16 <= found.registers <= 512
        assert found.spill_bytes is not None and found.spill_bytes <= 64
        assert found.shared_bytes is not None and 0 < found.shared_bytes <= 65536
    assert "@triton.jit" in built.files["source"].read_text()


@pytest.mark.parametrize("target", ["sm_80", "gfx942"])
def test_attention(target: str) -> None:
    program = programs(CAUSAL)[0]
    _check(_built(program, target), program, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize(
    "workload", [CAUSAL, {**GEMM, "dtype": "fp16", "transpose_b": True}], ids=["attention", "gemm"]
)
def test_every_schedule_for_every_target(workload: dict[str, Any], target: str) -> None:
    for program in programs(workload):
        _check(_built(program, target), program, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
def test_all_features_at_once(target: str) -> None:
    program = programs(EVERYTHING)[0]
    _check(_built(program, target), program, target)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tiles", [{"Ti": 16, "Tj": 16, "warps": 1, "stages": 1}, {"Ti": 128, "Tj": 64, "warps": 8, "stages": 4}]
)
@pytest.mark.parametrize("feature", ["score", "keep", "wide_values", "plain_fp32"])
def test_other_tilings(feature: str, tiles: dict[str, int]) -> None:
    (program, *_) = programs(FEATURES[feature])
    built = _built(program, "sm_90", {**TILES, **tiles})
    assert built.resources[0].registers


def test_a_second_build_comes_from_the_cache(isolated_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    first = _built(programs(GEMM)[0], "sm_80", {**TILES, "Tk": 16})
    monkeypatch.setattr(triton, "compile", None)
    assert _built(programs(GEMM)[0], "sm_80", {**TILES, "Tk": 16}) == first


def test_source_that_triton_refuses_is_saved() -> None:
    device = load_device(DEVICES["sm_80"])
    program = bound(programs(GEMM)[0], TILES)
    broken = BACKEND.emit(program, device).replace("tl.dot(", "tl.no_such_function(")
    with pytest.raises(CompileError, match="no_such_function") as caught:
        BACKEND.build(broken, program, device)
    saved = Path(str(caught.value).rpartition(": ")[2])
    assert (saved / "kernels.py").read_text() == broken


def test_pointers_are_typed_and_offsets_are_64_bit() -> None:
    program = bound(
        programs({**ATTENTION, "batch": 2, "kv_lengths": [3, 4], "mask": {"shape": [2, 1, 1, 45]}})[0], TILES
    )
    (kernel,) = printed_kernels(program)
    types = signature(kernel, program)
    assert types["q_ptr"] == "*fp16" and types["kv_lengths_ptr"] == "*i32" and types["mask_ptr"] == "*i8"
    assert types["q_stride_0"] == "i64" and types["Lq"] == "i32" and types["scale"] == "fp32"


def test_strides_that_are_no_such_multiples_are_copied() -> None:
    torch = pytest.importorskip("torch")
    wide = torch.zeros(4, 8, 65)
    assert aligned(wide[..., :64], {1: 16}).stride() == (512, 64, 1)
    assert aligned(wide[..., :64], {1: 1}).stride() == (520, 65, 1)
    assert aligned(torch.zeros(4, 64, 8).transpose(1, 2), {0: 1}).stride(-1) == 1
    same = torch.zeros(4, 8, 64)
    assert aligned(same, {0: 16, 1: 16}) is same


# -- what cannot be


def test_a_device_without_a_target() -> None:
    device = load_device("epyc_9755")
    assert "no target" in (BACKEND.missing(device) or "")
    program = bound(programs(GEMM)[0], TILES)
    with pytest.raises(UnsupportedError, match="no target"):
        BACKEND.build("", program, device)


def test_a_machine_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(CompilerMissingError, match="pip install triton"):
        BACKEND.build("", bound(programs(GEMM)[0], TILES), load_device(DEVICES["sm_80"]))


def test_a_machine_without_the_gpu() -> None:
    device = load_device(DEVICES["gfx942"])
    if BACKEND.absent(device) is None:
        pytest.skip("this machine has that GPU")
    program = bound(programs(GEMM)[0], TILES)
    with pytest.raises(DeviceAbsentError):
        BACKEND.load(Built({"source": Path("kernels.py")}, ()), program, device)


def test_a_grid_beyond_the_limit() -> None:
    from flashc.backends.triton.run import launch

    (kernel,) = printed_kernels(bound(programs(GEMM)[0], TILES))
    huge = dataclasses.replace(kernel, programs=kernel.programs * 2**31)
    with pytest.raises(UnsupportedError, match="programs"):
        launch(None, huge, Invocation({}, {"B": 1, "M": 64, "N": 64, "K": 64}, {}), {})  # type: ignore[arg-type]
