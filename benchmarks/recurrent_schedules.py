"""Recurrent schedules as our model sees them on an H100, beside FlashRNN's lines and published times.

    python benchmarks/recurrent_schedules.py            # the section that benchmarks/solver.py ends its document with

No GPU is needed. The persistent schedule is solved as if a backend could emit it.
"""

from __future__ import annotations

from dataclasses import replace

from flashc.autotune import Check, explain, solve
from flashc.autotune.rates import barrier_ps, load_latency_ps
from flashc.backends.triton import BACKEND
from flashc.compiler.tune import Space, environment, space
from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device
from flashc.hwmodels.model import Device
from flashc.ops import registry

DEVICE = "h100_sxm"
STEPS, BATCH, UNITS = 1024, 16, 768
HEAD_DIMS = (16, 32, 64, 128, 256, 768)
SCHEDULES = ("per_head", "persistent", "per_step")
PUBLISHED = {16: "1.97", 32: "1.44", 64: "1.99", 128: "3.23"}  # ms, arXiv 2412.07752: forward, fused, Triton
NOT_EMITTED = "triton.grid_barriers."

LINES = (  # FlashRNN's, and ours
    (
        "`one_wave` Cg Ck Cb Mh <= SMs",
        "`device.persistent.steps`: N ceil(B / Tb) ceil(D / Tu) tasks <= cores. Both count one block per SM, "
        "whatever occupancy allows",
    ),
    (
        "`smem`",
        "`device.smem.steps`: an upper bound of one block's bytes, tile by tile: R's rows, h, scratch, padding "
        "included. FlashRNN's is a sum over all blocks divided by their number, less what it keeps in registers",
    ),
    (
        "`registers`",
        "`device.regs_min_live.steps`: per thread and not per block, of accumulators and states that must be "
        "alive together. FlashRNN counts R's fragments (without its gate loop Lg) and accumulators, no state and "
        "no bias. Here bias, inputs and temporaries are in the estimate of registers, which decides occupancy and "
        "modelled spills but refuses nothing; a compiled spill does",
    ),
    (
        "`threads` 32 W <= threads / 4",
        "the values of `warps` (1 to 16); the limit above instead of the quarter",
    ),
    (
        "`gate_split`, `batch_split`",
        "none: a task has Tu units of all gates and Tb sequences, and the last tile is masked, so nothing must "
        "divide",
    ),
    (
        "`k_split`, `fragments`, `warps`, Lb",
        "none: K is not split over tasks or warps by hand, there is no Q, and Triton's compiler lays a tile over "
        "the warps",
    ),
    (
        "`head_split` N % Mh == 0",
        "none: all heads are in one launch. With more tasks than cores there is no tiling, where FlashRNN "
        "launches the heads in turns",
    ),
    (
        "`tile` TB TG == 256, TB, TG",
        "the values of Tb and Tu: powers of two from 16, of which a dot takes any. K is padded to a power of two "
        "as well (768 to 1024), so a third more of R is held than FlashRNN's steps of 16 need; that is Triton's "
        "rule and not the program's",
    ),
    (
        "none",
        "`device.workspace`: the exchange buffer and all tensors fit the main memory",
    ),
)

