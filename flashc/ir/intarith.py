"""The two arithmetics in which integer expressions are evaluated: exact ints and checked int64 arrays.

Both offer the same operations, so :mod:`flashc.ir.intnodes` has one walk for both. ``Exact`` never overflows;
``Int64`` is vectorised over candidates, and raises instead of wrapping around.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from flashc.errors import IntegerOverflowError, IRError

if TYPE_CHECKING:
    from flashc.ir.intnodes import Sum

Ints = npt.NDArray[np.int64]
V = TypeVar("V")

LIMIT = 2**63 - 1
# A float64 product or sum is off by at most 2^-52 of itself: magnitudes below this are surely inside int64.
FLOAT_LIMIT = float(2**63) * (1.0 - 2.0**-50)
CHUNK = 1 << 18
"""Elements of a sum evaluated at a time (2 MB per intermediate array)."""
LOOP_LIMIT = 32
MAX_TERMS = 10**9  # of one sum: half a minute
"""Longest sum that exact evaluation adds in a plain loop; longer ones are tried in int64 first."""


class Arithmetic(Generic[V]):
    """What an expression node needs: numbers of type V, their operations, symbols and tables of ``env``."""

    def __init__(self, env: Mapping[str, Any]) -> None:
        self.env = env

    def lookup(self, name: str) -> Any:
        if name not in self.env:
            raise IRError(f"symbol {name!r} has no value; given: {', '.join(sorted(self.env)) or 'none'}")
        return self.env[name]

    def const(self, value: int) -> V:
        raise NotImplementedError

    def symbol(self, name: str) -> V:
        raise NotImplementedError

    def item(self, table: str, index: Sequence[V]) -> V:
        raise NotImplementedError

    def add(self, values: Sequence[V]) -> V:
        raise NotImplementedError

    def mul(self, values: Sequence[V]) -> V:
        raise NotImplementedError

    def floor_div(self, num: V, den: V) -> V:
        raise NotImplementedError

    def mod(self, num: V, den: V) -> V:
        raise NotImplementedError

    def minimum(self, values: Sequence[V]) -> V:
        raise NotImplementedError

    def maximum(self, values: Sequence[V]) -> V:
        raise NotImplementedError

    def sum(self, node: Sum) -> V:
        raise NotImplementedError


class Exact(Arithmetic[int]):
    """Python ints: exact at any size."""

    def __init__(self, env: Mapping[str, Any]) -> None:
        super().__init__(env)
        self.sums: dict[Sum, int] = {}

    def const(self, value: int) -> int:
        return value

    def symbol(self, name: str) -> int:
        value = self.lookup(name)
        if isinstance(value, (int, np.integer)):
            return int(value)
        raise IRError(f"symbol {name!r} must be one integer here, got {type(value).__name__}")

    def item(self, table: str, index: Sequence[int]) -> int:
        values = np.asarray(self.lookup(table))
        _check_index(table, values, [np.asarray(i) for i in index])
        return int(values[tuple(index)])

    def add(self, values: Sequence[int]) -> int:
        return sum(values)

    def mul(self, values: Sequence[int]) -> int:
        return reduce(lambda a, b: a * b, values, 1)

    def floor_div(self, num: int, den: int) -> int:
        _check_divisor(den == 0)
        return num // den

    def mod(self, num: int, den: int) -> int:
        _check_divisor(den == 0)
        return num % den

    def minimum(self, values: Sequence[int]) -> int:
        return min(values)

    def maximum(self, values: Sequence[int]) -> int:
        return max(values)

    def sum(self, node: Sum) -> int:
        if node not in self.sums:
            self.sums[node] = self._added(node)
        return self.sums[node]

    def _added(self, node: Sum) -> int:
        count = node.count.value_in(self)
        _check_count(node, count)
        _check_terms(node, count)
        if count > LOOP_LIMIT:
            try:
                return int(Int64(self.env).sum(node))
            except IntegerOverflowError:
                pass  # int64 is only the quick way: add exactly below
        env = dict(self.env)
        total = 0
        for step in range(count):
            env[node.var] = step
            total += node.body.value_in(Exact(env))
        return total


class Int64(Arithmetic[Ints]):
    """int64 arrays that broadcast against each other; every result that might leave int64 raises."""

    def __init__(self, env: Mapping[str, Any]) -> None:
        super().__init__(env)
        self.sums: dict[Sum, Ints] = {}
        self.rows: dict[tuple[str, ...], tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]] = {}

    def const(self, value: int) -> Ints:
        if abs(value) > LIMIT:
            raise IntegerOverflowError(f"constant {value} does not fit int64")
        return np.asarray(value, dtype=np.int64)

    def symbol(self, name: str) -> Ints:
        values = np.asarray(self.lookup(name))
        if not np.issubdtype(values.dtype, np.integer):
            raise IRError(f"symbol {name!r} must hold integers, got dtype {values.dtype}")
        return values.astype(np.int64, copy=False)

    def item(self, table: str, index: Sequence[Ints]) -> Ints:
        values = self.symbol(table)
        _check_index(table, values, index)
        return np.asarray(values[tuple(index)])

    def add(self, values: Sequence[Ints]) -> Ints:
        return reduce(_checked_add, values)

    def mul(self, values: Sequence[Ints]) -> Ints:
        return reduce(_checked_mul, values)

    def floor_div(self, num: Ints, den: Ints) -> Ints:
        _check_divisor(bool(np.any(den == 0)))
        return np.asarray(num // den)

    def mod(self, num: Ints, den: Ints) -> Ints:
        _check_divisor(bool(np.any(den == 0)))
        return np.asarray(num % den)

    def minimum(self, values: Sequence[Ints]) -> Ints:
        return reduce(lambda a, b: np.asarray(np.minimum(a, b)), values)

    def maximum(self, values: Sequence[Ints]) -> Ints:
        return reduce(lambda a, b: np.asarray(np.maximum(a, b)), values)

    def sum(self, node: Sum) -> Ints:
        """One sum per distinct combination of the node's free symbols, then spread over the candidates."""
        if node in self.sums:
            return self.sums[node]
        names = sorted(node.symbols())
        arrays = np.broadcast_arrays(*(self.symbol(name) for name in names)) if names else ()
        shape = arrays[0].shape if names else ()
        if tuple(names) not in self.rows:
            self.rows[tuple(names)] = distinct_rows([array.ravel() for array in arrays])
        rows, inverse = self.rows[tuple(names)]
        env = dict(self.env) | {name: arrays[i].ravel()[rows] for i, name in enumerate(names)}
        self.sums[node] = _sum_rows(node, env, len(rows))[inverse].reshape(shape)
        return self.sums[node]


