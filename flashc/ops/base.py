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
    baselines  tile programs of how the operator is computed without this package, for reports: never offered to the
               solver
    sizes      values of the programs' integer symbols for this spec
    tables     run-time integer tables known from the spec (lengths, offsets), by tensor name
    params     values of the float parameters
    defaults   inputs a call may leave out, by tensor name (the spec's own lengths, standard slopes)
    derive     integer symbols that follow from others, given those read off the arguments' shapes
    examples   random inputs that are not plain normal values: ``(spec, numpy Generator) -> {tensor: array}``
    peers      what a user would call instead: ``(spec, torch tensors by name) -> {name: thunk}``
    reduced    a smaller spec of the same features for slow interpreters, covering two tiles and a tail
    """

    name: str
    schema: Mapping[str, Any]
    parse: Callable[[Mapping[str, Any], Callable[[Sequence[str | int]], str]], Any]
    algorithm: Callable[[Any], Program]
    schedules: Callable[[Any], tuple[Program, ...]]
    sizes: Callable[[Any], dict[str, int]]
    params: Callable[[Any], dict[str, float]]
    baselines: Callable[[Any], tuple[Program, ...]] = lambda _spec: ()
    tables: Callable[[Any], dict[str, Sequence[int]]] = lambda _spec: {}
    defaults: Callable[[Any], dict[str, Any]] = lambda _spec: {}
    derive: Callable[[Mapping[str, int]], dict[str, int]] = lambda _sizes: {}
    reduced: Callable[[Any], Any] = lambda spec: spec
    peers: Callable[[Any, Mapping[str, Any]], dict[str, Callable[[], Any]]] = lambda _spec, _tensors: {}
    examples: Callable[[Any, Any], dict[str, Any]] = lambda _spec, _rng: {}
