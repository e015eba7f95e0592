"""The Triton dialect of integer and elementwise expressions.

Text is built together with how strongly its outermost Python operator binds, so that only needed brackets are
printed. Integer division: Triton's ``//`` and ``%`` truncate as C does, the IR floors; where a negative
operand cannot be excluded the helpers ``floor_div`` and ``floor_mod`` are called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import reduce
from typing import NamedTuple

from flashc.errors import IRError
from flashc.ir.intexpr import Add, CeilDiv, Const, FloorDiv, IntExpr, Item, Max, Min, Mod, Mul, Sym
from flashc.ir.scalar import Call, Coord, Fetch, Lit, Scalar, kind_of, walk

COMPARE, OR, AND, SUM, PRODUCT, UNARY, ATOM = 4, 5, 7, 9, 10, 11, 13


class Text(NamedTuple):
    """Python text and the binding strength of its outermost operator."""

    text: str
    strength: int = ATOM

    def within(self, strength: int) -> str:
        """The text as an operand of an operator of that strength."""
        return self.text if self.strength >= strength else f"({self.text})"

    def method(self, call: str) -> Text:
        return Text(f"{self.within(ATOM)}.{call}")

    def __str__(self) -> str:
        return self.text


INFIX: dict[str, tuple[str, int]] = {
    "add": ("+", SUM),
    "sub": ("-", SUM),
    "mul": ("*", PRODUCT),
    "div": ("/", PRODUCT),
    "floordiv": ("//", PRODUCT),
    "mod": ("%", PRODUCT),
    "lt": ("<", COMPARE),
    "le": ("<=", COMPARE),
    "gt": (">", COMPARE),
    "ge": (">=", COMPARE),
    "eq": ("==", COMPARE),
    "ne": ("!=", COMPARE),
    "and": ("&", AND),
    "or": ("|", OR),
}
CALLS: dict[str, str] = {
    "min": "tl.minimum({}, {})",
    "max": "tl.maximum({}, {})",
    "abs": "tl.abs({})",
    "where": "tl.where({}, {}, {})",
    "exp": "tl.exp({})",
    "exp2": "tl.exp2({})",
    "log": "tl.log({})",
    "log2": "tl.log2({})",
    "tanh": "tanh({})",
}
HELPERS = {"tanh": "tanh", "floordiv": "floor_div", "mod": "floor_mod"}
FLOAT_ARGUMENTS = frozenset({"exp", "exp2", "log", "log2", "tanh"})

Leaf = Callable[[Scalar], Text]
Symbol = Callable[[Sym | Item], Text]


def infix(fn: str, left: Text, right: Text) -> Text:
    """``left fn right``; comparisons do not chain, the other operators associate to the left."""
    sign, strength = INFIX[fn]
    return Text(
        f"{left.within(strength + (strength == COMPARE))} {sign} {right.within(strength + 1)}", strength
    )


def literal(value: bool | int | float) -> Text:
    if isinstance(value, float) and math.isinf(value):
        return Text('float("inf")' if value > 0 else 'float("-inf")')
    return Text(repr(value), UNARY if not isinstance(value, bool) and value < 0 else ATOM)


# -- integer expressions


def integer(expr: IntExpr, symbol: Symbol, nonnegative: Collection[str], helpers: set[str]) -> Text:
    """The expression in Triton; ``symbol`` prints symbols and table elements.

    ``nonnegative`` lists symbols that cannot be negative; names of needed helper functions are added to
    ``helpers``.
    """

    def text(node: IntExpr) -> Text:
        match node:
            case Const(value=v):
                return literal(v)
            case Sym() | Item():
                return symbol(node)
            case Add(args=args):
                return reduce(_plus, map(text, args))
            case Mul(args=(Const(value=-1), *rest)):
                return Text("-" + reduce(_times, map(text, rest)).within(UNARY), UNARY)
            case Mul(args=args):
                return reduce(_times, map(text, args))
            case Min(args=args):
                return reduce(lambda a, b: Text(f"tl.minimum({a}, {b})"), map(text, args))
            case Max(args=args):
                return reduce(lambda a, b: Text(f"tl.maximum({a}, {b})"), map(text, args))
            case CeilDiv(num=num, den=den) if _never_negative(node, nonnegative):
                return Text(f"tl.cdiv({text(num)}, {text(den)})")
            case CeilDiv(num=num, den=den):
                helpers.add("floor_div")
                return Text(f"-floor_div({text(-num)}, {text(den)})", UNARY)
            case FloorDiv(num=num, den=den):
                return _division(
                    "floordiv", text(num), text(den), _never_negative(node, nonnegative), helpers
                )
            case Mod(num=num, den=den):
                return _division("mod", text(num), text(den), _never_negative(node, nonnegative), helpers)
        raise IRError(f"no Triton form of the integer expression {node}")

    return text(expr)


def _plus(left: Text, right: Text) -> Text:
    if right.text.startswith("-") and right.strength >= PRODUCT:
        return infix("sub", left, Text(right.text[1:], right.strength))
    return infix("add", left, right)


def _times(left: Text, right: Text) -> Text:
    return infix("mul", left, right)


def _division(fn: str, left: Text, right: Text, plain: bool, helpers: set[str]) -> Text:
    if plain:
        return infix(fn, left, right)
    helpers.add(HELPERS[fn])
    return Text(f"{HELPERS[fn]}({left}, {right})")


def _never_negative(expr: IntExpr, nonnegative: Collection[str]) -> bool:
    match expr:
        case Const(value=v):
            return v >= 0
        case Sym(name=n):
            return n in nonnegative
        case Max(args=args):
            return any(_never_negative(a, nonnegative) for a in args)
        case Add() | Mul() | Min() | FloorDiv() | CeilDiv() | Mod():
            return all(_never_negative(a, nonnegative) for a in expr.children())
    return False


# -- elementwise expressions


def elementwise(expr: Scalar, leaf: Leaf, kinds: Mapping[str, str], helpers: set[str]) -> Text:
    """The expression in Triton; ``leaf`` prints coordinates, values, gathers and predicates.

    ``kinds`` gives 'bool', 'int' or 'float' of refs and tensors by name.
    """

    def text(node: Scalar) -> Text:
        if isinstance(node, Lit):
            return literal(node.value)
        if not isinstance(node, Call):
            return leaf(node)
        args = [text(a) for a in node.args]
        if node.fn in FLOAT_ARGUMENTS and kind_of(node.args[0], kinds) != "float":
            args = [args[0].method("to(tl.float32)")]
        return _call(node, args, kinds, helpers)

    return text(expr)


def _call(node: Call, args: list[Text], kinds: Mapping[str, str], helpers: set[str]) -> Text:
    if node.fn in ("floordiv", "mod"):
        return _division(node.fn, args[0], args[1], all(_counts_up(a) for a in node.args), helpers)
    if node.fn == "mul" and node.args[1] == Lit(-1):
        return Text("-" + args[0].within(UNARY), UNARY)
    if node.fn == "mul" and kind_of(node, kinds) == "int":
        args[0] = args[0].method("to(tl.int64)")
    if node.fn == "add":
        return _plus(*args)
    if node.fn in INFIX:
        return infix(node.fn, *args)
    match node.fn:
        case "neg":
            return Text("-" + args[0].within(UNARY), UNARY)
        case "not":
            return Text("~" + args[0].within(UNARY), UNARY)
        case "isinf":
            return infix("eq", Text(f"tl.abs({args[0]})"), literal(math.inf))
        case "isfinite":
            return infix("lt", Text(f"tl.abs({args[0]})"), literal(math.inf))
        case "to_float":
            return args[0].method("to(tl.float32)")
        case "to_int":
            return args[0].method("to(tl.int64)")
    if node.fn in HELPERS:
        helpers.add(HELPERS[node.fn])
    return Text(CALLS[node.fn].format(*args))


def _counts_up(expr: Scalar) -> bool:
    """True where an int expression is made of coordinates and literals that are not negative."""
    plain = {"add", "mul", "min", "max", "floordiv", "mod"}
    for node in walk(expr):
        if isinstance(node, Lit) and node.value < 0:
            return False
        if isinstance(node, Call) and node.fn not in plain or isinstance(node, Fetch):
            return False
        if not isinstance(node, Lit | Call | Coord):
            return False
    return True
