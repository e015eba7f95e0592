"""FlashRNN's tiling problems (arXiv 2412.07752) and what its solver ConstrINT answers to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flashc.autotune import Problem, parse_problem
from flashc.autotune.problem import Assignment

DATA = Path(__file__).parent / "data"
DIRECTIONS = ("forward", "backward")
H100 = {"SMs": 132, "threads_per_block": 1024, "registers_per_block": 131072, "smem_per_block": 227000}
BF16 = {"s": 2, "a": 4, "TK": 16, "pad": 8}
FP32 = {"s": 4, "a": 4, "TK": 8, "pad": 8, "registers_per_block": 65536}
A100 = {"SMs": 108, "smem_per_block": 165888}
SMALL_GPU = {"SMs": 46, "smem_per_block": 100352}
NONE: tuple[int | None, int | None] = (None, None)


@dataclass(frozen=True)
class Row:
    """One answer: blocks of the forward and the backward pass, None where there is no tiling.

    ``batch`` is padded to 8 rows; ``fragments`` (Q of both passes) is known for some rows only. ConstrINT solves both
    passes together: where the backward pass alone has no tiling it has none, and the forward number here is ours.
    """

    batch: int
    heads: int
    size: int
    blocks: tuple[int | None, int | None]
    fragments: tuple[int, int] | None = None
    where: str = "H100 bf16"
    changes: dict[str, int] = field(default_factory=dict)


ROWS = (
    Row(16, 48, 16, (96, 48), (1, 1)),
    Row(16, 24, 32, (96, 48), (1, 1)),
    Row(16, 12, 64, (96, 48), (1, 2)),
    Row(16, 6, 128, (96, 48), (2, 4)),
    Row(16, 3, 256, (96, 48), (4, 8)),
    Row(16, 1, 768, (96, 48), (12, 24)),
    Row(8, 1, 768, (96, 24)),
    *(Row(batch, 1, 768, (128, 96)) for batch in (32, 64, 128, 256)),
    Row(64, 4, 512, (128, 128)),
    Row(8, 1, 1024, (128, 32)),
    Row(8, 1, 1536, (96, 48)),
    Row(8, 1, 2048, (128, 128)),
    Row(8, 1, 2560, (128, 128)),
    Row(8, 1, 2688, (126, 126)),
    Row(16, 1, 2688, (126, 126)),
    *(Row(8, 1, size, NONE) for size in (2752, 2816, 2880, 3072)),
    Row(8, 5, 80, (50, None)),
    Row(8, 1, 48, (6, None)),
    Row(8, 1, 1008, (126, None)),
    Row(8, 1, 100, NONE),
    Row(16, 1, 768, (96, 48), where="H100 fp32", changes=FP32),
    Row(16, 1, 1536, (128, 96), where="H100 fp32", changes=FP32),
    Row(16, 1, 2048, NONE, where="H100 fp32", changes=FP32),
    Row(16, 1, 768, (96, 48), where="A100 bf16", changes=A100),
    Row(16, 1, 768, (32, 24), where="46 SMs, 100 KB, bf16", changes=SMALL_GPU),
    Row(16, 1, 768, (48, 48), where="H100 bf16, 1 gate", changes={"G": 1}),
    Row(16, 1, 768, (72, 48), where="H100 bf16, 3 gates", changes={"G": 3}),
)
"""Every setting that ConstrINT was run on, with its answers (all but the forward ones said to be ours)."""


def tiling(direction: str, batch: int, heads: int, size: int, **changes: int) -> Problem:
    """FlashRNN's problem for one pass, with the order in which it prefers tilings."""
    along = {"forward": "g", "backward": "h"}[direction]
    text = (DATA / f"flashrnn_{direction}.cst").read_text(encoding="utf-8")
    given = {"B": batch, "N": heads, "D": size, "G": 4, **H100, **BF16, **changes}
    if given["s"] == 4:
        text += ";\nonly_square_tiles: TB == 16"
    return parse_problem(
        text,
        given=given,
        tie_break=(
            ("TB", "largest"),
            ("Mh", "largest"),
            (f"C{along}", "largest"),
            ("Ck", "smallest"),
            ("Cb", "largest"),
            ("Lb", "largest"),
            (f"L{along}", "smallest"),
            ("Wk", "largest"),
            ("Wb", "largest"),
            ("Q", "largest"),
        ),
    )


def problems(row: Row) -> tuple[Problem, Problem]:
    """The forward and the backward problem of a row."""
    forward, backward = (tiling(d, row.batch, row.heads, row.size, **row.changes) for d in DIRECTIONS)
    return forward, backward


def blocks(point: Assignment) -> int:
    """Thread blocks of a launch."""
    along = point["Cg"] if "Cg" in point else point["Ch"]
    return along * point["Ck"] * point["Cb"] * point["Mh"]
