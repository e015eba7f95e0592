"""What a backend is: a lowering profile (how its compiler places tiles, which tiles are legal) and a printer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flashc.autotune.problem import Constraint
from flashc.hwmodels.model import Device
from flashc.ir.analysis import Pad, part_counts, sites
from flashc.ir.intexpr import Const
from flashc.ir.nodes import Dot, Program


@dataclass(frozen=True, slots=True)
class KernelResources:
    """What the compiler reports of one kernel: registers per thread, spilled bytes per thread, shared bytes per block.

    None where the target has no such number.
    """

    kernel: str
    registers: int | None = None
    spill_bytes: int | None = None
    shared_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled program: files by role ("source", "binary", "assembly", ...) and the resources it really takes.

    ``missing`` says why there is no binary where only the source could be written.
    """

    files: Mapping[str, Path]
    resources: tuple[KernelResources, ...]
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call: every tensor of the program by name (numpy or torch; outputs and workspaces allocated), the integer
    symbols and the float parameters."""

    tensors: Mapping[str, Any]
    sizes: Mapping[str, int]
    params: Mapping[str, float]


class Prepared(Protocol):
    """A call with everything fixed but where its tensors are: addresses in the order of the program's tensors."""

    def __call__(self, addresses: Iterable[int]) -> None: ...


class Executable(Protocol):
    def __call__(self, call: Invocation) -> None: ...


@runtime_checkable
class Preparing(Protocol):
    """What an executable adds for which a call can be laid out once and repeated."""

    def prepare(self, call: Invocation) -> Prepared:
        """The same call, for other tensors of the same kinds, shapes and strides."""


@runtime_checkable
class Interpreter(Protocol):
    """What a backend adds whose own interpreter runs the emitted source without the device.

    ``interpret_device`` names the device model the source is emitted for; ``interpret`` returns the outputs by name.
    """

    interpret_device: str

    def interpret(self, bound: Program, device: Device, call: Invocation) -> Mapping[str, Any]: ...


def part_domains(
    placed: Program, sizes: Mapping[str, int], tiles: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Values of the tile symbols that count tiles per part of a split loop: powers of four, down to a single part."""
    least = {name: min(values) for name, values in tiles.items()}
    found: dict[str, tuple[int, ...]] = {}
    for symbol, extent in part_counts(placed).items():
        most = extent.evaluate({**dict(placed.fixed), **sizes, **least, symbol: 1})
        found[symbol] = tuple(4**n for n in range((max(1, most - 1).bit_length() + 1) // 2 + 1))
    return found


def matrix_dots(placed: Program, backend: str) -> tuple[Constraint, ...]:
    """That every dot is a product of two matrices, for a backend whose dots have two axes: rows and columns."""
    found: list[Constraint] = []
    for kernel in placed.kernels:
        axes = max((len(s.stmt.out.axes) for s in sites(placed, kernel) if isinstance(s.stmt, Dot)), default=2)
        if axes > 2:
            knob = "a schedule whose tiles have rows along one axis"
            found.append(Constraint(f"{backend}.dot_axes.{kernel.name}", Const(axes), "<=", Const(2), "axes", knob))
    return tuple(found)


class Backend(Protocol):
    """One code generator. All methods are pure but ``build`` and ``load``.

    ``kinds`` are the kinds of device whose memory levels ``place`` knows how to fill; ``pad`` says what is executed
    of a tile.
    """

    name: str
    kinds: tuple[str, ...]
    pad: Pad

    def missing(self, device: Device) -> str | None:
        """Why nothing can be emitted for the device, or None."""

    def place(self, program: Program, device: Device) -> Program:
        """Levels, layouts, atoms and stages, tile sizes still symbols (``Program.tiles`` may grow)."""

    def domains(self, placed: Program, device: Device, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Legal values of every tile symbol, in ascending order, given the extents of the workload."""

    def constraints(self, placed: Program, device: Device) -> tuple[Constraint, ...]:
        """Named constraints in the tile symbols: device capacities (prefix ``device.``) and what this backend's
        compiler demands (prefix ``<backend>.``)."""

    def lower(self, bound: Program) -> Program:
        """A bound program with its loops in parts and everything explicit that the printer needs."""

    def emit(self, bound: Program, device: Device) -> str:
        """Readable source of a bound program."""

    def build(self, source: str, bound: Program, device: Device) -> Built:
        """Compile. Raises CompilerMissingError or CompileError."""

    def absent(self, device: Device) -> str | None:
        """Why code for the device cannot run on this machine, or None."""

    def load(self, built: Built, bound: Program, device: Device) -> Executable:
        """A callable for this machine. Raises DeviceAbsentError where the device is not here."""
