"""Files of `flashc bound`: affine statements that a user writes, or one of our workloads. docs/bounds.md has the keys.

`python -m flashc.compiler.cascade_file` prints the JSON Schema for editors, docs/schema/bound.schema.json.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from flashc.compiler.document import Document, read_yaml
from flashc.compiler.schema_check import check_schema
from flashc.compiler.tune import environment
from flashc.compiler.workload import load_workload, parse_override, read_text
from flashc.errors import IRError, WorkloadError
from flashc.iomodel.accesses import linear
from flashc.iomodel.from_program import cascade
from flashc.iomodel.statement_parse import parse_statement
from flashc.iomodel.statements import Array, Cascade, Index, Reference, Statement
from flashc.ir.intexpr import Const, IntExpr, check_name
from flashc.ir.intparse import parse_int
from flashc.ir.types import DTYPES
from flashc.ops import registry
from flashc.ops.spec_checks import FLOAT_NAMES, KeyPath, dtype, message, refusal, shown

T = TypeVar("T")
_BYTES = re.compile(r"(\d+)\s*([KMG]?)(?:i?B)?")
_WHOLE = {"type": "integer", "minimum": -(2**31), "maximum": 2**31}
_EXPRESSION = {"anyOf": [_WHOLE, {"type": "string", "minLength": 1}]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "examples": ["matmul"], "description": "what the output calls it"},
        "sizes": {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 2**40}, {"type": "null"}]},
            "examples": [{"m": 4096, "n": 4096, "k": None}],
            "description": "every size by name, with its value or nothing",
        },
        "fast_memory": {
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": 2**60}, {"type": "string", "minLength": 1}],
            "examples": ["192K"],
            "description": "M in bytes, or with K, M, G for powers of 1024",
        },
        "arrays": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "role": {"enum": ["in", "out", "inout", "temp"], "examples": ["in"], "description": "who has it"},
                    "dtype": dtype(FLOAT_NAMES, "element type in slow memory"),
                    "width": {"type": "integer", "minimum": 1, "maximum": 64, "description": "bytes, instead of dtype"},
                    "storage": {"type": "string", "minLength": 1, "description": "arrays that are the same elements"},
                    "elements": {**_EXPRESSION, "description": "distinct elements read or written, if subscripts lie"},
                },
                "required": ["role"],
                "additionalProperties": False,
            },
            "propertyNames": {"pattern": "^[A-Za-z][A-Za-z0-9_]*$"},
            "examples": [{"A": {"role": "in", "dtype": "fp32"}}],
            "description": "every array by name",
        },
        "statements": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "do": {"type": "string", "minLength": 1, "description": "target, =, +=, max= or min=, operands"},
                    "for": {
                        "type": "object",
                        "additionalProperties": {
                            "anyOf": [
                                *_EXPRESSION["anyOf"],
                                {"type": "array", "items": _EXPRESSION, "minItems": 2, "maxItems": 2},
                            ]
                        },
                        "description": "index: upper, or [lower, upper], upper not included; outermost first",
                    },
                    "name": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_]*$", "description": "for messages"},
                    "count": {**_EXPRESSION, "description": "points, where the ranges do not tell them"},
                },
                "required": ["do", "for"],
                "additionalProperties": False,
            },
            "minItems": 1,
            "examples": [[{"do": "C[i, j] += A[i, k] * B[k, j]", "for": {"i": "m", "j": "n", "k": "k"}}]],
            "description": "what is computed, in order",
        },
    },
    "required": ["sizes", "arrays", "statements"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Question:
    """A cascade and what is known of its call: ``sizes`` by symbol (some may be missing), M in bytes or None."""

    cascade: Cascade
    sizes: Mapping[str, Any]
    fast_bytes: int | None
    source: str

    @property
    def missing(self) -> tuple[str, ...]:
        """Sizes without a value."""
        return tuple(s for s in self.cascade.sizes if s not in self.sizes)


def load_question(path: str | Path, overrides: Sequence[str] = (), fast_bytes: int | None = None) -> Question:
    """Read a file; ``overrides`` are `n=4096` for its sizes (keys of a workload). Raises WorkloadError, with lines."""
    document = read_yaml(read_text(Path(path)), str(path))
    found = _workload(path, overrides) if "op" in document.data else _written(_with(document, overrides))
    return replace(found, fast_bytes=fast_bytes) if fast_bytes is not None else found


def memory_bytes(text: str) -> int:
    """`192K` as 196608. Raises ValueError."""
    found = _BYTES.fullmatch(text.strip())
    if found is None or int(found[1]) < 1:
        raise ValueError(f"{text!r} is not a number of bytes")
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]


def bound_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a file of statements, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "flashc.bound-file/1",
        "title": "flashc bound",
        **SCHEMA,
    }


def _workload(path: str | Path, overrides: Sequence[str]) -> Question:
    workload = load_workload(Path(path)).with_overrides(dict(map(parse_override, overrides)))
    operator = registry()[workload.op]
    schedule = operator.schedules(workload.spec)[0]
    found = cascade(operator.algorithm(workload.spec), schedule)
    return Question(found, {**dict(schedule.fixed), **environment(operator, workload.spec)}, None, str(path))


def _with(document: Document, overrides: Sequence[str]) -> Document:
    data, places = copy.deepcopy(document.data), dict(document.places)
    for text in overrides:
        name, value = parse_override(text)
        sizes = data.get("sizes")
        if not isinstance(sizes, dict) or name not in sizes:
            known = ", ".join(sizes) if isinstance(sizes, dict) else "none"
            raise WorkloadError(message(f"--set {text}: {name!r} is not a size", f"one of {known}", "name a size"))
        sizes[name] = value
        places["sizes", name] = f"--set {text}"
    return replace(document, data=data, places=places)


def _written(document: Document) -> Question:
    data, where = document.data, document.where
    check_schema(data, SCHEMA, where)
    reader = _Reader(document, tuple(data["sizes"]))
    arrays = tuple(reader.array(name, entry) for name, entry in data["arrays"].items())
    statements = tuple(reader.statement(at, entry, arrays) for at, entry in enumerate(data["statements"]))
    reader.names(statements)
    elements = tuple(
        (name, reader.expression(("arrays", name, "elements"), entry["elements"], set()))
        for name, entry in data["arrays"].items()
        if "elements" in entry
    )
    name = data.get("name") or Path(document.source).stem
    fast = data.get("fast_memory")
    if isinstance(fast, str):
        fast = reader.guarded(("fast_memory",), fast, memory_bytes, "a number of bytes such as 196608 or 192K")
    sizes = {n: v for n, v in data["sizes"].items() if v is not None}
    reader.factors(statements, sizes)
    return Question(Cascade(name, reader.sizes, arrays, statements, elements), sizes, fast, document.source)


@dataclass(frozen=True)
class _Reader:
    """Turns the checked keys of a document into statements; every complaint names the line."""

    document: Document
    sizes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.sizes:
            self.guarded(("sizes", name), name, check_name, "a name of letters, digits and _")

    def guarded(self, path: KeyPath, text: str, read: Callable[[str], T], allowed: str) -> T:
        try:
            return read(text)
        except (IRError, ValueError) as error:
            found = f"{self.document.where(path)}: {shown(text)}: {error}"
            raise WorkloadError(message(found, allowed, "correct it there")) from None

    def expression(self, path: KeyPath, value: int | str, known: set[str]) -> IntExpr:
        if isinstance(value, int):
            return Const(value)
        found = self.guarded(path, value, parse_int, "an expression such as n // 2 + 1")
        self._known(path, value, found, known)
        return found

    def _known(self, path: KeyPath, text: str, found: IntExpr, known: set[str]) -> None:
        allowed = [*self.sizes, *sorted(known)]
        strange = sorted((found.symbols() | found.tables()) - set(allowed))
        if strange:
            fix = f"declare {strange[0]} under sizes, or loop over it before"
            raise refusal(self.document.where, path, text, f"expressions in {', '.join(allowed)}", fix)

    def array(self, name: str, entry: Mapping[str, Any]) -> Array:
        path = ("arrays", name)
        if ("dtype" in entry) == ("width" in entry):
            allowed = "exactly one of dtype and width"
            raise refusal(self.document.where, path, dict(entry), allowed, "give the element's dtype, such as fp32")
        width = entry["width"] if "width" in entry else DTYPES[FLOAT_NAMES[entry["dtype"]]].bytes
        return Array(name, width, entry["role"], entry.get("storage", ""))

    def statement(self, at: int, entry: Mapping[str, Any], arrays: Sequence[Array]) -> Statement:
        path = ("statements", at)
        indices: list[Index] = []
        for name, bounds in entry["for"].items():
            place = (*path, "for", name)
            self.guarded(place, name, check_name, "a name of letters, digits and _")
            if name in self.sizes:
                fix = f"rename it, to {name}_ say"
                raise refusal(self.document.where, place, name, "an index that is not a size", fix)
            seen = {i.name for i in indices}
            lower, upper = bounds if isinstance(bounds, list) else (0, bounds)
            indices.append(Index(name, self.expression(place, lower, seen), self.expression(place, upper, seen)))
        text = entry["do"]
        target, update, operands = self.guarded((*path, "do"), text, parse_statement, "target = operands")
        seen = {i.name for i in indices}
        for reference in (target, *operands):
            self._declared((*path, "do"), reference, arrays, seen)
        if arrays_role(arrays, target.array) == "in":
            allowed = "a target with the role out, inout or temp"
            raise refusal(self.document.where, (*path, "do"), text, allowed, f"change the role of {target.array}")
        others = tuple(o for o in operands if o != target)
        count = entry.get("count")
        points = None if count is None else self.expression((*path, "count"), count, set())
        return Statement(entry.get("name", f"S{at + 1}"), tuple(indices), target, update, others, points)

    def names(self, statements: Sequence[Statement]) -> None:
        """Refuses two statements of one name: bounds and certificates tell them apart by it."""
        seen: set[str] = set()
        for at, statement in enumerate(statements):
            if statement.name in seen:
                fix = "give each a name of its own; without one, the first is S1"
                raise refusal(self.document.where, ("statements", at), statement.name, "a name not used before", fix)
            seen.add(statement.name)

    def factors(self, statements: Sequence[Statement], sizes: Mapping[str, int]) -> None:
        """Refuses a factor of an index that is 0: what differs in that index only would be one element."""
        for at, statement in enumerate(statements):
            indices = frozenset(i.name for i in statement.indices)
            references = (statement.target, *statement.operands)
            forms = [linear(x, indices) for r in references for x in r.subscripts]
            for name, factor in (t for f in forms if f is not None for t in f.terms):
                if factor.symbols() <= sizes.keys() and factor.evaluate(sizes) == 0:
                    where, found = self.document.where, f"{factor} * {name}, and {factor} is 0"
                    fix = f"leave {name} out of the subscript"
                    raise refusal(where, ("statements", at, "do"), found, "factors of an index that are not 0", fix)

    def _declared(self, path: KeyPath, reference: Reference, arrays: Sequence[Array], seen: set[str]) -> None:
        if reference.array not in {a.name for a in arrays}:
            allowed = f"arrays that are declared: {', '.join(a.name for a in arrays)}"
            raise refusal(self.document.where, path, reference.array, allowed, "add it under arrays")
        for subscript in reference.subscripts:
            self._known(path, str(subscript), subscript, seen)


def arrays_role(arrays: Sequence[Array], name: str) -> str:
    return next(a.role for a in arrays if a.name == name)


if __name__ == "__main__":
    print(json.dumps(bound_schema(), indent=2))
