"""What a report says: the numbers agree with each other, with the bounds, and with its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from report_cases import ATTENTION, CASES, GEMM, case, report, swept

from flashc.iomodel.bound import best
from flashc.iomodel.checker import check
from flashc.report import document
from flashc.report.case import needs_once, recomputes
from flashc.report.curves import curves
from flashc.report.facts import Report, TrafficRow
from flashc.report.sweep import Range, parse_range

ROOT = Path(__file__).parent.parent
EVERY = pytest.mark.parametrize(("device", "name"), CASES)


def rows(found: Report, *kinds: str) -> list[TrafficRow]:
    return [r for r in found.traffic if r.kind in kinds]


# --- traffic


@EVERY
def test_nothing_moves_less_than_the_bound(device: str, name: str) -> None:
    found = report(device, name)
    bound = found.row("bound").total
    assert bound >= found.row("compulsory").total > 0
    moved = rows(found, "chosen", "schedule", "naive")
    assert moved and all(r.total >= bound for r in moved)
    assert all(r.total == pytest.approx((r.loads or 0) + (r.stores or 0)) for r in moved)


@EVERY
def test_the_exact_count_is_the_closed_form_and_caches_are_no_better_than_the_bound(device: str, name: str) -> None:
    simulated = report(device, name).simulated
    by_name = {r.name: r for r in simulated.rows}
    assert simulated.missing == ""
    exact, closed = by_name["exact count"], by_name["closed form"]
    assert (exact.loads, exact.stores) == (closed.loads, closed.stores)
    bound, lru, belady = (by_name[n] for n in ("lower bound", "LRU", "Belady"))
    assert bound.total <= min(exact.total, lru.total, belady.total)
    assert belady.loads is not None and lru.loads is not None
    assert belady.loads <= lru.loads
    assert simulated.peak_bytes <= simulated.fast_bytes or report(device, name).backend == "cpu"


def test_a_part_that_is_simulated_is_named_and_smaller() -> None:
    long = case("zen3_nvme", {**GEMM, "m": 4096, "n": 4096, "k": 4096, "dtype": "fp32"})
    from flashc.report.simulated import MOST_LINES, _lines, part

    sizes = part(long.program, long.sizes)
    assert _lines(long.program, long.sizes) > MOST_LINES >= _lines(long.program, sizes)
    assert all(sizes[n] <= long.sizes[n] for n in long.program.sizes)


def test_a_part_of_grouped_heads_has_the_key_heads_that_its_tasks_reach() -> None:
    workload = {**ATTENTION, "heads": {"q": 32, "kv": 8}, "seq": 8192}
    long = case("a100", workload)
    from flashc.report.simulated import part

    sizes = part(long.program, long.sizes)
    together = 4 if long.program.schedule == "grouped_rows" else 1  # query heads of a task
    assert (sizes["Hq"], sizes["Hkv"], sizes["B"]) == (together, 1, 1)


@pytest.mark.parametrize("device", ["a100", "ascend910b3", "zen3_nvme"])
def test_unfused_attention_moves_more_than_the_fused_schedules(device: str) -> None:
    """Than the chosen tiles too, but on a CPU: there the fastest have few rows and read the keys often from a cache."""
    found = report(device, "attention")
    unfused = next(r for r in found.traffic if r.name == "unfused, as a baseline")
    assert unfused.total > next(r for r in found.traffic if r.name == "q_stationary, best tiles").total
    assert device == "zen3_nvme" or unfused.total > found.row("chosen").total


@EVERY
def test_tensors_add_up_to_the_chosen_traffic(device: str, name: str) -> None:
    found = report(device, name)
    chosen = found.row("chosen")
    assert sum(t.loads for t in found.tensors) == chosen.loads
    assert sum(t.stores for t in found.tensors) == chosen.stores
    needed = [t for t in found.tensors if t.compulsory]
    assert sum(t.compulsory or 0 for t in needed) == pytest.approx(found.row("compulsory").total)
    assert all((t.loads + t.stores) >= (t.compulsory or 0) for t in needed)


# --- bounds


def test_the_bound_grows_with_the_batch() -> None:
    one, three = (case("a100", {**ATTENTION, "batch": b}) for b in (1, 3))
    moved = [best(c.bounds, c.sizes, c.fast_bytes)[0].total for c in (one, three)]
    assert moved[1] == pytest.approx(3 * moved[0])


def test_bounds_for_schedules_that_compute_once_are_left_out_where_one_computes_twice() -> None:
    """Flash attention's backward pass computes every score again: once for dQ, once for dK and dV."""
    backward = case("a100", {**ATTENTION, "op": "attention_backward", "heads": 2, "seq": 256})
    forward = case("a100", ATTENTION)
    spec = backward.tuning.workload.spec
    assert recomputes(backward.operator.algorithm(spec), backward.tuning.best.placed)
    assert not any(needs_once(b.assumptions) for b in backward.bounds)
    assert not recomputes(forward.operator.algorithm(forward.tuning.workload.spec), forward.tuning.best.placed)
    assert any(needs_once(b.assumptions) for b in forward.bounds)


@EVERY
def test_certificates_pass_the_independent_checker(device: str, name: str) -> None:
    written = json.loads(document.text(report(device, name)))
    assert len(written["certificates"]) == len(written["lower_bound"]["rules"])
    for certificate in written["certificates"]:
        check(certificate)


