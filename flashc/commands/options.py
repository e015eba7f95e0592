"""Options and arguments that several commands share, and what they stand for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flashc.compiler.workload import Workload
    from flashc.hwmodels.model import Device

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_SCALES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def file_argument(required: bool = True) -> Decorator:
    return click.argument("file", type=click.Path(), required=required)


def device_option(default: str | None = "native") -> Decorator:
    text = "Device model: a name, an alias or a .yaml file; `flashc devices` lists them."
    return click.option("--device", default=default, metavar="D", show_default=default is not None, help=text)


def backend_option() -> Decorator:
    return click.option("--backend", metavar="B", help="Backend; by default the one for the device's kind.")


def json_option() -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def output_option(more: str = "") -> Decorator:
    text = f"Where to write; flashc-out/FILE/DEVICE by default.{more}"
    path = click.Path(file_okay=False, path_type=Path)
    return click.option("-o", "--output", type=path, metavar="DIR", help=text)


def set_option() -> Decorator:
    text = "Set a key of the workload, as in `--set seq.q=128`; an empty value removes it. Repeatable."
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=text)


def seed_option() -> Decorator:
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs."
    )


def tile_value(text: str) -> tuple[str, int]:
    """`Ti=64` as ('Ti', 64), for click's ``type``."""
    symbol, equals, number = text.partition("=")
    if not equals or not symbol.strip() or not number.strip().isdecimal():
        raise click.BadParameter(f"{text!r}: write a tile symbol and a whole number, as in `Ti=64`")
    return symbol.strip(), int(number)


def byte_size(text: str) -> int:
    """`500M` as 500000000, for click's ``type``; a plain number is bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?)B?", text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r}: write a number of bytes, as in 500000 or 500k, 500M, 2G, 1T")
    return int(float(found[1]) * _SCALES[found[2]])


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
