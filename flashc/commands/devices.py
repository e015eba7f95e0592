"""`flashc devices`: the device models, one of them in full, and the probe of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flashc.commands.options import json_option, read_device

if TYPE_CHECKING:
    from flashc.commands.render import Block
    from flashc.hwmodels.model import Device


@click.group(
    "devices", short_help="The device models; show one, probe this machine.", invoke_without_command=True
)
@json_option()
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the device models; `show` prints one with all its sources, `probe` measures this machine."""
    if context.invoked_subcommand is not None:
        return
    from flashc.commands.render import Table, print_blocks, print_json

    rows = _listed()
    if as_json:
        print_json({"schema": "flashc.devices/1", "devices": rows})
        return
    columns = ("name", "kind", "arch", "aliases", "code")
    cells = tuple((r["name"], r["kind"], r["arch"], ", ".join(r["aliases"]), _code(r)) for r in rows)
    note = "also `native`, the CPU of this machine, and `native-gpu`, its GPU"
    print_blocks([Table(f"{len(rows)} devices", columns, cells, note=note)])


@command.command("show")
@click.argument("name")
@json_option()
def show(name: str, as_json: bool) -> None:
    """Every number of device NAME with its unit and its source."""
    from flashc.commands.render import print_blocks, print_json
    from flashc.hwmodels.report import device_json

    device = read_device(name)
    if as_json:
        print_json({"schema": "flashc.device/1", **device_json(device)})
    else:
        print_blocks(_device_blocks(device))


@command.command("probe")
@json_option()
def probe(as_json: bool) -> None:
    """Measure this machine's CPU again (caches, bandwidths, peaks, exp rate), and name its GPU."""
    from flashc.commands.render import Lines, print_blocks, print_json, progress
    from flashc.hwmodels.native import find_gpu, native_cpu
    from flashc.hwmodels.report import device_json

    with progress("measuring this machine"):
        cpu = native_cpu(again=True)
        gpu = find_gpu()
    if as_json:
        found = None if gpu is None else gpu._asdict()
        print_json({"schema": "flashc.probe/1", "cpu": device_json(cpu), "gpu": found})
        return
    line = (
        "none found by nvidia-smi or torch"
        if gpu is None
        else f"{gpu.name} ({gpu.arch}); `native-gpu` is its model"
    )
    print_blocks([*_device_blocks(cpu), Lines("GPU", (line,))])


def _listed() -> list[dict[str, Any]]:
    from flashc.hwmodels.load import list_aliases, list_devices, load_device

    aliases: dict[str, list[str]] = {}
    for alias, name in list_aliases().items():
        aliases.setdefault(name, []).append(alias)
    return [_entry(load_device(name), aliases.get(name, [])) for name in list_devices()]


def _entry(device: Device, aliases: list[str]) -> dict[str, Any]:
    return {
        "name": device.name,
        "title": device.title,
        "kind": device.kind,
        "arch": device.arch,
        "aliases": aliases,
        "targets": {backend: list(target) for backend, target in device.targets.items()},
        "missing": device.missing_artefacts,
        "unusable": device.unusable,
        "defaults": len(device.defaults),
    }


def _code(entry: dict[str, Any]) -> str:
    if entry["unusable"]:
        return f"no tiles: {entry['unusable']}"
    return ", ".join(entry["targets"]) or f"tiles only: {entry['missing']}"


def _device_blocks(device: Device) -> list[Block]:
    from flashc.commands.render import Lines, Table
    from flashc.hwmodels.report import device_report

    rows = tuple((r.field, _value(r.value), r.unit, r.tier, r.source) for r in device_report(device))
    limits = [text for text in (device.unusable, device.missing_artefacts, device.note) if text]
    title = f"{device.name}: {device.title}, {device.kind}, {device.arch}"
    return [
        Table(title, ("field", "value", "unit", "tier", "source"), rows),
        Lines("", tuple(limits)),
    ]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
