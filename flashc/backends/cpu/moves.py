"""Loads, copies and stores in C++: a load is a pointer and strides, a copy packs or converts, a store writes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flashc.backends.cpu.frame import (
    C_TYPE,
    Place,
    Printer,
    address,
    elements,
    panel_width,
    panels,
    tensor_strides,
)
from flashc.ir.analysis import tiled_axes
from flashc.ir.nodes import Copy, Load, Store
from flashc.ir.ranges import Scope
from flashc.ir.types import F32, DType


def emit_load(p: Printer, stmt: Load, scope: Scope) -> None:
    tensor = p.program.tensor(stmt.access.tensor)
    p.line(f"const auto* const {stmt.out.name} = {address(p, stmt.access, tensor, scope)};")
    p.places[stmt.out.name] = Place(stmt.out.name, tensor.dtype, tensor_strides(tensor, stmt.access, scope))


def emit_copy(p: Printer, stmt: Copy, scope: Scope) -> None:
    source, target = p.places[stmt.source], p.places[stmt.out.name]
    axes = stmt.out.axes
    partial = [a for a in axes if a in p.partial]
    if partial:
        short = " || ".join(f"{p.counts[a]} < {p.tile(a, scope)}" for a in partial)
        total = elements(stmt.out) * stmt.out.dtype.bytes
        p.line(f"if ({short}) std::memset({target.pointer}, 0, {total});")
    panel = panels(stmt.out)
    if panel is None:
        _copy(p, stmt, source, target)
        return
    axis, count, first = panel.axis, p.counts[panel.axis], f"{panel.axis}_first"
    width = panel_width(stmt.out)
    p.open(f"for (long {first} = 0; {first} < {count}; {first} += {width})")
    p.counts[axis] = f"std::min<long>({width}, {count} - {first})"
    at = replace(source, pointer=f"({source.pointer} + {first} * {source.strides[axis]})")
    _copy(p, stmt, at, replace(target, pointer=f"({target.pointer} + {first} / {width} * {panel.stride})"))
    p.counts[axis] = count
    p.close()


def _copy(p: Printer, stmt: Copy, source: Place, target: Place) -> None:
    axes = stmt.out.axes
    if target.pair is not None:
        _copy_pairs(p, stmt, source, target)
        return
    if _transposes(axes, source.strides, target.strides):
        _transpose(p, axes, source.pointer, source.strides, target.pointer, target.strides)
        return
    order = sorted(axes, key=lambda a: source.strides[a] == "1")
    for a in order:
        p.open(f"for (long {a} = 0; {a} < {p.counts[a]}; ++{a})")
    dst = " + ".join(f"{a} * {target.strides[a]}" for a in axes) or "0"
    src = " + ".join(f"{a} * {source.strides[a]}" for a in axes) or "0"
    value = f"{source.pointer}[{src}]"
    p.line(f"{target.pointer}[{dst}] = {value if source.dtype == target.dtype else f'to_f32({value})'};")
    for _ in order:
        p.close()


def _as_type(to: DType, source: DType, element: str) -> str:
    if source == to != F32:
        return element
    return f"from_f32<{C_TYPE[to.name]}>({element if source == F32 else f'to_f32({element})'})"


def _transposes(axes: Sequence[str], source: Mapping[str, str], target: Mapping[str, str]) -> bool:
    """Whether one of two axes is contiguous in the source and the other in the target."""
    return len(axes) == 2 and any(source[y] == "1" and target[x] == "1" for x, y in (axes, axes[::-1]))


def _transpose(
    p: Printer, axes: Sequence[str], source: str, steps: Mapping[str, str], target: str, to: Mapping[str, str]
) -> None:
    y = next(a for a in axes if steps[a] == "1")
    x = next(a for a in axes if a != y)
    p.line(f"transpose({target}, {to[y]}, {source}, {steps[x]}, {p.counts[x]}, {p.counts[y]});")


def _copy_pairs(p: Printer, stmt: Copy, source: Place, target: Place) -> None:
    """Two neighbours along the paired axis make one 32-bit word; past the end the upper half is 0."""
    pair = target.pair
    other = next(a for a in stmt.out.axes if a != pair)
    assert pair is not None
    if source.strides[pair] == "1" and target.strides[other] == "2":
        row, count = int(target.strides[pair]) // 2, p.counts[pair]
        p.line(
            f"transpose((float*){target.pointer}, {row}, Pairs{{{source.pointer}}}, {source.strides[other]}, "
            f"{p.counts[other]}, {count} / 2);"
        )
        last = f"{target.pointer} + {count} / 2 * {target.strides[pair]}"
        value = f"{source.pointer}[{other} * {source.strides[other]} + {count} - 1]"
        p.line(f"if ({count} % 2)")
        p.line(f"  for (long {other} = 0; {other} < {p.counts[other]}; ++{other})")
        p.line(f"    ((uint32_t*)({last}))[{other}] = {value};")
        return
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


def target_place(p: Printer, stmt: Store, scope: Scope, name: str) -> Place:
    """Where in memory the store writes, through a pointer of that name."""
    tensor = p.program.tensor(stmt.access.tensor)
    p.line(f"auto* const {name} = {address(p, stmt.access, tensor, scope)};")
    return Place(name, tensor.dtype, tensor_strides(tensor, stmt.access, scope))


def emit_store(p: Printer, stmt: Store, scope: Scope) -> None:
    source, axes = p.places[stmt.value], tiled_axes(stmt.access, scope)
    p.open("")
    to = target_place(p, stmt, scope, "to")
    target = to.strides
    order = sorted(axes, key=lambda a: target[a] == "1")
    if _transposes(axes, source.strides, target):
        _transpose(p, axes, source.pointer, source.strides, "to", target)
        p.close()
        return
    for a in order:
        p.open(f"for (long {a} = 0; {a} < {p.counts[a]}; ++{a})")
    dst = " + ".join(f"{a} * {target[a]}" for a in axes) or "0"
    src = " + ".join(f"{a} * {source.strides[a]}" for a in axes) or "0"
    element = f"{source.pointer}[{src}]"
    p.line(f"to[{dst}] = {_as_type(to.dtype, source.dtype, element)};")
    for _ in order:
        p.close()
    p.close()
