"""Elementwise and integer expressions in C++: one table of spellings, one walk.

An expression is uniform (the same in all lanes) or a vector of W lanes; kinds are bool, int and float. Vector bools are
the all-ones masks that vector comparisons give.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flashc.errors import IRError
from flashc.ir.intexpr import Add, CeilDiv, Const, FloorDiv, IntExpr, Item, Max, Min, Mod, Mul, Sym
from flashc.ir.scalar import FUNCTIONS, Call, Lit, Scalar

Kind = Literal["bool", "int", "float"]

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
          "ne": "!="}
_LOGIC = {"and": ("&", "&&"), "or": ("|", "||")}
_NAMED = {"min": "vmin", "max": "vmax", "abs": "vabs", "exp": "vexp", "exp2": "vexp2", "log": "vlog", "log2": "vlog2",
          "tanh": "vtanh", "floordiv": "vfloordiv", "mod": "vmod"}


@dataclass(frozen=True, slots=True)
class Text:
    """C++ text of an expression: ``vector`` says whether it differs by lane."""

    code: str
    kind: Kind
    vector: bool


Leaf = Callable[[Scalar], Text]


def scalar_text(expr: Scalar, leaf: Leaf) -> Text:
    """The expression in C++; ``leaf`` spells coordinates, references and fetches."""
    if isinstance(expr, Lit):
        return literal(expr.value)
    if not isinstance(expr, Call):
        return leaf(expr)
    args = [scalar_text(a, leaf) for a in expr.args]
    return _call(expr.fn, args)


def literal(value: bool | int | float) -> Text:
    if isinstance(value, bool):
        return Text("true" if value else "false", "bool", False)
    if isinstance(value, int):
        return Text(str(value), "int", False)
    if math.isinf(value):
        return Text("INF" if value > 0 else "-INF", "float", False)
    return Text(f"{value!r}f" if "e" in repr(value) or "." in repr(value) else f"{value!r}.0f", "float", False)


def as_kind(text: Text, kind: Kind) -> Text:
    if text.kind == kind:
        return text
    if text.kind == "int" and kind == "float":
        return Text(f"vfloat({text.code})", "float", text.vector)
    raise IRError(f"`{text.code}` is {text.kind}, needed as {kind}")


def as_vector(text: Text) -> str:
    """A vector of the value in every lane."""
    if text.vector:
        return text.code
    return f"splat(-(int32_t)({text.code}))" if text.kind == "bool" else f"splat({text.code})"


def _call(fn: str, args: list[Text]) -> Text:
    vector = any(a.vector for a in args)
    if fn in _LOGIC:
        if vector:
            return Text(f"({as_vector(args[0])} {_LOGIC[fn][0]} {as_vector(args[1])})", "bool", True)
        return Text(f"({args[0].code} {_LOGIC[fn][1]} {args[1].code})", "bool", False)
    if fn == "not":
        return Text(f"~{args[0].code}" if vector else f"!{args[0].code}", "bool", vector)
    if fn == "neg":
        return Text(f"(-{args[0].code})", args[0].kind, vector)
    if fn == "where":
        return _where(args)
    if fn in ("to_float", "to_int"):
        return _convert(fn, args[0])
    if fn in ("isinf", "isfinite"):
        size = Text(f"vabs({args[0].code})", "float", vector)
        return Text(f"({size.code} {'==' if fn == 'isinf' else '<'} INF)", "bool", vector)
    return _arithmetic(fn, args, vector)


def _convert(fn: str, arg: Text) -> Text:
    if fn == "to_int":
        return arg if arg.kind == "int" else Text(f"vint({arg.code})", "int", arg.vector)
    if arg.kind == "bool":
        return Text(f"pick({arg.code}, {'splat(1.0f), vf{}' if arg.vector else '1.0f, 0.0f'})", "float", arg.vector)
    return as_kind(arg, "float")


def _where(args: list[Text]) -> Text:
    kind: Kind = "float" if "float" in (args[1].kind, args[2].kind) else args[1].kind
    arms = [as_kind(a, kind) for a in args[1:]]
    if args[0].vector:
        return Text(f"pick({args[0].code}, {as_vector(arms[0])}, {as_vector(arms[1])})", kind, True)
    vector = any(a.vector for a in arms)
    first, second = (as_vector(a) if vector else a.code for a in arms)
    return Text(f"({args[0].code} ? {first} : {second})", kind, vector)


def _arithmetic(fn: str, args: list[Text], vector: bool) -> Text:
    function = FUNCTIONS[fn]
    kind: Kind = "float" if fn == "div" or function.transcendental or any(a.kind == "float" for a in args) else "int"
    if all(a.kind == "bool" for a in args):  # true is 1, in a lane -1: both sides as lanes, or none
        args = [Text(as_vector(a) if vector else a.code, "bool", vector) for a in args]
    else:
        args = [as_kind(a, kind) for a in args]
    if fn in _INFIX:
        result: Kind = "bool" if fn in ("lt", "le", "gt", "ge", "eq", "ne") else kind
        return Text(f"({args[0].code} {_INFIX[fn]} {args[1].code})", result, vector)
    if fn not in _NAMED:
        raise IRError(f"cpu: no C++ spelling of `{fn}`")
    spelled = [as_vector(a) if vector else a.code for a in args]
    return Text(f"{_NAMED[fn]}({', '.join(spelled)})", kind, vector)


def int_text(expr: IntExpr) -> str:
    """An integer expression as a C++ ``long``; tables are read through ``<table>_at(index)``."""
    match expr:
        case Const(value=v):
            return str(v)
        case Sym(name=n):
            return n
        case Add(args=args):
            return "(" + " + ".join(map(int_text, args)) + ")"
        case Mul(args=args):
            return " * ".join(_factor(x) for x in args)
        case FloorDiv(num=a, den=b):
            return f"floor_div({int_text(a)}, {int_text(b)})"
        case CeilDiv(num=a, den=b):
            return f"ceil_div({int_text(a)}, {int_text(b)})"
        case Mod(num=a, den=b):
            return f"floor_mod({int_text(a)}, {int_text(b)})"
        case Min(args=args) | Max(args=args):
            fn = "std::min" if isinstance(expr, Min) else "std::max"
            return f"{fn}<long>({{{', '.join(map(int_text, args))}}})" if len(args) > 2 else (
                f"{fn}<long>({int_text(args[0])}, {int_text(args[1])})")
        case Item(table=t, index=ix):
            return f"{t}_at({', '.join(map(int_text, ix))})"
    raise IRError(f"cpu: no C++ form of {expr}")


def _factor(expr: IntExpr) -> str:
    text = int_text(expr)
    return f"({text})" if isinstance(expr, Const) and expr.value < 0 else text
