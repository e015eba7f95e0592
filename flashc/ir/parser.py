"""Text -> tile program (docs/ir.md): the exact inverse of :func:`flashc.ir.printer.print_program`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, get_args

from flashc.errors import IRError
from flashc.ir.intexpr import Const, IntExpr
from flashc.ir.lines import Cursor, Line, line_tree
from flashc.ir.nodes import (
    Access,
    Alloc,
    Atom,
    Carry,
    Copy,
    Domain,
    Dot,
    Kernel,
    Load,
    Loop,
    Map,
    Par,
    Part,
    Program,
    Reduce,
    Seq,
    Stage,
    Stmt,
    Store,
    Sync,
    View,
)
from flashc.ir.types import DTYPES, Axis, DType, Layout, Mode, Param, Role, Tensor, Value

Operation = Literal["load", "copy", "view", "dot", "map", "max", "min", "sum"]
Order = Literal["natural", "longest"]
Side = Literal["left", "right"]
Space = Literal["lane", "reg"]


def parse_program(text: str) -> Program:
    """The program that ``text`` spells. Raises IRError with line, column, the text and what is expected."""
    lines = line_tree(text)
    if not lines:
        raise IRError("line 1: empty text; expected `program NAME.SCHEDULE (STAGE)`")
    if len(lines) > 1:
        raise Cursor(lines[1]).complaint(0, "expected nothing after the program, whose lines are indented")
    return _program(lines[0])


# -- the program


def _program(line: Line) -> Program:
    read = Cursor(line)
    read.expect("program", "; a program begins `program NAME.SCHEDULE (STAGE)`")
    at = read.token.at
    name, dot, schedule = read.name("NAME.SCHEDULE").partition(".")
    if not dot:
        raise read.complaint(at, f"expected NAME.SCHEDULE, found {name!r}")
    read.expect("(")
    stage = read.one_of(get_args(Stage))
    read.expect(")")
    read.finish()
    header: dict[str, tuple[Any, ...]] = {}
    tensors: list[Tensor] = []
    notes: list[str] = []
    kernels: list[Kernel] = []
    for inner in line.inner:
        part = Cursor(inner)
        match word := part.one_of((*_HEADER, *get_args(Role), "note", "kernel")):
            case "note":
                notes.append(_note(part))
            case "kernel":
                kernels.append(_kernel(part))
            case "in" | "out" | "temp":
                tensors.append(_tensor(part, word))
            case _ if word in header:
                raise part.complaint(0, f"expected one line of {word}, found a second")
            case _:
                header[word] = part.listed(partial(_HEADER[word], part))
                part.leaf()
    header = dict.fromkeys(_HEADER, ()) | header
    header |= {"tensors": tuple(tensors), "kernels": tuple(kernels), "notes": tuple(notes)}
    return Program(name, schedule, stage=stage, **header)


def _fixed(read: Cursor) -> tuple[str, int]:
    name = read.name("a size")
    read.expect("=")
    return name, read.number()


def _param(read: Cursor) -> Param:
    name = read.name("a parameter")
    read.expect(":")
    return Param(name, _dtype(read))


def _axis(read: Cursor) -> Axis:
    name = read.name("an axis")
    read.expect(":")
    return Axis(name, read.expression())


_HEADER: dict[str, Callable[[Cursor], Any]] = {
    "sizes": lambda read: read.name("a size"),
    "fixed": _fixed,
    "params": _param,
    "tiles": lambda read: read.name("a tile symbol"),
    "axes": _axis,
}


def _tensor(read: Cursor, role: Role) -> Tensor:
    name = read.name("a tensor")
    read.expect(":")
    dtype = _dtype(read)
    read.expect("[", " and the tensor's dimensions")
    dims = read.listed(read.expression, "]")
    read.leaf()
    return Tensor(name, dtype, dims, role)


def _note(read: Cursor) -> str:
    at = read.token.at
    try:
        text = json.loads(read.rest())
    except ValueError:
        text = None
    if not isinstance(text, str):
        raise read.complaint(at, 'expected a text in double quotes, as in JSON: note "tiles Ti=64"')
    read.leaf()
    return text


def _kernel(read: Cursor) -> Kernel:
    name = read.name("the kernel's name")
    read.finish()
    return Kernel(name, _block(read.line.inner))


# -- statements


def _block(lines: Iterable[Line]) -> tuple[Stmt, ...]:
    return tuple(_statement(line) for line in lines)


def _statement(line: Line) -> Stmt:
    """Keywords are no reserved words: a value of that name is followed by `[` or `:`."""
    read = Cursor(line)
    word = read.name("a statement")
    if read.token.text in ("[", ":"):
        return _definition(read, word)
    match word:
        case "par":
            return _par(read)
        case "seq":
            return _seq(read)
    stmt: Stmt
    match word:
        case "store":
            access = _access(read)
            accumulate = read.accept("+") is not None
            read.expect("=")
            stmt = Store(access, read.name("a value"), accumulate)
        case "alloc":
            value = _value(read, read.name("a value"))
            read.expect("count")
            count = read.expression()
            read.expect("slot")
            stmt = Alloc(value, count, read.name("a slot"))
        case "sync":
            stmt = Sync(read.name("a memory level"))
        case "carry":
            raise read.complaint(0, "expected carry lines only as the first lines below a seq")
        case _:
            expected = "store, alloc, sync, par, seq or `NAME[AXES]: DTYPE = ...`"
            raise read.complaint(0, f"expected {expected}, found {word!r}")
    read.leaf()
    return stmt


def _definition(read: Cursor, name: str) -> Stmt:
    out = _value(read, name)
    read.expect("=")
    word: Operation = read.one_of(get_args(Operation))
    stmt: Stmt
    match word:
        case "load":
            stmt = Load(out, _access(read))
        case "copy":
            stmt = Copy(out, read.name("a value"))
        case "view":
            stmt = View(out, read.name("a value"))
        case "dot":
            stmt = _dot(read, out)
        case "map":
            stmt = Map(out, read.scalar(read.rest()))
        case _:
            source = read.name("a value")
            read.expect("over")
            stmt = Reduce(out, word, source, read.name("an axis"))
    read.leaf()
    return stmt


def _dot(read: Cursor, out: Value) -> Dot:
    a = read.name("a value")
    read.expect(",", " between the operands")
    b = read.name("a value")
    over = read.listed(lambda: read.name("an axis")) if read.accept("over") else ()
    zero_skips = read.accept("zero_skips") is not None
    atom = _atom(read) if read.accept("atom") else None
    init = read.scalar(read.rest()) if read.accept("init") else None
    read.finish("over, zero_skips, atom, init (in this order)")
    return Dot(out, a, b, over, init, zero_skips, atom)


def _atom(read: Cursor) -> Atom:
    unit = read.name("a unit")
    lane = read.name("an axis") if read.accept("lane") else None
    read.expect("m", "; an atom is `UNIT [lane AXIS] m EXPR n EXPR k NUMBER`")
    m = read.expression()
    read.expect("n")
    n = read.expression()
    read.expect("k")
    return Atom(unit, lane, m, n, read.number())


def _par(read: Cursor) -> Par:
    loops = read.listed(partial(_loop, read)) if read.second() == ":" else ()
    order: Order = read.one_of(get_args(Order)) if read.accept("order") else "natural"
    read.finish("@MAP, order")
    return Par(loops, _block(read.line.inner), order)


def _seq(read: Cursor) -> Seq:
    loop = _loop(read)
    reverse = read.accept("reverse") is not None
    law = read.name("a law") if read.accept("law") else None
    stages = read.expression() if read.accept("stages") else Const(1)
    part: Part = read.one_of(get_args(Part)) if read.accept("part") else "all"
    side: Side | Literal[""] = read.one_of(get_args(Side)) if read.accept("side") else ""
    domain = _domain(read, loop.axis) if read.accept("where") else None
    read.finish("@MAP, reverse, law, stages, part, side, where (in this order)")
    lines = list(read.line.inner)
    carry: list[Carry] = []
    while lines and re.match(r"carry\s+\w", lines[0].text):
        carry.append(_carry(Cursor(lines.pop(0))))
    return Seq(loop, _block(lines), tuple(carry), domain, law, stages, part, side, reverse)


def _carry(read: Cursor) -> Carry:
    read.expect("carry")
    value = _value(read, read.name("a value"))
    read.expect("=")
    at = read.token.at
    init, found, after = read.rest().rpartition(" next ")
    if not found or re.fullmatch(r"[\w.]+", after) is None:
        raise read.complaint(at, "expected `INIT next NAME`, the value that replaces it after each step")
    read.leaf()
    return Carry(value, read.scalar(init), after)


def _loop(read: Cursor) -> Loop:
    axis = read.name("an axis")
    read.expect(":")
    tile = read.expression()
    return Loop(axis, tile, read.name("grid, serial, ...") if read.accept("@") else "serial")


def _domain(read: Cursor, axis: str) -> Domain:
    if read.accept("true"):
        return Domain()
    bounds = read.listed(lambda: _bound(read, axis))
    lower = tuple(bound for sign, bound in bounds if sign == ">=")
    return Domain(lower, tuple(bound for sign, bound in bounds if sign == "<"))


def _bound(read: Cursor, axis: str) -> tuple[str, IntExpr]:
    read.expect(axis, f"; a bound is `{axis} >= EXPR` or `{axis} < EXPR`")
    return read.one_of((">=", "<")), read.expression()


# -- pieces


def _access(read: Cursor) -> Access:
    tensor = read.name("a tensor")
    read.expect("[", " and an index per dimension")
    return Access(tensor, read.listed(read.expression, "]"))


def _value(read: Cursor, name: str) -> Value:
    axes = read.listed(lambda: read.name("an axis"), "]") if read.accept("[") else ()
    read.expect(":", " and an element type")
    dtype = _dtype(read)
    level = read.name("a memory level") if read.accept("@") else None
    layout = _layout(read) if read.accept("{") else None
    return Value(name, axes, dtype, level, layout)


def _dtype(read: Cursor) -> DType:
    return DTYPES[read.one_of(tuple(DTYPES))]


def _layout(read: Cursor) -> Layout:
    modes = read.listed(lambda: _mode(read), "}")
    if not read.accept("swizzle"):
        return Layout(modes)
    at = read.token.at
    numbers = read.listed(read.number)
    if len(numbers) != 3:
        raise read.complaint(at, "expected three integers: swizzle BITS, BASE, SHIFT")
    return Layout(modes, (numbers[0], numbers[1], numbers[2]))


def _mode(read: Cursor) -> Mode:
    axis = read.name("an axis")
    shape = read.expression()
    read.expect(":", "; a mode is `AXIS SHAPE:STRIDE [lane|reg]`")
    stride = read.expression()
    space: Space | None = read.one_of(get_args(Space)) if read.token.kind == "name" else None
    return Mode(axis, shape, stride, space or "offset")
