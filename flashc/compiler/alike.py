"""Whether tensors are like those of an earlier call, asked of torch at once.

torch.compile guards its graphs with such a question: Python type, dispatch keys (device, negated and lazy views,
transforms), element type, requires_grad, shape and strides of all tensors in a third of a microsecond; read one by one
from Python they take half a microsecond for each tensor. It is no public interface, so it is asked only of releases
that tests/test_repeated_calls.py ran on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

RELEASES = ("2.13.",)

Alike = Callable[..., bool]
"""Whether the arguments, as many as the earlier call's, are like them. TypeError for another number."""


def alike_of(tensors: Sequence[Any]) -> Alike | None:
    """The question for torch ``tensors``, which it does not keep alive; None where this torch's is not known."""
    torch = sys.modules["torch"]
    if not torch.__version__.startswith(RELEASES):
        return None
    guards = torch._C._dynamo.guards.TensorGuards(
        *tensors,
        dynamic_dims_sizes=[list(t.shape) for t in tensors],
        dynamic_dims_strides=[list(t.stride()) for t in tensors],
    )
    return guards.check  # type: ignore[no-any-return]
