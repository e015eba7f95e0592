"""`flashc bound`: the least traffic of any schedule, with its proof, for statements or a workload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flashc.commands.options import file_argument, json_option

if TYPE_CHECKING:
    from flashc.compiler.cascade_file import Question


def _memory(text: str) -> int:
    from flashc.compiler.cascade_file import memory_bytes

    try:
        return memory_bytes(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}: write 196608, 192K, 40M or 80G") from None


@click.command("bound", short_help="Prove how much traffic any schedule needs.")
@file_argument()
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME=VALUE",
    help="Give a size its value, as in `--set n=4096`; for a workload, set a key. Repeatable.",
)
@click.option("--fast-memory", type=_memory, metavar="BYTES", help="Size of the fast memory: 196608 or 192K.")
@click.option("--latex", is_flag=True, help="Print the formulas as LaTeX.")
@json_option()
def command(file: str, overrides: tuple[str, ...], fast_memory: int | None, latex: bool, as_json: bool) -> None:
    """Lower bounds on the traffic of FILE: affine statements, or a workload. docs/bounds.md has the format."""
    from flashc.commands.bound_report import blocks, document, latex_lines
    from flashc.commands.render import print_blocks, print_json
    from flashc.compiler.cascade_file import load_question
    from flashc.iomodel.bounds import lower_bounds

    question: Question = load_question(file, overrides, fast_memory)
    bounds = lower_bounds(question.cascade)
    if as_json:
        print_json(document(question, bounds))
    elif latex:
        click.echo("\n".join(latex_lines(question, bounds)))
    else:
        print_blocks(blocks(question, bounds))
