"""Numbers with units, as tables and reports print them: three digits, SI prefixes; binary ones for capacities."""

from __future__ import annotations

import math
from collections.abc import Sequence

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_DECIMAL = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_BINARY = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_COUNTS = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def seconds(value: float) -> str:
    """Three digits and a unit: 51.4 ms."""
    scale, unit = next(((s, u) for s, u in _TIMES if abs(value) >= s), _TIMES[-1])
    return f"{digits(value / scale)} {unit}"


def picoseconds(value: float) -> str:
    return seconds(value * 1e-12)


def traffic(count: float) -> str:
    """Bytes moved, in powers of ten: 4.70 GB."""
    return _scaled(count, _DECIMAL)


def capacity(count: float) -> str:
    """Bytes held, in powers of two: 162 KiB."""
    return _scaled(count, _BINARY)


def flops(count: float, unit: str = "FLOP") -> str:
    """Operations, or with ``unit`` "FLOP/s" a rate of them: 312 TFLOP/s."""
    scale, prefix = next(((s, p) for s, p in _COUNTS if count >= s), (1, ""))
    return f"{digits(count / scale)} {prefix}{unit}"


def percent(share: float) -> str:
    if not math.isfinite(share):
        return "-"
    return f"{share * 100:.0f} %" if share >= 0.095 or share == 0 else f"{share * 100:.1g} %"


def factor(ratio: float) -> str:
    return f"{digits(ratio)}x" if math.isfinite(ratio) else "-"


def _scaled(count: float, units: Sequence[tuple[int, str]]) -> str:
    for scale, unit in units:
        if count >= scale:
            return f"{digits(count / scale)} {unit}"
    return f"{count:.0f} B"


def digits(value: float) -> str:
    """Three significant digits, never in scientific notation."""
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(value))) + 1
    return f"{value:.{max(0, 3 - before)}f}"
