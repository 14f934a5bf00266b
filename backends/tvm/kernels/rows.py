"""Going through a row of neighbouring numbers vector by vector: sums, maxima, and what is stored on the way.

Several vectors are combined at once, so that one instruction need not wait for the other. What is left at the end of a
row is one more vector that starts earlier; where it must not count twice, its lanes that were counted before are
masked. So a row of any length costs as many vectors as it fills.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.loops import read_vector
from cospipe.backends.tvm.tiling import Core

_VECTORS_AT_ONCE = 4
LOWEST = -3.4028234663852886e38
"""The lowest FP32 number."""

Body = Callable[..., Expr]
"""Makes an expression from a position in the row; it may emit stores, for all lanes of a vector at once."""


@dataclass(frozen=True)
class Combination:
    """How numbers are combined, and the number that changes nothing."""

    combine: Callable[[Expr, Expr], Expr]
    neutral: float


SUM = Combination(lambda one, other: one + other, 0.0)
MAXIMUM = Combination(lambda one, other: T.max(one, other), LOWEST)
MINIMUM = Combination(lambda one, other: T.min(one, other), -LOWEST)
PRODUCT = Combination(lambda one, other: one * other, 1.0)


@dataclass(frozen=True)
class Row:
    """A row of ``length`` numbers in vectors of ``lanes``."""

    length: int
    lanes: int

    @classmethod
    def of(cls, length: int, core: Core) -> Row:
        """Return a row in vectors of the core, narrower ones where it is shorter."""
        return cls(length, min(core.lanes, 1 << (length.bit_length() - 1)))

    @property
    def vectors(self) -> int:
        """Full vectors, one after the other."""
        return self.length // self.lanes

    @property
    def counted(self) -> int:
        """Lanes of the vector at the end that the one before has too; 0 if there is no such vector."""
        return -self.length % self.lanes

    def fold(self, combination: Combination, body: Body, turns: Sequence[int] = ()) -> Expr:
        """Combine all numbers of the row, or of several rows, into one.

        Parameters
        ----------
        combination : Combination
            How.
        body : callable
            Makes a number from its position in the row and, before that, from the indices of the row.
        turns : sequence of int
            Extents of the indices of the row, where there are several.
        """
        at_once = min(_VECTORS_AT_ONCE, self.vectors)
        neutral = tirx.const(combination.neutral, "float32")
        registers = [read_vector(self.lanes, lambda _lane: neutral) for _ in range(at_once)]
        nested(turns, lambda index: self._fold_row(registers, combination, partial(body, *index)))
        return _across(registers, self.lanes, combination)

    def _fold_row(self, registers: Sequence[Any], combination: Combination, body: Body) -> None:
        neutral, at_once = tirx.const(combination.neutral, "float32"), len(registers)

        def add(starts: Sequence[Expr], counted: int = 0) -> None:
            with T.vectorized(self.lanes) as lane:
                for register, start in zip(registers, starts, strict=False):
                    value = body(start + lane)
                    value = tirx.Select(lane >= counted, value, neutral) if counted else value
                    T.buffer_store(register, combination.combine(register[lane], value), [lane])

        groups, rest = divmod(self.vectors, at_once)
        with T.serial(groups) as group:
            add([(group * at_once + number) * self.lanes for number in range(at_once)])
        if rest:
            add([(groups * at_once + number) * self.lanes for number in range(rest)])
        if self.counted:
            add([self.length - self.lanes], self.counted)

    def each(self, body: Callable[[Expr], None]) -> None:
        """Emit statements for every position of the row; those of the last vector may run twice."""
        with T.serial(self.vectors) as vector, T.vectorized(self.lanes) as lane:
            body(vector * self.lanes + lane)
        if self.counted:
            with T.vectorized(self.lanes) as lane:
                body(self.length - self.lanes + lane)


def nested(extents: Sequence[int], body: Callable[[list[Expr]], None]) -> None:
    """Emit loops one in the other."""
    if not extents:
        body([])
        return
    with T.serial(extents[0]) as position:
        nested(extents[1:], lambda inner: body([position, *inner]))


def once(value: Expr) -> Expr:
    """Compute a number once for all that follows."""
    number = T.alloc_buffer((1,), "float32", scope="global")
    T.buffer_store(number, value, [0])
    return number[0]


def _across(registers: Sequence[Any], lanes: int, combination: Combination) -> Expr:
    """Combine vectors with each other, then the upper half of a vector with the lower one until one number is left."""
    total = read_vector(lanes, lambda lane: reduce(combination.combine, [register[lane] for register in registers]))
    while lanes > 1:
        lanes //= 2
        total = read_vector(lanes, partial(_halved, total, lanes, combination))
    return total[0]


def _halved(vector: Any, half: int, combination: Combination, lane: Expr) -> Expr:
    return combination.combine(vector[lane], vector[half + lane])
