"""The command line: its commands, and how every failure becomes one message and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from flashc.commands import bench, bound, cache, compile, devices, ir, report, tune, verify
from flashc.commands.exit_codes import INTERNAL, INTERRUPTED
from flashc.errors import FlashcError

DEBUG_VARIABLE = "FLASHC_DEBUG"
REPORT = f"this is a defect of flashc: please report it with the traceback that {DEBUG_VARIABLE}=1 prints"


def _print_version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from flashc.commands.versions import versions

    for name, version in versions():
        click.echo(f"{name} {version}")
    context.exit()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]}, epilog="Options and exit codes: docs/cli.md"
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Versions of flashc and of what it uses, then exit.",
)
def app() -> None:
    """Kernels from a short description of an operator: tile sizes solved for, I/O held against its bound."""


for _module in (tune, compile, report, verify, bench, bound, ir, devices, cache):
    app.add_command(_module.command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (docs/cli.md); messages go to stderr."""
    try:
        result = app.main(args=arguments, prog_name="flashc", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FlashcError as error:
        click.echo(f"flashc: error: {error}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("flashc: interrupted", err=True)
        return INTERRUPTED
    except Exception as error:
        return _defect(error)
    return result if isinstance(result, int) else 0


def _defect(error: Exception) -> int:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(error, file=sys.stderr)
    click.echo(f"flashc: {type(error).__name__}: {error}\nflashc: {REPORT}", err=True)
    return INTERNAL


if __name__ == "__main__":
    sys.exit(main())
