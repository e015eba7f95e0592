"""Operators as functions of arrays: no workload file, one compiled kernel per class of calls.

A class is what is compiled in: element type, head dimensions, which features are used, expressions. Batch, heads,
lengths, strides and scalar factors are run-time arguments, so a new length never compiles anything.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from flashc.compiler.arguments import dtype_name, invocation, is_torch
from flashc.compiler.kernel import Kernel, compile_for
from flashc.compiler.workload import Workload, load_workload
from flashc.errors import ArgumentError
from flashc.hwmodels.load import load_device

SHORT_QUERIES = 16  # at most this many query rows: tuned as decode
_TUNED = {True: (16, 4096), False: (2048, 2048)}  # (queries, keys) that a class is tuned for: short, long
_lock = threading.Lock()


def attention(
    q: Any, k: Any, v: Any, *, causal: bool = False, q_offset: Any = None, window: Sequence[int] | None = None,
    bias: Any = None, mask: Any = None, alibi_slopes: Any = None, score: str | None = None, keep: str | None = None,
    captures: Mapping[str, Any] | None = None, scale: float | None = None, softcap: float | None = None,
    kv_lengths: Any = None, return_lse: bool = False, out: Any = None, device: str | None = None,
) -> Any:
    """Attention of q (B, Hq, Lq, D) over k (B, Hkv, Lk, D) and v (B, Hkv, Lk, E): (B, Hq, Lq, E), and lse if asked.

    numpy arrays or torch tensors of one dtype (f32, f16, bf16), any strides; Hq is a multiple of Hkv. ``bias`` is added
    to the scaled scores and ``mask`` (bool, True keeps) excludes, both broadcast to (B, Hq, Lq, Lk); -inf in ``bias``
    excludes too. ``q_offset`` is the position of query row 0 (an int or one per batch), Lk - Lq by default. ``score``
    and ``keep`` are expressions (docs/expressions.md) over ``captures``. A row with nothing to attend to gives 0.

    Raises ArgumentError for wrong shapes, dtypes or tensors that require grad; WorkloadError for impossible options.
    """
    shape = _shapes(q, k, v)
    document, inputs = _document(
        shape, dtype_name(q), causal=causal, q_offset=q_offset, window=window, bias=bias, mask=mask,
        alibi_slopes=alibi_slopes, score=score, keep=keep, captures=captures or {}, scale=scale, softcap=softcap,
        kv_lengths=kv_lengths, return_lse=return_lse,
    )
    kernel = _kernel(_frozen(document), _device_of(q, device))
    batch, heads_q, heads_kv, n, m = shape[:5]
    sizes = {"B": batch, "Hq": heads_q, "Hkv": heads_kv, "Lq": n, "Lk": m}
    left, right = window or (-1, -1)
    sizes.update({"window_left": int(left), "window_right": int(right)})
    if isinstance(q_offset, int):
        sizes["q_offset"] = q_offset
    factor = scale if scale is not None else 1.0 / math.sqrt(shape[5])
    params = {"scale": float(factor), **({"softcap": float(softcap)} if softcap is not None else {})}
    given = {"q": q, "k": k, "v": v, **inputs}
    call = invocation(kernel.program, given, sizes, params, kernel.operator.derive, {"o": out} if out is not None else {})
    kernel.executable(call)
    return (call.tensors["o"], call.tensors["lse"]) if return_lse else call.tensors["o"]


def _shapes(q: Any, k: Any, v: Any) -> tuple[int, ...]:
    for name, value in (("q", q), ("k", k), ("v", v)):
        if getattr(value, "ndim", 0) != 4:
            raise ArgumentError(f"attention: {name} must have 4 dimensions (B, H, L, D), it has shape {tuple(getattr(value, 'shape', ()))}")
    (batch, heads_q, n, d), (_, heads_kv, m, _) = q.shape, k.shape
    if heads_kv == 0 or heads_q % heads_kv:
        raise ArgumentError(f"attention: q has {heads_q} heads, not a multiple of k's {heads_kv}")
    return int(batch), int(heads_q), int(heads_kv), int(n), int(m), int(d), int(v.shape[3])


def _document(shape: tuple[int, ...], dtype: str, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The workload of the class, on the lengths it is tuned for, and the arrays beside q, k, v.

    Captured tables have compiled-in shapes that must cover the lengths, so their class has the call's own lengths.
    """
    batch, heads_q, heads_kv, n, m, d, e = shape
    tuned_n, tuned_m = _TUNED[n <= SHORT_QUERIES]
    batch, heads_q, heads_kv, tuned_n, tuned_m = shape[:5] if options["captures"] else (1, 8, 8, tuned_n, tuned_m)
    full = (batch, heads_q, tuned_n, tuned_m)
    document: dict[str, Any] = {
        "op": "attention", "batch": batch, "heads": {"q": heads_q, "kv": heads_kv}, "seq": {"q": tuned_n, "kv": tuned_m},
        "head_dim": d, "value_dim": e, "dtype": dtype, "causal": bool(options["causal"]),
    }
    inputs: dict[str, Any] = {}
    for name in ("bias", "mask"):
        if options[name] is not None:
            inputs[name] = _four_dimensions(name, options[name])
            sides = [1 if s == 1 else full[a] for a, s in enumerate(inputs[name].shape)]
            document[name] = {"shape": sides, **({"dtype": dtype_name(inputs[name])} if name == "bias" else {})}
    if options["kv_lengths"] is not None:
        inputs["kv_lengths"], document["kv_lengths"] = options["kv_lengths"], [tuned_m] * batch
    if options["q_offset"] is not None:
        listed = not isinstance(options["q_offset"], int)
        document["q_offset"] = [tuned_m - tuned_n] * batch if listed else max(tuned_m - tuned_n, 0)
        inputs.update({"q_offset": options["q_offset"]} if listed else {})
    if options["alibi_slopes"] is not None:
        inputs["alibi_slopes"], document["alibi"] = options["alibi_slopes"], True
    if options["window"] is not None:
        document["window"] = [-1 if w < 0 else min(int(w), 512) for w in options["window"]]
    if options["softcap"] is not None:
        document["softcap"] = 1.0
    for name, array in options["captures"].items():
        inputs[name] = array
        document.setdefault("captures", {})[name] = {"shape": list(array.shape), "dtype": dtype_name(array)}
    document.update({name: options[name] for name in ("score", "keep") if options[name] is not None})
    document["outputs"] = ["o", "lse"] if options["return_lse"] else ["o"]
    return document, inputs


def _four_dimensions(name: str, array: Any) -> Any:
    if array.ndim > 4:
        raise ArgumentError(f"attention: {name} has {array.ndim} dimensions; at most 4 (B, Hq, Lq, Lk)")
    return array.reshape((1,) * (4 - array.ndim) + tuple(array.shape))


def _device_of(q: Any, device: str | None) -> str:
    if device is not None:
        return device
    return "native-gpu" if is_torch(q) and q.device.type != "cpu" else "native"


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in value.items())
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple) and value and all(isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str) for x in value):
        return {k: _thawed(v) for k, v in value}
    return [_thawed(v) for v in value] if isinstance(value, tuple) else value


def _kernel(document: Any, device: str) -> Kernel:
    with _lock:
        return _compiled(document, device)


@lru_cache(maxsize=512)
def _compiled(document: Any, device: str) -> Kernel:
    workload: Workload = load_workload(_thawed(document))
    return compile_for(workload, load_device(device))
