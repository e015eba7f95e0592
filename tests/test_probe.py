"""The probe of this machine's CPU, the machine's description, and the search for a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashc.errors import DeviceAbsentError
from flashc.hwmodels import load_device, native
from flashc.hwmodels.build import device_from_document
from flashc.hwmodels.load import shared_sources
from flashc.hwmodels.machine import Cache, Isa, Machine, read_machine
from flashc.hwmodels.native import Gpu, model_of, native_cpu, native_gpu
from flashc.hwmodels.probe import assume, document
from flashc.hwmodels.probe_gpu import gpu_rates
from flashc.hwmodels.schema import check_device
from flashc.system.cache import Cache as Store

SERVER = Machine(
    model="Some server",
    flags=frozenset({"avx2", "fma", "f16c", "bmi2"}),
    cpus=(0, 1, 2, 3),
    caches=(Cache(1, 32 << 10, 64, 4), Cache(2, 1 << 20, 64, 2), Cache(3, 16 << 20, 64, 1)),
    memory_bytes=8 << 30,
    clock_ghz=3.0,
    isa=Isa("x86-64-v3", 256, 16),
)


def test_native_is_measured_once_and_kept(isolated_cache: Path) -> None:
    notices: list[str] = []
    first = load_device("native", notify=notices.append)
    assert len(notices) == 1 and "measuring this CPU" in notices[0]
    again = load_device("native", notify=notices.append)
    assert first == again and len(notices) == 1

    assert first.kind == "cpu" and first.targets == {"cpu": ("native",)}
    assert first.cores == len(read_machine().cpus)
    bandwidth = [level.bandwidth_gbs for level in first.levels if level.bandwidth_gbs is not None]
    assert bandwidth[-1] > bandwidth[0] > 0.5  # L1 against main memory
    latency = [level.latency_ns for level in first.levels if level.latency_ns is not None]
    assert latency[0] > latency[-1] > 0
    assert 0.3 < first.clock_ghz < 10
    assert 1 < first.vector.flops_per_clk_per_core["f32"] <= 512
    assert first.exp_per_clk_per_core > 0.01
    assert first.sources["vector.peak_tflops.f32"].tier == "measured"


def test_native_is_measured_again_on_request_and_for_another_machine(
    isolated_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "measure", assume)
    notices: list[str] = []
    native_cpu(notices.append)
    native_cpu(notices.append, again=True)
    assert len(notices) == 2
    monkeypatch.setattr(native, "read_machine", lambda: SERVER)
    assert native_cpu(notices.append).title == "Some server"
    assert len(notices) == 3
    assert len(Store.default().entries()) == 2


def test_without_a_compiler_the_rates_are_tagged_defaults(
    isolated_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    notices: list[str] = []
    device = native_cpu(notices.append)
    assert "no-such-compiler" in notices[-1]
    assert "vector.peak_tflops.f32" in {default.field for default in device.defaults}
    assert Store.default().entries() == []


@pytest.mark.parametrize(
    "machine", [SERVER, Machine("Bare", frozenset(), (0,), (), 0, None, Isa("riscv64", 128, 16))]
)
def test_the_document_keeps_the_schema(machine: Machine) -> None:
    made = document(machine, assume(machine))
    check_device(made, {*shared_sources(), *made["sources"]}, Path("native.yaml"), "")
    device = device_from_document("native", made, shared_sources())
    assert device.cores == len(machine.cpus)


def test_the_document_of_a_machine_with_shared_caches() -> None:
    device = device_from_document("native", document(SERVER, assume(SERVER)), shared_sources())
    shape = {level.name: (level.per, level.instances, level.capacity_bytes) for level in device.levels}
    assert shape == {
        "dram": ("device", 1, 8 << 30),
        "l3": ("device", 1, 16 << 20),
        "l2": ("group", 2, 1 << 20),
        "l1": ("core", 4, 32 << 10),
        "reg": ("core", 4, 512),
    }
    assert device.features == {"avx2", "fma", "f16c"}
    assert device.vector.flops_per_clk_per_core["f32"] == pytest.approx(32, rel=1e-3)


# --- reading the system --------------------------------------------------------------------------


def _system(root: Path, cpuinfo: str, siblings: dict[int, str], shared_l2: dict[int, str]) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(cpuinfo, encoding="utf-8")
    (root / "proc/meminfo").write_text("MemTotal:       1000 kB\n", encoding="utf-8")
    for cpu, thread_siblings in siblings.items():
        base = root / f"sys/devices/system/cpu/cpu{cpu}"
        (base / "topology").mkdir(parents=True)
        (base / "topology/thread_siblings_list").write_text(thread_siblings + "\n", encoding="utf-8")
        for index, (level, kind, size, shared) in enumerate(
            [("1", "Data", "32K", thread_siblings), ("1", "Instruction", "32K", thread_siblings),
             ("2", "Unified", "2M", shared_l2[cpu])]
        ):  # fmt: skip
            folder = base / f"cache/index{index}"
            folder.mkdir(parents=True)
            facts = {"level": level, "type": kind, "size": size, "coherency_line_size": "64"}
            for name, text in {**facts, "shared_cpu_list": shared}.items():
                (folder / name).write_text(text + "\n", encoding="utf-8")
    return root


def test_hyper_threads_count_once_and_affinity_is_honoured(tmp_path: Path) -> None:
    cpuinfo = "model name\t: Chip\nflags\t\t: sse2 avx2 fma f16c bmi2 avx512f\ncpu MHz\t\t: 2500.0\n"
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    root = _system(tmp_path, cpuinfo, siblings, dict.fromkeys(range(4), "0-3"))
    machine = read_machine(root, frozenset({0, 1, 2, 3}))
    assert machine.cpus == (0, 1)
    assert machine.caches == (Cache(1, 32 << 10, 64, 2), Cache(2, 2 << 20, 64, 1, shared=True))
    assert (machine.model, machine.clock_ghz, machine.memory_bytes) == ("Chip", 2.5, 1000 * 1024)
    assert machine.isa == Isa("x86-64-v3", 256, 16)
    assert read_machine(root, frozenset({3})).cpus == (3,)


def test_of_one_usable_core_the_caches_are_its_own_except_those_it_shares(tmp_path: Path) -> None:
    root = _system(tmp_path, "flags\t\t: avx2 fma f16c bmi2\n", {0: "0,2", 1: "1,3"}, dict.fromkeys((0, 1), "0-3"))
    machine = read_machine(root, frozenset({0}))
    device = device_from_document("native", document(machine, assume(machine)), shared_sources())
    assert {level.name: level.per for level in device.levels} == {
        "dram": "device", "l2": "device", "l1": "core", "reg": "core",
    }
    alone = read_machine(_system(tmp_path / "alone", "flags\t\t:\n", {0: "0"}, {0: "0"}), frozenset({0}))
    device = device_from_document("native", document(alone, assume(alone)), shared_sources())
    assert {level.per for level in device.levels if level.kind == "cache"} == {"core"}


def test_an_arm_machine(tmp_path: Path) -> None:
    cpuinfo = "CPU implementer\t: 0x41\nCPU part\t: 0xd40\nFeatures\t: fp asimd asimdhp bf16 sve\n"
    root = _system(tmp_path, cpuinfo, {0: "0"}, {0: "0"})
    machine = read_machine(root, frozenset({0}))
    assert machine.isa == Isa("aarch64-neon", 128, 32)
    assert machine.features == ("bf16", "fp16", "neon", "sve")
    assert "0xd40" in machine.model


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    machine = read_machine(tmp_path, frozenset({0, 1}))
    assert machine.cpus == (0, 1) and machine.caches == () and machine.memory_bytes == 0


# --- GPUs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        (Gpu("NVIDIA H100 80GB HBM3", "sm_90"), "h100_sxm"),
        (Gpu("NVIDIA H100 PCIe", "sm_90"), "h100_pcie"),
        (Gpu("NVIDIA A100-SXM4-40GB", "sm_80"), "a100_sxm_40gb"),
        (Gpu("NVIDIA L4", "sm_89"), "l4"),
        (Gpu("AMD Instinct MI300X", "gfx942"), "mi300x"),
    ],
)
def test_a_gpu_is_recognised_by_its_name(gpu: Gpu, name: str) -> None:
    notices: list[str] = []
    assert model_of(gpu, notices.append).name == name
    assert notices == []


def test_a_gpu_without_a_model_is_taken_for_its_kin_with_a_notice() -> None:
    notices: list[str] = []
    device = model_of(Gpu("NVIDIA H800", "sm_90"), notices.append)
    assert device.arch == "sm_90"
    assert notices == [f"GPU 'NVIDIA H800' has no model of its own; taken as {device.name}, also sm_90"]


def test_a_gpu_of_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(DeviceAbsentError, match="GeForce GTX 1080"):
        model_of(Gpu("NVIDIA GeForce GTX 1080", "sm_61"))


def test_no_gpu_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "find_gpu", lambda: None)
    with pytest.raises(DeviceAbsentError, match="native-gpu"):
        native_gpu()


def test_the_driver_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 9.0'\necho 'NVIDIA H200, 9.0'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert native.find_gpu() == Gpu("NVIDIA H200", "sm_90")
    assert load_device("native-gpu").name == "h200_sxm"


def test_gpu_rates_on_a_stand_in() -> None:
    pytest.importorskip("torch")
    rates = gpu_rates("cpu", extent=64, copy_bytes=1 << 20)
    assert set(rates) == {"dram_copy_gbs", "matmul_f32_tflops", "matmul_f16_tflops", "matmul_bf16_tflops"}
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.device
def test_gpu_rates_stay_below_the_model() -> None:
    if native.find_gpu() is None:
        pytest.skip("no GPU on this machine")
    device = native_gpu()
    rates = gpu_rates()
    assert 0 < rates["matmul_bf16_tflops"] <= 1.1 * (device.peak_tflops("bf16") or 0)
    assert 0 < rates["dram_copy_gbs"] <= 1.1 * (device.levels[0].bandwidth_gbs or 0)
