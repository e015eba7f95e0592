"""Bounds at every boundary of a device, and the disk as a memory level."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_cases import LSTM

from flashc.compiler.tune import environment, tune
from flashc.compiler.workload import load_workload
from flashc.errors import DeviceModelError, UnsupportedError
from flashc.hwmodels import Device, Level, list_devices, load_device
from flashc.hwmodels.load import DATA
from flashc.iomodel.bound import Env, Json, Moved
from flashc.iomodel.levels import (
    boundaries,
    contiguous_bytes,
    core_boundary,
    crossed,
    level_bounds,
    storage_seconds,
)
from flashc.ir.footprint import values_of
from flashc.ops import registry
from flashc.report.case import case_of

EXAMPLES = Path(__file__).parent.parent / "examples"
USABLE = [n for n in list_devices() if not load_device(n).unusable]


@dataclass(frozen=True)
class Matmul:
    """2 m n k / sqrt(M) bytes (Smith et al. 2017), at least the operands once: a bound to try levels with."""

    rule: str = "matmul"
    assumptions: tuple[str, ...] = ()

    def at(self, sizes: Env, fast_bytes: float) -> Moved:
        m, n, k = sizes["m"], sizes["n"], sizes["k"]
        capacity = 2 * m * n * k / math.sqrt(fast_bytes)
        return Moved(m * k + k * n, m * n, max(capacity, m * k + k * n + m * n))

    def formula(self) -> None:
        return None

    def certificate(self) -> Json:
        return {}


# --- boundaries


def test_an_sm_holds_shared_memory_and_registers_and_the_l2_encloses_all_of_them() -> None:
    outer, inner = boundaries(load_device("a100"))
    assert (outer.outer.name, [x.name for x in outer.inner], outer.workers) == ("dram", ["l2"], 1)
    assert (inner.outer.name, [x.name for x in inner.inner], inner.workers) == ("l2", ["smem", "reg"], 108)
    assert inner.worker_bytes == 167936 + 4 * 65536
    assert outer.worker_bytes == 41943040 + 108 * inner.worker_bytes


def test_a_core_with_two_vector_cores_holds_both_their_buffers() -> None:
    core = core_boundary(load_device("ascend910b3"))
    assert core.workers == 20
    assert core.worker_bytes == 524032 + 65536 + 65536 + 131072 + 2 * 188160


def test_caches_of_a_core_enclose_each_other() -> None:
    found = boundaries(load_device("epyc_9654"))
    assert [b.outer.name for b in found] == ["dram", "l3", "l2", "l1"]
    assert core_boundary(load_device("epyc_9654")).outer.name == "l3"


def test_a_cache_of_a_group_of_cores_encloses_that_group_only() -> None:
    l2 = next(b for b in boundaries(load_device("mi300x")) if b.inner[0].name == "l2")
    assert (l2.workers, l2.worker_bytes) == (8, 4194304 + 304 // 8 * (65536 + 524288))


@pytest.mark.parametrize("name", USABLE)
def test_memory_grows_outwards_and_is_all_there_is(name: str) -> None:
    device = load_device(name)
    found = boundaries(device)
    totals = [b.total_bytes for b in found]
    assert totals == sorted(totals, reverse=True)
    everything = sum((lv.capacity_bytes or 0) * lv.instances for lv in device.levels[1:])
    assert totals[0] == everything
    assert core_boundary(device).worker_bytes <= totals[0]
    private = [lv for lv in device.levels if lv.per == "core"]
    own = sum((lv.capacity_bytes or 0) * lv.instances // device.cores for lv in private)
    assert core_boundary(device).worker_bytes == own


PLAIN = {"op": "attention", "batch": 1, "heads": 4, "seq": 512, "head_dim": 64, "dtype": "fp32"}


@pytest.mark.parametrize("device", ["zen3_nvme", "epyc_9654", "a100", "mi300x"])
@pytest.mark.parametrize("workload", [LSTM, PLAIN], ids=["lstm", "attention"])
def test_a_program_is_held_against_the_bound_around_all_memory_its_tiles_are_in(
    device: str, workload: dict[str, Any]
) -> None:
    found = tune(load_workload(workload), load_device(device))
    placed, boundary = found.best.placed, found.boundary
    kept = {v.level for kernel in placed.kernels for v, _, _ in values_of(placed, kernel).values()} - {"memory"}
    assert boundary is not None
    inside = {x.name for b in boundaries(found.device) if b.total_bytes <= boundary.total_bytes for x in b.inner}
    assert kept <= inside
    assert boundary == core_boundary(found.device) or kept & {x.name for x in boundary.inner}
    assert all(found.best.traffic_bytes >= b.bytes for b in found.bounds)


def test_matrices_that_cores_share_move_the_boundary_outwards() -> None:
    found = [tune(load_workload(w), load_device("zen3_nvme")).boundary for w in (LSTM, PLAIN)]
    assert [b.outer.name for b in found if b] == ["dram", "l3"]


def test_a_shared_cache_of_unknown_size_bounds_nothing() -> None:
    device = load_device("zen3_nvme")
    levels = tuple(replace(lv, capacity_bytes=None) if lv.name == "l3" else lv for lv in device.levels)
    placed = tune(load_workload(LSTM), device).best.placed
    unknown = replace(device, levels=levels)
    assert crossed(unknown, placed) is None
    found = tune(load_workload(PLAIN), unknown)
    assert found.boundary is not None and found.boundary.outer.name == "l3"
    cores = replace(device, levels=tuple(replace(x, capacity_bytes=None) if x.name == "reg" else x for x in levels))
    with pytest.raises(UnsupportedError, match="zen3_nvme lacks the capacity of a memory"):
        case_of(replace(found, device=cores, boundary=crossed(cores, found.best.placed)))


# --- bounds


@pytest.mark.parametrize("name", ["a100", "mi300x", "epyc_9654", "zen3_nvme"])
def test_bounds_grow_inwards_and_one_large_memory_is_worth_more_than_many_small_ones(name: str) -> None:
    found = level_bounds([Matmul()], {"m": 8192, "n": 8192, "k": 8192}, load_device(name))
    totals = [x.moved.total for x in found]
    assert totals == sorted(totals)
    assert all(x.joined.total <= x.moved.total for x in found)
    assert all(x.warm.total == max(x.moved.total - x.boundary.total_bytes, x.moved.stores) for x in found)


def test_the_shares_of_workers_add_up_to_the_bound_at_one_workers_memory() -> None:
    """Rows shared out among 108 workers: the sum of their own bounds is the bound of the level, whatever the shares."""
    device = load_device("a100")
    inner = level_bounds([Matmul()], {"m": 1 << 17, "n": 4096, "k": 4096}, device)[-1]
    shares = [1000 + 7 * p for p in range(107)]
    shares.append((1 << 17) - sum(shares))
    fast = inner.boundary.worker_bytes
    assert inner.moved.total == pytest.approx(sum(2 * m * 4096 * 4096 / math.sqrt(fast) for m in shares))


def test_time_is_the_bound_over_the_bandwidth() -> None:
    device = load_device("a100")
    for found in level_bounds([Matmul()], {"m": 4096, "n": 4096, "k": 4096}, device):
        rate = (found.boundary.outer.bandwidth_gbs or 0) * 1e9
        assert found.seconds == pytest.approx(found.moved.total / rate)


# --- storage


def test_a_disk_is_the_outermost_level_and_main_memory_stays_what_it_was() -> None:
    device = load_device("zen3_nvme")
    assert device.levels[0].kind == "storage" and device.storage is device.levels[0]
    assert device.main_memory.name == "dram"
    assert load_device("zen3").storage is None
    assert boundaries(device)[0].outer.name == "ssd"


def test_throughput_follows_the_data_sheet() -> None:
    """1.4 million requests of 4 KiB or less and 7.45 GB/s in long ones; the knee, half of it, is at t0 B / qd."""
    disk = load_device("zen3_nvme").storage
    assert disk is not None and disk.latency_ns and disk.queue_depth and disk.bandwidth_gbs
    assert disk.throughput_gbs(4096) == pytest.approx(4096 * 1.4e6 / 1e9, rel=0.01)
    assert disk.throughput_gbs(512) == pytest.approx(512 * 1.4e6 / 1e9, rel=0.01)
    assert disk.throughput_gbs(1 << 30) == pytest.approx(7.45, rel=0.001)
    knee = disk.latency_ns / disk.queue_depth * disk.bandwidth_gbs
    assert replace(disk, line_bytes=None).throughput_gbs(knee) == pytest.approx(7.45 / 2)
    chunks = [disk.throughput_gbs(1 << n) or 0 for n in range(8, 24)]
    assert chunks == sorted(chunks)


def test_a_memory_without_requests_has_its_bandwidth_whatever_the_chunk() -> None:
    assert load_device("a100").level("dram").throughput_gbs(32) == 2039


def test_time_on_a_disk_adds_up_over_tensors() -> None:
    disk = Level("ssd", "storage", "device", 1, None, 8.0, None, None, 1000.0, queue_depth=10)
    once = storage_seconds(disk, {"a": 8e9}, {"a": 800})
    assert once == pytest.approx(8e9 / 800 * (100e-9 + 100e-9))
    both = storage_seconds(disk, {"a": 8e9, "b": 8e9}, {"a": 800, "b": 1 << 40})
    assert both == pytest.approx(once + 1.0)


@pytest.mark.parametrize("example", ["attention", "gemm"])
def test_a_disk_changes_neither_tiles_nor_time(example: str) -> None:
    workload = load_workload(EXAMPLES / f"{example}.yaml")
    with_disk, without = (tune(workload, load_device(name)).best for name in ("zen3_nvme", "zen3"))
    assert (with_disk.tiles, with_disk.picoseconds) == (without.tiles, without.picoseconds)
    assert with_disk.units == without.units


@pytest.mark.parametrize("key", ["bandwidth_gbs", "latency_ns", "queue_depth"])
def test_a_disk_without_its_three_numbers_is_refused(tmp_path: Path, key: str) -> None:
    document = yaml.safe_load((DATA / "devices/zen3_nvme.yaml").read_text(encoding="utf-8"))
    del document["levels"]["ssd"][key]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    with pytest.raises(DeviceModelError, match=rf"mine.yaml:\d+: levels.ssd.{key}: missing"):
        load_device(path)


# --- contiguous runs


def runs(device: Device, workload: dict[str, object]) -> dict[str, int]:
    loaded = load_workload(workload)
    choice = tune(loaded, device).best
    sizes = environment(registry()[loaded.op], loaded.spec)
    found = contiguous_bytes(choice.program, {**sizes, **dict(choice.program.fixed)})
    return {**found, **{f"T{n}": v for n, v in choice.tiles.items()}}


def test_rows_taken_whole_run_on_into_the_next_ones() -> None:
    """A row-major 1024 x 256 A is cut along k, its second dimension; B of 256 x 512 along both, so its rows break."""
    found = runs(load_device("zen3"), {"op": "gemm", "m": 1024, "n": 512, "k": 256, "dtype": "fp32"})
    assert found["a"] == 4 * (found["TTi"] * 256 if found["TTk"] == 256 else found["TTk"])
    assert found["b"] == 4 * (found["TTk"] * 512 if found["TTj"] == 512 else found["TTj"])


def test_a_tile_of_whole_rows_is_one_piece() -> None:
    workload = {"op": "attention", "batch": 1, "heads": 2, "seq": 1024, "head_dim": 64, "dtype": "fp32"}
    found = runs(load_device("zen3"), workload)
    assert found["q"] == 4 * 64 * found["TTi"]
    assert found["k"] == 4 * 64 * found["TTj"]
