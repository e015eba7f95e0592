"""What an operator is: a schema, an algorithm and its schedules. Adding one is one file that registers an instance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashc.ir.nodes import Program


@dataclass(frozen=True)
class Operator:
    """An operator family.

    schema     JSON Schema of the workload keys besides ``op``
    parse      checked mapping -> spec (any frozen dataclass); ``where(path)`` names a key's file and line
    algorithm  the operator's statements without tiles: the oracle, the bound and the yardstick come from it
    schedules  tile programs the solver chooses between
    sizes      values of the programs' integer symbols for this spec
    tables     run-time integer tables known from the spec (lengths, offsets), by tensor name
    params     values of the float parameters
    examples   random inputs by tensor name: ``(spec, numpy Generator) -> {tensor: array}``; defaults to normal values
    reduced    a smaller spec of the same features for slow interpreters, covering two tiles and a tail
    """

    name: str
    schema: Mapping[str, Any]
    parse: Callable[[Mapping[str, Any], Callable[[Sequence[str | int]], str]], Any]
    algorithm: Callable[[Any], Program]
    schedules: Callable[[Any], tuple[Program, ...]]
    sizes: Callable[[Any], dict[str, int]]
    params: Callable[[Any], dict[str, float]]
    tables: Callable[[Any], dict[str, Sequence[int]]] = lambda _spec: {}
    reduced: Callable[[Any], Any] = lambda spec: spec
    examples: Callable[[Any, Any], dict[str, Any]] | None = None
