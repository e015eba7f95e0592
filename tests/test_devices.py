"""Device files, names, schema and reports."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from flashc.errors import DeviceModelError, UnknownDeviceError
from flashc.hwmodels import (
    Device,
    device_json,
    device_report,
    list_aliases,
    list_devices,
    load_device,
    resolve,
)
from flashc.hwmodels.load import DATA, merged_document, shared_sources
from flashc.hwmodels.schema import check_device, device_schema

ROOT = Path(__file__).parent.parent
PACKAGED = sorted((DATA / "devices").glob("*.yaml"))

TOY = """\
title: Toy
vendor: toys
kind: accelerator
arch: toy
cores: {v: 4, src: sheet}
clock_ghz: {v: 1.5, src: sheet, how: "1500 MHz"}
launch_overhead_us: {v: 2, src: default, how: a guess}
exp_per_clk_per_core: {v: 8, src: sheet}
matmul_efficiency: {v: 0.8, src: default, how: a guess}
memory_efficiency: {v: 0.9, src: default, how: a guess}
levels:
  dram: {kind: explicit, per: device, bandwidth_gbs: {v: 100, src: sheet}}
  sram: {kind: explicit, per: core, capacity_bytes: {v: 65536, src: sheet}}
vector:
  width_bits: {v: 256, src: sheet}
  peak_tflops:
    f32: {v: 0.096, src: derived, how: 4 cores x 1.5 GHz x 16 FLOP/clk}
sources:
  sheet: {tier: primary, text: the toy's data sheet}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device file in a directory of FLASHC_DEVICE_PATH."""
    monkeypatch.setenv("FLASHC_DEVICE_PATH", str(tmp_path))
    path = tmp_path / "toy.yaml"
    path.write_text(TOY, encoding="utf-8")
    return path


# --- the packaged files --------------------------------------------------------------------------


def test_there_are_52_devices_and_50_give_tiles() -> None:
    devices = [load_device(path.stem) for path in PACKAGED]
    assert len(devices) == 52
    assert {d.name for d in devices if d.unusable} == {"ascend910c_package", "intel_max1550"}
    assert all(d.targets or d.missing_artefacts for d in devices)


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_device_file_is_strict_and_every_number_has_a_source(path: Path) -> None:
    document, sources = merged_document(path), shared_sources()
    check_device(document, set(sources), path, path.read_text(encoding="utf-8"))
    assert list(_bare_numbers(document)) == []
    device = load_device(path.stem)
    assert set(device.sources) == set(_sourced_paths(document))
    for default in device.defaults:
        assert default.reason


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_device_file_agrees_with_the_editors_schema(path: Path) -> None:
    schema = json.loads((ROOT / "docs/schema/device.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_peaks_are_consistent_with_cores_and_clock(path: Path) -> None:
    """FLOPs per clock and core are a power of two within the rounding of the sheets: this catches a slipped
    factor of 1000 and a sparse or two-die peak."""
    device = load_device(path.stem)
    peaks = {u.operand: u.peak_tflops for u in device.matrix_units if u.accumulator == "f32"}
    for dtype in peaks.keys() & {"f16", "bf16"} if device.kind == "gpu" else ():
        per_clk = peaks[dtype] * 1e3 / device.cores / device.clock_ghz
        assert any(abs(per_clk / 2**power - 1) < 0.12 for power in range(9, 14)), (dtype, per_clk)
    if device.vector.peak_tflops:
        assert 4 <= device.vector.flops_per_clk_per_core["f32"] <= 4096


def test_the_editors_schema_is_in_step() -> None:
    path = ROOT / "docs/schema/device.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == device_schema(complete=False), (
        "run: python -m flashc.hwmodels.schema > docs/schema/device.schema.json"
    )


def test_the_documentation_names_every_key_and_device() -> None:
    text = (ROOT / "docs/devices.md").read_text(encoding="utf-8")
    missing = [key for key in device_schema(complete=False)["properties"] if f"`{key}`" not in text]
    missing += [path.stem for path in PACKAGED if f"| `{path.stem}` |" not in text]
    missing += [alias for alias in list_aliases() if f"`{alias}`" not in text]
    assert missing == []


def test_the_example_of_the_documentation_loads(toy: Path) -> None:
    text = (ROOT / "docs/devices.md").read_text(encoding="utf-8")
    example = text[text.index("    base: sm_86") : text.index("A file without `base`")]
    toy.write_text(textwrap.dedent(example), encoding="utf-8")
    assert load_device("toy").occupancy == load_device("a10").occupancy


def test_facts_of_the_a100() -> None:
    a100 = load_device("a100")
    assert (a100.name, a100.arch, a100.cores, a100.clock_ghz) == ("a100_sxm_80gb", "sm_80", 108, 1.41)
    assert [level.name for level in a100.levels] == ["dram", "l2", "smem", "reg"]
    assert a100.level("dram").bandwidth_gbs == 2039
    assert a100.level("smem").instances == 108
    assert a100.peak_tflops("bf16") == 312
    assert a100.peak_tflops("f32") == 19.5
    assert a100.peak_tflops("f8") is None
    assert a100.occupancy is not None and a100.occupancy.smem_per_block_max == 166912
    assert a100.triton_target == ("cuda", 80, 32) and a100.cpu_isa is None
    assert a100.features == {"cp_async"}
    assert a100.exp_per_second == pytest.approx(16 * 108 * 1.41e9)
    assert a100.sources["levels.dram.bandwidth_gbs"].tier == "secondary"
    assert "exp_per_clk_per_core" in {default.field for default in a100.defaults}


def test_geforce_peaks_are_keyed_by_the_accumulator() -> None:
    card = load_device("rtx4090")
    assert (card.peak_tflops("f16"), card.peak_tflops("f16", "f16")) == (165.2, 330.3)


def test_a_multi_die_gpu_is_one_die() -> None:
    mi250x, mi300x = load_device("mi250x"), load_device("mi300x")
    assert (mi250x.cores, mi250x.peak_tflops("f16"), mi250x.level("dram").bandwidth_gbs) == (110, 191.5, 1600)
    l2 = mi300x.level("l2")
    assert (l2.per, l2.instances, l2.capacity_bytes) == ("group", 8, 4 << 20)


def test_ascend_levels_hold_the_usable_sizes() -> None:
    npu = load_device("910b2")
    sizes = {level.name: (level.capacity_bytes, level.instances) for level in npu.levels}
    assert sizes["ub"] == (188160, 48) and sizes["l1"] == (524032, 24) and sizes["l0c"] == (131072, 24)
    assert npu.vector.units_per_core == 2
    assert npu.facts["cube_vector_ratio"] == (1, 2)
    assert npu.targets == {} and npu.missing_artefacts


def test_a_dtype_that_the_device_lacks_is_computed_in_f32() -> None:
    assert load_device("v100").compute_dtype("bf16") == "f32"
    assert load_device("a100").compute_dtype("bf16") == "bf16"


def test_a_missing_level_lists_the_levels() -> None:
    with pytest.raises(KeyError, match="dram, l2, smem, reg"):
        load_device("a100").level("ub")


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("a100", "a100_sxm_80gb"),
        ("h100", "h100_sxm"),
        ("h200", "h200_sxm"),
        ("b200", "b200_sxm"),
        ("v100", "v100_sxm2"),
        ("t4", "t4"),
        ("4090", "rtx4090"),
        ("RTX-4090", "rtx4090"),
        ("MI300X", "mi300x"),
        ("910b", "ascend910b3"),
        ("H100 SXM", "h100_sxm"),
    ],
)
def test_names_that_people_type(typed: str, name: str) -> None:
    assert resolve(typed).name == name