TEXT = """
## Beside lines derived from a program

FlashRNN writes its lines by hand beside its kernel. Ours come out of walks over `recurrent.persistent`, the same idea
as a tile program: a task keeps its rows of R for all gates on chip, h passes through memory, all tasks wait for each
other in each step. For one head of {units} units, batch {batch}, on an {title}, with the tiles that the solver then
takes ({tiles}; the limit `{not_emitted}steps`,
that Triton has no barrier of all tasks, left out):

| constraint | needs | limit |
|---|---|---|
{checks}

FlashRNN has 14 lines: 11 with names in the file, and the values of TB, TG and Lb.

| FlashRNN's line | ours |
|---|---|
{lines}

For this head FlashRNN's first point has 96 blocks of 8 units (32 rows of R for the four gates), with K in four warps
each. Ours has 48 tasks of 16 units, the fewest columns that Triton's dots take: more of R per core, and half the
blocks at the barrier.

## What the time model says

LSTM forward, bf16, batch {batch}, T {steps}, N D = {units}, {title}, milliseconds, each schedule with its best tiles.
`per_head` and `per_step` are what the Triton backend emits; `persistent` is modelled only. None of the times has been
measured.

| D | {columns} | FlashRNN's fused Triton, measured |
|---|---|---|---|---|
{times}

FlashRNN's other kernels at these shapes, measured (same paper): alternating 7.8 to 10.8 ms, fused CUDA 2.9 to 4.9 ms.

The work of the units is small but for `per_head`, whose N tasks leave the other cores idle: at D = 128 six of 132
cores do all products. Per step and task the model adds

- a step of a loop: 100 ns that other streams may hide and 20 ns that nothing hides;
- `persistent`: a barrier, {barrier:.1f} us = three trips to the L2 cache (the store is seen, the counter rises, a
  waiting task sees it), and {latency:.1f} us of the load of h behind it, which cannot run ahead of the barrier;
- `per_step`: {launch:.0f} us for each launch. The product and the pointwise step are one launch here; the alternating
  kernels take two, and 2 x 1024 launches of {launch:.0f} us are 8.2 ms, about what was measured.

**Where it is wrong.** `per_head` comes out at up to twelve times less than measured, for another program of the same
idea. The model takes a loop for a pipeline: inputs of later steps are under way (they are: the emitted loop loads Wx
ahead), so it charges the busiest unit. But a step waits for the one before: rounding, the exchange of h between warps
through shared memory, the product and two exponentials follow each other, and the latency of that chain (some 1 to 2
us as measured, FlashRNN's loads included) is not in the model. `persistent` lacks the same chain. So the order of
`per_head` and `persistent` at D = 128 is not to be trusted; that both beat a launch per step, and that `per_head` has
no tiling from D = 256 on, is.
"""


def section() -> str:
    """The section as Markdown."""
    device = load_device(DEVICE)
    large, tiles, _ = solved("persistent", UNITS, device)
    assert large is not None
    rows = []
    for size in HEAD_DIMS:
        times = [_milliseconds(solved(name, size, device)[2]) for name in SCHEDULES]
        rows.append(f"| {size} | {' | '.join(times)} | {PUBLISHED.get(size, '')} |")
    return TEXT.format(
        units=UNITS, batch=BATCH, steps=STEPS, title=device.title, not_emitted=NOT_EMITTED,
        tiles=", ".join(f"{name} = {value}" for name, value in tiles.items()),
        checks="\n".join(_row(check) for check in explain(large.problem, tiles)), columns=" | ".join(SCHEDULES),
        times="\n".join(rows), lines="\n".join(f"| {theirs} | {ours} |" for theirs, ours in LINES),
        barrier=barrier_ps(device) / 1e6, latency=load_latency_ps(device) / 1e6,
        launch=device.launch_overhead_us,
    )


def solved(schedule: str, head_dim: int, device: Device) -> tuple[Space | None, dict[str, int], int | None]:
    """The schedule's space without the limit that nothing emits it, its best tiles and modelled picoseconds, if any."""
    keys = {"op": "recurrent", "cell": "lstm", "batch": BATCH, "steps": STEPS, "heads": UNITS // head_dim}
    workload = load_workload({**keys, "head_dim": head_dim, "dtype": "bf16"})
    operator = registry()[workload.op]
    program = next(p for p in operator.schedules(workload.spec) if p.schedule == schedule)
    found = space(program, BACKEND, device, environment(operator, workload.spec))
    kept = tuple(c for c in found.problem.constraints if not c.name.startswith(NOT_EMITTED))
    found = replace(found, problem=replace(found.problem, constraints=kept))
    solution = solve(found.problem)
    return (found, dict(solution.best[0]), solution.objectives[0]) if solution.best else (None, {}, None)


def _milliseconds(picoseconds: int | None) -> str:
    return "no tiling" if picoseconds is None else f"{picoseconds / 1e9:.2f}"


def _row(check: Check) -> str:
    return f"| {check.name} | {check.needs} | {check.limit} {check.unit} |"


if __name__ == "__main__":
    print(section(), end="")
