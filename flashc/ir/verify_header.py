"""The rules of a tile program's header: names that mean one thing, and extents that the sizes determine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NoReturn

from flashc.errors import IRError
from flashc.ir.intexpr import NAME, RESERVED, IntExpr
from flashc.ir.nodes import Program

WORDS = RESERVED | {"true", "false", "inf", "and", "or", "not"}
"""Names with a meaning of their own in expressions."""
LEGAL = f"use letters, digits and _; none of {', '.join(sorted(WORDS))}"


def readable(name: str) -> bool:
    """Whether the text of an expression can carry the name."""
    return NAME.fullmatch(name) is not None and name not in WORDS


def verify_header(program: Program) -> None:
    """Raise IRError that names the program, the item, the problem and the fix, if there is one."""
    _names(program)
    for name, _ in program.fixed:
        if name not in program.sizes:
            _fail(program, f"fixed {name} is no size", f"list it in sizes ({', '.join(program.sizes)})")
    if program.tiles and program.stage in ("bound", "lowered"):
        _fail(program, f"{program.stage}, with tiles {', '.join(program.tiles)}", "bind gives them numbers")
    for axis in program.axes:
        _sized(program, f"axis {axis.name}", axis.extent)
    for tensor in program.tensors:
        for dim in tensor.dims:
            _sized(program, f"tensor {tensor.name}", dim)


def _names(program: Program) -> None:
    """Symbols of integer expressions share one space of names, and so do those of elementwise ones."""
    axes = [a.name for a in program.axes]
    params = [p.name for p in program.params]
    tables = [t.name for t in program.tensors if t.dtype.kind == "int"]
    numbers = [*program.sizes, *program.tiles]
    for name in (*numbers, *axes, *params, *(t.name for t in program.tensors)):
        if not readable(name):
            _fail(program, f"{name!r} is no name", LEGAL)
    _distinct(program, "sizes, tiles and axes", [*numbers, *axes])
    _distinct(program, "sizes, tiles, params and integer tensors", [*numbers, *params, *tables])
    _distinct(program, "tensors", [t.name for t in program.tensors])
    _distinct(program, "fixed sizes", [name for name, _ in program.fixed])
    _distinct(program, "kernels", [k.name for k in program.kernels])


def _distinct(program: Program, what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            _fail(program, f"{name} occurs {count} times among {what}", "rename all but one")


def _sized(program: Program, what: str, extent: IntExpr) -> None:
    unknown = sorted(extent.symbols().difference(program.sizes, program.tiles))
    if unknown:
        _fail(program, f"{what} has the extent {extent}, and {unknown[0]} is no size", "list it in sizes")


def _fail(program: Program, problem: str, fix: str) -> NoReturn:
    raise IRError(f"program {program.name}.{program.schedule}: {problem}; {fix}")
