"""Reports of small calls, gathered once per test session."""

from __future__ import annotations

import functools
from typing import Any

from flashc.compiler.tune import tune
from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device
from flashc.report.case import Case, case_of
from flashc.report.facts import Report
from flashc.report.gather import gather
from flashc.report.sweep import Range, sweep

ATTENTION: dict[str, Any] = {
    "op": "attention",
    "batch": 2,
    "heads": {"q": 4, "kv": 2},
    "seq": 512,
    "head_dim": 64,
    "dtype": "bf16",
    "causal": True,
}
BACKWARD: dict[str, Any] = {**ATTENTION, "op": "attention_backward", "heads": 2, "seq": 256}
GEMM: dict[str, Any] = {"op": "gemm", "m": 1024, "n": 768, "k": 512, "dtype": "bf16"}
LSTM: dict[str, Any] = {
    "op": "recurrent", "cell": "lstm", "batch": 16, "steps": 32, "heads": 8, "head_dim": 64, "dtype": "fp32"
}
WORKLOADS = {"attention": ATTENTION, "attention_backward": BACKWARD, "gemm": GEMM, "lstm": LSTM}
CASES = (
    ("a100", "attention"),
    ("a100", "gemm"),
    ("a100", "attention_backward"),
    ("ascend910b3", "attention"),
    ("ascend910b3", "gemm"),
    ("zen3_nvme", "attention"),
    ("zen3_nvme", "gemm"),
    ("mi300x", "gemm"),
    ("zen3_nvme", "lstm"),
)


def case(device: str, workload: dict[str, Any]) -> Case:
    return case_of(tune(load_workload(workload), load_device(device)))


@functools.cache
def report(device: str, name: str) -> Report:
    return gather(case(device, WORKLOADS[name]))


@functools.cache
def swept() -> Report:
    workload, device = load_workload(GEMM), load_device("a100")
    found = sweep(workload, device, Range("m", 256, 3000), backend=None, progress=lambda _text: None)
    return gather(case_of(tune(workload, device)), found)
