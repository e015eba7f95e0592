"""Document (a merged device file or the probe's result) to :class:`Device`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from flashc.hwmodels.model import Default, Device, Level, MatrixUnit, Occupancy, Source, VectorUnit

Document = Mapping[str, Any]


class _Reader:
    """Takes values out of {v, src, how} nodes and keeps their sources by field path."""

    def __init__(self, table: Mapping[str, Mapping[str, Any]]) -> None:
        self._table = table
        self.sources: dict[str, Source] = {}
        self.defaults: list[Default] = []

    def value(self, node: Mapping[str, Any], path: str) -> Any:
        value = tuple(node["v"]) if isinstance(node["v"], list) else node["v"]
        entry = self._table[node["src"]]
        source = Source(node["src"], entry["tier"], entry["text"], node.get("how", ""))
        self.sources[path] = source
        if source.tier == "default":
            self.defaults.append(Default(path, value, source.how))
        return value

    def optional(self, parent: Mapping[str, Any], key: str, path: str) -> Any:
        return self.value(parent[key], f"{path}.{key}" if path else key) if key in parent else None


def device_from_document(name: str, document: Document, table: Mapping[str, Mapping[str, Any]]) -> Device:
    """Build a device from a complete document; ``table`` maps source ids to {tier, text}."""
    reader = _Reader({**table, **document.get("sources", {})})
    cores, clock = reader.value(document["cores"], "cores"), reader.value(document["clock_ghz"], "clock_ghz")
    return Device(
        name=name,
        title=document["title"],
        vendor=document["vendor"],
        kind=document["kind"],
        arch=document["arch"],
        note=document.get("note", ""),
        product_names=tuple(document.get("product_names", ())),
        cores=cores,
        clock_ghz=clock,
        launch_overhead_us=reader.value(document["launch_overhead_us"], "launch_overhead_us"),
        grid_limit=reader.optional(document, "grid_limit", "") or (),
        exp_per_clk_per_core=reader.value(document["exp_per_clk_per_core"], "exp_per_clk_per_core"),
        matmul_efficiency=reader.value(document["matmul_efficiency"], "matmul_efficiency"),
        memory_efficiency=reader.value(document["memory_efficiency"], "memory_efficiency"),
        levels=tuple(_level(reader, key, node, cores) for key, node in outermost_first(document["levels"])),
        matrix_units=tuple(
            _matrix_unit(reader, key, node) for key, node in document.get("matrix_units", {}).items()
        ),
        vector=_vector(reader, document["vector"], cores, clock),
        occupancy=_occupancy(reader, document.get("occupancy")),
        features=frozenset(document.get("features", ())),
        targets={backend: tuple(target) for backend, target in document.get("targets", {}).items()},
        missing_artefacts=document.get("missing_artefacts"),
        unusable=document.get("unusable"),
        facts={key: reader.value(node, f"facts.{key}") for key, node in document.get("facts", {}).items()},
        sources=reader.sources,
        defaults=tuple(reader.defaults),
        hash=_content_hash(name, document),
    )


def outermost_first(levels: Document) -> list[tuple[str, Document]]:
    """Levels as written, which is outermost first, but for a disk: a file adds it after the levels of its base."""
    return sorted(levels.items(), key=lambda item: item[1].get("kind") != "storage")


def _level(reader: _Reader, name: str, node: Document, cores: int) -> Level:
    path = f"levels.{name}"
    instances = reader.optional(node, "instances", path)
    return Level(
        name=name,
        kind=node["kind"],
        per=node["per"],
        instances=instances or (cores if node["per"] == "core" else 1),
        capacity_bytes=reader.optional(node, "capacity_bytes", path),
        bandwidth_gbs=reader.optional(node, "bandwidth_gbs", path),
        line_bytes=reader.optional(node, "line_bytes", path),
        alignment_bytes=reader.optional(node, "alignment_bytes", path),
        latency_ns=reader.optional(node, "latency_ns", path),
        queue_depth=reader.optional(node, "queue_depth", path),
    )


def _matrix_unit(reader: _Reader, name: str, node: Document) -> MatrixUnit:
    path = f"matrix_units.{name}"
    m, n, k = reader.value(node["shape"], f"{path}.shape")
    return MatrixUnit(
        name=name,
        m=m,
        n=n,
        k=k,
        n_max=reader.optional(node, "n_max", path) or n,
        operand=node["operand"],
        accumulator=node["accumulator"],
        peak_tflops=reader.value(node["peak_tflops"], f"{path}.peak_tflops"),
    )


def _vector(reader: _Reader, node: Document, cores: int, clock_ghz: float) -> VectorUnit:
    peaks = {d: float(reader.value(p, f"vector.peak_tflops.{d}")) for d, p in node["peak_tflops"].items()}
    return VectorUnit(
        width_bits=reader.value(node["width_bits"], "vector.width_bits"),
        units_per_core=reader.optional(node, "units_per_core", "vector") or 1,
        registers=reader.optional(node, "registers", "vector"),
        bf16_dot=node.get("bf16_dot", False),
        peak_tflops=peaks,
        flops_per_clk_per_core={dtype: peak * 1e3 / (cores * clock_ghz) for dtype, peak in peaks.items()},
    )


def _occupancy(reader: _Reader, node: Document | None) -> Occupancy | None:
    if node is None:
        return None
    names = [field.name for field in dataclasses.fields(Occupancy)]
    return Occupancy(**{name: reader.value(node[name], f"occupancy.{name}") for name in names})


def _content_hash(name: str, document: Document) -> str:
    text = json.dumps([name, document], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
