"""CPUs other than this machine's: source always, a binary where a compiler makes one, results under emulation."""

from __future__ import annotations

import platform
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attention_reference import Array, assert_accurate, attention, qkv
from cpu_programs import CPU, bound, schedule, workload

import flashc
from flashc.backends.cpu import run
from flashc.compiler.arguments import invocation
from flashc.compiler.artefacts import produce
from flashc.errors import CompilerMissingError, DeviceAbsentError
from flashc.hwmodels import load_device
from flashc.ops import registry
from flashc.system import toolchain

FOREIGN = {"x86_64": ("aarch64", "graviton3"), "aarch64": ("x86_64", "epyc_9654")}
MACHINE, DEVICE = FOREIGN[run.machine_of(platform.machine())]
CROSS = f"{MACHINE}-linux-gnu-g++"
EMULATOR = shutil.which(f"qemu-{MACHINE}") or shutil.which(f"qemu-{MACHINE}-static")
needs_cross = pytest.mark.skipif(shutil.which(CROSS) is None, reason=f"no {CROSS} on PATH")
needs_emulator = pytest.mark.skipif(EMULATOR is None, reason=f"no qemu-{MACHINE} on PATH")


@pytest.fixture
def no_cross_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None if name == CROSS else which(name))


@pytest.mark.usefixtures("no_cross_compiler")
def test_without_a_cross_compiler_there_is_source_and_a_reason(tmp_path: Path) -> None:
    tuning = flashc.tune(workload(dtype="bf16").document.data, device=DEVICE)
    made = produce(tuning, tmp_path / "out")
    assert made.missing is not None
    assert f"no C++ compiler for {MACHINE}" in made.missing
    assert CROSS in made.missing
    assert sorted(made.files) == ["program", "source", "tune"]
    assert "attention_task" in made.files["source"].read_text()


@pytest.mark.usefixtures("no_cross_compiler")
def test_a_kernel_of_an_absent_cpu_shows_its_source_and_refuses_calls() -> None:
    kernel = flashc.compile(workload(dtype="fp32").document.data, device=DEVICE)
    assert "attention_task" in kernel.source
    assert kernel.tiles["Ti"] > 0
    with pytest.raises(DeviceAbsentError, match=f"compiled for {DEVICE}, cannot run"):
        kernel(*qkv(1, (2, 2), (3, 3), (40, 40)))


@pytest.mark.usefixtures("no_cross_compiler")
def test_the_missing_compiler_is_named() -> None:
    with pytest.raises(CompilerMissingError, match=rf"makes code for .*{CROSS.replace('+', '.')} is not on PATH"):
        toolchain.find_compiler(MACHINE)


def test_this_machine_needs_no_cross_compiler() -> None:
    assert toolchain.find_compiler(run.machine_of(platform.machine())) == toolchain.find_compiler()


def test_no_compiler_at_all_is_an_error_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolated_cache: Path
) -> None:
    device = load_device("zen3" if MACHINE == "aarch64" else "graviton2")
    tuning = flashc.tune(workload(dtype="fp32").document.data, device=device.name)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerMissingError, match="no C\\+\\+ compiler"):
        produce(tuning, tmp_path / "out")


@needs_cross
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_cross_compiler_makes_the_binary(dtype: str, tmp_path: Path) -> None:
    made = produce(flashc.tune(workload(dtype=dtype).document.data, device=DEVICE), tmp_path / "out")
    assert made.missing is None
    machine = struct.unpack_from("<H", made.files["binary"].read_bytes(), 18)[0]
    assert machine == {"aarch64": 183, "x86_64": 62}[MACHINE]  # e_machine of the ELF header


