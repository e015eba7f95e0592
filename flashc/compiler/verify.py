"""Verify: run what was compiled and hold it against float64 and against the naive computation in the same type.

The oracle is the operator's algorithm, interpreted in float64; the yardstick is the same algorithm with every value
rounded to its element type. A result passes when its error (relative Euclidean norm) is at most twice the yardstick's,
with a floor of four units in the last place. Outputs are poisoned with NaN first. Where the whole is too much for
float64 numpy, a random sample of the output rows is checked, the first and last tasks always among them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from flashc import backends
from flashc.autotune.problem import Constraint
from flashc.backends.base import Backend, Interpreter
from flashc.compiler.arguments import invocation
from flashc.compiler.kernel import compile_for
from flashc.compiler.tune import Tuning, tune
from flashc.compiler.workload import Workload
from flashc.errors import CompilerMissingError, DeviceAbsentError, InfeasibleError, UnsupportedError
from flashc.hwmodels.load import load_device
from flashc.hwmodels.model import Device
from flashc.ir.analysis import tiled_loops, work
from flashc.ir.interp import NUMPY, Array, interpret
from flashc.ir.intexpr import Const, Sym
from flashc.ir.nodes import Par, Program
from flashc.ops import Operator, registry

ORACLE_FLOPS = 4e9  # what float64 numpy does in a few seconds
ROWS = 64  # rows of one oracle task
ULPS = 4
EPSILON = {"f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}  # one unit in the last place of 1


@dataclass(frozen=True)
class VerifyRow:
    """One output of one backend: relative error, that of the naive computation, the limit, and how it was run."""

    backend: str
    how: str
    output: str
    error: float
    naive: float
    limit: float
    ok: bool
    skipped: str | None = None


@dataclass(frozen=True)
class _Case:
    """A problem to run: operator, spec and inputs, with what is expected of it."""

    operator: Operator
    spec: Any
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    naive: Mapping[str, Array]
    checked: str


def verify(
    workload: Workload, device: str = "native", *, backend: str | None = None, seed: int = 0, full: bool = False
) -> tuple[VerifyRow, ...]:
    """Every backend that can run here, or the named one ("interpreter" included), against float64.

    ``full`` checks every output element of the native run. Compiled code runs on the workload's own shapes;
    interpreters on shrunk ones with two tiles and a tail.
    """
    model = load_device(device)
    named = backends.names() if backend is None else [n for n in backends.names() if n == backend]
    emulated = [(n, b) for n in named if isinstance(b := backends.get(n), Interpreter)]
    rows: list[VerifyRow] = []
    small = cache(lambda: _case(workload, seed, shrink=True, full=True))
    if backend in (None, "interpreter"):
        rows += _guarded("interpreter", lambda: _interpreted(workload, model, small()))
    native = backends.for_device(model)
    if backend in (None, native.name) and native.missing(model) is None and native.absent(model) is None:
        case = _case(workload, seed, shrink=False, full=full)
        rows += _guarded(native.name, lambda: _native(workload, model, native, case))
    for name, interpreter in emulated:
        rows += _guarded(name, partial(_emulated, workload, name, interpreter, small()))
    return tuple(rows)


def verify_native(workload: Workload, device: Device, *, seed: int = 0) -> tuple[VerifyRow, ...]:
    """The compiled kernel alone, on the device and the workload's own shapes. Raises DeviceAbsentError."""
    case = _case(workload, seed, shrink=False, full=False)
    return tuple(_native(workload, device, backends.for_device(device), case))


def _guarded(name: str, run: Callable[[], list[VerifyRow]]) -> list[VerifyRow]:
    """A backend that cannot run here says so instead of ending the others; a backend that fails is an error."""
    try:
        return run()
    except (UnsupportedError, CompilerMissingError, DeviceAbsentError, ImportError) as problem:
        nan = float("nan")
        return [VerifyRow(name, "not run", "-", nan, nan, nan, False, str(problem))]


# -- inputs, oracle and yardstick


def random_inputs(operator: Operator, spec: Any, seed: int) -> dict[str, Array]:
    """Inputs by tensor name: the operator's own examples and defaults, normal values elsewhere."""
    rng = np.random.default_rng(seed)
    program = operator.algorithm(spec)
    sizes = {**operator.sizes(spec), **dict(program.fixed)}
    special = {**operator.defaults(spec), **operator.examples(spec, rng)}
    found: dict[str, Array] = {}
    for tensor in (t for t in program.tensors if t.role == "in"):
        dtype = NUMPY[tensor.dtype.name]
        if tensor.name in special:
            found[tensor.name] = np.asarray(special[tensor.name]).astype(dtype)
            continue
        shape = tuple(d.evaluate(sizes) for d in tensor.dims)
        found[tensor.name] = rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    return found


def _case(workload: Workload, seed: int, *, shrink: bool, full: bool) -> _Case:
    operator = registry()[workload.op]
    spec = operator.reduced(workload.spec) if shrink else workload.spec
    inputs = random_inputs(operator, spec, seed)
    program = operator.algorithm(spec)
    sizes = {**operator.sizes(spec), **dict.fromkeys(program.tiles, ROWS)}
    select, text = _sample(program, sizes, seed, full)
    params = operator.params(spec)
    expected = interpret(program, inputs, sizes, params, exact=True, select=select).tensors
    naive = interpret(program, inputs, sizes, params, select=select).tensors
    return _Case(operator, spec, inputs, expected, naive, text)


