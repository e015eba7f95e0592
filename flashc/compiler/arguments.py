"""From the arguments of a call to an Invocation: sizes from shapes, dtypes checked, outputs allocated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np

from flashc.backends.base import Invocation
from flashc.compiler.workspace import temporary
from flashc.errors import ArgumentError
from flashc.ir.analysis import expressions, sites
from flashc.ir.interp import NUMPY
from flashc.ir.intexpr import Const, IntExpr, Sym
from flashc.ir.nodes import Program
from flashc.ir.scalar import Coord, fetches
from flashc.ir.types import Tensor

TORCH = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16",
    "i64": "int64", "i32": "int32", "bool": "bool",
}
_NAMES = {np.dtype(v): k for k, v in NUMPY.items()}
_KERNEL_INT = np.iinfo(np.int32)  # kernels compute with 32-bit integers, whatever a table is stored in


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

    ``sizes`` supplies integer symbols that no shape tells; ``outputs`` are tensors to write into. Raises
    ArgumentError naming the argument, what it has and what is allowed.
    """
    inputs = [t for t in program.tensors if t.role == "in"]
    takes = f"it takes {', '.join(t.name for t in inputs)}"
    unknown = sorted(set(given) - {t.name for t in inputs})
    if unknown:
        raise ArgumentError(f"{program.name}: unknown argument {unknown[0]!r}; {takes}")
    missing = [t.name for t in inputs if t.name not in given]
    if missing:
        raise ArgumentError(f"{program.name}: argument {missing[0]!r} is missing; {takes}")
    first = given[inputs[0].name]
    arrays = {t.name: _with_leading_ones(t, _checked(program, t, given[t.name], first)) for t in inputs}
    bound = {**sizes, **dict(program.fixed), **read_sizes(program, arrays)}
    bound.update(derive(bound))
    _check_coverage(program, bound)
    wanted = outputs or {}
    others = [t for t in program.tensors if t.role != "in"]
    made = {t.name: _made(program, t, first, bound, wanted.get(t.name)) for t in others}
    return Invocation({**arrays, **made}, bound, params)


# -- one argument


def _checked(program: Program, tensor: Tensor, value: Any, first: Any) -> Any:
    where = f"{program.name}: argument {tensor.name!r}"
    table = tensor.dtype.kind != "float" and not is_torch(value)  # lengths, masks: numpy beside torch is fine
    if is_torch(first) != is_torch(value) and not table and not isinstance(value, list | tuple):
        kinds = f"{type(value).__name__} beside a {type(first).__name__}"
        raise ArgumentError(f"{where} is {kinds}; give all numpy arrays or all torch tensors")
    if is_torch(first):
        return _checked_torch(where, tensor, value, first)
    array = np.asarray(value)
    if tensor.dtype.kind == "int" and array.dtype.kind in "iu":
        _check_range(where, array)
        array = array.astype(NUMPY[tensor.dtype.name], copy=False)
    if isinstance(value, list | tuple) and tensor.dtype.kind == "float":
        array = array.astype(NUMPY[tensor.dtype.name])
    _same_dtype(where, tensor, dtype_name(array))
    inner = array.ndim == 0 or array.shape[-1] <= 1 or array.strides[-1] == array.itemsize
    return array if inner and array.flags.aligned else np.ascontiguousarray(array)


def _checked_torch(where: str, tensor: Tensor, value: Any, first: Any) -> Any:
    torch = sys.modules["torch"]
    wanted = getattr(torch, TORCH[tensor.dtype.name])
    if not is_torch(value):
        if tensor.dtype.kind == "int":
            _check_range(where, np.asarray(value))
        value = torch.as_tensor(value, dtype=wanted, device=first.device)
    if value.requires_grad and torch.is_grad_enabled():
        fix = "call it under torch.no_grad() or detach it"
        raise ArgumentError(f"{where} requires grad, which only flashc.rnn serves; {fix}")
    if value.layout != torch.strided:
        raise ArgumentError(f"{where} has layout {value.layout}; give a strided (dense) tensor")
    if value.device != first.device:
        raise ArgumentError(f"{where} is on {value.device}, the first on {first.device}; move it there")
    value = value.resolve_neg()
    if tensor.dtype.kind == "int" and not value.dtype.is_floating_point and value.dtype != torch.bool:
        if value.device.type == "cpu":
            _check_range(where, value.numpy())
        value = value.to(wanted)
    _same_dtype(where, tensor, dtype_name(value))
    inner = value.dim() == 0 or value.shape[-1] <= 1 or value.stride(-1) == 1
    return value if inner else value.contiguous()


def _check_range(where: str, array: Any) -> None:
    if array.dtype.kind not in "iu" or np.can_cast(array.dtype, _KERNEL_INT.dtype) or not array.size:
        return
    for value in (int(array.min()), int(array.max())):
        if not _KERNEL_INT.min <= value <= _KERNEL_INT.max:
            raise ArgumentError(f"{where} holds {value}; kernels compute with 32-bit integers")


def _same_dtype(where: str, tensor: Tensor, found: str) -> None:
    wanted = tensor.dtype.name
    if found != wanted:
        fix = f"convert it, or compile for {found}"
        raise ArgumentError(f"{where} has dtype {found}; this kernel was compiled for {wanted}: {fix}")


