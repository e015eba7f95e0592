"""How fast traces are made and simulated: one row per policy, about 1e8 accesses of 4 bytes each.

    python benchmarks/simulation_speed.py [side] [tile]     a product of two side x side matrices, square output tiles
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

from flashc.iomodel.segments import WRITE
from flashc.iomodel.simulate import Cache, Counts, belady, lru
from flashc.iomodel.trace import Trace, trace
from flashc.ops import registry
from flashc.ops.gemm_spec import GemmSpec

WORD = 4
CACHE = 1 << 20
POLICIES: dict[str, Callable[[Trace], Counts]] = {
    "LRU, fully associative": lambda t: lru(t, [Cache(CACHE, WORD)])[0],
    "LRU, 16 ways": lambda t: lru(t, [Cache(CACHE, WORD, 16)])[0],
    "Belady": lambda t: belady(t, Cache(CACHE, WORD)),
}


def main(side: int = 1472, tile: int = 64) -> None:
    operator = registry()["gemm"]
    spec = GemmSpec(batch=1, m=side, n=side, k=side, dtype="f32", out_dtype="f32")
    program = operator.schedules(spec)[0]
    env = {**operator.sizes(spec), "Ti": tile, "Tj": tile, "Tk": min(tile, 16), "stages": 1}
    for run in POLICIES.values():  # the simulators are compiled at first use
        run(trace(program, {**env, "M": 64, "N": 64, "K": 64}))
    for name, run in POLICIES.items():
        start = time.perf_counter()
        made = trace(program, env)
        between = time.perf_counter()
        run(made)
        end = time.perf_counter()
        segments = made.segments
        accesses = int(segments.bytes[segments.kind <= WRITE].sum()) // WORD
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{name}: {accesses / 1e6:.0f} M accesses in {len(segments) / 1e6:.1f} M segments, "
            f"trace {between - start:.1f} s, simulation {end - between:.1f} s, {memory:.1f} GB"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
