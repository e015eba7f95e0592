"""Loads, copies and stores in C++: a load is a pointer and strides, a copy packs or converts, a store writes back."""

from __future__ import annotations

from flashc.backends.cpu.frame import C_TYPE, Place, Printer, address, elements, stride
from flashc.ir.analysis import tiled_axes
from flashc.ir.intexpr import Sym
from flashc.ir.nodes import Copy, Load, Store
from flashc.ir.ranges import Scope


def emit_load(p: Printer, stmt: Load, scope: Scope) -> None:
    tensor = p.program.tensor(stmt.access.tensor)
    axes = tiled_axes(stmt.access, scope)
    p.line(f"const auto* const {stmt.out.name} = {address(p, stmt.access, tensor, scope)};")
    strides = {}
    for dim, expr in enumerate(stmt.access.index):
        if isinstance(expr, Sym) and expr.name in axes:
            strides[expr.name] = stride(tensor, dim)
    p.places[stmt.out.name] = Place(stmt.out.name, tensor.dtype, strides)


def emit_copy(p: Printer, stmt: Copy, scope: Scope) -> None:
    source, target = p.places[stmt.source], p.places[stmt.out.name]
    axes = stmt.out.axes
    partial = [a for a in axes if a in p.partial]
    if partial:
        short = " || ".join(f"{p.counts[a]} < {p.tile(a, scope)}" for a in partial)
        total = elements(stmt.out) * stmt.out.dtype.bytes
        p.line(f"if ({short}) std::memset({target.pointer}, 0, {total});")
    if target.pair is not None:
        _copy_pairs(p, stmt, source, target)
        return
    order = sorted(axes, key=lambda a: source.strides[a] == "1")
    for a in order:
        p.open(f"for (long {a} = 0; {a} < {p.counts[a]}; ++{a})")
    dst = " + ".join(f"{a} * {target.strides[a]}" for a in axes)
    src = " + ".join(f"{a} * {source.strides[a]}" for a in axes)
    value = f"{source.pointer}[{src}]"
    p.line(f"{target.pointer}[{dst}] = {value if source.dtype == target.dtype else f'to_f32({value})'};")
    for _ in order:
        p.close()


def _copy_pairs(p: Printer, stmt: Copy, source: Place, target: Place) -> None:
    """Two neighbours along the paired axis make one 32-bit word; past the end the upper half is 0."""
    pair = target.pair
    other = next(a for a in stmt.out.axes if a != pair)
    assert pair is not None
    p.open(f"for (long {pair} = 0; {pair} < {p.counts[pair]}; {pair} += 2)")
    p.line(f"const bf16* const even = {source.pointer} + {pair} * {source.strides[pair]};")
    p.line(f"const bf16* const odd = even + {source.strides[pair]};")
    p.line(f"uint32_t* const word = (uint32_t*)({target.pointer} + {pair} / 2 * {target.strides[pair]});")
    step, words = source.strides[other], f"{other} * {int(target.strides[other]) // 2}"
    loop = f"for (long {other} = 0; {other} < {p.counts[other]}; ++{other})"
    p.line(f"if ({pair} + 1 < {p.counts[pair]})")
    p.line(f"  {loop} word[{words}] = even[{other} * {step}] | (uint32_t)odd[{other} * {step}] << 16;")
    p.line("else")
    p.line(f"  {loop} word[{words}] = even[{other} * {step}];")
    p.close()


def emit_store(p: Printer, stmt: Store, scope: Scope) -> None:
    tensor = p.program.tensor(stmt.access.tensor)
    source = p.places[stmt.value]
    axes = tiled_axes(stmt.access, scope)
    target = {
        x.name: stride(tensor, d) for d, x in enumerate(stmt.access.index) if isinstance(x, Sym) and x.name in axes
    }
    order = sorted(axes, key=lambda a: target[a] == "1")
    p.open("")
    p.line(f"auto* const to = {address(p, stmt.access, tensor, scope)};")
    for a in order:
        p.open(f"for (long {a} = 0; {a} < {p.counts[a]}; ++{a})")
    dst = " + ".join(f"{a} * {target[a]}" for a in axes) or "0"
    src = " + ".join(f"{a} * {source.strides[a]}" for a in axes) or "0"
    p.line(f"to[{dst}] = from_f32<{C_TYPE[tensor.dtype.name]}>({source.pointer}[{src}]);")
    for _ in order:
        p.close()
    p.close()
