"""Device functions that emitted kernels call; only those a program needs are printed into its source."""

from __future__ import annotations

FLOOR_DIV = '''
@triton.jit
def floor_div(a, b):
    """a / b rounded towards minus infinity; Triton's // truncates."""
    quotient = a // b
    return tl.where((a - quotient * b != 0) & ((a < 0) != (b < 0)), quotient - 1, quotient)
'''

FLOOR_MOD = '''
@triton.jit
def floor_mod(a, b):
    """The remainder with the divisor's sign; Triton's % has the dividend's."""
    rest = a % b
    return tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)
'''

# Coefficients: Cephes, tanhf.c (S. Moshier).
TANH = '''
@triton.jit
def tanh(x):
    """Hyperbolic tangent: a polynomial near 0, where the other formula cancels, and 1 - 2 / (e^2|x| + 1) beyond."""
    z = x * x
    p = (((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z
    near = (p - 3.33332819422e-1) * z * x + x
    far = 1.0 - 2.0 / (tl.exp2(tl.abs(x) * 2.8853900817779268) + 1.0)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0, -far, far))
'''

# The counts stay exact: the tile along the sum is at most 256, so |sum of signs| < 512 and all partial sums < 2^24.
DOT_ZERO_SKIPS = '''
@triton.jit
def dot_zero_skips(a, b, init, precision: tl.constexpr):
    """init + a @ b where a weight of exactly 0 in a contributes nothing, whatever b holds.

    If b holds NaN or infinities, they are taken out of the product and what they add is found from two counts per
    element: of the hits, and of their signs.
    """
    finite = tl.abs(b) < float("inf")
    if tl.min(finite.to(tl.int32)) == 1:
        out = tl.dot(a, b, init, input_precision=precision)
    else:
        sign = tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, 0.0)).to(b.dtype)
        infinite = tl.where(b == float("inf"), 1.0, tl.where(b == float("-inf"), -1.0, 0.0)).to(b.dtype)
        hits = tl.dot(sign, infinite, input_precision=precision)
        hits = tl.dot(tl.abs(sign), tl.where(finite, 0.0, 1024.0).to(b.dtype), hits, input_precision=precision)
        count = tl.floor(hits / 1024.0 + 0.5)
        net = hits - 1024.0 * count
        extra = tl.where(net == count, float("inf"), tl.where(net == -count, float("-inf"), float("nan")))
        out = tl.dot(a, tl.where(finite, b, 0.0), init, input_precision=precision)
        out = tl.where(count > 0, out + extra, out)
    return out
'''

HELPERS = {"floor_div": FLOOR_DIV, "floor_mod": FLOOR_MOD, "tanh": TANH, "dot_zero_skips": DOT_ZERO_SKIPS}
