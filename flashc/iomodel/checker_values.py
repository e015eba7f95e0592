"""Numbers for certificate checks, from text: integer expressions, sizes of loop nests, exact products of powers."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

LIMIT = 200_000
"""Most terms that are added up; beyond, a number is not recounted."""
OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Div: Fraction,
    ast.BitXor: operator.pow,
}
FUNCTIONS: dict[str, Callable[..., int]] = {"min": min, "max": max, "ceil": math.ceil}


class TooLongError(Exception):
    """More than LIMIT terms."""


def evaluate(text: str, env: Mapping[str, Any]) -> int:
    """Names, numbers, + - * // %, ^, min, max, ceil(a / b), table elements and sum(v < count: body); nothing else.

    Raises ValueError for anything else, and TooLongError.
    """
    return int(_Reader(env).value(ast.parse(text.replace(":", ","), mode="eval").body))


class _Reader:
    def __init__(self, env: Mapping[str, Any]) -> None:
        self.env = dict(env)
        self.left = LIMIT

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
        self.left -= count
        if self.left < 0:
            raise TooLongError
        outer, total = dict(self.env), 0
        for position in range(count):
            self.env[name] = position
            total += self.value(body)
        self.env = outer
        return total


def points(domain: Sequence[Sequence[str]], env: Mapping[str, Any]) -> int:
    """Points of a nest of (index, lower, upper); only indices that bounds name are walked. Raises TooLongError."""
    left = [LIMIT]

    def nest(at: int, known: dict[str, Any]) -> int:
        if at == len(domain):
            return 1
        name, lower, upper = domain[at]
        span = range(evaluate(lower, known), evaluate(upper, known))
        if not any(name in names(bound) for _, *bounds in domain[at + 1 :] for bound in bounds):
            return len(span) and len(span) * nest(at + 1, known)
        left[0] -= len(span)
        if left[0] < 0:
            raise TooLongError
        return sum(nest(at + 1, {**known, name: position}) for position in span)

    return nest(0, dict(env))


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
    """Whether two products of powers [base, exponent] are one number, exactly: both raised to a common denominator."""
    powers = [[(Fraction(b), Fraction(e)) for b, e in side] for side in (left, right)]
    common = math.lcm(*(e.denominator for side in powers for _, e in side))
    first, second = (math.prod((b ** int(e * common) for b, e in side), start=Fraction(1)) for side in powers)
    return first == second


def product(powers: Sequence[Sequence[str]]) -> float:
    return math.prod(math.pow(Fraction(b), Fraction(e)) for b, e in powers)


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
