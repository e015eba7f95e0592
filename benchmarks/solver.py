"""FlashRNN's tiling problems in our solver: answers, proofs and times, as docs/flashrnn_solver.md shows them.

    python benchmarks/solver.py > docs/flashrnn_solver.md         # a minute on one core

The problems are tests/data/flashrnn_*.cst, the settings those of tests/flashrnn_cases.py.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from flashrnn_cases import DIRECTIONS, ROWS, Row, blocks, problems  # noqa: E402
from recurrent_schedules import section  # noqa: E402

from flashc.autotune import Problem, Solution, solve  # noqa: E402

REPEATS = 5

HEAD = """# FlashRNN's tilings in our solver

Written by `python benchmarks/solver.py > docs/flashrnn_solver.md`. FlashRNN (arXiv 2412.07752) chooses the tiles of its
fused kernel with a solver of its own, ConstrINT: 14 lines of constraints for each pass, no objective, the first point
in a fixed order of the variables. [flashrnn_forward.cst](../tests/data/flashrnn_forward.cst) and
[flashrnn_backward.cst](../tests/data/flashrnn_backward.cst) are these lines in our constraint language. Both solvers
give the same answers ([test_constrint.py](../tests/test_constrint.py)); ConstrINT took 3 to 106 s for both passes
together where there is a tiling.

| B, N, D | on | pass | blocks | Q | proof | rows | ms |
|---|---|---|---|---|---|---|---|
"""

TAIL = """
B: rows of the batch; N: heads; D: units of a head; blocks: of a launch; Q: fragments of R that a warp keeps in
registers; proof: who ruled out all that comes before the answer, or everything (propagation: bounds and divisibility
alone); rows: partial assignments looked at; ms: processor time, median of {repeats} solutions.

- **Largest head.** bf16, batch 8, one head, 132 SMs: 2688. It has exactly one forward tiling, and none of 2704, 2720
  ... 3072 has one. A test compares all tilings of some heads with plain loops over divisors.
- **2560** has 2 tilings when Q is left out, which is how they were counted before, and 16 points with it (3 and 13
  values of Q). Our solver lists the points.
- **100** is infeasible because K is cut into tiles of 16; for batch 8 the backward pass needs D % 32 == 0. ConstrINT
  solves both passes together, so 80, 48 and 1008 have no answer there though the forward pass alone has tilings.

## How

There is nothing to minimise, so the answer is the first point in FlashRNN's order. The solver walks the values in that
order and drops what comes after the point it has. To enumerate all solutions looks at up to 95 times as many rows
(batch 256), and CP-SAT takes 0.1 to 0.6 s for the same answers. Both remain as cross-checks.

Naming a minimal conflict for the infeasible heads still takes seconds: the problem is solved again without each line,
and those relaxed problems are larger than the whole.
"""


def document() -> str:
    """The whole document, with the times of this machine."""
    return HEAD + "".join(line for row in ROWS for line in _lines(row)) + TAIL.format(repeats=REPEATS) + section()


def _lines(row: Row) -> list[str]:
    setting = f"| {row.batch}, {row.heads}, {row.size} | {row.where}"
    return [f"{setting} | {d} | {_answer(p)} |\n" for d, p in zip(DIRECTIONS, problems(row), strict=True)]


def _answer(problem: Problem) -> str:
    timed = [_timed(problem) for _ in range(REPEATS)]
    found, middle = timed[0][0], statistics.median(seconds for _, seconds in timed)
    point = found.best[0] if found.best else None
    answer = "none | -" if point is None else f"{blocks(point)} | {point['Q']}"
    return f"{answer} | {found.engine} | {found.stats.candidates} | {1e3 * middle:.0f}"


def _timed(problem: Problem) -> tuple[Solution, float]:
    """The answer and its processor time in seconds: wall time would measure what else the machine does."""
    started = time.process_time()
    return solve(problem), time.process_time() - started


if __name__ == "__main__":
    print(document(), end="")
