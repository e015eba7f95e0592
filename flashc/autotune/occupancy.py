"""How many tasks of a kernel one GPU core holds at a time, as an expression in the tile symbols."""

from __future__ import annotations

from flashc.hwmodels.model import Device
from flashc.ir.analysis import Pad, footprint
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imax, imin
from flashc.ir.nodes import Kernel, Program

ADDRESS_REGISTERS = 32  # pointers, masks and loop counters of a thread beside its tiles


def registers_per_thread(placed: Program, kernel: Kernel, device: Device, pad: Pad) -> IntExpr:
    """Estimate: the tiles alive together, spread over the threads, and a few for addresses; at most the hard limit."""
    occupancy = device.occupancy
    if occupancy is None or "warps" not in placed.tiles:
        return Const(0)
    threads = Sym("warps") * occupancy.threads_per_warp
    need = ceil_div(footprint(placed, kernel, "reg", pad), threads * 4) + ADDRESS_REGISTERS
    return imin(need, occupancy.regs_per_thread_max)


def resident_tasks(placed: Program, device: Device, pad: Pad) -> dict[str, IntExpr]:
    """Tasks per core by kernel: limited by shared memory, registers, threads and block slots; at least 1."""
    limits = device.occupancy
    if limits is None or "warps" not in placed.tiles:
        return {}
    threads = Sym("warps") * limits.threads_per_warp
    found: dict[str, IntExpr] = {}
    for kernel in placed.kernels:
        shared = footprint(placed, kernel, "smem", pad) + limits.smem_reserved_per_block
        registers = registers_per_thread(placed, kernel, device, pad) * threads
        found[kernel.name] = imax(Const(1), imin(
            Const(limits.max_blocks_per_sm),
            Const(limits.max_threads_per_sm) // threads,
            Const(limits.smem_per_sm) // imax(shared, Const(1)),
            Const(limits.regs_per_sm) // imax(registers, Const(1)),
        ))
    return found
