"""Compiles emitted source for a named GPU, which need not be here, and reads what the kernels take."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from flashc.backends.base import Built, KernelResources
from flashc.backends.triton.arguments import TRITON_TYPES, Argument
from flashc.backends.triton.launching import Printed
from flashc.backends.triton.source import printed_kernels
from flashc.errors import CompileError, CompilerMissingError, UnsupportedError
from flashc.hwmodels.model import Device
from flashc.ir.nodes import Program
from flashc.system.cache import Cache, key_of

KIND = "triton-kernel"
SOURCE = "kernels.py"
ALIGNED = [["tt.divisibility", 16]]  # pointers by the allocators; strides by convention (see signature)

TENSOR_COLUMNS = 512  # of 128 x 32 bit, per core of data-centre Blackwell


def triton_module() -> ModuleType:
    """The installed Triton. Raises CompilerMissingError."""
    try:
        import triton
    except ImportError as error:
        raise CompilerMissingError(
            f"Triton cannot be imported ({error}); `pip install triton` on Linux"
        ) from error
    return triton  # type: ignore[no-any-return]


def options_of(printed: Printed) -> dict[str, Any]:
    """What the compiler is told besides the source; a launch passes the same."""
    return {"num_warps": printed.warps, "num_stages": printed.stages, "enable_fp_fusion": True}


def build(source: str, bound: Program, device: Device) -> Built:
    """Compile every kernel for the device's Triton target, through the cache.

    Raises UnsupportedError without a target, CompilerMissingError without Triton, CompileError when Triton
    refuses.
    """
    triton = triton_module()
    kernels = printed_kernels(bound)
    target = gpu_target(device)
    described = [f"{k.kernel} {options_of(k)} {signature(k, bound)}" for k in kernels]
    key = key_of(source, triton.__version__, str(target), *described)

    def compile_all(folder: Path) -> None:
        (folder / SOURCE).write_text(source, encoding="utf-8")
        module = import_source(folder / SOURCE, f"flashc_kernels_{key[:16]}")
        found = [_compile(getattr(module, k.kernel), k, bound, target, folder) for k in kernels]
        (folder / "resources.json").write_text(json.dumps(found), encoding="utf-8")

    folder = Cache.default().get_or_build(KIND, key, compile_all)
    resources = json.loads((folder / "resources.json").read_text(encoding="utf-8"))
    return Built(_files(folder), tuple(KernelResources(**r) for r in resources))


def gpu_target(device: Device) -> Any:
    from triton.backends.compiler import GPUTarget

    if device.triton_target is None:
        raise UnsupportedError(f"{device.name}: Triton has no target for {device.arch}")
    return GPUTarget(*device.triton_target)


def import_source(path: Path, name: str) -> ModuleType:
    """The module in a file; Triton reads a kernel's text from the file it was defined in."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def signature(printed: Printed, bound: Program) -> dict[str, str]:
    """Triton's type of every argument."""
    return {a.name: _type(a, bound) for a in printed.arguments}


def _type(argument: Argument, bound: Program) -> str:
    kinds = {"stride": "i64", "size": "i32", "step": "i32", "param": "fp32"}
    if argument.kind == "pointer":
        return f"*{TRITON_TYPES[bound.tensor(argument.source).dtype.name]}"
    return kinds[argument.kind]


def _compile(function: Any, printed: Printed, bound: Program, target: Any, folder: Path) -> dict[str, Any]:
    import triton
    from triton.compiler import ASTSource

    attributes = {(n,): ALIGNED for n, a in enumerate(printed.arguments) if a.specialised}
    text = ASTSource(fn=function, signature=signature(printed, bound), constexprs={}, attrs=attributes)
    try:
        compiled = triton.compile(text, target=target, options=options_of(printed))
    except Exception as error:  # Triton raises its own classes, RuntimeError, and whatever its passes raise
        raise _refusal(str(error) or type(error).__name__, printed, target, folder) from error
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    if columns > TENSOR_COLUMNS:
        raise _refusal(
            f"{columns} columns of tensor memory; there are {TENSOR_COLUMNS}", printed, target, folder
        )
    for stage, content in ((n, c) for n, c in compiled.asm.items() if n != "source"):
        raw = content if isinstance(content, bytes) else str(content).encode()
        (folder / f"{printed.kernel}.{stage}").write_bytes(raw)
    return _resources(printed.kernel, compiled.asm, compiled.metadata.shared, target)


def _refusal(message: str, printed: Printed, target: Any, folder: Path) -> CompileError:
    """The error to raise; the source and Triton's whole message are saved."""
    source = (folder / SOURCE).read_bytes()
    saved = Cache.default().put_or_temp(
        "failed-compile",
        key_of(source, str(target), printed.kernel),
        {SOURCE: source, "compiler.log": message.encode()},
    )
    last = message.strip().splitlines()[-1]
    return CompileError(
        f"Triton refuses kernel {printed.kernel} for {target}: {last}; source and message: {saved}"
    )


def _resources(kernel: str, assembly: Mapping[str, Any], shared: int, target: Any) -> dict[str, Any]:
    read = _read_amd if target.backend == "hip" else _read_nvidia
    registers, spilled = read(assembly)
    return {"kernel": kernel, "registers": registers, "spill_bytes": spilled, "shared_bytes": shared}


def _read_nvidia(assembly: Mapping[str, Any]) -> tuple[int, int]:
    """Registers and stack bytes per thread; a kernel without local arrays has a stack for spills only."""
    import tempfile

    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(assembly["cubin"])
        binary.flush()
        done = subprocess.run(
            [tool, "--dump-resource-usage", binary.name], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    if found is None:
        raise CompileError(f"{tool} reports no registers: {done.stdout.strip()}")
    return int(found[1]), int(found[2])


def _read_amd(assembly: Mapping[str, Any]) -> tuple[int, int]:
    """Vector registers per lane (accumulation registers included), and spilled bytes per lane."""
    numbers = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", assembly["amdgcn"]))
    return int(numbers["vgpr_count"]), 4 * int(numbers["vgpr_spill_count"])


def _files(folder: Path) -> dict[str, Path]:
    """Files by role: "source", and for each kernel "<kernel>.<stage>" as Triton names its stages."""
    found = {p.name: p for p in sorted(folder.iterdir()) if p.suffix not in (".json", ".py")}
    return {"source": folder / SOURCE, **found}
