"""Numbers as the report sets them: micro and times signs, no line break between number and unit."""

from __future__ import annotations

from collections.abc import Mapping

from flashc.system import units

NARROW = "\u202f"  # no-break space, narrow


def time(seconds: float) -> str:
    return _set(units.seconds(seconds))


def moved(count: float) -> str:
    return _set(units.traffic(count))


def held(count: float) -> str:
    return _set(units.capacity(count))


def ratio(value: float) -> str:
    """1.12×; more digits where 1 would be hidden by rounding is not the point of a ratio."""
    return _set(units.factor(value)).replace("x", "×")


def percent(share: float) -> str:
    return _set(units.percent(share))


def flops(count: float) -> str:
    return _set(units.flops(count))


def rate(per_second: float) -> str:
    return _set(units.flops(per_second, "FLOP/s"))


def bandwidth(gbs: float) -> str:
    return _set(f"{units.traffic(gbs * 1e9)}/s")


def count(value: float) -> str:
    """Three digits without a unit."""
    return units.digits(value)


def grouped(count: float) -> str:
    """A whole number in groups of three: 1 234 567."""
    return f"{count:,.0f}".replace(",", NARROW)


def tiles(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name}{NARROW}={NARROW}{value}" for name, value in values.items())


def _set(text: str) -> str:
    return text.replace(" us", " µs").replace(" ", NARROW)
