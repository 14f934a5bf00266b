"""Loops of elementwise computations, copies and changes of layout, at the speed of memory.

Each nest of loops runs through the result as it lies in memory, a vector at a time, over as few and as long loops as
the accesses allow. A vector that would reach over the end starts earlier and overlaps the one before. Where an input
lies across the result, blocks as wide as a vector are transposed in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from tvm.ir import Call
from tvm.script.ir_builder import tirx as T
from tvm_ffi import structural_walk

from cospipe.backends.tvm.kernels.addressing import Addressing
from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.loops import last_moved_back, shared_items
from cospipe.backends.tvm.kernels.rows import nested
from cospipe.backends.tvm.kernels.strides import Access, Accesses
from cospipe.backends.tvm.kernels.transposition import transposed
from cospipe.backends.tvm.tiling import Core, tile_starts

_ITEM_ELEMENTS = 2048
"""Elements one core computes before it asks which come next."""
_SMALLEST_BLOCK = 4
"""Rows and columns from which a block is transposed in registers."""
_FEW_VECTORS = 4
"""Up to here, the vectors of a row are written out instead of looped over."""
_CYCLES_OF_ACCESS, _CYCLES_OF_FUNCTION = 2, 16


def emit_nest(accesses: Accesses, views: Mapping[Any, Any], core: Core) -> None:
    """Emit the loops of an elementwise computation.

    Parameters
    ----------
    accesses : Accesses
        What is computed of what.
    views : mapping of Var to Var
        Each buffer as one row of elements.
    core : Core
        Where the kernel runs.
    """
    _Emitter(accesses, Addressing(accesses, views), core).emit()


@dataclass(frozen=True)
class _Emitter:
    accesses: Accesses
    addressing: Addressing
    core: Core

    def emit(self) -> None:
        along = self._vector_loop()
        if along is None:
            self._emit_elements()
            return
        across = self._crossing_loop(along)
        if across is None:
            self._emit_vectors(along)
        else:
            self._emit_blocks(along, across)

    @property
    def _extents(self) -> list[int]:
        return self.addressing.extents

    def _vector_loop(self) -> int | None:
        """Return the loop along which results are neighbours."""
        found = [number for number, step in enumerate(self.accesses.store.steps) if step == 1]
        return found[-1] if found and self._extents[found[-1]] > 1 else None

    def _crossing_loop(self, along: int) -> int | None:
        """Return the loop along which the elements of an input are neighbours that lies across the result."""
        for read in self._turnable(along).values():
            if 1 not in read.steps:
                continue
            across = read.steps.index(1)
            if min(self._extents[along], self._extents[across], self.core.lanes) >= _SMALLEST_BLOCK:
                return across
        return None

    def _turnable(self, along: int) -> dict[Any, Access]:
        """Return the reads across the result that can be made ahead, whatever is then computed of them."""
        reads = zip(self.accesses.names, self.accesses.reads, strict=True)
        conditional = self.accesses.conditional_reads
        return {name: read for name, read in reads if name not in conditional and not _lies_along(read, along)}

    def _emit_elements(self) -> None:
        with shared_items(self._extents, self._cycles(1), self.core) as positions:
            self.addressing.store(positions, self.addressing.value(positions))

    def _emit_vectors(self, along: int) -> None:
        extent = self._extents[along]
        lanes = _largest_power_of_two(min(extent, self.core.lanes))
        outer = [number for number in range(len(self._extents)) if number != along]
        shared, inner = self._shared_loops(outer, extent)
        if prod(self._extents[number] for number in shared) < 2 * self.core.cores:
            self._emit_single_vectors(outer, along, lanes)
            return
        with shared_items([self._extents[number] for number in shared], self._cycles(lanes), self.core) as positions:
            nested(
                [self._extents[number] for number in inner],
                lambda rest: self._row([*shared, *inner], [*positions, *rest], along, lanes),
            )

    def _shared_loops(self, outer: Sequence[int], elements: int) -> tuple[list[int], list[int]]:
        """Divide loops into those whose turns are shared among cores, and inner ones with enough work for a turn."""
        first = len(outer)
        while first and elements < _ITEM_ELEMENTS:
            first -= 1
            elements *= self._extents[outer[first]]
        return list(outer[:first]), list(outer[first:])

    def _emit_single_vectors(self, outer: Sequence[int], along: int, lanes: int) -> None:
        """Share vectors one by one: there are few rows, or only one long one."""
        rows, extent = [self._extents[number] for number in outer], self._extents[along]
        whole, cycles = extent // lanes, self._cycles(lanes)
        with shared_items([*rows, whole], cycles, self.core) as (*positions, step):
            self._vector(outer, positions, along, step * lanes, lanes)
        if extent % lanes:
            with shared_items(rows, cycles / whole, self.core) as positions:
                self._vector(outer, positions, along, extent - lanes, lanes)

    def _row(self, outer: Sequence[int], positions: Sequence[Expr], along: int, lanes: int) -> None:
        extent = self._extents[along]
        if extent <= _FEW_VECTORS * lanes:
            for start in tile_starts(extent, lanes):
                self._vector(outer, positions, along, start, lanes)
            return
        with T.serial(extent // lanes) as step:
            self._vector(outer, positions, along, step * lanes, lanes)
        if extent % lanes:
            self._vector(outer, positions, along, extent - lanes, lanes)

    def _vector(self, outer: Sequence[int], positions: Sequence[Expr], along: int, start: Expr, lanes: int) -> None:
        with T.vectorized(lanes) as lane:
            placed = self.addressing.placed({**dict(zip(outer, positions, strict=True)), along: start + lane})
            self.addressing.store(placed, self.addressing.value(placed))

    def _emit_blocks(self, along: int, across: int) -> None:
        """Compute blocks of the two loops; inputs across the result are read along theirs and transposed."""
        outer = [number for number in range(len(self._extents)) if number not in (along, across)]
        size = _largest_power_of_two(min(self._extents[along], self._extents[across], self.core.lanes))
        shared = [*(self._extents[number] for number in outer), ceil(self._extents[across] / size)]
        rows = ceil(self._extents[along] / size)
        with shared_items(shared, self._cycles(size), self.core) as (*positions, column), T.serial(rows) as row:
            starts = {
                across: last_moved_back(column, size, self._extents[across]),
                along: last_moved_back(row, size, self._extents[along]),
            }
            self._block({**dict(zip(outer, positions, strict=True)), **starts}, along, across, size)

    def _block(self, starts: Mapping[int, Expr], along: int, across: int, size: int) -> None:
        turned = {
            name: transposed(self._source(read, starts, along, across), size)
            for name, read in self._turnable(along).items()
            if read.steps[across] == 1
        }
        with T.vectorized(size) as lane:  # one loop: TVM's FlattenBuffer takes time with the square of their number
            for i in range(size):
                placed = self.addressing.placed({**starts, across: starts[across] + i, along: starts[along] + lane})
                known = {name: vectors[i][lane] for name, vectors in turned.items()}
                self.addressing.store(placed, self.addressing.value(placed, known))

    def _source(self, read: Access, starts: Mapping[int, Expr], along: int, across: int) -> Callable[..., Expr]:
        def element(row: Expr, column: Expr) -> Expr:
            moved = {**starts, along: starts[along] + row, across: starts[across] + column}
            return self.addressing.load(read, self.addressing.placed(moved))

        return element

    def _cycles(self, lanes: int) -> float:
        calls: list[Any] = []
        structural_walk(self.accesses.value, (Call, calls.append))
        each = _CYCLES_OF_ACCESS * (1 + len(self.accesses.reads)) + _CYCLES_OF_FUNCTION * len(calls)
        return prod(self._extents) / lanes * each


def _lies_along(read: Access, along: int) -> bool:
    """Tell whether a vector of reads is neighbours, one number for all, or scattered whichever way one looks."""
    return read.steps[along] in (0, 1, None)


def _largest_power_of_two(limit: int) -> int:
    return 1 << (limit.bit_length() - 1)