def _sample(
    program: Program, sizes: Mapping[str, Any], seed: int, full: bool
) -> tuple[Callable[[Mapping[str, int]], bool], str]:
    """Which tasks of the algorithm to compute, so that the oracle stays within its budget."""
    par = program.kernels[0].body[0]
    assert isinstance(par, Par)
    env = {**dict(program.fixed), **sizes}
    starts = []
    for loop in par.loops:
        tile = loop.tile.evaluate(env)
        starts.append(range(0, program.axis(loop.axis).extent.evaluate(env), tile))
    tasks = list(itertools.product(*starts))
    flops = work(program, program.kernels[0]).flops.evaluate(env)
    wanted = len(tasks) if full else max(2, int(len(tasks) * ORACLE_FLOPS / max(flops, 1)))
    if wanted >= len(tasks):
        return (lambda _task: True), "every element checked"
    picked = [int(n) for n in np.random.default_rng(seed).choice(len(tasks), wanted - 2, replace=False)]
    chosen = {tasks[0], tasks[-1], *(tasks[n] for n in picked)}
    axes = [loop.axis for loop in par.loops]
    return (lambda task: tuple(task[a] for a in axes) in chosen), f"{len(chosen)} of {len(tasks)} row blocks checked"


def relative_error(found: Array, expected: Array) -> float:
    """Relative Euclidean norm over the elements that were expected; inf where an infinity or a NaN disagrees."""
    wanted = np.asarray(expected, np.float64)
    got = np.asarray(found, np.float64)
    there = ~np.isnan(wanted)
    wanted, got = wanted[there], got[there]
    infinite = np.isinf(wanted)
    if np.isnan(got).any() or not np.array_equal(wanted[infinite], got[infinite]) or np.isinf(got[~infinite]).any():
        return float("inf")
    size = float(np.linalg.norm(wanted[~infinite]))
    gap = float(np.linalg.norm(got[~infinite] - wanted[~infinite]))
    return gap / size if size else gap


def _rows(backend: str, how: str, case: _Case, tensors: Mapping[str, Any]) -> list[VerifyRow]:
    rows = []
    for tensor in (t for t in case.operator.algorithm(case.spec).tensors if t.role == "out"):
        error = relative_error(tensors[tensor.name], case.expected[tensor.name])
        naive = relative_error(case.naive[tensor.name], case.expected[tensor.name])
        limit = max(2 * naive, ULPS * EPSILON[tensor.dtype.name])
        rows.append(VerifyRow(backend, how, tensor.name, error, naive, limit, error <= limit))
    return rows


# -- the ways to run


def _interpreted(workload: Workload, device: Device, case: _Case) -> list[VerifyRow]:
    """Every schedule, on tiles small enough that the shrunk shapes have two and a tail."""
    rows = []
    for program in case.operator.schedules(case.spec):
        sizes = case.operator.sizes(case.spec)
        tiles = _two_and_a_tail(program, sizes)
        result = interpret(program, case.inputs, {**sizes, **tiles}, case.operator.params(case.spec))
        how = f"{program.schedule}, {_shape(case)}, tiles {_listed(tiles)}, {case.checked}"
        rows += _rows("interpreter", how, case, result.tensors)
    return rows


def _two_and_a_tail(program: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """A number for every tile symbol: 3/8 of its axis, so that there are two tiles and a tail."""
    env = {**dict(program.fixed), **sizes}
    tiles = dict.fromkeys(program.tiles, 1)
    for loop in tiled_loops(program):
        extent = program.axis(loop.axis).extent.evaluate(env)
        tiles[str(loop.tile)] = max(1, -(-3 * extent // 8))
    return tiles


def _listed(tiles: Mapping[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in tiles.items())


def _shape(case: _Case) -> str:
    sizes = case.operator.sizes(case.spec)
    return "shrunk to " + " ".join(
        f"{k}={v}" for k, v in sizes.items() if k.isidentifier() and not k.startswith("window")
    )


def _native(workload: Workload, device: Device, backend: Backend, case: _Case) -> list[VerifyRow]:
    kernel = compile_for(workload, device, backend.name)
    sizes = case.operator.sizes(case.spec)
    call = invocation(kernel.program, case.inputs, sizes, case.operator.params(case.spec), case.operator.derive)
    for tensor in kernel.program.tensors:
        if tensor.role != "in":
            call.tensors[tensor.name][...] = np.nan
    kernel.executable(call)
    how = f"{kernel.choice.schedule} on {device.name}, full shape, tiles {_listed(kernel.tiles)}, {case.checked}"
    return _rows(backend.name, how, case, call.tensors)


def _emulated(workload: Workload, name: str, interpreter: Interpreter, case: _Case) -> list[VerifyRow]:
    """The emitted source under the backend's own interpreter, on small tiles."""
    device = load_device(interpreter.interpret_device)
    smaller = replace(workload, spec=case.spec)
    tuning = _small_tiles(smaller, device, name)
    program = tuning.best.program
    call = invocation(
        program, case.inputs, case.operator.sizes(case.spec), case.operator.params(case.spec), case.operator.derive
    )
    tensors = interpreter.interpret(program, device, call)
    emitted = f"{tuning.best.schedule}, emitted for {device.name}, interpreted"
    how = f"{emitted}, {_shape(case)}, tiles {_listed(tuning.best.tiles)}, {case.checked}"
    return _rows(name, how, case, tensors)


def _small_tiles(workload: Workload, device: Device, backend: str) -> Tuning:
    """The best choice among tiles of at most 64, so that the shrunk shapes have several tiles and a tail."""
    operator = registry()[workload.op]
    cuts = {}
    for program in operator.schedules(workload.spec):
        names = [t for t in program.tiles if t != "stages"]
        cuts[program.schedule] = [Constraint(f"small.{t}", Sym(t), "<=", Const(64)) for t in names]
    try:
        return tune(workload, device, backend=backend, cuts=cuts)
    except InfeasibleError:
        return tune(workload, device, backend=backend)
