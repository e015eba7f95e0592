"""A backend from outside the package: a profile for one on-chip memory, and a printer of numpy source.

It takes what the package's operators use but for domains: loops, loads, stores, maps, reductions and dots.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flashc.autotune.problem import Constraint
from flashc.backends.base import Built, Executable, Invocation, KernelResources
from flashc.errors import UnsupportedError
from flashc.hwmodels import Device
from flashc.ir.analysis import Pad, sites
from flashc.ir.footprint import footprint
from flashc.ir.intexpr import Const
from flashc.ir.nodes import (
    Access,
    Carry,
    Dot,
    Load,
    Loop,
    Map,
    Par,
    Program,
    Reduce,
    Seq,
    Stmt,
    Store,
)
from flashc.ir.rewrite import rewrite_body, rewrite_kernels
from flashc.ir.scalar import Call, Lit, Ref, Scalar
from flashc.ir.types import Value

LEVEL = "sram"
PRELUDE = '''"""Emitted by the toy backend."""
import numpy as np
from math import ceil, inf
from flashc.ir.scalar import FUNCTIONS

F = {name: function.numpy for name, function in FUNCTIONS.items()}


def fit(tile, have, want):
    """The tile with its axes in the order of `want`, and length 1 where it has none."""
    order = [have.index(a) for a in want if a in have]
    return np.transpose(tile, order)[tuple(slice(None) if a in have else None for a in want)]


def run(tensors, sizes):
'''


class ToyBackend:
    name = "numpy_source"
    kinds = ("accelerator",)
    pad = Pad(lambda _axis, extent: extent)

    def missing(self, device: Device) -> str | None:
        return None

    def absent(self, device: Device) -> str | None:
        return None

    def place(self, program: Program, device: Device) -> Program:
        def rule(stmt: Stmt) -> tuple[Stmt, ...]:
            if isinstance(stmt, Load | Map | Reduce | Dot):
                return (replace(stmt, out=_placed(stmt.out)),)
            if isinstance(stmt, Seq):
                return (replace(stmt, carry=tuple(replace(c, value=_placed(c.value)) for c in stmt.carry)),)
            return (stmt,)

        return rewrite_kernels(
            program, lambda k: replace(k, body=rewrite_body(k.body, rule)), stage="placed"
        )

    def domains(
        self, placed: Program, device: Device, sizes: Mapping[str, int]
    ) -> dict[str, tuple[int, ...]]:
        return {t: (1, 2) if t == "stages" else (8, 16, 32, 64, 128) for t in placed.tiles}

    def constraints(self, placed: Program, device: Device) -> tuple[Constraint, ...]:
        limit = Const(device.level(LEVEL).capacity_bytes or 0)
        needs = ((k.name, footprint(placed, k, LEVEL)) for k in placed.kernels)
        return tuple(Constraint(f"device.{LEVEL}.{name}", need, "<=", limit, "B") for name, need in needs)

    def lower(self, bound: Program) -> Program:
        return bound

    def emit(self, bound: Program, device: Device) -> str:
        return _Printer(bound).text()

    def build(self, source: str, bound: Program, device: Device) -> Built:
        path = Path(tempfile.mkdtemp(prefix="toy-")) / "kernel.py"
        path.write_text(source, encoding="utf-8")
        return Built({"source": path}, tuple(KernelResources(k.name) for k in bound.kernels))

    def load(self, built: Built, bound: Program, device: Device) -> Executable:
        spec = importlib.util.spec_from_file_location("toy_kernel", built.files["source"])
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def execute(call: Invocation) -> None:
            module.run(call.tensors, call.sizes)

        return execute


def _placed(value: Value) -> Value:
    return replace(value, level=LEVEL)


class _Printer:
    def __init__(self, program: Program) -> None:
        self.program, self.lines = program, [PRELUDE.rstrip()]
        self.axes: dict[str, tuple[str, ...]] = {}
        for kernel in program.kernels:
            for site in sites(program, kernel):
                if isinstance(site.stmt, Load | Map | Reduce | Dot):
                    self.axes[site.stmt.out.name] = site.stmt.out.axes
                if isinstance(site.stmt, Seq):
                    self.axes.update({c.value.name: c.value.axes for c in site.stmt.carry})

    def text(self) -> str:
        for name in self.program.sizes:
            self.lines.append(f"    {name} = sizes[{name!r}]")
        for axis in self.program.axes:
            self.lines.append(f"    {axis.name} = slice(0, {axis.extent})")
        for kernel in self.program.kernels:
            self.block(kernel.body, 1)
        return "\n".join(self.lines) + "\n"

    def line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def block(self, body: Sequence[Stmt], depth: int) -> None:
        for stmt in body:
            match stmt:
                case Par(loops=loops, body=inner):
                    for loop in loops:
                        depth = self.loop(loop, depth)
                    self.block(inner, depth)
                case Seq(loop=loop, body=inner, carry=carry, domain=None):
                    for c in carry:
                        self.line(depth, f"{c.value.name} = {self.initial(c)}")
                    inside = self.loop(loop, depth)
                    self.block(inner, inside)
                    for c in carry:
                        self.line(inside, f"{c.value.name} = {c.next}")
                case Load(out=out, access=access):
                    self.line(depth, f"{out.name} = {self.access(access)}")
                case Store(access=access, value=value):
                    self.line(depth, f"{self.access(access)} = {value}")
                case Map(out=out, expr=expr):
                    self.line(depth, f"{out.name} = {self.scalar(expr, out.axes)}")
                case Reduce(out=out, op=op, source=source, over=over):
                    self.line(depth, f"{out.name} = np.{op}({source}, axis={self.axes[source].index(over)})")
                case Dot(out=out, a=a, b=b, init=init):
                    spec = f"{''.join(self.axes[a])},{''.join(self.axes[b])}->{''.join(out.axes)}"
                    start = "" if init is None else f"{self.scalar(init, out.axes)} + "
                    self.line(depth, f"{out.name} = {start}np.einsum({spec!r}, {a}, {b})")
                case _:
                    raise UnsupportedError(f"the toy backend has no code for {type(stmt).__name__}")

    def loop(self, loop: Loop, depth: int) -> int:
        axis, extent = loop.axis, self.program.axis(loop.axis).extent
        if loop.tile == Const(1):
            self.line(depth, f"for {axis} in range({extent}):")
            return depth + 1
        self.line(depth, f"for {axis}0 in range(0, {extent}, {loop.tile}):")
        self.line(depth + 1, f"{axis} = slice({axis}0, min({axis}0 + {loop.tile}, {extent}))")
        return depth + 1

    def initial(self, carry: Carry) -> str:
        shape = ", ".join(f"{a}.stop - {a}.start" for a in carry.value.axes)
        return f"np.full(({shape},), {self.scalar(carry.init, carry.value.axes)}, np.float32)"

    def access(self, access: Access) -> str:
        return f"tensors[{access.tensor!r}][{', '.join(map(str, access.index))}]"

    def scalar(self, expr: Scalar, axes: tuple[str, ...]) -> str:
        match expr:
            case Lit(value=value):
                return f"np.float32({value})" if isinstance(value, float) else str(value)
            case Ref(name=name):
                return f"fit({name}, {''.join(self.axes[name])!r}, {''.join(axes)!r})"
            case Call(fn=fn, args=args):
                return f"F[{fn!r}]({', '.join(self.scalar(a, axes) for a in args)})"
        raise UnsupportedError(f"the toy backend has no code for {expr}")


BACKEND = ToyBackend()
