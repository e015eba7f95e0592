"""Box tiles that a bound's exponents suggest: where a search for schedules may begin."""

from __future__ import annotations

import math

import numpy as np

from flashc.iomodel.bound import Env
from flashc.iomodel.derive import Part
from flashc.iomodel.nests import extents, length


def box(part: Part, sizes: Env, fast_bytes: float) -> dict[str, int]:
    """Tile extents x_i for which access j takes the share s_j / sigma of fast memory: width * prod x_i = s_j M / sigma.

    Solved in logarithms with least squares; indices that nothing decides are 1, and no tile exceeds its index.
    """
    names = [i.name for i in part.statement.indices]
    shares = [s for s in part.shares if s.exponent > 0]
    table = np.array([[float(n in s.access.indices) for n in names] for s in shares])
    reuse = [math.log(max(s.access.reuse.evaluate(sizes), 1)) for s in shares]
    room = [math.log(max(float(s.exponent / part.sigma / s.width) * fast_bytes, 1.0)) for s in shares]
    logs, *_ = np.linalg.lstsq(table, np.array(room) + np.array(reuse), rcond=None)
    ranges = extents(part.statement.indices)
    most = {n: length(ranges[n]).evaluate(sizes) for n in names}
    return {n: max(1, min(math.floor(math.exp(x) + 1e-9), most[n])) for n, x in zip(names, logs, strict=True)}
