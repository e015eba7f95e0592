"""The process that runs emitted kernels under Triton's interpreter: ``python -m
flashc.backends.triton.interpreter DIR``.

``DIR`` holds one folder per program: the source, the tensors as .npy files (bf16 as its bits) and plan.json,
which names the launches in order: kernel, arguments, number of programs and step. Tensors are written back as
NAME.out.npy. Needs TRITON_INTERPRET=1 before Triton is imported, which is why it is a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np


def main(root: Path) -> None:
    round_bfloat16()
    index_by_scalars()
    for folder in sorted(root.iterdir()):
        run(folder)


def round_bfloat16() -> None:
    """Give the interpreter bf16 arithmetic: Triton 3.6 to 3.9 multiply its bits and round by truncation."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle(handle.data.view(ml_dtypes.bfloat16).astype(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    def cast_impl(self: Any, source: Any, wanted: Any) -> Any:
        if source.dtype.scalar == tl.float32 and wanted.scalar == tl.bfloat16:
            return TensorHandle(source.data.astype(ml_dtypes.bfloat16).view(np.uint16), tl.bfloat16)
        return cast(self, source, wanted)

    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.cast_impl = cast_impl
    for name in ("create_fp_trunc", "create_fp_ext"):
        setattr(InterpreterBuilder, name, cast_impl)


def index_by_scalars() -> None:
    """Let loop bounds be numbers: Triton 3.6 calls int() on one-element arrays, which NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    set_attr = interpreter._LangPatchScope.set_attr

    def set_index(self: Any, target: Any, name: str, value: Any) -> None:
        set_attr(self, target, name, (lambda t: t.handle.data.item()) if name == "__index__" else value)

    interpreter._LangPatchScope.set_attr = set_index


def run(folder: Path) -> None:
    import torch

    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    tensors = {name: _tensor(folder / f"{name}.npy", dtype) for name, dtype in plan["types"].items()}
    spec = importlib.util.spec_from_file_location(folder.name, folder / "kernels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for kernel in plan["kernels"]:
        scalars = {**plan["sizes"], **plan["params"], **kernel["step"]}
        arguments = [_argument(kind, source, dim, tensors, scalars) for kind, source, dim in kernel["arguments"]]
        if kernel["programs"]:
            getattr(module, kernel["kernel"])[(kernel["programs"],)](*arguments)
    for name, tensor in tensors.items():
        bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        np.save(folder / f"{name}.out.npy", bits.numpy())


def _tensor(path: Path, dtype: str) -> Any:
    import torch

    array = np.load(path)
    if dtype == "bf16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.view(np.int8) if dtype == "bool" else array)


def _argument(kind: str, source: str, dim: int, tensors: Mapping[str, Any], scalars: Mapping[str, Any]) -> Any:
    if kind == "pointer":
        return tensors[source]
    if kind == "stride":
        return tensors[source].stride(dim)
    return scalars[source]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
