"""`flashc cache`: what is stored on disk, and ways to be rid of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flashc.commands.options import byte_size, json_option

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashc.system.cache import Entry


@click.group(
    "cache", short_help="What is stored on disk; clear, prune, verify it.", invoke_without_command=True
)
@json_option()
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show where compiled kernels and probes are kept, and their size (FLASHC_CACHE_DIR moves them)."""
    if context.invoked_subcommand is not None:
        return
    from flashc.commands.render import Lines, Table, print_blocks, print_json, traffic
    from flashc.system.cache import Cache

    cache = Cache.default()
    kinds = _by_kind(cache.entries())
    if as_json:
        counted = {kind: {"entries": n, "bytes": size} for kind, (n, size) in kinds.items()}
        print_json({"schema": "flashc.cache/1", "path": str(cache.root), "kinds": counted})
        return
    rows = tuple((kind, str(n), traffic(size)) for kind, (n, size) in kinds.items())
    total = traffic(sum(size for _, size in kinds.values()))
    table = Table("entries", ("kind", "entries", "size"), rows, frozenset({"entries", "size"}))
    print_blocks([Lines(f"{cache.root}: {total}", ()), table])


@command.command("clear")
@click.argument("kind", required=False)
def clear(kind: str | None) -> None:
    """Remove all entries, or those of one KIND."""
    from flashc.system.cache import Cache

    cache = Cache.default()
    kinds = _by_kind(cache.entries())
    if kind is not None and kind not in kinds:
        raise click.BadParameter(
            f"{kind!r}: there are entries of {', '.join(kinds) or 'no kind'}", param_hint="KIND"
        )
    _tell_removed(cache.clear(kind))


@command.command("prune")
@click.option(
    "--max-size",
    type=byte_size,
    metavar="SIZE",
    required=True,
    help="What may stay, as in 500M or 2G; the last used stay.",
)
def prune(max_size: int) -> None:
    """Remove the entries that were used longest ago until the rest fits."""
    from flashc.system.cache import Cache

    _tell_removed(Cache.default().prune(max_bytes=max_size))


@command.command("verify")
def verify() -> None:
    """Check every entry against its checksums; damaged ones are removed and will be built again."""
    from flashc.system.cache import Cache

    cache = Cache.default()
    checked = len(cache.entries())
    faults = cache.verify()
    for entry, fault in faults.items():
        click.echo(f"removed {entry.kind}/{entry.key}: {fault}")
    click.echo(f"{checked} entries checked, {len(faults)} damaged")


def _by_kind(entries: Iterable[Entry]) -> dict[str, tuple[int, int]]:
    """Kind -> (entries, bytes), by name."""
    kinds: dict[str, tuple[int, int]] = {}
    for entry in sorted(entries, key=lambda e: e.kind):
        count, size = kinds.get(entry.kind, (0, 0))
        kinds[entry.kind] = (count + 1, size + entry.size)
    return kinds


def _tell_removed(removed: list[Entry]) -> None:
    from flashc.commands.render import traffic

    click.echo(f"removed {len(removed)} entries, {traffic(sum(entry.size for entry in removed))}")
