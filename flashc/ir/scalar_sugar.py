"""Functions that users may write and that are shorthand for others: the program text has what they stand for."""

from __future__ import annotations

from collections.abc import Callable

from flashc.ir.scalar import Scalar, ScalarLike, as_scalar, exp, log, minimum, tanh


def sigmoid(x: ScalarLike) -> Scalar:
    """1 / (1 + exp(-x)) as a hyperbolic tangent: neither it nor its derivative overflows."""
    return 0.5 * tanh(0.5 * as_scalar(x)) + 0.5


def logsigmoid(x: ScalarLike) -> Scalar:
    """log(sigmoid(x)), where the exponential is at most 1."""
    x = as_scalar(x)
    return minimum(x, 0.0) - log(1.0 + exp(-abs(x)))


SUGAR: dict[str, Callable[[ScalarLike], Scalar]] = {"logsigmoid": logsigmoid, "sigmoid": sigmoid}