def _with_leading_ones(tensor: Tensor, array: Any) -> Any:
    """Dimensions of size 1 that the argument leaves out in front, as numpy broadcasting does."""
    absent = len(tensor.dims) - array.ndim
    if absent <= 0 or any(d != Const(1) for d in tensor.dims[:absent]):
        return array
    return array.reshape((1,) * absent + tuple(array.shape))


# -- sizes


def read_sizes(program: Program, arrays: Mapping[str, Any]) -> dict[str, int]:
    """Integer symbols from the shapes; every dimension must agree with the others and the fixed sizes."""
    known: dict[str, tuple[int, str]] = {n: (v, "the compiled kernel") for n, v in program.fixed}
    for tensor in (t for t in program.tensors if t.role == "in"):
        shape = tuple(arrays[tensor.name].shape)
        where = f"{program.name}: argument {tensor.name!r}"
        expected = "(" + ", ".join(str(d) for d in tensor.dims) + ")"
        if len(shape) != len(tensor.dims):
            wanted = f"expected {len(tensor.dims)} dimensions {expected}"
            raise ArgumentError(f"{where} has shape {shape}; {wanted}")
        for position, (dim, size) in enumerate(zip(tensor.dims, shape, strict=True)):
            _match(f"{where} has size {size} in dimension {position}", expected, tensor, dim, size, known)
    return {n: v for n, (v, _) in known.items()}


def _match(
    has: str, expected: str, tensor: Tensor, dim: IntExpr, size: int, known: dict[str, tuple[int, str]]
) -> None:
    if isinstance(dim, Const):
        if dim.value != size:
            raise ArgumentError(f"{has}; expected {dim.value} (shape {expected})")
    elif isinstance(dim, Sym):
        value, source = known.setdefault(dim.name, (size, f"argument {tensor.name!r}"))
        if value != size:
            raise ArgumentError(f"{has}; {dim.name} is {value} by {source} (shape {expected})")


@lru_cache(maxsize=256)
def _table_limits(program: Program) -> tuple[tuple[str, int, IntExpr, str, int], ...]:
    """(tensor, dimension, extent of the axis indexing it, axis, size) for tables of a compiled-in shape."""
    found = []
    for kernel in program.kernels:
        for site in sites(program, kernel):
            for node in (n for e in expressions(site.stmt) for n in fetches(e)):
                dims = program.tensor(node.tensor).dims
                for position, (index, dim) in enumerate(zip(node.index, dims, strict=True)):
                    if isinstance(index, Coord) and isinstance(dim, Const):
                        extent = program.axis(index.axis).extent
                        found.append((node.tensor, position, extent, index.axis, dim.value))
    return tuple(found)


def _check_coverage(program: Program, sizes: Mapping[str, int]) -> None:
    for tensor, position, extent, axis, limit in _table_limits(program):
        length = extent.evaluate(sizes)
        if length > limit:
            raise ArgumentError(
                f"{program.name}: dimension {position} of {tensor!r} has {limit} elements and is read at "
                f"{axis} up to {length - 1}; compile for longer tables"
            )


# -- outputs


def _made(program: Program, tensor: Tensor, like: Any, sizes: Mapping[str, int], given: Any) -> Any:
    shape = tuple(d.evaluate(sizes) for d in tensor.dims)
    if given is not None:
        return _checked_output(f"{program.name}: output {tensor.name!r}", tensor, given, shape, like)
    return maker(tensor, shape, like)()


def maker(tensor: Tensor, shape: tuple[int, ...], like: Any) -> Callable[[], Any]:
    """What makes an array of this shape for the tensor, of ``like``'s kind and on its device."""
    if is_torch(like):
        torch = sys.modules["torch"]
        dtype, device, on_cpu = getattr(torch, TORCH[tensor.dtype.name]), like.device, like.is_cpu
        make: Callable[[], Any] = partial(torch.empty, shape, dtype=dtype, device=device)
    else:
        dtype, on_cpu = NUMPY[tensor.dtype.name], True
        make = partial(np.empty, shape, dtype)
    return partial(temporary, tensor.name, shape, dtype, make) if tensor.role == "temp" and on_cpu else make


def _checked_output(where: str, tensor: Tensor, given: Any, shape: tuple[int, ...], like: Any) -> Any:
    if is_torch(given) != is_torch(like) or not hasattr(given, "shape"):
        kinds = f"{type(given).__name__} beside {type(like).__name__} inputs"
        raise ArgumentError(f"{where} is {kinds}; give the same kind")
    if tuple(given.shape) != shape:
        raise ArgumentError(f"{where} has shape {tuple(given.shape)}; expected {shape}")
    _same_dtype(where, tensor, dtype_name(given))
    if is_torch(given):
        _check_torch_output(where, given, like)
    elif not (given.flags.writeable and given.flags.aligned):
        raise ArgumentError(f"{where} is read-only or not aligned to its elements; pass a plain array")
    step = given.stride(-1) if is_torch(given) else given.strides[-1] // given.itemsize
    if shape and shape[-1] > 1 and step != 1:
        raise ArgumentError(f"{where} has stride {step} in its last dimension; it must be 1")
    return given


def _check_torch_output(where: str, given: Any, like: Any) -> None:
    if given.device != like.device:
        raise ArgumentError(f"{where} is on {given.device}, the inputs on {like.device}; move it there")
    if given.requires_grad and sys.modules["torch"].is_grad_enabled() or given.is_neg():
        raise ArgumentError(f"{where} requires grad or is a negated view; pass a plain tensor")