def distinct_rows(columns: Sequence[Ints]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where each distinct row of ``columns`` (equally long) stands first, and the number of each row's."""
    if not columns:
        return np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.intp)
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, digits = np.unique(column, return_inverse=True)
        _, codes = np.unique(codes * max(1, len(values)) + digits, return_inverse=True)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return first, inverse


def _sum_rows(node: Sum, env: dict[str, Any], rows: int) -> Ints:
    """The sum for each of ``rows`` settings of the free symbols: all (row, step) pairs, CHUNK at a time."""
    counts = np.broadcast_to(node.count.value_in(Int64(env)), (rows,))
    _check_count(node, int(counts.min(initial=0)))
    ends = np.cumsum(counts)
    _check_terms(node, int(ends[-1]) if rows else 0)
    totals = np.zeros(rows, dtype=np.int64)
    free = [name for name in node.symbols() if name in node.body.symbols()]
    for start in range(0, int(ends[-1]) if rows else 0, CHUNK):
        position = np.arange(start, min(start + CHUNK, int(ends[-1])), dtype=np.int64)
        row = np.searchsorted(ends, position, side="right")
        step = position - (ends[row] - counts[row])
        local = env | {name: env[name][row] for name in free} | {node.var: step}
        values = np.broadcast_to(node.body.value_in(Int64(local)), position.shape)
        first = np.flatnonzero(np.diff(row, prepend=-1))
        hit = row[first]
        totals[hit] = _checked_add(totals[hit], _checked_segments(values, first))
    return totals


def _checked_segments(values: Ints, first: npt.NDArray[np.intp]) -> Ints:
    if _peak(values) * len(values) > LIMIT:
        _check_floats(np.add.reduceat(np.abs(values.astype(np.float64)), first))
    return np.asarray(np.add.reduceat(values, first))


def _checked_add(a: Ints, b: Ints) -> Ints:
    if _peak(a) + _peak(b) > LIMIT:
        _check_floats(np.add(a.astype(np.float64), b.astype(np.float64)))
    return np.asarray(np.add(a, b))


def _checked_mul(a: Ints, b: Ints) -> Ints:
    if _peak(a) * _peak(b) > LIMIT:
        _check_floats(np.multiply(a.astype(np.float64), b.astype(np.float64)))
    return np.asarray(np.multiply(a, b))


def _peak(values: Ints) -> int:
    if values.size == 0:
        return 0
    return max(int(values.max()), -int(values.min()))


def _check_floats(magnitudes: npt.NDArray[np.float64]) -> None:
    worst = float(np.abs(magnitudes).max(initial=0.0))
    if worst >= FLOAT_LIMIT:
        raise IntegerOverflowError(f"a value near {worst:.3e} does not fit int64; use a coarser unit")


def _check_divisor(is_zero: bool) -> None:
    if is_zero:
        raise IRError("division by zero in an integer expression")


def _check_terms(node: Sum, count: int) -> None:
    if count > MAX_TERMS:
        raise IRError(f"{node} has {count} terms, more than {MAX_TERMS} take too long to add: use smaller sizes")


def _check_count(node: Sum, count: int) -> None:
    if count < 0:
        raise IRError(f"negative count {count} in {node}; clip it with max(0, ...)")


def _check_index(table: str, values: npt.NDArray[Any], index: Sequence[npt.NDArray[Any]]) -> None:
    if values.ndim != len(index):
        raise IRError(f"table {table!r} has {values.ndim} axes but {len(index)} indices were given")
    for axis, positions in enumerate(index):
        if positions.size and (positions.min() < 0 or positions.max() >= values.shape[axis]):
            raise IRError(f"index of table {table!r}, axis {axis}, leaves 0..{values.shape[axis] - 1}")
