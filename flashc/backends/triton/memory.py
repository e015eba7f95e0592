"""Loads and stores of tiles, and the barriers between them where a kernel reads back its own workspace."""

from __future__ import annotations

from collections.abc import Sequence

from flashc.backends.triton.expressions import BLOCK_TYPES, Expressions
from flashc.backends.triton.frame import Frame
from flashc.errors import UnsupportedError
from flashc.ir.intexpr import IntExpr, Sym
from flashc.ir.nodes import Access, Load, Seq, Stmt, Store, tiled_axis
from flashc.ir.scalar import Ref
from flashc.ir.types import DType, Value


class Memory:
    """Prints the accesses of one kernel in program order.

    ``stored`` and ``loaded``: workspaces that some thread may have accessed since the last barrier. ``wide``:
    sizes that end the grid's tiled axes; loops need no such care, because their FULL tiles have no mask.
    """

    def __init__(self, text: Expressions) -> None:
        self.text, self.program = text, text.program
        self.stored: set[str] = set()
        self.loaded: set[str] = set()
        self.wide: set[str] = set()

    def repeat(self, body: Sequence[Stmt]) -> None:
        """A loop body follows: its own accesses of the iteration before count as done."""
        for stmt in body:
            match stmt:
                case Store(access=access):
                    self.stored.add(access.tensor)
                case Load(access=access):
                    self.loaded.add(access.tensor)
                case Seq(body=inner):
                    self.repeat(inner)

    def load(self, out: Value, access: Access, frame: Frame) -> tuple[list[str], str]:
        """The lines before a load, and the expression that loads."""
        lines = self.barrier(access.tensor, self.stored)
        self.loaded.add(access.tensor)
        base, address = self.address(self.text.names[out.name], access, out.axes, frame)
        dtype = self.program.tensor(access.tensor).dtype
        masks = self.text.masks(frame.masked(out.axes), out.axes, frame)
        other = f", mask={masks}, other={'0.0' if dtype.kind == 'float' else '0'}" if masks else ""
        return [*lines, *base], f"tl.load({address}{other})" + _converted(dtype, out.dtype)

    def store(self, access: Access, value: str, frame: Frame) -> list[str]:
        held = frame.values[value]
        tiled = tuple(n for x in access.index if (n := self.stepped(x, access.tensor, frame)) is not None)
        axes = held.axes if set(held.axes) == set(tiled) else tiled
        lines = self.barrier(access.tensor, self.loaded)
        self.stored.add(access.tensor)
        base, address = self.address(self.text.names[value], access, axes, frame)
        masks = self.text.masks(frame.masked(axes), axes, frame)
        block = self.text.raw(Ref(value), Value(value, axes, held.dtype), frame)
        text = block.method("to(tl.int8)") if held.dtype.kind == "bool" else block
        return [*lines, *base, f"tl.store({address}, {text}{f', mask={masks}' if masks else ''})"]

    def address(self, name: str, access: Access, axes: Sequence[str], frame: Frame) -> tuple[list[str], str]:
        """Lines that compute a tile's 64-bit base pointer, and the pointers of its elements."""
        innermost = [self.stepped(index, access.tensor, frame) for index in access.index][-1]
        base, local = self.text.offsets(access, axes, frame)
        if innermost is not None and len(self.text.dims(axes)) > 1 and frame.masked([innermost]):
            self.text.used.masking |= frame.axes[innermost].span.extent.symbols() & self.wide
        pointer = self.text.used.pointer(access.tensor)
        if base and local:
            return [f"{name}_at = {' + '.join([pointer, *base])}"], " + ".join([f"{name}_at", *local])
        return [], " + ".join([pointer, *base, *local])

    def stepped(self, index: IntExpr, tensor: str, frame: Frame) -> str | None:
        """The tiled axis that an index steps along by 1, alone or on top of a scalar; None: a scalar."""
        tiled = [a for a in index.symbols() if a in frame.axes and frame.tiled(a)]
        axis = tiled_axis(index, tiled)
        rest = index if axis is None else index - Sym(axis)
        if rest.symbols() & set(tiled):
            raise UnsupportedError(
                f"triton: the index {index} of {tensor} takes no tile: it must be one of the tiled axes "
                f"{', '.join(sorted(tiled))}, alone or plus a scalar"
            )
        return axis

    def barrier(self, tensor: str, accessed: set[str]) -> list[str]:
        """What other threads did to a workspace must have happened before it is touched again."""
        if self.program.tensor(tensor).role == "in" or tensor not in accessed:
            return []
        self.stored.clear()
        self.loaded.clear()
        return ["tl.debug_barrier()"]


def _converted(held: DType, wanted: DType) -> str:
    if held.kind == "bool":
        return " != 0"
    return "" if held == wanted else f".to({BLOCK_TYPES[wanted.name]})"
