"""Operators as functions of arrays: no workload file, one compiled kernel per class of calls.

A class is what is compiled in: element type, head dimensions, which features are used, expressions. Batch,
heads, lengths, strides and scalar factors are run-time arguments, so a new length never compiles anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from flashc.compiler.arguments import dtype_name, invocation
from flashc.compiler.calls import Repeats, repeat_of
from flashc.compiler.classes import device_of, kernel_of
from flashc.errors import ArgumentError

SHORT_QUERIES = 16  # at most this many query rows: tuned as decode
FARTHEST = 2**30  # of positions and windows: their sums stay within 32 bits
_TUNED = {True: (16, 4096), False: (2048, 2048)}  # (queries, keys) that a class is tuned for: short, long
_TUNED_BATCH, _TUNED_HEADS = 2, 8  # not 1: a side of 1 would stand for a broadcast
_TUNED_WINDOW = 512


def attention(
    q: Any, k: Any, v: Any, *, causal: bool = False, q_offset: Any = None,
    window: Sequence[int] | None = None, bias: Any = None, mask: Any = None, alibi_slopes: Any = None,
    score: str | None = None, keep: str | None = None, captures: Mapping[str, Any] | None = None,
    scale: float | None = None, softcap: float | None = None, kv_lengths: Any = None,
    return_lse: bool = False, out: Any = None, device: str | None = None,
) -> Any:
    """Attention of q (B, Hq, Lq, D) over k (B, Hkv, Lk, D) and v (B, Hkv, Lk, E): (B, Hq, Lq, E).

    numpy arrays or torch tensors of one dtype (f32, f16, bf16), any strides; Hq is a multiple of Hkv.
    ``bias`` is added to the scaled scores and ``mask`` (bool, True keeps) excludes, both broadcast to
    (B, Hq, Lq, Lk); -inf in ``bias`` excludes too. ``q_offset`` is the position of query row 0 (an int or
    one per batch), Lk - Lq by default. ``window`` (left, right) keeps qpos - left <= j <= qpos + right, -1 is
    open. ``score`` and ``keep`` are expressions (docs/expressions.md) over ``captures``. A row with nothing to
    attend to gives 0 and lse -inf. ``out`` receives the result; it must not overlap the inputs.

    Raises ArgumentError for wrong shapes, dtypes or tensors that require grad; WorkloadError for impossible
    options; DeviceAbsentError where ``device`` is not in this machine.
    """
    arrays = (q, k, v) if out is None else (q, k, v, out)
    alone = bias is None and mask is None and alibi_slopes is None and captures is None and kv_lengths is None
    options = (causal, q_offset, window, score, keep, scale, softcap, return_lse, device)
    repeat = _repeats.find(options, arrays) if alone else None
    if repeat is not None:
        return repeat(arrays)
    shape = _shapes(q, k, v)
    reach = _reach(window)
    document, inputs = _document(
        shape, dtype_name(q), causal=causal, q_offset=q_offset, window=reach, bias=bias, mask=mask,
        alibi_slopes=alibi_slopes, score=score, keep=keep, captures=captures or {}, scale=scale,
        softcap=softcap, kv_lengths=kv_lengths, return_lse=return_lse,
    )
    kernel = kernel_of(document, device_of(q, device))
    sizes = dict(zip(("B", "Hq", "Hkv", "Lq", "Lk"), shape, strict=False))
    sizes.update(zip(("window_left", "window_right"), reach or (-1, -1), strict=True))
    if isinstance(q_offset, Integral):
        sizes["q_offset"] = _bounded("q_offset", q_offset, -FARTHEST)
    params = _factors(shape[5], scale, softcap)
    given = {"q": q, "k": k, "v": v, **inputs}
    outputs = {"o": out} if out is not None else {}
    call = invocation(kernel.program, given, sizes, params, kernel.operator.derive, outputs)
    kernel.executable(call)
    if alone:
        names = ("q", "k", "v", "o")[: len(arrays)]
        _repeats.keep(options, arrays, lambda: repeat_of(kernel.executable, kernel.program, call, names, arrays))
    return (call.tensors["o"], call.tensors["lse"]) if return_lse else call.tensors["o"]


_repeats = Repeats()


def _shapes(q: Any, k: Any, v: Any) -> tuple[int, ...]:
    for name, value in (("q", q), ("k", k), ("v", v)):
        if getattr(value, "ndim", 0) != 4:
            has = tuple(getattr(value, "shape", ()))
            raise ArgumentError(f"attention: {name} must have 4 dimensions (B, H, L, D), it has shape {has}")
    (batch, heads_q, n, d), (_, heads_kv, m, _) = q.shape, k.shape
    if heads_kv == 0 or heads_q % heads_kv:
        raise ArgumentError(f"attention: q has {heads_q} heads, not a multiple of k's {heads_kv}")
    return int(batch), int(heads_q), int(heads_kv), int(n), int(m), int(d), int(v.shape[3])


def _reach(window: Sequence[int] | None) -> tuple[int, int] | None:
    if window is None:
        return None
    if len(window) != 2 or not all(isinstance(w, Integral) and w >= -1 for w in window):
        raise ArgumentError(f"attention: window is {window!r}; it must be (left, right), ints from -1 (open)")
    left, right = (min(int(w), FARTHEST) for w in window)
    return left, right


def _bounded(name: str, value: Any, least: int) -> int:
    if not least <= value <= FARTHEST:
        raise ArgumentError(f"attention: {name} is {value}; it must be from {least} to {FARTHEST}")
    return int(value)


def _factors(head_dim: int, scale: float | None, softcap: float | None) -> dict[str, float]:
    if scale is not None and not math.isfinite(scale):
        raise ArgumentError(f"attention: scale is {scale}; it must be finite")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ArgumentError(f"attention: softcap is {softcap}; it must be finite and above 0, or None")
    factor = float(scale) if scale is not None else 1.0 / math.sqrt(head_dim)
    return {"scale": factor, **({"softcap": float(softcap)} if softcap is not None else {})}


def _document(shape: tuple[int, ...], dtype: str, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The workload of the class, on the lengths it is tuned for, and the arrays beside q, k, v.

    Captured tables have compiled-in shapes that must cover the lengths, so their class has the call's own.
    """
    own, d, e = shape[:5], *shape[5:]
    tuned = (_TUNED_BATCH, _TUNED_HEADS, _TUNED_HEADS, *_TUNED[shape[3] <= SHORT_QUERIES])
    batch, heads_q, heads_kv, n, m = own if options["captures"] else tuned
    document: dict[str, Any] = {
        "op": "attention", "batch": batch, "heads": {"q": heads_q, "kv": heads_kv}, "seq": {"q": n, "kv": m},
        "head_dim": d, "value_dim": e, "dtype": dtype, "causal": bool(options["causal"]),
    }
    inputs: dict[str, Any] = {}
    for name in ("bias", "mask"):
        if options[name] is not None:
            inputs[name] = _four_dimensions(name, options[name])
            full = zip(inputs[name].shape, (batch, heads_q, n, m), strict=True)
            sides = [1 if side == 1 else extent for side, extent in full]
            document[name] = {
                "shape": sides, **({"dtype": dtype_name(inputs[name])} if name == "bias" else {})
            }
    if options["kv_lengths"] is not None:
        inputs["kv_lengths"], document["kv_lengths"] = options["kv_lengths"], [m] * batch
    if options["q_offset"] is not None:
        listed = not isinstance(options["q_offset"], Integral)
        document["q_offset"] = [m - n] * batch if listed else max(m - n, 0)
        inputs.update({"q_offset": options["q_offset"]} if listed else {})
    if options["alibi_slopes"] is not None:
        inputs["alibi_slopes"], document["alibi"] = options["alibi_slopes"], True
    if options["window"] is not None:
        document["window"] = [_tuned_window(w) for w in options["window"]]
    if options["softcap"] is not None:
        document["softcap"] = 1.0
    for name, array in options["captures"].items():
        inputs[name] = _array(name, array)
        shown = {"shape": list(array.shape), "dtype": dtype_name(array)}
        document.setdefault("captures", {})[name] = shown
    document.update({name: options[name] for name in ("score", "keep") if options[name] is not None})
    document["outputs"] = ["o", "lse"] if options["return_lse"] else ["o"]
    return document, inputs


def _tuned_window(reach: int) -> int:
    """The reach that a class is tuned for: the next power of two, so that few classes serve all windows."""
    return -1 if reach < 0 else min(1 << reach.bit_length(), _TUNED_WINDOW)


def _array(name: str, value: Any) -> Any:
    if not hasattr(value, "ndim"):
        kind = type(value).__name__
        raise ArgumentError(f"attention: {name} is a {kind}; give a numpy array or a torch tensor")
    return value


def _four_dimensions(name: str, value: Any) -> Any:
    array = _array(name, value)
    if array.ndim > 4:
        raise ArgumentError(f"attention: {name} has {array.ndim} dimensions; at most 4 (B, Hq, Lq, Lk)")
    return array.reshape((1,) * (4 - array.ndim) + tuple(array.shape))