def test_every_alias_and_alternative_exists() -> None:
    assert set(list_aliases().values()) <= set(list_devices())
    for entry in yaml.safe_load((DATA / "aliases.yaml").read_text(encoding="utf-8")).values():
        assert set(entry.get("also", ())) <= set(list_devices())


def test_an_ambiguous_alias_says_what_it_took() -> None:
    note = resolve("h100").note
    assert note == "h100 taken as h100_sxm; it could also be h100_pcie"
    assert resolve("h100_sxm").note is None
    assert resolve("h200").note is None


def test_an_unknown_device_lists_the_known_and_the_close_ones() -> None:
    with pytest.raises(UnknownDeviceError) as error:
        load_device("h1000")
    message = str(error.value)
    assert "Did you mean h100" in message
    assert all(name in message for name in list_devices())


# --- files of the user ---------------------------------------------------------------------------


def test_one_file_outside_the_package_is_a_device(toy: Path) -> None:
    device = load_device("toy")
    assert device == load_device(toy)
    assert "toy" in list_devices()
    assert device.levels[1].capacity_bytes == 65536 and device.levels[1].instances == 4
    assert device.vector.flops_per_clk_per_core["f32"] == pytest.approx(16)
    assert device.sources["cores"].text == "the toy's data sheet"
    assert {default.field for default in device.defaults} == {
        "launch_overhead_us",
        "matmul_efficiency",
        "memory_efficiency",
    }


