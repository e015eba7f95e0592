"""The functions of elementwise expressions: kinds, numpy meaning, cost, and how they are written.

One table for the constructors, the parser, the interpreter, the cost analysis and the code printers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["bool", "int", "float"]
KindRule = Callable[[tuple[Kind, ...]], Kind | None]


@dataclass(frozen=True, slots=True)
class Function:
    """What is known of a function: `flops` are plain vector operations per element, `transcendental` ones are
    counted apart (as exps) and have no flops."""

    name: str
    arity: int
    rule: KindRule
    accepts: str
    numpy: Callable[..., Any]
    flops: int = 1
    transcendental: bool = False


def _numeric(kinds: tuple[Kind, ...]) -> Kind | None:
    if "bool" in kinds:
        return None
    return "float" if "float" in kinds else "int"


def _real(kinds: tuple[Kind, ...]) -> Kind | None:
    return None if "bool" in kinds else "float"


def _integer(kinds: tuple[Kind, ...]) -> Kind | None:
    return "int" if set(kinds) == {"int"} else None


def _ordered(kinds: tuple[Kind, ...]) -> Kind | None:
    return None if "bool" in kinds else "bool"


def _equal(kinds: tuple[Kind, ...]) -> Kind | None:
    return "bool" if set(kinds) == {"bool"} else _ordered(kinds)


def _logical(kinds: tuple[Kind, ...]) -> Kind | None:
    return "bool" if set(kinds) == {"bool"} else None


def _choice(kinds: tuple[Kind, ...]) -> Kind | None:
    if kinds[0] != "bool":
        return None
    return "bool" if set(kinds[1:]) == {"bool"} else _numeric(kinds[1:])


def _to_int(value: Any) -> Any:
    return np.asarray(value).astype(np.int64)


def _to_float(value: Any) -> Any:
    return np.asarray(value).astype(np.float64)


def _table(rule: KindRule, accepts: str, arity: int, **numpy_of: Callable[..., Any]) -> list[Function]:
    return [Function(name.rstrip("_"), arity, rule, accepts, impl) for name, impl in numpy_of.items()]


_EXPONENTIALS = {"exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "tanh": np.tanh}

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in [
        *_table(_numeric, "numbers", 2, add=operator.add, sub=operator.sub, mul=operator.mul),
        *_table(_numeric, "numbers", 2, min=np.minimum, max=np.maximum),
        *_table(_numeric, "a number", 1, neg=operator.neg, abs=operator.abs),
        *_table(_real, "numbers", 2, div=np.true_divide),
        *_table(_integer, "ints", 2, floordiv=operator.floordiv, mod=operator.mod),
        *_table(_ordered, "numbers", 2, lt=operator.lt, le=operator.le, gt=operator.gt, ge=operator.ge),
        *_table(_equal, "two numbers or two bools", 2, eq=operator.eq, ne=operator.ne),
        *_table(_logical, "bools", 2, and_=np.logical_and, or_=np.logical_or),
        *_table(_logical, "a bool", 1, not_=np.logical_not),
        *_table(_ordered, "a number", 1, isinf=np.isinf, isfinite=np.isfinite),
        *_table(_choice, "a bool, then two numbers or two bools", 3, where=np.where),
        Function("to_float", 1, lambda kinds: "float", "anything", _to_float, flops=0),
        Function("to_int", 1, lambda kinds: "int", "anything", _to_int, flops=0),
        *(Function(name, 1, _real, "a number", impl, flops=0, transcendental=True)
          for name, impl in _EXPONENTIALS.items()),
    ]
}

# Infix operators: symbol, and binding strength (a larger number binds tighter). The parser shares this table.
INFIX: dict[str, tuple[str, int]] = {
    "or": ("or", 1), "and": ("and", 2),
    "lt": ("<", 4), "le": ("<=", 4), "gt": (">", 4), "ge": (">=", 4), "eq": ("==", 4), "ne": ("!=", 4),
    "add": ("+", 5), "sub": ("-", 5), "mul": ("*", 6),
    "div": ("/", 6), "floordiv": ("//", 6), "mod": ("%", 6),
}
NOT, COMPARE, UNARY, ATOM = 3, 4, 7, 8
SYMBOLS = {fn: f"'{symbol}'" for fn, (symbol, _) in INFIX.items()} | {"neg": "'-'", "not": "'not'"}
