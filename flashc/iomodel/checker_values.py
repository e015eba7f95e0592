"""Numbers for certificate checks, from text: integer expressions, sizes of loop nests, exact products of powers."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

LIMIT = 200_000
"""Most terms that are added up; beyond, a number is not recounted."""
WALKED = 20_000
"""Most points at which elements are looked at one by one."""
LONGEST = 5_000
"""Most characters of a text, and entries of a certificate."""
MAX_POWER = 64
MAX_BITS = 4_096
SMALL_FACTOR = 1 << 12
FRACTION = re.compile(r"-?\d{1,40}(/\d{1,40})?", re.ASCII)


def _power(base: int, exponent: int) -> int:
    if not 0 <= exponent <= MAX_POWER or int(base).bit_length() * exponent > MAX_BITS:
        raise ValueError(f"a power is at most {MAX_POWER} and its value has at most {MAX_BITS} bits")
    return int(base**exponent)


OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Div: Fraction,
    ast.BitXor: _power,
}
FUNCTIONS: dict[str, Callable[..., int]] = {"min": min, "max": max, "ceil": math.ceil}


class TooLongError(Exception):
    """More than LIMIT terms."""


def fraction(text: Any) -> Fraction:
    """A number such as 7/5 (no decimals or powers of ten, which may be huge). Raises ValueError."""
    if not isinstance(text, int | str) or not FRACTION.fullmatch(str(text)):
        raise ValueError(f"{text!r:.60} is not a fraction")
    return Fraction(text)


def bounded(document: Any) -> None:
    """Raises ValueError where a certificate is so large that reading it could take for ever."""
    pending, entries = [document], 0
    while pending:
        value = pending.pop()
        entries += 1
        if entries > LONGEST or (isinstance(value, str | list | dict) and len(value) > LONGEST):
            raise ValueError(f"more than {LONGEST} entries, or a text longer than that")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise ValueError(f"a number of more than {MAX_BITS} bits")
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def evaluate(text: str, env: Mapping[str, Any], left: list[int] | None = None) -> int:
    """Names, numbers, + - * // %, ^, min, max, ceil(a / b), table elements and sum(v < count: body); nothing else.

    ``left``: the terms that may still be added up. Raises ValueError for anything else, and TooLongError.
    """
    return int(_Reader(env, [LIMIT] if left is None else left).value(_parsed(text)))


@lru_cache(maxsize=1024)
def _parsed(text: str) -> ast.expr:
    return ast.parse(text.replace(":", ","), mode="eval").body


class _Reader:
    def __init__(self, env: Mapping[str, Any], left: list[int]) -> None:
        self.env = dict(env)
        self.left = left

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.Name(id=name) if name in self.env:
                return self.env[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
                return OPERATIONS[type(op)](self.value(left), self.value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand)
            case ast.Call(
                func=ast.Name(id="sum"), args=[ast.Compare(left=ast.Name(id=name), comparators=[count]), body]
            ):
                return self._sum(name, self.value(count), body)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](*map(self.value, args))
            case ast.Subscript(value=ast.Name(id=name), slice=index) if name in self.env:
                return self.env[name][self.value(index)]
        raise ValueError(f"{ast.unparse(node)!r} is not an integer expression in the sizes")

    def _sum(self, name: str, count: int, body: ast.expr) -> int:
        spend(self.left, count)
        outer, total = dict(self.env), 0
        for position in range(count):
            self.env[name] = position
            total += self.value(body)
        self.env = outer
        return total


def spend(left: list[int], terms: int) -> None:
    """Takes ``terms`` off what may still be added up. Raises TooLongError."""
    left[0] -= max(terms, 1)
    if left[0] < 0:
        raise TooLongError


def points(domain: Sequence[Sequence[str]], env: Mapping[str, Any]) -> int:
    """Points of a nest of (index, lower, upper); only indices that bounds name are walked. Raises TooLongError."""
    left = [LIMIT]

    def nest(at: int, known: dict[str, Any]) -> int:
        if at == len(domain):
            return 1
        name, lower, upper = domain[at]
        span = range(evaluate(lower, known, left), evaluate(upper, known, left))
        if not any(name in names(bound) for _, *bounds in domain[at + 1 :] for bound in bounds):
            return len(span) and len(span) * nest(at + 1, known)
        spend(left, len(span))
        return sum(nest(at + 1, {**known, name: position}) for position in span)

    return nest(0, dict(env))


def elements(domain: Sequence[Sequence[str]], subscripts: Sequence[str], env: Mapping[str, Any]) -> int:
    """How many elements a reference names in a nest. Raises TooLongError."""
    found: set[tuple[int, ...]] = set()
    left = [WALKED]

    def nest(at: int, known: dict[str, Any]) -> None:
        spend(left, 1)
        if at == len(domain):
            found.add(tuple(evaluate(s, known) for s in subscripts))
            return
        name, lower, upper = domain[at]
        for position in range(evaluate(lower, known, left), evaluate(upper, known, left)):
            nest(at + 1, {**known, name: position})

    nest(0, dict(env))
    return len(found)


def reached(domain: Sequence[Sequence[str]], env: Mapping[str, Any]) -> dict[str, int]:
    """How far apart the first and the last value of each index of a nest are, both included. Raises TooLongError."""
    found: dict[str, tuple[int, int]] = {}
    named = {name for _, *bounds in domain for bound in bounds for name in names(bound)}
    left = [LIMIT]

    def nest(at: int, known: dict[str, Any]) -> None:
        if at == len(domain):
            return
        name, lower, upper = domain[at]
        low, high = evaluate(lower, known, left), evaluate(upper, known, left)
        if low < high:
            first, last = found.get(name, (low, high))
            found[name] = (min(first, low), max(last, high))
        spend(left, high - low if name in named else 1)
        for position in range(low, high) if name in named else range(low, min(high, low + 1)):
            nest(at + 1, {**known, name: position})

    nest(0, dict(env))
    return {name: found[name][1] - found[name][0] if name in found else 0 for name, _, _ in domain}


def names(text: str) -> set[str]:
    """The names in an expression."""
    return {n.id for n in ast.walk(ast.parse(text.replace(":", ","), mode="eval")) if isinstance(n, ast.Name)}


def offsets(text: str, indices: Sequence[str], env: Mapping[str, Any]) -> tuple[dict[str, int], int]:
    """Coefficients of the indices in an affine subscript, and what is left."""
    zero = {**env, **dict.fromkeys(indices, 0)}
    rest = evaluate(text, zero)
    steps = {i: evaluate(text, {**zero, i: 1}) - rest for i in indices if i in names(text)}
    return {i: c for i, c in steps.items() if c}, rest


def same_product(left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> bool:
    """Whether two products of powers [base, exponent] are one number, exactly: every prime has one exponent in both.

    A factor without small divisors counts as a prime: if it is none, equal numbers may pass for different ones.
    """
    return _prime_exponents(left) == _prime_exponents(right)


def _prime_exponents(powers: Sequence[Sequence[str]]) -> dict[int, Fraction]:
    found: dict[int, Fraction] = {}
    for text, power in powers:
        base, exponent = fraction(text), fraction(power)
        if base <= 0:
            raise ValueError(f"the power of {base}, which is not positive")
        for number, sign in ((base.numerator, 1), (base.denominator, -1)):
            for prime in _factors(number):
                found[prime] = found.get(prime, Fraction(0)) + sign * exponent
    return {prime: e for prime, e in found.items() if e}


def _factors(number: int) -> Iterator[int]:
    for divisor in range(2, SMALL_FACTOR):
        while number % divisor == 0:
            yield divisor
            number //= divisor
    if number > 1:
        yield number


def product(powers: Sequence[Sequence[str]]) -> float:
    return math.prod(math.pow(fraction(b), fraction(e)) for b, e in powers)


def rank(vectors: Sequence[Sequence[int]]) -> int:
    """How many of the vectors are independent: the largest square part with a determinant that is not 0."""
    table, found = [list(map(Fraction, v)) for v in vectors], 0
    for column in range(len(table[0])):
        pivot = next((r for r in table[found:] if r[column]), None)
        if pivot is None:
            continue
        table.remove(pivot)
        table = [
            *table[:found],
            pivot,
            *([x - r[column] / pivot[column] * y for x, y in zip(r, pivot, strict=True)] for r in table[found:]),
        ]
        found += 1
    return found
