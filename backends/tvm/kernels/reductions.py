"""Sums, maxima and the like of a tensor along some of its axes.

Where the numbers that are combined are neighbours, vectors run along them and are combined across at the end; where
they are not, each lane of a vector is one result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.addressing import Addressing, elements
from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.loops import last_moved_back, read_vector, shared_items
from cospipe.backends.tvm.kernels.rows import MAXIMUM, MINIMUM, PRODUCT, SUM, Combination, Row, nested
from cospipe.backends.tvm.kernels.strides import Accesses
from cospipe.backends.tvm.tiling import Core

COMBINATIONS: dict[type, Combination] = {
    tirx.Add: SUM,
    tirx.Max: MAXIMUM,
    tirx.Min: MINIMUM,
    tirx.Mul: PRODUCT,
}
"""By the operation that combines."""
_SHORTEST_ROW = 8
_VECTORS_AT_ONCE = 8
_CYCLES_OF_VECTOR = 4


def can_emit(accesses: Accesses) -> bool:
    """Tell whether a reduction has loops of this kind; a product of matrices, which reads its inputs often, has not."""
    work = prod(loop.extent for loop in accesses.loops)
    reads_once = any(work <= 2 * elements(read.buffer) for read in accesses.reads)
    return reads_once and (_row_loop(accesses) is not None or _lane_loop(accesses) is not None)


def emit_reduction(accesses: Accesses, combination: Combination, views: Mapping[Any, Any], core: Core) -> None:
    """Emit the loops of a reduction.

    Parameters
    ----------
    accesses : Accesses
        What is combined of what; a loop that the store stands still in is combined over.
    combination : Combination
        How.
    views : mapping of Var to Var
        Each buffer as one row of elements.
    core : Core
        Where the kernel runs.
    """
    emitter = _Emitter(Addressing(accesses, views), combination, core)
    lane, row = _lane_loop(accesses), _row_loop(accesses)
    if row is not None:
        emitter.emit_rows(row)
    elif lane is not None:
        emitter.emit_lanes(lane)


def _row_loop(accesses: Accesses) -> int | None:
    """Return the loop along which the numbers that are combined are neighbours."""
    return _vector_loop(accesses, lambda number: accesses.store.steps[number] == 0, _SHORTEST_ROW)


def _lane_loop(accesses: Accesses) -> int | None:
    """Return the loop along which results are neighbours, as are the numbers they are made from."""
    return _vector_loop(accesses, lambda number: accesses.store.steps[number] == 1, 2)


def _vector_loop(accesses: Accesses, is_wanted: Callable[[int], bool], shortest: int) -> int | None:
    for number, loop in enumerate(accesses.loops):
        steps = [read.steps[number] for read in accesses.reads]
        if is_wanted(number) and loop.extent >= shortest and 1 in steps and set(steps) <= {0, 1}:
            return number
    return None


@dataclass(frozen=True)
class _Emitter:
    addressing: Addressing
    combination: Combination
    core: Core

    def emit_rows(self, along: int) -> None:
        """Combine each row vector by vector."""
        results, turns = self._loops(along)
        row = Row.of(self._extents[along], self.core)
        with shared_items(self._of(results), self._cycles(row.lanes), self.core) as positions:

            def number(*index: Expr) -> Expr:
                *turn, position = index
                placed = dict(zip([*results, *turns, along], [*positions, *turn, position], strict=True))
                return self.addressing.value(self.addressing.placed(placed))

            total = row.fold(self.combination, number, self._of(turns))
            placed = dict(zip(results, positions, strict=True))
            at_start = {**placed, **dict.fromkeys([*turns, along], 0)}
            self.addressing.store(self.addressing.placed(at_start), total)

    def emit_lanes(self, along: int) -> None:
        """Combine several vectors of results at once."""
        results, turns = self._loops(along)
        extent = self._extents[along]
        row = Row.of(extent, self.core)
        widths = [count * row.lanes for count in range(1, _VECTORS_AT_ONCE + 1) if count * row.lanes <= extent]
        width = min(widths, key=lambda width: (ceil(extent / width) * width, -width))
        shared = [*self._of(results), ceil(extent / width)]
        with shared_items(shared, self._cycles(row.lanes), self.core) as (*positions, group):
            first = last_moved_back(group, width, extent)
            starts = [first + start for start in range(0, width, row.lanes)]
            placed = dict(zip(results, positions, strict=True))
            self._combine(placed, along, starts, turns, row.lanes)

    def _combine(
        self, placed: Mapping[int, Expr], along: int, starts: Sequence[Expr], turns: Sequence[int], lanes: int
    ) -> None:
        neutral = tirx.const(self.combination.neutral, "float32")
        registers = [read_vector(lanes, lambda _lane: neutral) for _ in starts]

        def add(turn: Sequence[Expr]) -> None:
            at = {**placed, **dict(zip(turns, turn, strict=True))}
            with T.vectorized(lanes) as lane:
                for register, start in zip(registers, starts, strict=True):
                    number = self.addressing.value(self.addressing.placed({**at, along: start + lane}))
                    T.buffer_store(register, self.combination.combine(register[lane], number), [lane])

        nested(self._of(turns), add)
        at_start = {**placed, **dict.fromkeys(turns, 0)}
        with T.vectorized(lanes) as lane:
            for register, start in zip(registers, starts, strict=True):
                self.addressing.store(self.addressing.placed({**at_start, along: start + lane}), register[lane])

    @property
    def _extents(self) -> list[int]:
        return self.addressing.extents

    def _of(self, loops: Sequence[int]) -> list[int]:
        return [self._extents[number] for number in loops]

    def _loops(self, along: int) -> tuple[list[int], list[int]]:
        """Return the loops over results and those combined over, without the one that vectors run along."""
        steps = self.addressing.accesses.store.steps
        others = [number for number in range(len(steps)) if number != along]
        return [number for number in others if steps[number] != 0], [number for number in others if steps[number] == 0]

    def _cycles(self, lanes: int) -> float:
        return prod(self._extents) / lanes * _CYCLES_OF_VECTOR
