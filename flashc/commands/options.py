"""Options and arguments that several commands share, and what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flashc.compiler.workload import Workload
    from flashc.hwmodels.model import Device

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def file_argument() -> Decorator:
    return click.argument("file", type=click.Path())


def device_option(default: str | None = "native") -> Decorator:
    text = "Device model: a name, an alias or a .yaml file; `flashc devices` lists them."
    return click.option("--device", default=default, metavar="D", show_default=default is not None, help=text)


def backend_option() -> Decorator:
    return click.option("--backend", metavar="B", help="Backend; by default the one for the device's kind.")


def json_option() -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def set_option() -> Decorator:
    text = "Set a key of the workload, as in `--set seq.q=128`; an empty value removes it. Repeatable."
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=text)


def seed_option() -> Decorator:
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs."
    )


class TileValue(click.ParamType):
    """`Ti=64` as ('Ti', 64)."""

    name = "SYMBOL=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        symbol, equals, number = value.partition("=")
        if not equals or not symbol.strip() or not number.strip().isdecimal():
            self.fail(f"{value!r}: write a tile symbol and a whole number, as in `Ti=64`", param, ctx)
        return symbol.strip(), int(number)


class ByteSize(click.ParamType):
    """`500M` as 500000000; a plain number is bytes."""

    name = "SIZE"
    units = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = value.strip().removesuffix("B")
        number, unit = (text[:-1], text[-1:]) if text[-1:] in self.units else (text, "")
        try:
            size = float(number) * self.units[unit]
        except ValueError:
            size = -1.0
        if not 0 <= size < float("inf"):
            self.fail(
                f"{value!r}: write a number of bytes, with k, M, G or T behind it if you like: `500M`",
                param,
                ctx,
            )
        return int(size)


def read_workload(file: str | Path, overrides: Sequence[str] = ()) -> Workload:
    """The workload of a file with `--set` options applied. Raises WorkloadError."""
    from pathlib import Path

    from flashc.compiler.workload import load_workload, parse_override

    return load_workload(Path(file)).with_overrides(dict(parse_override(text) for text in overrides))


def read_device(name: str) -> Device:
    """The device model of that name; what an ambiguous alias was taken for is said on stderr."""
    from flashc.hwmodels.load import load_device

    notice_alias(name)
    return load_device(name)


def notice_alias(name: str) -> None:
    """Say on stderr what an ambiguous alias is taken for. Raises UnknownDeviceError."""
    from flashc.hwmodels.load import resolve
    from flashc.hwmodels.notice import print_notice

    note = None if name.endswith((".yaml", ".yml")) else resolve(name).note
    if note is not None:
        print_notice(note)
