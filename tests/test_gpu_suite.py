"""The GPU suite without a GPU: what a machine lacks, the way of arrays, and all of it with peaks and events made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from suite_cases import GEMM, SCHEMA, Clock, small

from flashc.compiler import gpu_machine, gpu_suite, suite
from flashc.compiler.gpu_machine import Software, lacking, require
from flashc.compiler.suite import Case
from flashc.compiler.workload import load_workload
from flashc.errors import DeviceAbsentError

if TYPE_CHECKING:
    from cli_runner import Runner

pytest_plugins = ("cli_runner",)

GOOD = Software((3, 12), "2.13.0+cu130", "13.0", "3.6.0", "580.1", True)


def test_every_workload_of_the_gpu_suite_is_valid() -> None:
    cases = (*gpu_suite.SUITE.checks, *gpu_suite.SUITE.timed, *gpu_suite.SUITE.landscapes)
    assert all(case.workload.op for case in cases)
    found = {(c.document["head_dim"], bool(c.document.get("causal"))) for c in gpu_suite.SUITE.timed}
    assert {(d, causal) for d in (64, 128, 256) for causal in (False, True)} <= found
    assert gpu_suite.SUITE.points >= 50 and len(gpu_suite.SUITE.landscapes) == 3
    assert gpu_suite.SECONDS < 8 * 60


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"python": (3, 11)}, "Python is 3.11, needs 3.12"),
        ({"driver": None}, "no NVIDIA driver"),
        ({"torch": None, "cuda": None}, "PyTorch is not installed"),
        ({"torch": "2.13.0+cpu", "cuda": None}, "no CUDA build"),
        ({"torch": "2.10.1+cu126"}, "PyTorch is 2.10.1"),
        ({"usable": False}, "cannot use the GPU of driver 580.1"),
        ({"triton": None}, "Triton is not installed"),
        ({"triton": "3.5.1"}, "Triton is 3.5.1, needs 3.6"),
    ],
)
def test_what_a_machine_lacks_is_named(change: dict[str, Any], told: str) -> None:
    (problem,) = lacking(replace(GOOD, **change))
    assert told in problem
    assert not lacking(GOOD)


def test_all_that_is_missing_stands_in_one_line() -> None:
    with pytest.raises(DeviceAbsentError) as refused:
        require(Software((3, 10), None, None, None, None, False))
    text = str(refused.value)
    assert "\n" not in text and all(word in text for word in ("Python", "driver", "PyTorch", "Triton"))


def test_nvidia_smi_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.1, 1980 MHz, 700.00 W'\necho 'NVIDIA H200, 570.1, x, y'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    facts = gpu_machine.gpu_facts()
    assert facts["name"] == "NVIDIA H200" and facts["driver_version"] == "570.1"
    assert facts["clocks.max.sm"] == "1980 MHz"
    tool.write_text("#!/bin/sh\necho 'Failed to initialize NVML'\nexit 9\n")
    assert gpu_machine.gpu_facts() == {}


def test_measured_peaks_become_limits() -> None:
    rates = gpu_suite.measured_rates({"matmul_bf16_tflops": 700.0, "dram_copy_gbs": 4000.0})
    found = rates(load_workload(gpu_suite.decode(1, 8192)), None)  # type: ignore[arg-type]
    assert (found.flops, found.bytes) == (700e12, 4000e9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
def test_arrays_survive_the_way_to_the_gpu_and_back(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    import ml_dtypes

    from flashc.backends.triton.run import _from_gpu, _on_gpu

    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    array = np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, dtype, dtype))
    tensor = _on_gpu(array)
    assert str(tensor.dtype) == f"torch.{dtype}"
    assert torch.equal(tensor, torch.arange(6.0).reshape(2, 3).to(tensor.dtype))
    assert np.array_equal(_from_gpu(tensor), array) and _from_gpu(tensor).dtype == array.dtype


def test_events_enclose_the_run_and_follow_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from flashc.compiler.timing import CudaEvents

    order: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            order.append("record")

        def synchronize(self) -> None:
            order.append("wait")

        def elapsed_time(self, _other: Any) -> float:
            return 2.5  # milliseconds

    class Buffer:
        def zero_(self) -> None:
            order.append("flush")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: Buffer())
    assert CudaEvents()(lambda: order.append("run")) == 2.5e-3
    assert order == ["flush", "record", "run", "record", "wait"]


def test_the_gpu_suite_from_its_command_to_its_file(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the GPU: its peaks, its events and its driver are made up, and kernels run on this CPU."""
    pytest.importorskip("torch")
    clock = Clock()
    monkeypatch.setattr(gpu_suite, "SUITE", small("gpu", checks=(Case("g", GEMM),), timed=(Case("g", GEMM),)))
    monkeypatch.setattr(gpu_suite, "software", lambda: GOOD)
    monkeypatch.setattr(gpu_suite, "gpu_facts", lambda: {"name": "NVIDIA H200", "driver_version": "580.1"})
    monkeypatch.setattr(gpu_suite, "gpu_rates", lambda: {"dram_copy_gbs": 1e3, "matmul_f32_tflops": 1.0})
    monkeypatch.setattr(gpu_suite, "CudaEvents", lambda: clock.stopwatch)
    monkeypatch.setattr(suite, "build_all", lambda *_: 0)
    found = run("bench", "--suite", "gpu", "--device", "native", "--seconds", "300", "-o", tmp_path)
    assert found.code == 0, found.err
    (path,) = tmp_path.iterdir()
    written = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(written, SCHEMA)
    assert path.name == f"gpu-native-{written['date'][:10]}.json" and written["budget"] == 300
    assert written["machine"]["driver"] == "580.1" and written["machine"]["versions"]["flashc"]
    assert written["rows"][0]["share"] == pytest.approx(2 * 48 * 32 * 32 / 1e-3 / 1e12)
