"""A repeated call skips the checks of the first one, and gives what the first one would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import flashc
from flashc.compiler.alike import RELEASES, alike_of
from flashc.compiler.calls import Repeats
from flashc.errors import ArgumentError

WORKLOAD = {"op": "attention", "batch": 1, "heads": 2, "seq": 40, "head_dim": 16, "dtype": "fp32"}


@pytest.fixture(scope="module")
def kernel() -> Any:
    return flashc.compile(WORKLOAD)


def tensors(seed: int, length: int = 40, heads: int = 2) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(1, heads, length, 16, generator=made) for _ in range(3)]


def expected(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **more: Any) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), **more)


def test_calls_of_one_signature_read_their_own_tensors(kernel: Any) -> None:
    results = [(kernel(*tensors(seed)), expected(*tensors(seed))) for seed in range(4)]
    for got, want in results:  # all alive at once: no call may write into another's result
        assert torch.allclose(got.double(), want, atol=1e-5)


@pytest.mark.parametrize("length", [1, 40, 57])
def test_every_shape_and_stride_is_its_own_signature(kernel: Any, length: int) -> None:
    plain = tensors(length, length)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in plain]
    for _ in range(2):
        assert torch.allclose(kernel(*plain).double(), expected(*plain), atol=1e-5)
        assert torch.allclose(kernel(*strided).double(), expected(*plain), atol=1e-5)


def test_named_arguments_and_out_repeat_too(kernel: Any) -> None:
    for seed in range(3):
        q, k, v = tensors(seed)
        out = torch.empty_like(q)
        assert kernel(q, v=v, k=k, out=out) is out
        assert torch.allclose(out.double(), expected(q, k, v), atol=1e-5)


def test_numpy_arrays_repeat_too(kernel: Any) -> None:
    for seed in range(3):
        plain = tensors(seed)
        assert np.allclose(kernel(*(x.numpy() for x in plain)), expected(*plain).numpy(), atol=1e-5)


def test_a_negated_view_is_its_own_signature(kernel: Any) -> None:
    """Contiguous like any other, but its memory holds the numbers with the other sign."""
    q, k, v = tensors(0)
    negated = torch._neg_view(q)
    assert negated.is_contiguous() and negated.is_neg()
    for x in (q, negated, q, negated):
        assert torch.allclose(kernel(x, k, v).double(), expected(x.resolve_neg(), k, v), atol=1e-5)


def test_a_repeat_never_skips_a_refusal(kernel: Any) -> None:
    q, k, v = tensors(0)
    with torch.no_grad():
        for _ in range(2):
            kernel(q.clone().requires_grad_(), k, v)
    for _ in range(2):
        with pytest.raises(ArgumentError, match="requires grad"):
            kernel(q.clone().requires_grad_(), k, v)
        with pytest.raises(ArgumentError, match="dtype f64"):
            kernel(q.double(), k, v)
        with pytest.raises(ArgumentError, match="'q' is given twice"):
            kernel(q, k, v, q=q)
        with pytest.raises(ArgumentError, match="unknown argument 'o'"):
            kernel(q, k, v, o=q)


def test_a_converted_argument_is_converted_at_every_call(kernel: Any) -> None:
    q, k, v = tensors(1)
    for scale in (1.0, 2.0):
        wide = torch.empty(1, 2, 40, 32)
        wide[..., ::2] = q * scale
        assert torch.allclose(kernel(wide[..., ::2], k, v).double(), expected(q * scale, k, v), atol=1e-5)


def test_the_function_repeats_with_every_option_in_its_signature() -> None:
    q, k, v = tensors(2)
    for _ in range(2):
        assert torch.allclose(flashc.attention(q, k, v).double(), expected(q, k, v), atol=1e-5)
        causal = flashc.attention(q, k, v, causal=True)
        assert torch.allclose(causal.double(), expected(q, k, v, is_causal=True), atol=1e-5)
        scaled = flashc.attention(q, k, v, scale=0.5)
        assert torch.allclose(scaled.double(), expected(q, k, v, scale=0.5), atol=1e-5)
        out, lse = flashc.attention(q, k, v, return_lse=True)
        assert torch.allclose(out.double(), expected(q, k, v), atol=1e-5)
        assert torch.allclose(lse.double(), (q.double() @ k.double().mT / 4).logsumexp(-1), atol=1e-5)
        local = torch.ones(40, 40).tril().triu(-3).bool()
        windowed = flashc.attention(q, k, v, window=[3, 0])
        assert torch.allclose(windowed.double(), expected(q, k, v, attn_mask=local), atol=1e-5)
        bias = torch.randn(40, 40, generator=torch.Generator().manual_seed(5))
        assert torch.allclose(
            flashc.attention(q, k, v, bias=bias).double(), expected(q, k, v, attn_mask=bias.double()), atol=1e-5
        )


def test_threads_share_a_kernel(kernel: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def run(seed: int) -> bool:
        plain = tensors(seed)
        return torch.allclose(kernel(*plain).double(), expected(*plain), atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(64)))


class _Subclass(torch.Tensor):
    pass


CHANGED = {
    "shape": lambda q: q[:, :, :8],
    "strides": lambda q: q.transpose(1, 2).contiguous().transpose(1, 2),
    "element type": lambda q: q.double(),
    "requires_grad": lambda q: q.clone().requires_grad_(),
    "a negated view": torch._neg_view,
    "device": lambda q: q.to("meta"),
    "subclass": lambda q: q.as_subclass(_Subclass),
    "layout": lambda q: q.to_sparse(),
    "no tensor": lambda q: q.numpy(),
}


@pytest.mark.skipif(not torch.__version__.startswith(RELEASES), reason=f"asked only of torch {RELEASES}")
@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_tensors_are_alike_only_if_all_that_the_checks_read_is(change: Any) -> None:
    alike = alike_of(tensors(0))
    assert alike is not None and alike(*tensors(1))
    for position in range(3):
        others = tensors(2)
        others[position] = change(others[position])
        assert not alike(*others)
    with pytest.raises(TypeError):
        alike(*tensors(0), torch.zeros(1))


def test_other_releases_of_torch_are_not_asked(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashc.compiler.alike.RELEASES", ("0.0.",))
    assert alike_of(tensors(0)) is None
    test_every_shape_and_stride_is_its_own_signature(kernel, 23)


def test_options_and_arguments_may_change_from_call_to_call() -> None:
    """The latest call's options are compared first, also with ones that are arrays."""
    q, k, v = tensors(3)
    offsets = torch.tensor([0])
    for _ in range(2):
        for _ in range(2):
            assert torch.allclose(flashc.attention(q, k, v).double(), expected(q, k, v), atol=1e-5)
        for offset in (0, offsets, offsets.numpy()):
            causal = flashc.attention(q, k, v, causal=True, q_offset=offset)
            assert torch.allclose(causal.double(), expected(q, k, v, is_causal=True), atol=1e-5)
        assert torch.allclose(flashc.attention(q, k, k).double(), expected(q, k, k), atol=1e-5)
        out = torch.empty_like(q)
        assert flashc.attention(q, k, v, out=out) is out


def test_nothing_is_worked_out_for_a_call_that_cannot_be_found_again() -> None:
    made: list[str] = []
    repeats = Repeats()
    q, k, v = tensors(4)
    repeats.keep(([3, 0],), (q, k, v), lambda: made.append("an option that is a list"))
    repeats.keep((), ([1.0], k, v), lambda: made.append("an argument that is a list"))
    assert not made
    repeats.keep((), (q, k, v), lambda: list)
    assert repeats.find((), tensors(5)) is list
