"""A compiled kernel: callable with numpy arrays or torch tensors, and open about how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

from flashc import backends
from flashc.backends.base import Built, Executable, KernelResources
from flashc.compiler.arguments import invocation
from flashc.compiler.artefacts import compile_choice
from flashc.compiler.calls import Repeats, repeat_of
from flashc.compiler.tune import Choice, Tuning, tune
from flashc.compiler.workload import Workload, load_workload
from flashc.errors import ArgumentError, DeviceAbsentError, UnsupportedError
from flashc.hwmodels.load import load_device
from flashc.hwmodels.model import Device
from flashc.ir.nodes import Program
from flashc.ops import Operator, registry


@dataclass(frozen=True)
class Kernel:
    """``kernel(*inputs, **inputs)`` returns the outputs (one, or a tuple in the workload's order).

    Batch, heads, lengths and strides are free at every call; element types, head dimensions and features are those of
    the workload. For a device that is not here the kernel is compiled too, and a call raises DeviceAbsentError.
    """

    workload: Workload
    device: Device
    tuning: Tuning
    built: Built

    @property
    def choice(self) -> Choice:
        return self.tuning.best

    @cached_property
    def program(self) -> Program:
        """The bound tile program."""
        return self.choice.program

    @property
    def tiles(self) -> Mapping[str, int]:
        return self.choice.tiles

    @property
    def predicted(self) -> Mapping[str, float]:
        """Modelled seconds by unit and in "total", and bytes moved in "traffic_bytes"."""
        units = {k: v * 1e-12 for k, v in self.choice.units.items()}
        return {**units, "total": self.choice.picoseconds * 1e-12, "traffic_bytes": float(self.choice.traffic_bytes)}

    @property
    def resources(self) -> tuple[KernelResources, ...]:
        return self.built.resources

    @cached_property
    def source(self) -> str:
        return self.built.files["source"].read_text()

    @cached_property
    def operator(self) -> Operator:
        return registry()[self.workload.op]

    @cached_property
    def executable(self) -> Executable:
        backend = backends.get(self.tuning.backend)
        absent = backend.absent(self.device)
        if absent:
            raise DeviceAbsentError(f"compiled for {self.device.name}, cannot run: {absent}")
        return backend.load(self.built, self.program, self.device)

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return self.operator.defaults(self.workload.spec)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return self.operator.sizes(self.workload.spec)

    @cached_property
    def _repeats(self) -> Repeats:
        return Repeats()

    @cached_property
    def _takes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the inputs and of the outputs."""
        tensors = self.program.tensors
        return tuple(t.name for t in tensors if t.role == "in"), tuple(t.name for t in tensors if t.role == "out")

    def __call__(self, /, *args: Any, out: Any = None, **named: Any) -> Any:
        names: tuple[str, ...] = ()
        values = args
        if named or out is not None:
            names, values = self._named(args, named, out)
        repeat = self._repeats.find(names, values)
        return repeat(values) if repeat else self._first_call(names, args, named, out)

    def _named(self, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Names and values of all arguments, the positional ones first."""
        inputs, outputs = self._takes
        if len(args) > len(inputs):
            raise ArgumentError(f"{self.program.name}: {len(args)} positional arguments; it takes {', '.join(inputs)}")
        given_out = {outputs[0]: out} if out is not None else {}
        return (*inputs[: len(args)], *named, *given_out), (*args, *named.values(), *given_out.values())

    def _first_call(self, given_names: tuple[str, ...], args: tuple[Any, ...], named: dict[str, Any], out: Any) -> Any:
        names, values = self._named(args, named, out)
        given = dict(zip(names, values, strict=True))
        if len(given) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise ArgumentError(f"{self.program.name}: argument {twice!r} is given twice; once is enough")
        outputs = self._takes[1]
        given_out = {outputs[0]: given.pop(outputs[0])} if out is not None else {}
        params = self.operator.params(self.workload.spec)
        everything = {**self._defaults, **given}
        call = invocation(self.program, everything, self._sizes, params, self.operator.derive, given_out)
        self.executable(call)
        self._repeats.keep(
            given_names, values, lambda: repeat_of(self.executable, self.program, call, names, values)
        )
        return itemgetter(*outputs)(call.tensors)


def compile(workload: Any, *, device: str = "native", backend: str | None = None) -> Kernel:  # noqa: A001 - the public name
    """Tune and compile a workload (path, YAML text or mapping) for a device.

    Raises WorkloadError, UnknownDeviceError, InfeasibleError, UnsupportedError (no backend emits for the device),
    CompilerMissingError.
    """
    loaded = workload if isinstance(workload, Workload) else load_workload(workload)
    model = load_device(device)
    return compile_for(loaded, model, backend)


def compile_for(workload: Workload, device: Device, backend: str | None = None, tuning: Tuning | None = None) -> Kernel:
    tuning = tuning or tune(workload, device, backend=backend)
    if tuning.missing is not None:
        raise UnsupportedError(f"no code can be emitted for {device.name}: {tuning.missing}")
    tuned, built, _ = compile_choice(tuning, backends.get(tuning.backend), 8, lambda _text: None)
    return Kernel(workload, device, tuned, built)
