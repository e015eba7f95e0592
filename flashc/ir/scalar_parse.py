"""Text -> elementwise expression. The grammar is ours (docs/expressions.md); nothing is evaluated as Python.

    expression = unary { operator unary } ;
    unary      = ( "-" | "not" ) expression | atom ;
    atom       = NUMBER | "inf" | "true" | "false" | NAME | "@" NAME | "(" expression ")"
               | NAME "[" [ expression { "," expression } ] "]" | NAME "(" expression { "," expression } ")" ;

Operators, weakest first: or; and; not; comparisons, which do not chain; + -; * / // %; unary -.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import NoReturn

from flashc.errors import ExpressionError
from flashc.ir.scalar import FUNCTIONS, Coord, Fetch, InDomain, Lit, Ref, Scalar, call
from flashc.ir.scalar_functions import COMPARE, INFIX, NOT, UNARY
from flashc.ir.scalar_sugar import SUGAR

USER_FUNCTIONS = tuple(sorted(("abs", "exp", "exp2", "log", "log2", "max", "min", "tanh", "where", *SUGAR)))
# Together they bound the depth of a user's tree, so that walking it cannot exhaust Python's stack.
MAX_TOKENS = 400
MAX_NESTING = 40

_CONSTANTS = {"inf": Lit(math.inf), "true": Lit(True), "false": Lit(False)}
_OPERATORS = {symbol: (fn, strength) for fn, (symbol, strength) in INFIX.items()}
_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?)(?![\w.])"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<symbol>\*\*|//|<=|>=|==|!=|[-+*/%<>()\[\],@])",
    re.ASCII,
)
_SYMBOLS = "numbers, names, + - * / // % < <= > >= == != and or not ( ) [ ] ,"
_PRECOMPUTE = "capture a precomputed tensor"
_POWER = "multiply out, or write exp(y * log(x))"
_INSTEAD = {
    "**": _POWER, "^": _POWER, "pow": _POWER, "sqrt": "write exp(0.5 * log(x))", "=": "write `==`",
    "&": "write `and`", "&&": "write `and`", "|": "write `or`", "||": "write `or`", "~": "write `not`",
    "!": "write `not`", "?": "write where(condition, a, b)", "if": "write where(condition, a, b)",
}


@dataclass(frozen=True, slots=True)
class Names:
    """What an expression may refer to; `tensors` gives ranks. None admits any name, as in tile programs."""

    functions: Collection[str]
    coords: Collection[str] | None = None
    refs: Collection[str] | None = None
    tensors: Mapping[str, int] | None = None


def parse_scalar(
    text: str, *, coords: Collection[str], refs: Collection[str], tensors: Mapping[str, int], source: str
) -> Scalar:
    """The expression a user wrote. `tensors` gives the rank of each captured tensor; `source` begins errors.

    Raises ExpressionError with the text, a caret under the mistake, what is allowed and the fix.
    """
    parser = _Parser(text, source, Names(USER_FUNCTIONS, coords, refs, tensors), MAX_NESTING)
    if len(parser.tokens) > MAX_TOKENS:
        parser.fail(f"{len(parser.tokens)} symbols", f"at most {MAX_TOKENS}", _PRECOMPUTE, 0)
    return parser.parse()


def parse_ir_scalar(text: str, source: str = "expression") -> Scalar:
    """Inverse of `str(expression)`: `@i` is a coordinate, a bare name a Ref, `t[..]` a Fetch."""
    functions = [name for name in FUNCTIONS if name not in {*INFIX, "neg", "not"}]
    return _Parser(text, source, Names(functions), 5 * MAX_NESTING).parse()


# --- tokens ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, name, symbol or end
    text: str
    column: int


def _tokenize(text: str, source: str) -> list[_Token]:
    tokens = []
    column = 0
    while column < len(text):
        if text[column].isspace():
            column += 1
            continue
        match = _TOKEN.match(text, column)
        if match is None:
            found = re.match(r"[\w.]+|[&|!=^~?]+|.", text[column:])
            word = found.group() if found else text[column]
            _fail(text, source, f"unexpected {word!r}", _SYMBOLS, _fix_for(word), column)
        tokens.append(_Token(match.lastgroup or "", match.group(), column))
        column = match.end()
    return [*tokens, _Token("end", "end of the expression", len(text.rstrip()))]


def _fix_for(word: str) -> str:
    return _INSTEAD.get(word, "see the grammar in docs/expressions.md")


def _fail(text: str, source: str, problem: str, allowed: str, fix: str, column: int) -> NoReturn:
    line = re.sub(r"\s", " ", text)
    raise ExpressionError(
        f"{source}: {problem} at column {column + 1}\n    {line}\n    {' ' * column}^\n"
        f"  allowed: {allowed}\n  fix: {fix}"
    )


# --- grammar --------------------------------------------------------------------------------------


class _Parser:
    """Precedence climbing over the token list."""

    def __init__(self, text: str, source: str, names: Names, max_nesting: int) -> None:
        self.text = text
        self.source = source
        self.names = names
        self.max_nesting = max_nesting
        self.nesting = 0
        self.tokens = _tokenize(text, source)
        self.position = 0

    def parse(self) -> Scalar:
        expr = self.expression(0)
        if self.now.kind != "end":
            self.fail(f"unexpected {self.now.text!r}", "an operator, or the end", _fix_for(self.now.text))
        return expr

    @property
    def now(self) -> _Token:
        return self.tokens[self.position]

    def take(self) -> _Token:
        token = self.now
        self.position += 1
        return token

    def expect(self, symbol: str) -> None:
        if self.now.text != symbol:
            self.fail(f"unexpected {self.now.text!r}", f"`{symbol}` here", _fix_for(self.now.text))
        self.position += 1

    def expression(self, least: int) -> Scalar:
        left = self.unary(least)
        while self.now.text in _OPERATORS:
            operator = self.now
            fn, strength = _OPERATORS[operator.text]
            if strength < least:
                break
            self.take()
            left = self.apply(operator, fn, left, self.expression(strength + 1))
            if strength == COMPARE and _OPERATORS.get(self.now.text, ("", 0))[1] == COMPARE:
                self.fail("chained comparison", "one comparison at a time", "write `a < b and b < c`")
        return left

    def unary(self, least: int) -> Scalar:
        if self.nesting == self.max_nesting:
            self.fail("nested too deeply", f"at most {self.max_nesting} levels", _PRECOMPUTE)
        self.nesting += 1
        token = self.now
        if token.text == "-":
            self.take()
            found = self.apply(token, "neg", self.expression(UNARY))
        elif token.text == "not" and least <= NOT:
            self.take()
            found = self.apply(token, "not", self.expression(NOT))
        else:
            found = self.atom()
        self.nesting -= 1
        return found

    def atom(self) -> Scalar:
        token = self.take()
        if token.kind == "number":
            return self.number(token)
        if token.text == "(":
            inner = self.expression(0)
            self.expect(")")
            return inner
        if token.text == "@" and self.now.kind == "name":
            return self.coordinate(self.take())
        if token.text == "not":
            self.fail("`not` after an operator", "`not` before a comparison", "bracket it", token.column)
        if token.kind != "name" or token.text in _OPERATORS:
            allowed = "a number, a name, `(`, `-` or `not`"
            self.fail(f"unexpected {token.text!r}", allowed, _fix_for(token.text), token.column)
        if token.text in _CONSTANTS:
            return _CONSTANTS[token.text]
        if self.now.text == "(":
            return self.function(token)
        return self.fetch(token) if self.now.text == "[" else self.name(token)

    def number(self, token: _Token) -> Scalar:
        value = float(token.text)
        if token.text.isdigit() and value < 2**63:
            return Lit(int(token.text))
        if token.text.isdigit() or math.isinf(value):
            allowed, fix = "ints below 2^63, floats below 1.8e308", "write a float such as 1e20, or inf"
            self.fail(f"{token.text} is too large", allowed, fix, token.column)
        return Lit(value)

    def items(self, closing: str) -> list[Scalar]:
        found: list[Scalar] = []
        self.take()
        while self.now.text != closing:
            found.append(self.expression(0))
            if self.now.text not in (",", closing):
                self.fail(f"unexpected {self.now.text!r}", f"`,` or `{closing}`", _fix_for(self.now.text))
            if self.now.text == ",":
                self.take()
        self.take()
        return found

    def coordinate(self, token: _Token) -> Scalar:
        if self.names.coords is not None and token.text not in self.names.coords:
            self.unknown(token, "coordinate", self.names.coords)
        return Coord(token.text)

    def name(self, token: _Token) -> Scalar:
        names, word = self.names, token.text
        if names.coords is not None and word in names.coords:
            return Coord(word)
        if names.refs is None or word in names.refs:
            return Ref(word)
        if names.tensors is not None and word in names.tensors:
            rank = names.tensors[word]
            fix = f"write {word}[{', '.join(['..'] * rank)}]"
            self.fail(f"{word!r} without an index", f"{rank} index(es)", fix, token.column)
        if word in names.functions:
            self.fail(f"{word!r} is a function", "a call", f"write {word}(..)", token.column)
        known = [*(names.coords or ()), *names.refs, *(names.tensors or ()), *_CONSTANTS]
        return self.unknown(token, "name", known)

    def fetch(self, token: _Token) -> Scalar:
        index, word, tensors = tuple(self.items("]")), token.text, self.names.tensors
        if tensors is not None and word not in tensors:
            allowed = f"captured tensors: {', '.join(sorted(tensors)) or 'none'}"
            fix = f"declare it: captures: {{{word}: {{shape: [..], dtype: fp32}}}}"
            self.fail(f"{word!r} is not a captured tensor", allowed, fix, token.column)
        if tensors is not None and len(index) != tensors[word]:
            allowed = f"exactly {tensors[word]}, the rank of {word!r}"
            self.fail(f"{len(index)} index(es)", allowed, "give one index per dimension", token.column)
        return Fetch(word, index)

    def function(self, token: _Token) -> Scalar:
        args, word = self.items(")"), token.text
        if word == "indomain" and self.names.coords is None and args and isinstance(args[0], Ref):
            return InDomain(args[0].name)
        if word not in self.names.functions:
            self.unknown(token, "function", self.names.functions)
        arity = 1 if word in SUGAR else FUNCTIONS[word].arity
        if word in ("min", "max") and len(args) > arity:
            return reduce(lambda left, right: self.apply(token, word, left, right), args)
        if len(args) != arity:
            allowed = f"{arity}{' or more' if word in ('min', 'max') else ''}"
            self.fail(f"{word} with {len(args)} argument(s)", allowed, "count the arguments", token.column)
        return self.apply(token, word, *args)

    def apply(self, token: _Token, fn: str, *args: Scalar) -> Scalar:
        try:
            return SUGAR[fn](*args) if fn in SUGAR else call(fn, *args)
        except ExpressionError as error:
            allowed = "operands of the right kind and size"
            self.fail(str(error), allowed, "correct the operands", token.column)

    def unknown(self, token: _Token, what: str, known: Collection[str]) -> NoReturn:
        close = difflib.get_close_matches(token.text, known, 1)
        fix = f"did you mean {close[0]!r}?" if close else _fix_for(token.text)
        self.fail(f"unknown {what} {token.text!r}", ", ".join(sorted(known)), fix, token.column)

    def fail(self, problem: str, allowed: str, fix: str, column: int | None = None) -> NoReturn:
        at = self.now.column if column is None else column
        _fail(self.text, self.source, problem, allowed, fix, at)
