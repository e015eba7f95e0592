"""JSON Schema for the structure of a workload, with errors in our own words."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from flashc.errors import WorkloadError
from flashc.ops.spec_checks import Json, Where, dotted, message, refusal, shown


def check_schema(data: Mapping[str, Any], schema: Json, where: Where) -> None:
    """Raise WorkloadError for a mistake that breaks the schema: an unknown key before all others."""
    from jsonschema import Draft202012Validator, validators

    checker = Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
    extend: Any = validators.extend  # typed by some releases of its stubs only
    errors = sorted(extend(Draft202012Validator, type_checker=checker)(schema).iter_errors(data), key=_rank)
    if errors:
        raise _explained(_innermost(errors[0]), schema, where)


def describe(schema: Mapping[str, Any]) -> str:
    """The values a schema admits, as a phrase."""
    if "anyOf" in schema:
        return ", or ".join(describe(option) for option in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(_yaml(value) for value in schema['enum'])}"
    kind = schema.get("type")
    if kind in ("integer", "number"):
        noun = "an integer" if kind == "integer" else "a number"
        return f"{noun} from {schema['minimum']} to {schema['maximum']}"
    if kind == "array":
        return f"a list of {_count(schema)}, each {describe(schema['items'])}"
    if kind == "object":
        return f"a mapping of {', '.join(schema.get('properties', {})) or 'name: value'}"
    return {"boolean": "true or false", "string": "a text"}.get(str(kind), str(kind))


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: object, value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _rank(error: Any) -> tuple[bool, int]:
    """Unknown keys first, for a misspelt key is also a missing one; then the deepest mistake."""
    return error.validator != "additionalProperties", -len(error.absolute_path)


def _innermost(error: Any) -> Any:
    """Of alternatives that all fail, the mistake in the one whose type fits."""
    while error.context:
        unfit = {inner.schema_path[0] for inner in error.context if inner.validator == "type" and not inner.path}
        fitting = [inner for inner in error.context if inner.schema_path[0] not in unfit]
        if not fitting:
            return error
        error = min(fitting, key=_rank)
    return error


def _explained(error: Any, schema: Json, where: Where) -> WorkloadError:
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = next(key for key in error.instance if key not in known)
        close = difflib.get_close_matches(unknown, known, 1)
        fix = f"did you mean {close[0]!r}?" if close else "remove it"
        found = f"{dotted((*path, unknown))}: unknown key, with value {shown(error.instance[unknown])}"
        return WorkloadError(message(f"{where((*path, unknown))}: {found}", ", ".join(known), fix))
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        found = f"{where(path)}: {dotted((*path, missing))}: missing"
        needed = f"all of {', '.join(error.validator_value)}"
        return WorkloadError(message(found, needed, _example((*path, missing), schema, "add")))
    if error.validator == "pattern":
        allowed = "names of letters, digits and _, a letter first"
        return refusal(where, (*path, error.instance), error.instance, allowed, "rename it")
    if error.instance is None:
        return refusal(where, path, None, describe(error.schema), "give a value, or remove the key")
    return refusal(where, path, error.instance, describe(error.schema), _fix(error, path, schema))


def _fix(error: Any, path: tuple[str | int, ...], schema: Json) -> str:
    names = [value for value in error.schema.get("enum", ()) if isinstance(value, str)]
    close = difflib.get_close_matches(str(error.instance), names, 1, cutoff=0.8)
    return f"did you mean {close[0]!r}?" if close else _example(path, schema, "write")


def _example(path: tuple[str | int, ...], schema: Json, verb: str) -> str:
    key = str(path[0])
    return f"{verb} for example `{key}: {_yaml(schema['properties'][key]['examples'][0])}`"


def _count(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if most is None:
        return "values" if least == 0 else f"{least} or more"
    return f"{least}" if least == most else f"{least} to {most}"


def _yaml(value: object) -> str:
    """A value on one line, in YAML's flow style."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return value if isinstance(value, str) else shown(value)
