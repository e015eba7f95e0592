"""What surrounds a call of attention: values of sizes and parameters, inputs it may leave out, peers, smaller specs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flashc.ops.attention_spec import AttentionSpec

WIDEST = 2**30  # a wider window excludes nothing more, and positions stay within 32 bits


def offsets(spec: AttentionSpec) -> dict[str, int]:
    """Run-time integers besides the extents, with their values for this spec."""
    left, right = spec.window or (-1, -1)
    values = {"window_left": left, "window_right": right}
    found = {name: min(value, WIDEST) for name, value in values.items() if value >= 0}
    if isinstance(spec.q_offset, int):
        found["q_offset"] = spec.q_offset
    return found


def sizes(spec: AttentionSpec) -> dict[str, int]:
    extents = {
        "B": spec.batch,
        "Hq": spec.heads_q,
        "Hkv": spec.heads_kv,
        "G": spec.heads_q // spec.heads_kv,
        "Lq": spec.seq_q,
        "Lk": spec.seq_kv,
        "D": spec.head_dim,
        "E": spec.value_dim,
    }
    return {**extents, **offsets(spec)}


def params(spec: AttentionSpec) -> dict[str, float]:
    scale = spec.scale if spec.scale is not None else 1.0 / math.sqrt(spec.head_dim)
    return {"scale": scale, **({"softcap": spec.softcap} if spec.softcap is not None else {})}


def tables(spec: AttentionSpec) -> dict[str, Sequence[int]]:
    found = {"kv_lengths": spec.kv_lengths, "q_offset": spec.q_offset}
    return {name: value for name, value in found.items() if isinstance(value, tuple)}


def standard_slopes(heads: int) -> list[float]:
    """ALiBi slopes (Press et al. 2022): 2^(-8 n / H), interleaved where H is not a power of two."""
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (n + 1) / power) for n in range(power)]
    extra = [2.0 ** (-4.0 * (2 * n + 1) / power) for n in range(heads - power)]
    return slopes + extra


def defaults(spec: AttentionSpec) -> dict[str, Any]:
    """The lengths and offsets written in the workload, and the standard ALiBi slopes."""
    return {**tables(spec), **({"alibi_slopes": standard_slopes(spec.heads_q)} if spec.alibi else {})}


def examples(spec: AttentionSpec, rng: Any) -> dict[str, Any]:
    """A mask that keeps about 3 pairs in 4."""
    if spec.mask_shape is None:
        return {}
    return {"mask": rng.random((1,) * (4 - len(spec.mask_shape)) + tuple(spec.mask_shape)) < 0.75}


def reduced(spec: AttentionSpec) -> AttentionSpec:
    """The same features on at most 2 batches, 2 key heads, lengths of 150: two tiles and a tail for interpreters."""
    batch, group = min(spec.batch, 2), min(spec.heads_q // spec.heads_kv, 2)
    heads_kv, n, m = min(spec.heads_kv, 2), min(spec.seq_q, 150), min(spec.seq_kv, 150)
    full = (batch, heads_kv * group, n, m)

    def shrunk(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return (
            None
            if shape is None
            else tuple(1 if s == 1 else f for s, f in zip(shape, full[-len(shape) :], strict=True))
        )

    lengths = spec.kv_lengths and tuple(x * m // max(spec.seq_kv, 1) for x in spec.kv_lengths[:batch])
    offset = spec.q_offset[:batch] if isinstance(spec.q_offset, tuple) else spec.q_offset
    window = spec.window and (min(spec.window[0], 40), min(spec.window[1], 40))
    return dataclasses.replace(
        spec,
        batch=batch,
        heads_q=heads_kv * group,
        heads_kv=heads_kv,
        seq_q=n,
        seq_kv=m,
        kv_lengths=lengths,
        q_offset=offset,
        window=window,
        bias_shape=shrunk(spec.bias_shape),
        mask_shape=shrunk(spec.mask_shape),
    )


FORCED = {"flash": "FLASH_ATTENTION", "cuDNN": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}


def peers(spec: AttentionSpec, tensors: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """torch's scaled_dot_product_attention, where it offers the same feature set.

    For one query of grouped heads also as its users write it, a group as query rows; on a GPU once for
    each of torch's own kernels, which raises RuntimeError where that kernel does not take the call.
    """
    import torch

    beyond = (spec.softcap, spec.kv_lengths, spec.score, spec.keep, spec.bias_shape and spec.mask_shape)
    shifted = spec.q_offset is not None or (spec.causal and spec.seq_q != spec.seq_kv)
    if any(x is not None for x in beyond) or spec.alibi or shifted or "lse" in spec.outputs:
        return {}
    extra = tensors.get("bias", tensors.get("mask"))
    banded = spec.window is not None
    if (spec.causal or banded) and extra is not None or banded and spec.seq_q != spec.seq_kv:
        return {}
    if banded:
        extra = _band(spec, tensors["q"].device)

    def run() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(
            tensors["q"],
            tensors["k"],
            tensors["v"],
            attn_mask=extra,
            is_causal=spec.causal and not banded,
            scale=spec.scale,
            enable_gqa=spec.heads_q != spec.heads_kv,
        )

    def packed() -> Any:
        q, shape = tensors["q"], (spec.batch, spec.heads_kv, -1, spec.head_dim)
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(q.reshape(shape), tensors["k"], tensors["v"], scale=spec.scale)

    found: dict[str, Callable[[], Any]] = {"torch SDPA": run}
    if spec.heads_q != spec.heads_kv and spec.seq_q == 1 and extra is None:
        found["torch SDPA, a group's heads as rows"] = packed
    if not tensors["q"].is_cuda:
        return found
    kernels = ((kernel, backend, call) for kernel, backend in FORCED.items() for call in found.items())
    return {f"{name} {kernel}": forced(call, backend) for kernel, backend, (name, call) in kernels}


def _band(spec: AttentionSpec, device: Any) -> Any:
    """The pairs inside the window as a mask, which is how torch takes one."""
    import torch

    assert spec.window is not None
    left, right = spec.window
    ahead = torch.arange(spec.seq_kv, device=device) - torch.arange(spec.seq_q, device=device)[:, None]
    kept = (ahead >= -left) if left >= 0 else torch.ones_like(ahead, dtype=torch.bool)
    if spec.causal or right >= 0:
        kept &= ahead <= (0 if spec.causal else right)
    return kept


def forced(run: Callable[[], Any], backend: str) -> Callable[[], Any]:
    """The call with one of torch's kernels (a name in torch.nn.attention.SDPBackend) and no other."""

    def under() -> Any:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(getattr(SDPBackend, backend)):
            return run()

    return under