def test_a_user_file_may_build_on_a_packaged_architecture(toy: Path) -> None:
    variant = (DATA / "devices/a100_sxm_80gb.yaml").read_text(encoding="utf-8")
    variant = variant.replace(
        "cores: {v: 108, src: mleng}", "cores: {v: 42, src: default, how: three slices}"
    )
    toy.with_name("a100_slice.yaml").write_text(variant, encoding="utf-8")
    device = load_device("a100_slice")
    assert (device.cores, device.arch, device.level("smem").instances) == (42, "sm_80", 42)


def test_the_hash_follows_the_content(toy: Path) -> None:
    before = load_device("toy")
    toy.write_text(TOY.replace("{v: 4, src: sheet}", "{v: 5, src: sheet}"), encoding="utf-8")
    after = load_device("toy")
    assert before.hash != after.hash
    assert after.cores == 5


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (5, "cores: {v: four, src: sheet}", "cores.v: 'four' is not of type 'integer'"),
        (5, "cores: {v: 4.0, src: sheet}", "cores.v: 4.0 is not of type 'integer'"),
        (5, "cores: {v: 0, src: sheet}", "cores.v: 0 is less than the minimum of 1"),
        (5, "cores: 4", "cores: 4 has no source; write {v: 4, src: ID}"),
        (5, "cores: {v: 4}", "cores: 'src' is a required property"),
        (5, "cores: {v: 4, src: rumour}", "cores: unknown source 'rumour'"),
        (5, "core: {v: 4, src: sheet}", "core: unknown key; did you mean 'cores'?"),
        (5, "arch: toy", "arch: the key is given twice"),
        (7, "launch_overhead_us: {v: 2, src: default}", "launch_overhead_us: 'how' is a required property"),
        (12, "  dram: {kind: explicit, per: device}", "levels.dram.bandwidth_gbs: missing"),
        (13, "  sram: {kind: explicit, per: core}", "levels.sram.capacity_bytes: missing"),
        (13, "  sram: {kind: fast, per: core}", "levels.sram.kind: 'fast' is not one of"),
        (3, "kind: gpu", "occupancy: missing"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(toy: Path, line: int, change: str, message: str) -> None:
    lines = TOY.splitlines()
    lines[line - 1] = change
    toy.write_text("\n".join(lines), encoding="utf-8")
    place = f"{toy}:{1 if message.startswith('occupancy') else line}: "
    with pytest.raises(DeviceModelError) as error:
        load_device("toy")
    assert str(error.value).startswith(place + message)


def test_unusable_lifts_what_only_tiles_need(toy: Path) -> None:
    text = TOY.replace(", capacity_bytes: {v: 65536, src: sheet}", "")
    toy.write_text(text + "unusable: the size of its memory is secret\n", encoding="utf-8")
    device = load_device("toy")
    assert device.unusable == "the size of its memory is secret"
    assert device.level("sram").capacity_bytes is None


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "base: sm_42"])
def test_what_is_no_device_file_is_refused(toy: Path, text: str) -> None:
    toy.write_text(text, encoding="utf-8")
    with pytest.raises(DeviceModelError, match=r"toy\.yaml"):
        load_device("toy")


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownDeviceError, match=r"no device file .*absent\.yaml"):
        load_device(tmp_path / "absent.yaml")


# --- reports -------------------------------------------------------------------------------------


def test_the_report_has_every_number_with_its_source() -> None:
    device = load_device("a100")
    rows = {row.field: row for row in device_report(device)}
    assert set(rows) == set(device.sources)
    assert rows["levels.dram.bandwidth_gbs"][1:4] == (2039, "GB/s", "secondary")
    assert rows["matrix_units.mma_bf16.shape"].value == [16, 8, 16]
    assert rows["exp_per_clk_per_core"].tier == "default"
    assert "special function units" in rows["exp_per_clk_per_core"].source


@pytest.mark.parametrize("name", ["a100", "mi300x", "910b", "gaudi2", "epyc_9654"])
def test_json_is_plain_and_complete(name: str) -> None:
    device: Device = load_device(name)
    plain = json.loads(json.dumps(device_json(device)))
    assert plain["cores"] == device.cores
    assert list(plain["levels"]) == [level.name for level in device.levels]
    assert len(plain["sources"]) == len(device.sources)


def _bare_numbers(node: Any, path: str = "") -> Any:
    if isinstance(node, dict):
        if "v" in node:
            return
        for key, child in node.items():
            if key not in ("targets", "sources"):
                yield from _bare_numbers(child, f"{path}.{key}")
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield path


def _sourced_paths(node: Any, path: tuple[str, ...] = ()) -> Any:
    if isinstance(node, dict) and "v" in node:
        yield ".".join(path)
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from _sourced_paths(child, (*path, key))
