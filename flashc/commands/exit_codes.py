"""The exit codes of `flashc`, read off the classes of flashc.errors.

`python -m flashc.commands.exit_codes` prints the table of docs/cli.md.
"""

from __future__ import annotations

import inspect

from flashc import errors

USAGE, INTERNAL, INTERRUPTED = 2, 70, 130
_OTHERS = {
    0: ("", "It worked."),
    USAGE: ("", "The command line is wrong: unknown command or option, or a value it does not take."),
    INTERNAL: ("", "A defect of flashc; FLASHC_DEBUG=1 adds the traceback to report."),
    INTERRUPTED: ("", "Interrupted from the keyboard."),
}


def exit_codes() -> list[tuple[int, str, str]]:
    """Exit code, error class ('' for none) and meaning, by code."""
    classes = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.FlashcError)]
    rows = [(c.exit_code, c.__name__, inspect.getdoc(c) or "") for c in classes]
    rows += [(code, name, meaning) for code, (name, meaning) in _OTHERS.items()]
    return sorted(rows, key=lambda row: row[0])


def markdown() -> str:
    """The table as Markdown."""
    lines = ["| code | error | meaning |", "|---|---|---|"]
    for code, name, meaning in exit_codes():
        shown = f"`{name}`" if name else ""
        lines.append(f"| {code} | {shown} | {' '.join(meaning.split())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
