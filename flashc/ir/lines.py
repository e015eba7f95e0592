"""Lines and tokens of a printed program: a tree by indentation, and a cursor over the tokens of one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from flashc.errors import ExpressionError, FlashcError, IRError
from flashc.ir.intparse import Reader
from flashc.ir.scalar import Scalar
from flashc.ir.scalar_parse import parse_ir_scalar

T = TypeVar("T")
W = TypeVar("W", bound=str)


@dataclass(frozen=True, slots=True)
class Line:
    """A line and the deeper indented lines below it."""

    number: int
    indent: int
    text: str
    inner: list[Line] = field(default_factory=list)


def line_tree(text: str) -> list[Line]:
    """The outermost lines, without comments and empty lines. Raises IRError for odd indentation."""
    root = Line(0, -1, "")
    path = [root]
    for number, raw in enumerate(text.splitlines(), 1):
        content = _without_comment(raw.strip())
        if not content:
            continue
        line = Line(number, len(raw) - len(raw.lstrip()), content)
        while line.indent <= path[-1].indent:
            path.pop()
        siblings = path[-1].inner
        if siblings and siblings[0].indent != line.indent:
            expected = f"expected {siblings[0].indent} spaces, as on line {siblings[0].number}"
            raise Cursor(line).complaint(0, f"indented by {line.indent}; {expected}")
        siblings.append(line)
        path.append(line)
    return root.inner


def _without_comment(text: str) -> str:
    return text if text.startswith("note ") else text.partition("#")[0].rstrip()


class Cursor(Reader):
    """The tokens of one line; every complaint is an IRError that names the line and shows it with a caret."""

    def __init__(self, line: Line) -> None:
        self.line = line
        super().__init__(line.text, IRError)

    def complaint(self, at: int, what: str) -> FlashcError:
        where = f"line {self.line.number}, column {self.line.indent + at + 1}"
        return IRError(f"{where}: {what}\n  {self.text}\n  {' ' * at}^")

    def unexpected(self, expected: str) -> FlashcError:
        return self.complaint(self.token.at, f"expected {expected}, found {self.token.text!r}")

    def second(self) -> str:
        """The text of the token after the next one; empty at the end."""
        return "".join(token.text for token in self.tokens[self.position + 1 : self.position + 2])

    def name(self, what: str) -> str:
        if self.token.kind != "name":
            raise self.unexpected(what)
        return self.next().text

    def one_of(self, allowed: Sequence[W]) -> W:
        for word in allowed:
            if self.accept(word):
                return word
        raise self.unexpected(f"one of {', '.join(allowed)}")

    def number(self) -> int:
        minus = self.accept("-") is not None
        if self.token.kind != "number":
            raise self.unexpected("an integer")
        value = int(self.next().text)
        return -value if minus else value

    def listed(self, item: Callable[[], T], closing: str = "") -> tuple[T, ...]:
        """Items with commas between, up to ``closing``; without it, at least one, while commas follow."""
        if closing and self.accept(closing):
            return ()
        found = [item()]
        while self.accept(","):
            found.append(item())
        if closing:
            self.expect(closing)
        return tuple(found)

    def rest(self) -> str:
        """What is left of the line, which is taken."""
        text = self.text[self.token.at:]
        self.position = len(self.tokens) - 1
        return text

    def scalar(self, text: str) -> Scalar:
        try:
            return parse_ir_scalar(text, f"line {self.line.number}")
        except ExpressionError as error:
            raise IRError(str(error)) from None

    def finish(self, expected: str = "") -> None:
        if self.token.kind != "end":
            raise self.unexpected(f"{expected}{' or ' if expected else ''}the end of the line")

    def leaf(self) -> None:
        """Nothing more on the line, and no lines below it."""
        self.finish()
        for below in self.line.inner:
            raise Cursor(below).complaint(0, f"expected nothing indented below line {self.line.number}")
