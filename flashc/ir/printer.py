"""Tile program -> text (docs/ir.md). :func:`flashc.ir.parser.parse_program` is the exact inverse."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

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
    Program,
    Reduce,
    Seq,
    Stmt,
    Store,
    Sync,
    View,
)
from flashc.ir.types import Layout, Mode, Value

INDENT = "  "


def print_program(program: Program) -> str:
    """The program as text, one statement per line, ending in a newline."""
    return "".join(f"{line}\n" for line in _program(program))


def headline(node: Stmt | Carry) -> str:
    """The line of a statement, without the block it may hold; messages about a statement show it."""
    match node:
        case Load(out=out, access=access):
            return f"{print_value(out)} = load {_access(access)}"
        case Store(access=access, value=value, accumulate=accumulate):
            return f"store {_access(access)} {'+=' if accumulate else '='} {value}"
        case Copy(out=out, source=source):
            return f"{print_value(out)} = copy {source}"
        case View(out=out, source=source):
            return f"{print_value(out)} = view {source}"
        case Dot():
            return _dot(node)
        case Map(out=out, expr=expr):
            return f"{print_value(out)} = map {expr}"
        case Reduce(out=out, op=op, source=source, over=over):
            return f"{print_value(out)} = {op} {source} over {over}"
        case Alloc(value=value, count=count, slot=slot):
            return f"alloc {print_value(value)} count {count} slot {slot}"
        case Sync(level=level):
            return f"sync {level}"
        case Par():
            return _par(node)
        case Seq():
            return _seq(node)
        case Carry(value=value, init=init, next=name):
            return f"carry {print_value(value)} = {init} next {name}"


def print_value(value: Value) -> str:
    """A value as it stands where it is defined: name, axes, element type, level and layout."""
    axes = f"[{_listed(value.axes)}]" if value.axes else ""
    level = f" @{value.level}" if value.level is not None else ""
    layout = f" {_layout(value.layout)}" if value.layout is not None else ""
    return f"{value.name}{axes}: {value.dtype}{level}{layout}"


# -- the program


def _program(program: Program) -> Iterator[str]:
    yield f"program {program.name}.{program.schedule} ({program.stage})"
    lists = {
        "sizes": program.sizes,
        "fixed": [f"{name} = {number}" for name, number in program.fixed],
        "params": [f"{p.name}: {p.dtype}" for p in program.params],
        "tiles": program.tiles,
        "axes": [f"{a.name}: {a.extent}" for a in program.axes],
    }
    for word, items in lists.items():
        if items:
            yield f"{INDENT}{word} {_listed(items)}"
    for tensor in program.tensors:
        yield f"{INDENT}{tensor.role} {tensor.name}: {tensor.dtype}[{_listed(tensor.dims)}]"
    for note in program.notes:
        yield f"{INDENT}note {json.dumps(note)}"
    for kernel in program.kernels:
        yield from _kernel(kernel)


def _kernel(kernel: Kernel) -> Iterator[str]:
    yield f"{INDENT}kernel {kernel.name}"
    for stmt in kernel.body:
        yield from _statement(stmt, INDENT * 2)


def _statement(stmt: Stmt, indent: str) -> Iterator[str]:
    yield indent + headline(stmt)
    if isinstance(stmt, Seq):
        for carry in stmt.carry:
            yield indent + INDENT + headline(carry)
    if isinstance(stmt, Par | Seq):
        for inner in stmt.body:
            yield from _statement(inner, indent + INDENT)


# -- statements


def _par(par: Par) -> str:
    loops = f" {_listed(map(_loop, par.loops))}" if par.loops else ""
    return f"par{loops}{_unless('natural', ' order', par.order)}"


def _seq(seq: Seq) -> str:
    reverse = " reverse" if seq.reverse else ""
    law = f" law {seq.law}" if seq.law is not None else ""
    stages = _unless("1", " stages", str(seq.stages))
    part = _unless("all", " part", seq.part) + (f" side {seq.side}" if seq.side else "")
    return f"seq {_loop(seq.loop)}{reverse}{law}{stages}{part}{_domain(seq.loop.axis, seq.domain)}"


def _loop(loop: Loop) -> str:
    return f"{loop.axis}: {loop.tile}{_unless('serial', ' @', loop.map)}"


def _domain(axis: str, domain: Domain | None) -> str:
    if domain is None:
        return ""
    lower = [f"{axis} >= {bound}" for bound in domain.lower]
    upper = [f"{axis} < {bound}" for bound in domain.upper]
    return f" where {_listed(lower + upper) or 'true'}"


def _dot(dot: Dot) -> str:
    over = f" over {_listed(dot.over)}" if dot.over else ""
    zero_skips = " zero_skips" if dot.zero_skips else ""
    atom = f" atom {_atom(dot.atom)}" if dot.atom is not None else ""
    init = f" init {dot.init}" if dot.init is not None else ""
    return f"{print_value(dot.out)} = dot {dot.a}, {dot.b}{over}{zero_skips}{atom}{init}"


def _atom(atom: Atom) -> str:
    lane = f" lane {atom.lane}" if atom.lane is not None else ""
    return f"{atom.unit}{lane} m {atom.m} n {atom.n} k {atom.k}"


# -- pieces


def _access(access: Access) -> str:
    return f"{access.tensor}[{_listed(access.index)}]"


def _layout(layout: Layout) -> str:
    swizzle = f" swizzle {_listed(layout.swizzle)}" if layout.swizzle is not None else ""
    return f"{{{_listed(map(_mode, layout.modes))}}}{swizzle}"


def _mode(mode: Mode) -> str:
    return f"{mode.axis} {mode.shape}:{mode.stride}{_unless('offset', '', mode.space)}"


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _unless(default: str, word: str, text: str) -> str:
    """The clause ``word text``, left out where the text is the default; ``@`` binds without a space."""
    joint = "" if word.endswith("@") else " "
    return "" if text == default else f"{word}{joint}{text}"