MAIN = """
#include <cstdio>
#include <cstdlib>
static void serial(long tasks, void (*task)(const Call*, long, char*), const Call* call, long bytes, int) {
  char* scratch = (char*)std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  for (long t = 0; t < tasks; ++t) task(call, t, scratch);
}
static void* read_block(FILE* f) {
  long n;
  if (std::fread(&n, 8, 1, f) != 1) std::abort();
  char* data = (char*)std::aligned_alloc(64, (n + 64) / 64 * 64);
  if ((long)std::fread(data, 1, n, f) != n) std::abort();
  return data;
}
int main(int, char** argv) {
  FILE* f = std::fopen(argv[1], "rb");
  long tensors = *(long*)read_block(f);
  const long *size = (const long*)read_block(f), *stride = (const long*)read_block(f);
  const float* param = (const float*)read_block(f);
  const Call call = {nullptr, stride, size, param, serial, 0};
  void* given[64] = {(void*)&call, (void*)1L};
  void** const tensor = given + 2;
  for (long t = 0; t < tensors; ++t) tensor[t] = read_block(f);
  flashc_run(given);
  FILE* out = std::fopen(argv[2], "wb");
  std::fwrite(tensor[std::atol(argv[3])], 1, std::atol(argv[4]), out);
  return std::fclose(out);
}
"""


def emulated(program: Any, device: Any, given: Any, inputs: dict[str, Array], folder: Path) -> Array:
    """The first output of a program whose source is built as an executable for another machine and emulated."""
    operator = registry()[given.op]
    call = invocation(program, inputs, operator.sizes(given.spec), operator.params(given.spec), operator.derive)
    tensors = [np.ascontiguousarray(call.tensors[t.name]) for t in program.tensors]
    strides = [s // x.itemsize for x in tensors for s in x.strides]
    blocks = [
        np.array([len(tensors)]),
        np.array([call.sizes[n] for n in program.sizes]),
        np.array(strides),
        np.array([call.params[p.name] for p in program.params], np.float32),
        *tensors,
    ]
    (folder / "in").write_bytes(b"".join(struct.pack("<q", x.nbytes) + x.tobytes() for x in blocks))
    (folder / "main.cpp").write_text(CPU.emit(program, device) + MAIN)
    build = [CROSS, "-std=c++17", "-O2", f"-march={device.cpu_isa}", "-static", "-o", "main", "main.cpp"]
    subprocess.run(build, cwd=folder, check=True, timeout=120)
    position = next(n for n, t in enumerate(program.tensors) if t.role == "out")
    wanted = tensors[position]
    command = [str(EMULATOR), "-cpu", "max", "./main", "in", "out", str(position), str(wanted.nbytes)]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    return np.frombuffer((folder / "out").read_bytes(), wanted.dtype).reshape(wanted.shape)


@needs_cross
@needs_emulator
@pytest.mark.parametrize(
    ("dtype", "schedule_name"),
    [
        ("f32", "q_stationary"),
        ("f16", "q_stationary"),
        ("bf16", "q_stationary"),
        ("bf16", "grouped_rows"),
        pytest.param("f16", "split_keys", marks=pytest.mark.slow),
        pytest.param("f32", "stored_scores", marks=pytest.mark.slow),
        pytest.param("bf16", "tile_fused", marks=pytest.mark.slow),
    ],
)
def test_another_machine_computes_the_same(dtype: str, schedule_name: str, tmp_path: Path) -> None:
    device, lengths, dims = load_device(DEVICE), (33, 50), (40, 24)
    given = workload(
        dtype={"f32": "fp32", "f16": "fp16"}.get(dtype, dtype),
        seq={"q": 33, "kv": 50},
        value_dim=24,
        causal=True,
        softcap=2.0,
    )
    q, k, v = qkv(2, (4, 2), lengths, dims, dtype)
    program = bound(schedule(given, schedule_name), device)
    found = emulated(program, device, given, {"q": q, "k": k, "v": v}, tmp_path)
    exact, naive = (attention(q, k, v, causal=True, softcap=2.0, exact=e)[0] for e in (True, False))
    assert_accurate(found, naive, exact, dtype)
