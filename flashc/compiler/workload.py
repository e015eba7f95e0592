"""Workload files: which operator, which sizes, which features. The keys are explained in docs/workload.md.

`python -m flashc.compiler.workload` prints the JSON Schema for editors, docs/schema/workload.schema.json.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from flashc.compiler.document import Document, from_mapping, read_yaml
from flashc.compiler.schema_check import check_schema
from flashc.errors import WorkloadError
from flashc.ops.spec_checks import dotted, message, refusal, shown


class OperatorLike(Protocol):
    """What the loader needs of an operator; flashc.ops.Operator is one."""

    @property
    def name(self) -> str: ...

    @property
    def schema(self) -> Mapping[str, Any]: ...

    @property
    def parse(self) -> Callable[[Mapping[str, Any], Callable[[Sequence[str | int]], str]], Any]: ...


Operators = Mapping[str, OperatorLike]


@dataclass(frozen=True)
class Workload:
    """A checked workload. `spec` is the operator's own dataclass; `source` is the file name, or '<dict>'."""

    op: str
    spec: Any
    document: Document = field(repr=False, compare=False)

    @property
    def source(self) -> str:
        return self.document.source

    @property
    def text(self) -> str | None:
        """The YAML as written, before overrides; None for a mapping."""
        return self.document.text

    def with_overrides(self, values: Mapping[str, Any], operators: Operators | None = None) -> Workload:
        """The workload with keys set, checked again: {'seq.q': 128, 'causal': False}; None removes a key."""
        if not values:
            return self
        known = _known(operators)
        schema = known[self.op].schema if self.op in known else {}
        document = replace(self.document, data=copy.deepcopy(self.document.data))
        for key, value in values.items():
            document = _overridden(document, tuple(key.split(".")), value, schema)
        return _checked(document, known)


def load_workload(source: str | Path | Mapping[str, Any], operators: Operators | None = None) -> Workload:
    """Read and check a workload: a file, YAML text, or a mapping of the same keys.

    A str is YAML text if it has a line break or `: ` in it, a path otherwise.
    Raises WorkloadError naming file and line, the key, its value, what is allowed and the fix.
    """
    if isinstance(source, Mapping):
        return _checked(from_mapping(source), _known(operators))
    if isinstance(source, str) and ("\n" in source or ": " in source):
        return _checked(read_yaml(source, "<text>"), _known(operators))
    return _checked(read_yaml(read_text(Path(source)), str(source)), _known(operators))


def parse_override(text: str) -> tuple[str, Any]:
    """`seq.q=128` from a command line as ('seq.q', 128); the value is YAML. Raises WorkloadError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise WorkloadError(message(f"--set {text}", "key=value", "write for example `--set seq.q=128`"))
    return key.strip(), read_yaml(f"value: {value}", f"--set {text}").data["value"]


def workload_schema(operators: Operators | None = None) -> dict[str, Any]:
    """JSON Schema (2020-12) of workload files of all operators, for editors."""
    options = []
    for name, operator in sorted(_known(operators).items()):
        schema = dict(operator.schema)
        schema["properties"] = {"op": {"const": name}, **schema["properties"]}
        schema["required"] = ["op", *schema.get("required", [])]
        options.append({"title": name, **schema})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "flashc workload",
        "type": "object",
        "oneOf": options,
    }


def _known(operators: Operators | None) -> Operators:
    if operators is not None:
        return operators
    from flashc.ops import registry

    return registry()


def read_text(path: Path) -> str:
    """The text of a file. Raises WorkloadError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _unreadable(path, "no such file", "give the path of a YAML file; see examples/") from None
    except UnicodeDecodeError:
        raise _unreadable(path, "not UTF-8 text", "save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error), "give the path of a readable YAML file") from None


def _unreadable(path: Path, problem: str, fix: str) -> WorkloadError:
    return WorkloadError(message(f"{path}: {problem}", "a readable YAML file", fix))


def _checked(document: Document, operators: Operators) -> Workload:
    keys = dict(document.data)
    op = keys.pop("op", None)
    if not isinstance(op, str) or op not in operators:
        allowed = f"one of {', '.join(sorted(operators))}"
        close = difflib.get_close_matches(op, operators, 1) if isinstance(op, str) else []
        fix = f"did you mean {close[0]!r}?" if close else "write for example `op: attention`"
        raise refusal(document.where, ("op",), op, allowed, fix)
    operator = operators[op]
    check_schema(keys, dict(operator.schema), document.where)
    return Workload(op, operator.parse(keys, document.where), document)


def _overridden(document: Document, path: tuple[str, ...], value: Any, schema: Mapping[str, Any]) -> Document:
    """The document with one key set or, for None, removed; its errors then name the override."""
    place = f"--set {'.'.join(path)}={shown(value)}"
    parent = document.data
    for depth, part in enumerate(path[:-1]):
        inner = parent.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = _expanded(path[:depth + 1], inner, schema, place)
            parent[part] = inner
        parent = inner
    if value is None:
        parent.pop(path[-1], None)
    else:
        parent[path[-1]] = value
    kept = {known: line for known, line in document.places.items() if known[:len(path)] != path}
    return replace(document, places={**kept, path: place})


def _expanded(path: tuple[str, ...], value: Any, schema: Mapping[str, Any], place: str) -> dict[str, Any]:
    """`seq: 4096` as {q: 4096, kv: 4096}, for keys whose schema says that a plain value stands for both."""
    both = schema.get("properties", {}).get(path[0], {}).get("shorthand") if len(path) == 1 else None
    if both is None:
        fix = f"override {dotted(path)} as a whole"
        raise WorkloadError(message(f"{place}: {dotted(path)} is {shown(value)}", "keys of a mapping", fix))
    return dict.fromkeys(both, value)


if __name__ == "__main__":
    print(json.dumps(workload_schema(), indent=2))
