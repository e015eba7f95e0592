"""Reads integer expressions back from their printed form, and gives the tokens to the constraint language.

    expression := product (("+" | "-") product)*
    product    := unary (("*" | "//" | "%") unary)*
    unary      := "-"* power
    power      := atom ("^" integer)?
    atom       := integer | name | name "[" expression ("," expression)* "]" | "(" expression ")"
                | ("min" | "max") "(" expression ("," expression)* ")"
                | "ceil" "(" product "/" unary ")"
                | "sum" "(" name "<" expression ":" expression ")"

Names are identifiers, dots allowed (``kv.0``); ``#`` starts a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flashc.errors import FlashcError, IRError
from flashc.ir.intexpr import NAME, RESERVED, Const, IntExpr, Item, Sym, ceil_div, imax, imin, isum, mul

TOKEN = re.compile(
    rf"(?P<skip>\s+|\#[^\n]*)|(?P<number>\d+)|(?P<name>{NAME.pattern})"
    r"|(?P<sign>//|\.\.|[<>=!]=|[^\w\s])",
    re.ASCII,
)
MAX_POWER = 64
MAX_NESTING = 64
"""Deepest brackets: the reader calls itself once per bracket."""


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    at: int


def parse_int(text: str) -> IntExpr:
    """The expression that ``text`` spells: ``ceil(n / t) * 2``. Raises IRError with line and column."""
    reader = Reader(text, IRError)
    expr = reader.expression()
    reader.expect_end()
    return expr


class Reader:
    """A recursive-descent reader over the tokens of ``text``; complaints are raised as ``error``."""

    def __init__(self, text: str, error: type[FlashcError]) -> None:
        self.text = text
        self.error = error
        self.tokens = list(self._scan())
        self.position = 0
        self._check_nesting()

    def _scan(self) -> list[Token]:
        tokens = []
        at = 0
        while at < len(self.text):
            match = TOKEN.match(self.text, at)
            if match is None:
                raise self.complaint(at, f"unexpected {self.text[at]!r}: numbers and names are plain ASCII")
            if match.lastgroup != "skip":
                tokens.append(Token(str(match.lastgroup), match.group(), at))
            at = match.end()
        return [*tokens, Token("end", "end of text", len(self.text))]

    def _check_nesting(self) -> None:
        depth = 0
        for token in self.tokens:
            depth += (token.text in ("(", "[")) - (token.text in (")", "]"))
            if depth > MAX_NESTING:
                raise self.complaint(token.at, f"brackets nest deeper than {MAX_NESTING}")

    def complaint(self, at: int, what: str) -> FlashcError:
        """An error that names line and column of ``at`` and shows the line with a caret."""
        start = self.text.rfind("\n", 0, at) + 1
        line = self.text[start:].split("\n", 1)[0]
        where = f"line {self.text.count(chr(10), 0, at) + 1}, column {at - start + 1}"
        return self.error(f"{where}: {what}\n  {line}\n  {' ' * (at - start)}^")

    @property
    def token(self) -> Token:
        return self.tokens[self.position]

    def next(self) -> Token:
        token = self.token
        self.position += token.kind != "end"
        return token

    def accept(self, *texts: str) -> str | None:
        """The next token's text if it is one of ``texts`` (then it is taken), else None."""
        return self.next().text if self.token.kind != "end" and self.token.text in texts else None

    def expect(self, text: str, why: str = "") -> None:
        if self.accept(text) is None:
            raise self.complaint(self.token.at, f"expected {text!r}{why}, found {self.token.text!r}")

    def expect_end(self) -> None:
        if self.token.kind != "end":
            raise self.complaint(self.token.at, f"expected an operator or the end, found {self.token.text!r}")

    def expression(self) -> IntExpr:
        value = self.product()
        while sign := self.accept("+", "-"):
            term = self.product()
            value = value + term if sign == "+" else value - term
        return value

    def product(self) -> IntExpr:
        value = self.unary()
        while sign := self.accept("*", "//", "%"):
            at = self.token.at
            other = self.unary()
            if sign != "*" and other == Const(0):
                raise self.complaint(at, "division by zero")
            value = value * other if sign == "*" else value // other if sign == "//" else value % other
        return value

    def unary(self) -> IntExpr:
        negative = False
        while self.accept("-"):
            negative = not negative
        value = self.power()
        return -value if negative else value

    def power(self) -> IntExpr:
        base = self.atom()
        if self.accept("^") is None:
            return base
        token = self.next()
        if token.kind != "number" or not 0 <= int(token.text) <= MAX_POWER:
            raise self.complaint(token.at, f"a power is an integer 0..{MAX_POWER}, found {token.text!r}")
        return mul(*[base] * int(token.text))

    def atom(self) -> IntExpr:
        token = self.next()
        if token.kind == "number":
            return Const(int(token.text))
        if token.text == "(":
            value = self.expression()
            self.expect(")")
            return value
        if token.text in RESERVED - {"in"}:
            return self.call(token)
        if token.kind != "name" or token.text in RESERVED:
            raise self.complaint(token.at, f"expected a number, a name or '(', found {token.text!r}")
        if self.accept("["):
            return Item(token.text, tuple(self.arguments("]")))
        return Sym(token.text)

    def call(self, function: Token) -> IntExpr:
        self.expect("(", f" after {function.text}")
        if function.text in ("min", "max"):
            arguments = self.arguments(")")
            return imin(*arguments) if function.text == "min" else imax(*arguments)
        return self.ceiling() if function.text == "ceil" else self.summation()

    def arguments(self, closing: str) -> list[IntExpr]:
        values = [self.expression()]
        while self.accept(","):
            values.append(self.expression())
        self.expect(closing)
        return values

    def ceiling(self) -> IntExpr:
        num = self.product()
        self.expect("/", "; ceil is written ceil(a / b), sums in brackets")
        at = self.token.at
        den = self.unary()
        if den == Const(0):
            raise self.complaint(at, "division by zero")
        self.expect(")")
        return ceil_div(num, den)

    def summation(self) -> IntExpr:
        variable = self.next()
        if variable.kind != "name" or variable.text in RESERVED:
            raise self.complaint(variable.at, "a sum is written sum(v < count: body)")
        self.expect("<", "; a sum is written sum(v < count: body)")
        count = self.expression()
        self.expect(":", "; a sum is written sum(v < count: body)")
        body = self.expression()
        self.expect(")")
        return isum(variable.text, count, body)
