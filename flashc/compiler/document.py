"""A workload as written: its data, and the place of every key for error messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from flashc.errors import WorkloadError
from flashc.ops.spec_checks import KeyPath, dotted, message, shown

MAX_BYTES = 1 << 20
DICT_SOURCE = "<dict>"


@dataclass(frozen=True)
class Document:
    """`places` gives file and line, or the override, by key path; a key without one has its parent's."""

    source: str
    text: str | None
    data: dict[str, Any]
    places: Mapping[tuple[str | int, ...], str]

    def where(self, path: KeyPath) -> str:
        for length in range(len(path), -1, -1):
            place = self.places.get(tuple(path[:length]))
            if place is not None:
                return place
        return self.source


class _Loader(yaml.SafeLoader):
    """Plain YAML: no aliases, which could expand without end; 1e-3 and -.5 are numbers as in YAML 1.2."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "an alias (*name); write the value out", mark)
        return super().compose_node(parent, index)


_FLOAT = re.compile(r"^[-+]?(\.\d+|\d+\.\d*|\d+(?=[eE]))([eE][-+]?\d+)?$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_yaml(text: str, source: str) -> Document:
    """Parse YAML text whose top is a mapping. Raises WorkloadError with the line for anything else."""
    if len(text) > MAX_BYTES:
        raise _refused(f"{source}:1", f"{len(text)} characters", f"at most {MAX_BYTES}", "shorten the file")
    reader = _Reader(source)
    try:
        data = reader.read(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        column = f" at column {mark.column + 1}" if mark else ""
        fix = "correct the YAML there"
        raise _refused(place, f"not YAML{column}: {error.problem}", "key: value lines", fix) from None
    except yaml.YAMLError as error:
        raise _refused(f"{source}:1", f"not YAML: {error}", "text", "save the file as UTF-8 text") from None
    except RecursionError:
        raise _refused(f"{source}:1", "nested too deeply", "a few levels", "write the keys flat") from None
    if not isinstance(data, dict):
        fix = "start with a line such as `op: attention`"
        raise _refused(f"{source}:1", shown(data) if data is not None else "nothing", "key: value lines", fix)
    return Document(source, text, data, reader.places)


def from_mapping(data: Mapping[str, Any]) -> Document:
    """A workload given as a Python mapping; tuples count as lists."""
    return Document(DICT_SOURCE, None, {str(key): _plain(value) for key, value in data.items()}, {})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _refused(place: str, found: str, allowed: str, fix: str) -> WorkloadError:
    return WorkloadError(message(f"{place}: {found}", allowed, fix))


class _Reader:
    """Builds plain data from YAML nodes and notes the line of every key and list item."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[tuple[str | int, ...], str] = {(): f"{source}:1"}

    def read(self, text: str) -> Any:
        self.loader = _Loader(text)
        try:
            node = self.loader.get_single_node()
            return None if node is None else self.value(node, ())
        finally:
            self.loader.dispose()

    def value(self, node: yaml.Node, path: tuple[str | int, ...]) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, self.note(item, (*path, at))) for at, item in enumerate(node.value)]
        return self.loader.construct_object(node)

    def mapping(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            place = f"{self.source}:{key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise _refused(place, f"key {shown(key_node.value)}", "keys of letters", "quote or rename it")
            at = (*path, key)
            if key in data:
                first = self.places[at].rsplit(":", 1)[1]
                found = f"{dotted(at)} is given twice, first in line {first}"
                raise _refused(place, found, "each key once", "remove one of them")
            data[key] = self.value(value_node, self.note(key_node, at))
        return data

    def note(self, node: yaml.Node, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
        self.places[path] = f"{self.source}:{node.start_mark.line + 1}"
        return path
