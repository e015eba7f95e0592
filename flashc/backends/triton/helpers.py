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
    """Hyperbolic tangent: a polynomial near 0, where the other formula cancels; 1 - 2 / (e^2|x| + 1) else."""
    z = x * x
    p = (((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z
    near = (p - 3.33332819422e-1) * z * x + x
    far = 1.0 - 2.0 / (tl.exp2(tl.abs(x) * 2.8853900817779268) + 1.0)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0, -far, far))
'''

DOT_ZERO_SKIPS = '''
@triton.jit
def dot_zero_skips(a, b, init):
    """init + a @ b where a weight of exactly 0 in a contributes nothing, whatever b holds.

    Only if b holds NaN or infinities is the sum done row by row of b, with zeros skipped.
    """
    if tl.min((tl.abs(b.to(tl.float32)) < float("inf")).to(tl.int32)) == 1:
        out = tl.dot(a, b, init, input_precision="ieee")
    else:
        out = init
        n = tl.arange(0, b.shape[0])
        for row in tl.range(0, b.shape[0], num_stages=1, disable_licm=True):
            weight = tl.sum(tl.where(n[None, :] == row, a, 0.0).to(tl.float32), 1)[:, None]
            value = tl.sum(tl.where(n[:, None] == row, b, 0.0).to(tl.float32), 0)[None, :]
            out += tl.where(weight == 0.0, 0.0, weight * value)
    return out
'''

HELPERS = {"floor_div": FLOOR_DIV, "floor_mod": FLOOR_MOD, "tanh": TANH, "dot_zero_skips": DOT_ZERO_SKIPS}
