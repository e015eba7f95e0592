"""A made-up accelerator as a device file: one on-chip memory per core, one matrix unit, a slow memory."""

from __future__ import annotations

TEMPLATE = """
title: A toy accelerator
vendor: none
kind: accelerator
arch: toy
cores: {{v: 1, src: here}}
clock_ghz: {{v: 1.0, src: here}}
launch_overhead_us: {{v: 1.0, src: here}}
exp_per_clk_per_core: {{v: 4096, src: here}}
matmul_efficiency: {{v: 1.0, src: here}}
memory_efficiency: {{v: 1.0, src: here}}
levels:
  dram:
    kind: explicit
    per: device
    capacity_bytes: {{v: {dram}, src: here}}
    bandwidth_gbs: {{v: 1.0, src: here}}
    latency_ns: {{v: 100, src: here}}
  sram:
    kind: explicit
    per: core
    capacity_bytes: {{v: {sram}, src: here}}
    bandwidth_gbs: {{v: 10000, src: here}}
matrix_units:
  square:
    shape: {{v: [16, 16, 16], src: here}}
    operand: f32
    accumulator: f32
    peak_tflops: {{v: 50, src: here}}
vector:
  width_bits: {{v: 512, src: here}}
  peak_tflops: {{f32: {{v: 10, src: here}}}}
missing_artefacts: nothing emits for a toy
sources:
  here: {{tier: primary, text: "made up for a test"}}
"""


def device_file(sram: int, dram: int = 2**40) -> str:
    """A device file with capacities in bytes; memory-bound unless tiles are large."""
    return TEMPLATE.format(sram=sram, dram=dram)
