"""Print a lowered program as C++: one function per kernel, which does one task of the parallel domain, and their calls.

A kernel whose tasks meet at barriers, or that launches once per step, is printed by ``crew``.
"""

from __future__ import annotations

from collections.abc import Sequence

from flashc.backends.cpu.crew import emit_crew, in_steps
from flashc.backends.cpu.frame import C_TYPE, Printer, stride
from flashc.backends.cpu.statements import block
from flashc.backends.cpu.tasks import Buffers, emit_buffer, task_count, task_scope
from flashc.ir.intexpr import IntExpr, Item
from flashc.ir.nodes import Alloc, Kernel, Load, Par, Program, Seq, Stmt, Store


def emit(program: Program, width_bits: int) -> str:
    """C++ source of a lowered program, the prelude apart."""
    p = Printer(program, width_bits // 32)
    title = f"// {program.name}, schedule {program.schedule}; {'; '.join(program.notes)}"
    p.lines += [f"#define FLASHC_WIDTH {width_bits}", '#include "prelude.hpp"', "", title, ""]
    calls = [_kernel(p, kernel) for kernel in program.kernels]
    p.open('extern "C" void flashc_run(void* const* given)')
    p.line("const Call bound = called(given), *const call = &bound;")
    _sizes(p)
    for call in calls:
        p.line(call)
    p.close()
    return "\n".join(p.lines) + "\n"


# -- frame of a kernel


def _sizes(p: Printer) -> None:
    for n, name in enumerate(p.program.sizes):
        value = dict(p.program.fixed).get(name)
        p.line(f"[[maybe_unused]] const long {name} = {f'call->size[{n}]' if value is None else value};")


def _tensors(p: Printer) -> None:
    position = 0
    for n, t in enumerate(p.program.tensors):
        c_type = C_TYPE[t.dtype.name]
        const = "const " if t.role == "in" else ""
        p.line(f"[[maybe_unused]] {const}{c_type}* const {t.name}_ptr = ({const}{c_type}*)call->tensor[{n}];")
        inner = [f"{t.name}_s{d} = call->stride[{position + d}]" for d in range(len(t.dims) - 1)]
        if inner:
            p.line(f"[[maybe_unused]] const long {', '.join(inner)};")
        position += len(t.dims)
    for n, param in enumerate(p.program.params):
        p.line(f"[[maybe_unused]] const float {param.name} = call->param[{n}];")
    for table in sorted(_tables(p.program)):
        tensor = p.program.tensor(table)
        names = [f"i{d}" for d in range(len(tensor.dims))]
        index = " + ".join(f"{a} * {stride(tensor, d)}" for d, a in enumerate(names))
        p.line(
            f"[[maybe_unused]] const auto {table}_at = [&]({', '.join(f'long {a}' for a in names)}) -> long "
            f"{{ return {table}_ptr[{index}]; }};"
        )


def _tables(program: Program) -> set[str]:
    found: set[str] = set()

    def note(expr: IntExpr) -> None:
        if isinstance(expr, Item):
            found.add(expr.table)
        for child in expr.children():
            note(child)

    def visit(body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, Seq) and s.domain:
                for bound in (*s.domain.lower, *s.domain.upper):
                    note(bound)
            if isinstance(s, Load | Store):
                for x in s.access.index:
                    note(x)
            if isinstance(s, Par | Seq):
                visit(s.body)

    for kernel in program.kernels:
        visit(kernel.body)
    return found


def _header(p: Printer) -> None:
    _sizes(p)
    _tensors(p)


def _kernel(p: Printer, kernel: Kernel) -> str:
    """Prints the kernel; returns the statement that runs it."""
    p.places, p.values, p.slots, p.counts, p.partial = {}, {}, {}, {}, set()
    if in_steps(kernel):
        return emit_crew(p, kernel, _header)
    par = kernel.body[0]
    assert isinstance(par, Par)
    buffers = Buffers.of(par)
    p.open(f"static void {kernel.name}_task(const Call* call, long task, char* scratch)")
    _header(p)
    scope = task_scope(p, par)
    for stmt in par.body:
        if isinstance(stmt, Alloc):
            emit_buffer(p, stmt, buffers)
    block(p, [s for s in par.body if not isinstance(s, Alloc)], scope)
    p.close()
    p.line()
    tasks = task_count(p.program, par.loops)
    return f"call->parallel({tasks}, {kernel.name}_task, call, {buffers.scratch_bytes}, call->threads);"
