"""JSON Schema of device files, and validation with the file and line of the mistake.

``device_schema(complete=False)`` describes one file as written (docs/schema/device.schema.json): a file
with a ``base`` may leave out what the base states. ``complete=True`` describes the file merged with its base,
which is what :func:`check_device` validates.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from flashc.errors import DeviceModelError
from flashc.hwmodels.model import Occupancy

Json = dict[str, Any]
PathParts = tuple[str | int, ...]

_NEEDS_REASON = {
    "if": {"properties": {"src": {"enum": ["default", "derived"]}}, "required": ["src"]},
    "then": {"required": ["how"]},
}
_DTYPE: Json = {"enum": ["f64", "f32", "tf32", "f16", "bf16", "f8", "f4", "i32", "i8", "i4"]}
_TEXT: Json = {"type": "string"}
_NULLABLE_TEXT: Json = {"type": ["string", "null"]}


def _sourced(value: Json) -> Json:
    """A value with its source: {v: 108, src: mleng, how: "unit conversion, formula or reason"}."""
    text = {"type": "string", "minLength": 1}
    return {
        "type": "object",
        "properties": {"v": value, "src": text, "how": text},
        "required": ["v", "src"],
        "additionalProperties": False,
        **_NEEDS_REASON,
    }


_COUNT = _sourced({"type": "integer", "minimum": 1})
_BYTES = _sourced({"type": "integer", "minimum": 0})
_RATE = _sourced({"type": "number", "exclusiveMinimum": 0})
_SHARE = _sourced({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
_FACT = _sourced({"type": ["number", "string", "boolean", "array"], "items": {"type": ["number", "string"]}})


def _object(properties: Json, required: Sequence[str], complete: bool) -> Json:
    schema: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": list(required)} if complete and required else schema


def _levels(complete: bool) -> Json:
    properties: Json = {
        "kind": {"enum": ["explicit", "cache", "registers", "storage"]},
        "per": {"enum": ["device", "group", "core"]},
        "instances": _COUNT,
        "capacity_bytes": _COUNT,
        "bandwidth_gbs": _RATE,
        "line_bytes": _COUNT,
        "alignment_bytes": _COUNT,
        "latency_ns": _RATE,
        "queue_depth": {**_COUNT, "description": "requests in flight that reach a disk's bandwidth"},
    }
    level = _object(properties, ("kind", "per"), complete)
    return {"type": "object", "minProperties": 1, "additionalProperties": level}


def _matrix_units(complete: bool) -> Json:
    shape = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 3, "maxItems": 3}
    properties = {
        "shape": {**_sourced(shape), "description": "smallest m, n, k of one instruction"},
        "n_max": _COUNT,
        "operand": _DTYPE,
        "accumulator": _DTYPE,
        "peak_tflops": _RATE,
    }
    unit = _object(properties, ("shape", "operand", "accumulator", "peak_tflops"), complete)
    return {"type": "object", "additionalProperties": unit}


def _vector(complete: bool) -> Json:
    properties = {
        "width_bits": _COUNT,
        "units_per_core": _COUNT,
        "registers": _COUNT,
        "bf16_dot": {"type": "boolean"},
        "peak_tflops": {"type": "object", "propertyNames": _DTYPE, "additionalProperties": _RATE},
    }
    return _object(properties, ("width_bits", "peak_tflops"), complete)


def _occupancy(complete: bool) -> Json:
    names = [field.name for field in dataclasses.fields(Occupancy)]
    return _object(dict.fromkeys(names, _BYTES), names, complete)


_REQUIRED = (
    "title",
    "vendor",
    "kind",
    "arch",
    "cores",
    "clock_ghz",
    "launch_overhead_us",
    "exp_per_clk_per_core",
    "matmul_efficiency",
    "memory_efficiency",
    "levels",
    "vector",
)


def _sources() -> Json:
    tier = {"enum": ["primary", "secondary", "derived", "measured", "default"]}
    source = {
        "type": "object",
        "properties": {"tier": tier, "text": _TEXT},
        "required": ["tier", "text"],
        "additionalProperties": False,
    }
    return {"type": "object", "additionalProperties": source}


def device_schema(*, complete: bool) -> Json:
    """The JSON Schema (draft 2020-12) of a device file; see the module text for ``complete``."""
    grid = {"type": "array", "items": {"type": "integer", "minimum": 1}, "maxItems": 3}
    target = {"type": "array", "items": {"type": ["string", "integer"]}, "minItems": 1}
    properties: Json = {
        "base": {**_TEXT, "description": "architecture file whose values this file completes or overrides"},
        "title": _TEXT,
        "vendor": _TEXT,
        "kind": {"enum": ["gpu", "npu", "cpu", "accelerator"]},
        "arch": _TEXT,
        "note": _TEXT,
        "product_names": {"type": "array", "items": _TEXT, "description": "the driver's names of this GPU"},
        "cores": _COUNT,
        "clock_ghz": _RATE,
        "launch_overhead_us": _RATE,
        "grid_limit": _sourced(grid),
        "exp_per_clk_per_core": _RATE,
        "matmul_efficiency": _SHARE,
        "memory_efficiency": _SHARE,
        "levels": _levels(complete),
        "matrix_units": _matrix_units(complete),
        "vector": _vector(complete),
        "occupancy": _occupancy(complete),
        "features": {"type": "array", "items": _TEXT},
        "targets": {"type": "object", "additionalProperties": target},
        "missing_artefacts": _NULLABLE_TEXT,
        "unusable": _NULLABLE_TEXT,
        "facts": {"type": "object", "additionalProperties": _FACT},
        "sources": _sources(),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "flashc device model",
        **_object(properties, _REQUIRED, complete),
    }


def check_device(document: Mapping[str, Any], known_sources: set[str], path: Path, text: str) -> None:
    """Raise DeviceModelError if the merged ``document`` breaks the schema: file, line, key, what is allowed.

    ``text`` is the user's own file, in which keys are located; a missing key is located at its parent.
    """
    lines = _key_lines(text, path)

    def refuse(where: PathParts, reason: str) -> NoReturn:
        raise DeviceModelError(f"{path}:{_line_of(lines, where)}: {_dotted(where)}: {reason}")

    failures = list(_validator().iter_errors(document))
    if failures:
        refuse(*_explain(min(failures, key=_rank)))
    for where, source in _source_names(document, ()):
        if source not in known_sources:
            fix = "add it to the table `sources:` of this file with its tier and text"
            refuse(where, f"unknown source {source!r}; {fix}")
    if not document.get("unusable"):
        for where in _missing(document):
            refuse(where, "missing, and needed to compute tiles; give it, or say why not in `unusable:`")


def _validator() -> Any:
    from jsonschema import Draft202012Validator, validators

    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    extend: Any = validators.extend  # typed by some releases of its stubs only
    return extend(Draft202012Validator, type_checker=types)(device_schema(complete=True))


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # 132.0 is none


def _rank(failure: Any) -> tuple[bool, int]:
    """Unknown keys first, for a misspelt key is also a missing one; then the deepest mistake."""
    return failure.validator != "additionalProperties", -len(failure.absolute_path)


def _explain(failure: Any) -> tuple[PathParts, str]:
    """Where the mistake is and what to do about it."""
    where = tuple(failure.absolute_path)
    if failure.validator == "additionalProperties":
        allowed = list(failure.schema["properties"])
        unknown = next(str(key) for key in failure.instance if key not in allowed)
        close = difflib.get_close_matches(unknown, allowed, n=1)
        fix = f"did you mean {close[0]!r}? " if close else ""
        return (*where, unknown), f"unknown key; {fix}Allowed: {', '.join(allowed)}"
    if failure.validator == "type" and "v" in failure.schema.get("properties", {}):
        value = failure.instance
        return where, f"{value!r} has no source; write {{v: {value!r}, src: ID}}"
    return where, str(failure.message)


def _missing(document: Mapping[str, Any]) -> Iterator[PathParts]:
    """What the solver needs beyond the schema's required keys."""
    levels = document["levels"]
    disks = [name for name in levels if levels[name]["kind"] == "storage"]
    memories = [name for name in levels if name not in disks]
    needed = [(name, key) for name in disks for key in ("bandwidth_gbs", "latency_ns", "queue_depth")]
    if not memories:
        yield "levels", "dram"
        return
    inside = memories if disks else memories[1:]
    needed += [(memories[0], "bandwidth_gbs"), *((name, "capacity_bytes") for name in inside)]
    for name, key in needed:
        if key not in levels[name]:
            yield "levels", name, key
    if document["kind"] == "gpu" and "occupancy" not in document:
        yield ("occupancy",)


def _source_names(node: Any, where: PathParts) -> Iterator[tuple[PathParts, str]]:
    if not isinstance(node, Mapping):
        return
    if "v" in node and "src" in node:
        yield where, node["src"]
        return
    for key, child in node.items():
        yield from _source_names(child, (*where, key))


def _key_lines(text: str, path: Path) -> dict[PathParts, int]:
    """Line of every key; duplicate keys are refused here, of which a YAML loader silently keeps the last."""
    lines: dict[PathParts, int] = {}

    def visit(node: yaml.Node, where: PathParts) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                at, line = (*where, key.value), key.start_mark.line + 1
                if at in lines:
                    raise DeviceModelError(f"{path}:{line}: {_dotted(at)}: the key is given twice")
                lines[at] = line
                visit(value, at)

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None:
        visit(root, ())
    return lines


def _line_of(lines: Mapping[PathParts, int], where: PathParts) -> int:
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    return 1


def _dotted(where: PathParts) -> str:
    return ".".join(map(str, where)) or "the device"


if __name__ == "__main__":
    print(json.dumps(device_schema(complete=False), indent=2))
