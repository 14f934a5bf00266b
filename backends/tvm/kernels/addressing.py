"""Loads and stores of a loop nest at given positions of its loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.nests import Loop, substitute
from cospipe.backends.tvm.kernels.strides import Access, Accesses


def flat_view(buffer: Any) -> Any:
    """Return a buffer as one row of elements."""
    return T.decl_buffer((elements(buffer),), buffer.dtype, data=buffer.data)


def elements(buffer: Any) -> int:
    """Return how many elements a buffer has."""
    return prod(int(extent) for extent in buffer.ty.shape)


@dataclass(frozen=True)
class Addressing:
    """Where a nest reads and stores.

    Parameters
    ----------
    accesses : Accesses
        The nest.
    views : mapping of Var to Var
        Each buffer as one row of elements.
    """

    accesses: Accesses
    views: Mapping[Any, Any]

    @property
    def extents(self) -> list[int]:
        """Of the loops."""
        return [loop.extent for loop in self.accesses.loops]

    def placed(self, positions: Mapping[int, Expr]) -> list[Expr]:
        """Return positions of all loops, given by their number, in order."""
        return [positions[number] for number in range(len(self.accesses.loops))]

    def load(self, read: Access, positions: Sequence[Expr]) -> Expr:
        """Return what one of the reads finds."""
        return self.views[read.buffer][self._address(read, positions)]

    def value(self, positions: Sequence[Expr], loaded: Mapping[Any, Expr] | None = None) -> Expr:
        """Return what is computed; ``loaded`` are reads that need no load any more, by their name."""
        known = loaded or {}
        reads = zip(self.accesses.names, self.accesses.reads, strict=True)
        loads = {name: known[name] if name in known else self.load(read, positions) for name, read in reads}
        return substitute(self.accesses.value, {**self._variables(positions), **loads})

    def store(self, positions: Sequence[Expr], value: Expr) -> None:
        """Emit the store of a result."""
        store = self.accesses.store
        T.buffer_store(self.views[store.buffer], value, [self._address(store, positions)])

    def _address(self, access: Access, positions: Sequence[Expr]) -> Expr:
        base = substitute(access.base, self._variables(positions))
        start = int(base) if isinstance(base, tirx.IntImm) else base.astype("int32")
        steps = zip(positions, access.steps, strict=True)
        return sum((position * step for position, step in steps if step), start)

    def _variables(self, positions: Sequence[Expr]) -> dict[Any, Expr]:
        loops = zip(self.accesses.loops, positions, strict=True)
        return {loop.variable: _as_variable(loop, position) for loop, position in loops}


def _as_variable(loop: Loop, position: Expr) -> Expr:
    dtype = str(loop.variable.ty.dtype)
    return tirx.const(position, dtype) if isinstance(position, int) else position.astype(dtype)
