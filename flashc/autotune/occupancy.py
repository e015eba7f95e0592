"""How many tasks of a kernel one GPU core holds at a time, and what does not fit its threads' registers.

After the rules of CUDA's occupancy calculator: registers are allocated per warp and shared memory per
block, both in units of the device. The number of registers is an estimate; the compiler's own number is
read after compiling.
"""

from __future__ import annotations

from collections.abc import Mapping

from flashc.hwmodels.model import Device, Occupancy
from flashc.ir.analysis import Pad
from flashc.ir.footprint import footprint
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imax, imin
from flashc.ir.nodes import Kernel, Program

ADDRESS_REGISTERS = 32  # pointers, masks and loop counters of a thread beside its tiles
WARPS = "warps"
DEFAULT_WARPS = 4  # of a task whose program leaves the number to the compiler


def workers(placed: Program, device: Device) -> IntExpr:
    """Warps of a task; 1 where the device has none."""
    if device.occupancy is None:
        return Const(1)
    return Sym(WARPS) if WARPS in placed.tiles else Const(DEFAULT_WARPS)


def registers_per_thread(placed: Program, kernel: Kernel, device: Device, pad: Pad) -> IntExpr:
    """Estimate: the tiles alive together, spread over the threads, and a few for addresses."""
    if device.occupancy is None:
        return Const(0)
    threads = workers(placed, device) * device.occupancy.threads_per_warp
    return ceil_div(footprint(placed, kernel, "reg", pad), threads * 4) + ADDRESS_REGISTERS


def spilled_bytes(placed: Program, kernel: Kernel, device: Device, pad: Pad) -> IntExpr:
    """Bytes of a task's tiles that exceed what its threads may hold; 0 where the device has no such limit."""
    limits = device.occupancy
    if limits is None:
        return Const(0)
    warps = workers(placed, device)
    beyond = registers_per_thread(placed, kernel, device, pad) - _most_registers(limits, warps)
    return imax(Const(0), beyond) * 4 * limits.threads_per_warp * warps


def _most_registers(limits: Occupancy, warps: IntExpr) -> IntExpr:
    """What a thread may hold: the instruction set's limit, and its share of the core's registers."""
    per_lane = Const(limits.regs_per_sm // limits.threads_per_warp)
    return imin(Const(limits.regs_per_thread_max), per_lane // warps)


def resident_tasks(
    placed: Program, device: Device, pad: Pad, shared_bytes: Mapping[str, IntExpr] | None = None
) -> dict[str, IntExpr]:
    """Tasks per core by kernel: limited by shared memory, registers, threads and block slots; at least 1.

    ``shared_bytes``: a backend's upper bound by kernel; the tiles placed are another, and the lower counts.
    """
    limits = device.occupancy
    if limits is None:
        return {}
    warps = workers(placed, device)
    unit = limits.reg_alloc_unit_per_warp
    found: dict[str, IntExpr] = {}
    for kernel in placed.kernels:
        tiles = footprint(placed, kernel, "smem", pad)
        shared = imin(tiles, (shared_bytes or {}).get(kernel.name, tiles)) + limits.smem_reserved_per_block
        shared = ceil_div(shared, limits.smem_granularity) * limits.smem_granularity
        registers = imin(registers_per_thread(placed, kernel, device, pad), _most_registers(limits, warps))
        per_warp = ceil_div(registers * limits.threads_per_warp, unit) * unit
        found[kernel.name] = imax(Const(1), imin(
            Const(limits.max_blocks_per_sm),
            Const(limits.max_threads_per_sm // limits.threads_per_warp) // warps,
            Const(limits.smem_per_sm) // imax(shared, Const(1)),
            Const(limits.regs_per_sm) // (per_warp * warps),
        ))
    return found
