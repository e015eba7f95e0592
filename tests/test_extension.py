"""The design's promises: an operator, a device and a backend are added from outside the package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import toy_backend
import toy_operator
from toy_device import device_file

import flashc
from flashc import backends, ops
from flashc.compiler.tune import tune
from flashc.compiler.workload import Workload, load_workload
from flashc.errors import UnsupportedError, WorkloadError
from flashc.hwmodels import list_devices, load_device

PACKAGE = Path(flashc.__file__).parent
ROWS, COLUMNS = 300, 40


@pytest.fixture
def toy_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One file in a directory of FLASHC_DEVICE_PATH."""
    (tmp_path / "toy.yaml").write_text(device_file(sram=2**20), encoding="utf-8")
    monkeypatch.setenv("FLASHC_DEVICE_PATH", str(tmp_path))
    return "toy"


@pytest.fixture
def workload(monkeypatch: pytest.MonkeyPatch) -> Workload:
    """Of an operator that one call registers."""
    monkeypatch.setattr(ops, "_registered", {})
    ops.register(toy_operator.OPERATOR)
    return load_workload({"op": "weighted_softmax", "rows": ROWS, "columns": COLUMNS})


@pytest.fixture
def toy_printer(monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend that one call registers."""
    monkeypatch.setattr(backends, "_registered", {})
    return backends.register(toy_backend.BACKEND).name


def softmax_inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    w = rng.standard_normal(ROWS, dtype=np.float32)
    p = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return x, w, p / p.sum(1, keepdims=True) * w[:, None]


def test_a_device_is_one_file(toy_device: str) -> None:
    assert toy_device in list_devices()
    square = {"op": "gemm", "m": 512, "n": 512, "k": 512, "dtype": "fp32"}
    found = tune(load_workload(square), load_device(toy_device))
    assert found.backend == "ascend"
    assert found.missing == "nothing emits for a toy"
    assert found.best.bound_by == "memory"


@pytest.mark.parametrize("device", ["a100", "910b3", "gaudi3", "epyc"])
def test_an_operator_is_tuned_for_every_kind_of_device(workload: Workload, device: str) -> None:
    best = tune(workload, load_device(device)).best
    assert best.schedule == "rows"
    assert best.traffic_bytes == 4 * (2 * ROWS * COLUMNS + ROWS)


def test_an_operator_runs_on_the_built_in_cpu_backend(workload: Workload) -> None:
    device = load_device("zen3")
    absent = backends.get("cpu").absent(device)
    if absent:
        pytest.skip(absent)
    x, w, expected = softmax_inputs()
    np.testing.assert_allclose(flashc.compile(workload, device="zen3")(x, w), expected, rtol=1e-5, atol=1e-7)


def test_an_operator_s_own_schema_is_enforced(workload: Workload) -> None:
    assert workload.op == "weighted_softmax"
    with pytest.raises(WorkloadError, match="colums"):
        load_workload({"op": "weighted_softmax", "rows": 3, "columns": 4, "colums": 5})


def test_a_backend_runs_a_new_operator(workload: Workload, toy_device: str, toy_printer: str) -> None:
    kernel = flashc.compile(workload, device=toy_device)
    assert kernel.tuning.backend == toy_printer
    x, w, expected = softmax_inputs()
    np.testing.assert_allclose(kernel(x, w), expected, rtol=1e-5, atol=1e-7)


def test_a_backend_runs_the_package_s_own_operator(toy_device: str, toy_printer: str) -> None:
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal((2, 70, 70), dtype=np.float32) for _ in "ab")
    spec = {"op": "gemm", "batch": 2, "m": 70, "n": 70, "k": 70, "dtype": "fp32", "epilogue": "max(acc, 0)"}
    kernel = flashc.compile(spec, device=toy_device, backend=toy_printer)
    assert "np.einsum" in kernel.source
    np.testing.assert_allclose(kernel(a, b), np.maximum(a @ b, 0), rtol=1e-4, atol=1e-4)


def test_what_the_toy_cannot_print_is_refused(toy_device: str, toy_printer: str) -> None:
    heads = {"q": 1, "kv": 1}
    spec = {"op": "attention", "batch": 1, "heads": heads, "seq": 64, "head_dim": 16, "dtype": "fp32"}
    with pytest.raises(UnsupportedError, match="toy backend"):
        flashc.compile(spec, device=toy_device, backend=toy_printer)


def test_no_operator_is_named_in_the_backends() -> None:
    names = re.compile("|".join(rf"\b{name}\b" for name in ops.registry()), re.IGNORECASE)
    files = [p for p in (PACKAGE / "backends").rglob("*") if p.suffix in (".py", ".cpp", ".hpp")]
    found = [f"{p.relative_to(PACKAGE)}: {m[0]}" for p in files for m in names.finditer(p.read_text("utf-8"))]
    assert files
    assert found == []


def test_no_device_is_named_in_the_code() -> None:
    names = re.compile("|".join(rf"\b{name}\b" for name in list_devices()), re.IGNORECASE)
    folders = ("autotune", "compiler", "iomodel", "ir", "ops")
    files = [p for folder in folders for p in (PACKAGE / folder).rglob("*.py")]
    found = [f"{p.relative_to(PACKAGE)}: {m[0]}" for p in files for m in names.finditer(p.read_text("utf-8"))]
    assert found == []