# --- levels and curves


@EVERY
def test_levels_hold_what_they_must(device: str, name: str) -> None:
    found = report(device, name)
    bounds = [lv.bound for lv in found.levels]
    assert bounds == sorted(bounds)
    for level in found.levels:
        assert level.warm <= level.bound and level.joined <= level.bound
        assert level.moved is None or level.moved >= level.bound * (1 - 1e-3)
    assert found.own_level.moved == found.row("chosen").total
    assert found.least_seconds <= found.choice.seconds


@EVERY
def test_curves_fall_and_stay_above_the_bound(device: str, name: str) -> None:
    found = report(device, name).curves
    bound, *schedules = found.series
    assert bound.kind == "bound" and schedules
    for series in found.series:
        heights = [y for _, y in series.points]
        assert heights == sorted(heights, reverse=True), series.name
    known = dict(bound.points)
    for series in schedules:
        assert all(y >= known[x] * (1 - 1e-9) for x, y in series.points if x in known)
    assert found.rules[0].start == bound.points[0][0] and found.rules[-1].end == bound.points[-1][0]


def test_the_bound_of_unlimited_memory_is_compulsory() -> None:
    found = report("a100", "gemm")
    assert found.curves.series[0].points[-1][1] == found.row("compulsory").total
    assert found.curves.rules[-1].name == "compulsory"


def test_the_steps_from_the_two_level_optimum_to_the_device_cost_more_and_more() -> None:
    found = report("a100", "attention").two_level
    assert found is not None and found.forced is not None
    assert found.streamed == {"Tj": found.chosen.tiles["Tj"]}
    assert found.forced.tiles["Tj"] == found.chosen.tiles["Tj"]
    assert found.optimum.moved <= found.forced.moved <= found.chosen.moved


def test_lines_are_traced_where_they_fall() -> None:
    """A flat schedule needs two points, a falling one more of them; the plot asks for no others."""
    found = curves(case("a100", GEMM), lambda _text: None)
    points = {s.name: len(s.points) for s in found.series}
    assert points["output_stationary"] > 3
    assert points["unblocked"] == 2


def test_an_index_that_softmax_needs_twice_is_named() -> None:
    needed = {p.index: (p.needed, p.schedule) for p in report("a100", "attention").passes}
    assert needed["j"] == (2, 1)


def test_a_disk_is_one_more_level_and_not_part_of_the_least_time() -> None:
    found = report("zen3_nvme", "gemm")
    disk = found.levels[0]
    assert disk.kind == "storage" and disk.bound == found.row("compulsory").total
    slowest = max(t.compulsory or 0 for t in found.tensors) / 7.45e9
    assert disk.bound_seconds is not None and disk.bound_seconds > slowest
    assert found.least_seconds < disk.bound_seconds
    assert any("SSD" in sentence for sentence in found.verdict)


# --- JSON


@EVERY
def test_json_meets_its_schema(device: str, name: str) -> None:
    schema = json.loads((ROOT / "docs/schema/report.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(document.text(report(device, name))))


def test_json_of_a_sweep_meets_its_schema() -> None:
    schema = json.loads((ROOT / "docs/schema/report.schema.json").read_text(encoding="utf-8"))
    written: dict[str, Any] = json.loads(document.text(swept()))
    Draft202012Validator(schema).validate(written)
    assert [p["value"] for p in written["sweep"]["points"]] == [256, 512, 1024, 2048, 3000]
    for key in ("bound", "moved", "least_seconds"):
        values = [p[key] for p in written["sweep"]["points"]]
        assert values == sorted(values)
    assert all(p["bound"] <= p["moved"] for p in written["sweep"]["points"])


@pytest.mark.parametrize("path", sorted((ROOT / "docs/reports").glob("*/report.json")), ids=lambda p: p.parent.name)
def test_the_committed_examples_meet_the_schema_and_their_certificates_hold(path: Path) -> None:
    schema = json.loads((ROOT / "docs/schema/report.schema.json").read_text(encoding="utf-8"))
    written = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(written)
    for certificate in written["certificates"]:
        check(certificate)
    readme = (ROOT / "docs/reports/README.md").read_text(encoding="utf-8")
    for file in ("report.md", "report.html", "report.json"):
        assert (path.parent / file).stat().st_size < 300_000
        assert f"({path.parent.name}/{file})" in readme


# --- sweeps


def test_a_range_doubles_and_ends_where_it_says() -> None:
    assert parse_range("seq=1k:8k").values() == (1024, 2048, 4096, 8192)
    assert parse_range("seq.q=1:1M") == Range("seq.q", 1, 1 << 20)
    assert parse_range("m=100:500").values() == (100, 200, 400, 500)
    assert parse_range("m=7:7").values() == (7,)


@pytest.mark.parametrize("text", ["seq", "seq=", "seq=1", "seq=1k:", "=1:2", "seq=a:b", "seq=-1:4", "seq=1:2:3"])
def test_a_range_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="KEY=FROM:TO") as caught:
        parse_range(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["seq=0:4", "seq=8:4"])
def test_a_range_that_runs_backwards_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="FROM must be at least 1 and at most TO"):
        parse_range(text)
