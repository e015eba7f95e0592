"""From the arguments of a call to an Invocation: shapes to sizes, dtypes checked, outputs and workspaces allocated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from flashc.backends.base import Invocation
from flashc.errors import ArgumentError
from flashc.ir.analysis import expressions, sites
from flashc.ir.intexpr import Const, IntExpr, Sym
from flashc.ir.nodes import Program
from flashc.ir.scalar import Coord, fetches
from flashc.ir.types import Tensor

NUMPY: dict[str, Any] = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "i64": np.int64, "i32": np.int32, "bool": np.bool_,
}
TORCH = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64", "i32": "int32", "bool": "bool"}
_NAMES = {np.dtype(v): k for k, v in NUMPY.items()}


def is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def dtype_name(value: Any) -> str:
    """Our name of an array's element type, or the library's own where we have none."""
    if is_torch(value):
        return next((k for k, v in TORCH.items() if str(value.dtype) == f"torch.{v}"), str(value.dtype))
    return _NAMES.get(np.asarray(value).dtype, str(np.asarray(value).dtype))


def invocation(
    program: Program, given: Mapping[str, Any], sizes: Mapping[str, int], params: Mapping[str, float],
    derive: Callable[[Mapping[str, int]], dict[str, int]], outputs: Mapping[str, Any] | None = None,
) -> Invocation:
    """Check ``given`` (in-tensors by name) against the program and make everything a call needs.

    ``sizes`` supplies integer symbols that no shape tells. Raises ArgumentError naming the argument, what it has and
    what is allowed.
    """
    inputs = [t for t in program.tensors if t.role == "in"]
    unknown = sorted(set(given) - {t.name for t in inputs})
    if unknown:
        raise ArgumentError(f"{program.name}: unknown argument {unknown[0]!r}; it takes {', '.join(t.name for t in inputs)}")
    missing = [t.name for t in inputs if t.name not in given]
    if missing:
        raise ArgumentError(f"{program.name}: argument {missing[0]!r} is missing; it takes {', '.join(t.name for t in inputs)}")
    first = given[inputs[0].name]
    arrays = {t.name: _with_leading_ones(t, _checked(program, t, given[t.name], first)) for t in inputs}
    found = read_sizes(program, arrays)
    bound = {**sizes, **dict(program.fixed), **found}
    bound.update(derive(bound))
    _check_coverage(program, bound)
    made = {t.name: _made(program, t, first, bound, (outputs or {}).get(t.name)) for t in program.tensors if t.role != "in"}
    return Invocation({**arrays, **made}, bound, params)


def _checked(program: Program, tensor: Tensor, value: Any, first: Any) -> Any:
    where = f"{program.name}: argument {tensor.name!r}"
    if is_torch(first) != is_torch(value) and tensor.dtype.kind == "float" and not isinstance(value, list | tuple):
        raise ArgumentError(f"{where} is {type(value).__name__} beside a {type(first).__name__}; give all numpy arrays or all torch tensors")
    if is_torch(first):
        return _checked_torch(where, tensor, value, first)
    array = np.asarray(value)
    if tensor.dtype.kind == "int" and array.dtype.kind in "iu":
        array = array.astype(NUMPY[tensor.dtype.name])
    if isinstance(value, list | tuple) and tensor.dtype.kind == "float":
        array = array.astype(NUMPY[tensor.dtype.name])
    _same_dtype(where, tensor, dtype_name(array))
    if array.ndim and array.shape[-1] > 1 and array.strides[-1] != array.itemsize or not array.flags.aligned:
        array = np.ascontiguousarray(array)
    return array


@lru_cache(maxsize=256)
def _table_limits(program: Program) -> tuple[tuple[str, int, IntExpr, str, int], ...]:
    """(tensor, dimension, extent of the axis that indexes it, axis, size) for tables of a compiled-in shape."""
    found = []
    for kernel in program.kernels:
        for site in sites(program, kernel):
            for node in (n for e in expressions(site.stmt) for n in fetches(e)):
                dims = program.tensor(node.tensor).dims
                for position, (index, dim) in enumerate(zip(node.index, dims, strict=True)):
                    if isinstance(index, Coord) and isinstance(dim, Const):
                        found.append((node.tensor, position, program.axis(index.axis).extent, index.axis, dim.value))
    return tuple(found)


def _check_coverage(program: Program, sizes: Mapping[str, int]) -> None:
    for tensor, position, extent, axis, limit in _table_limits(program):
        length = extent.evaluate(sizes)
        if length > limit:
            raise ArgumentError(
                f"{program.name}: dimension {position} of {tensor!r} has {limit} elements and is read at {axis} up to {length - 1}; "
                "compile for longer tables"
            )


def _with_leading_ones(tensor: Tensor, array: Any) -> Any:
    """Dimensions of size 1 that the argument leaves out in front, as numpy broadcasting does."""
    absent = len(tensor.dims) - array.ndim
    if absent <= 0 or any(d != Const(1) for d in tensor.dims[:absent]):
        return array
    return array.reshape((1,) * absent + tuple(array.shape))


def _checked_torch(where: str, tensor: Tensor, value: Any, first: Any) -> Any:
    torch = sys.modules["torch"]
    if not is_torch(value):
        value = torch.as_tensor(value, dtype=getattr(torch, TORCH[tensor.dtype.name]), device=first.device)
    if value.requires_grad and torch.is_grad_enabled():
        raise ArgumentError(f"{where} requires grad, and flashc has no backward pass yet; call it under torch.no_grad() or detach it")
    if tensor.dtype.kind == "int" and not value.dtype.is_floating_point and dtype_name(value) != "bool":
        value = value.to(getattr(torch, TORCH[tensor.dtype.name]))
    if value.device != first.device:
        raise ArgumentError(f"{where} is on {value.device}, the first argument on {first.device}; move it there")
    _same_dtype(where, tensor, dtype_name(value))
    return value if value.dim() == 0 or value.shape[-1] <= 1 or value.stride(-1) == 1 else value.contiguous()


def _same_dtype(where: str, tensor: Tensor, found: str) -> None:
    if found != tensor.dtype.name:
        raise ArgumentError(f"{where} has dtype {found}; this kernel was compiled for {tensor.dtype.name}: convert it, or compile for {found}")


def read_sizes(program: Program, arrays: Mapping[str, Any]) -> dict[str, int]:
    """Integer symbols from the shapes; every dimension must agree with the others and with the fixed sizes."""
    known: dict[str, tuple[int, str]] = {n: (v, "the compiled kernel") for n, v in program.fixed}
    for tensor in (t for t in program.tensors if t.role == "in"):
        shape = tuple(arrays[tensor.name].shape)
        where = f"{program.name}: argument {tensor.name!r}"
        expected = "(" + ", ".join(str(d) for d in tensor.dims) + ")"
        if len(shape) != len(tensor.dims):
            raise ArgumentError(f"{where} has shape {shape}; expected {len(tensor.dims)} dimensions {expected}")
        for position, (dim, size) in enumerate(zip(tensor.dims, shape, strict=True)):
            _match(where, expected, tensor, position, dim, size, known)
    return {n: v for n, (v, _) in known.items()}


def _match(
    where: str, expected: str, tensor: Tensor, position: int, dim: IntExpr, size: int, known: dict[str, tuple[int, str]]
) -> None:
    if isinstance(dim, Const):
        if dim.value != size:
            raise ArgumentError(f"{where} has size {size} in dimension {position}; expected {dim.value} (shape {expected})")
    elif isinstance(dim, Sym):
        value, source = known.setdefault(dim.name, (size, f"argument {tensor.name!r}"))
        if value != size:
            raise ArgumentError(f"{where} has size {size} in dimension {position}; {dim.name} is {value} by {source} (shape {expected})")


def _made(program: Program, tensor: Tensor, like: Any, sizes: Mapping[str, int], given: Any) -> Any:
    shape = tuple(d.evaluate(sizes) for d in tensor.dims)
    if given is not None:
        return _checked_output(program, tensor, given, shape, like)
    if is_torch(like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, TORCH[tensor.dtype.name]), device=like.device)
    return np.empty(shape, NUMPY[tensor.dtype.name])


def _checked_output(program: Program, tensor: Tensor, given: Any, shape: tuple[int, ...], like: Any) -> Any:
    where = f"{program.name}: output {tensor.name!r}"
    if is_torch(given) != is_torch(like):
        raise ArgumentError(f"{where} is {type(given).__name__} beside {type(like).__name__} inputs; give the same kind")
    if tuple(given.shape) != shape:
        raise ArgumentError(f"{where} has shape {tuple(given.shape)}; expected {shape}")
    _same_dtype(where, tensor, dtype_name(given))
    step = given.stride(-1) if is_torch(given) else given.strides[-1] // given.itemsize
    if shape and shape[-1] > 1 and step != 1:
        raise ArgumentError(f"{where} has stride {step} in its last dimension; it must be 1: pass a contiguous one")
    return given
