"""Loops that kernels have in common: work shared among cores, and sums in registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.tiling import Core

PARALLEL_FROM_CYCLES = 20_000
"""Waking other cores and waiting for them costs about 5 us: less work than twice that stays on one."""


@contextmanager
def shared_items(extents: Sequence[int], cycles: float, core: Core) -> Iterator[list[Expr]]:
    """Loop over all combinations of indices, divided evenly among the cores, or into more parts for them to take.

    Parameters
    ----------
    extents : sequence of int
        How many values each index has; the first is the outermost loop.
    cycles : float
        Estimated work of all items; little work stays on one core.
    core : Core
        Gives the number of cores.

    Yields
    ------
    list of Expr
        The indices.
    """
    items = prod(extents)
    if core.cores == 1 or items == 1 or cycles < PARALLEL_FROM_CYCLES:
        with T.serial(items) as item:
            yield unflatten(item, extents)
        return
    parts = max(core.cores, min(core.cores * core.parts, items))
    with T.parallel(parts) as part:
        # The loop starts at zero: TVM 0.27 simplifies the bounds of loops inside one that starts elsewhere wrongly.
        first = part * items // parts
        with T.serial((part + 1) * items // parts - first) as step:
            yield unflatten(first + step, extents)


def unflatten(item: Expr, extents: Sequence[int]) -> list[Expr]:
    """Return the indices that one number stands for, the last of ``extents`` counting fastest."""
    indices: list[Expr] = []
    for position, extent in enumerate(extents):
        inner = prod(extents[position + 1 :])
        indices.append(tirx.const(0, "int32") if extent == 1 else item // inner % extent if position else item // inner)
    return indices


def element(buffer: Any, *index: Expr) -> Expr:
    """Return an element of a buffer."""
    return buffer[index]


def last_moved_back(tile: Expr, size: int, extent: int) -> Expr:
    """Return where a tile starts; the last one is moved back so that it does not reach over the end."""
    return tile * size if extent % size == 0 else T.min(tile * size, extent - size)


class Sums:
    """A register tile: one sum for each of ``rows`` x ``vectors``, each as wide as a vector register.

    A buffer of its own for each row stays below the 1024 bytes from which TVM takes memory from the heap; its constant
    indices let LLVM keep it in registers.
    """

    def __init__(self, rows: int, vectors: int, lanes: int) -> None:
        self.rows, self.vectors, self.lanes = rows, vectors, lanes
        self._buffers = [T.alloc_buffer((vectors * lanes,), "float32", scope="global") for _ in range(rows)]
        self._set({row: lambda _vector, _lane: tirx.const(0.0, "float32") for row in range(rows)})

    def _set(self, values: Mapping[int, Callable[[int, Expr], Expr]]) -> None:
        # One loop for all: TVM's FlattenBuffer takes time with the square of the number of loops.
        with T.vectorized(self.lanes) as lane:
            for row, value in values.items():
                for vector in range(self.vectors):
                    T.buffer_store(self._buffers[row], value(vector, lane), [vector * self.lanes + lane])

    def get(self, row: int, vector: int, lane: Expr) -> Expr:
        """Return a sum."""
        return self._buffers[row][vector * self.lanes + lane]

    def add(self, values: Mapping[int, Callable[[int, Expr], Expr]]) -> None:
        """Add to every vector of some rows; the addend is made from the vector's number and the lane."""
        self._set({row: self._sum(row, value) for row, value in values.items()})

    def _sum(self, row: int, value: Callable[[int, Expr], Expr]) -> Callable[[int, Expr], Expr]:
        return lambda vector, lane: self.get(row, vector, lane) + value(vector, lane)


def add_products(
    sums: Sums,
    pixels: Mapping[int, Callable[[Expr], Expr]],
    weight: Callable[[Expr, Expr], Expr],
    block: int,
    core: Core,
) -> None:
    """Add to some rows of a register tile the products of a block of input channels with their weights.

    Parameters
    ----------
    sums : Sums
        The register tile.
    pixels : mapping of int to callable
        For each row that takes part: its input, by channel of the block.
    weight : callable
        The weight, by channel of the block and by position in the row of output channels.
    block : int
        Input channels.
    core : Core
        Where the kernel runs.
    """
    if not core.multiplies_by_lane or block % core.lanes:
        with T.serial(block) as channel:
            _add_step(sums, {row: pixel(channel) for row, pixel in pixels.items()}, partial(weight, channel))
        return
    with T.serial(block // core.lanes) as part:
        first = part * core.lanes
        registers = {row: read_vector(core.lanes, _shifted(pixel, first)) for row, pixel in pixels.items()}
        steps: list[Callable[[Expr], Expr]] = [partial(weight, first + channel) for channel in range(core.lanes)]
        if core.loads_weights_first:
            steps = [_loaded(step, sums) for step in steps]
        for channel, step in enumerate(steps):
            _add_step(sums, {row: register[channel] for row, register in registers.items()}, step)


def _add_step(sums: Sums, scalars: Mapping[int, Expr], weight: Callable[[Expr], Expr]) -> None:
    def times_weight(scalar: Expr) -> Callable[[int, Expr], Expr]:
        return lambda vector, lane: scalar * weight(vector * sums.lanes + lane)

    sums.add({row: times_weight(scalar) for row, scalar in scalars.items()})


def _loaded(weight: Callable[[Expr], Expr], sums: Sums) -> Callable[[Expr], Expr]:
    """Read a step's weights, which are one run, into a register for each vector."""
    register = T.alloc_buffer((sums.vectors * sums.lanes,), "float32", scope="global")
    with T.vectorized(sums.lanes) as lane:
        for vector in range(sums.vectors):
            T.buffer_store(register, weight(vector * sums.lanes + lane), [vector * sums.lanes + lane])
    return lambda position: register[position]


def _shifted(pixel: Callable[[Expr], Expr], first: Expr) -> Callable[[Expr], Expr]:
    return lambda lane: pixel(first + lane)


def read_run(length: int, lanes: int, value: Callable[[Expr], Expr]) -> Callable[[int], Expr]:
    """Read neighbouring numbers into registers; returns them by constant position.

    The last register starts earlier where a full one would reach over the end.
    """
    starts = [min(start, length - lanes) for start in range(0, length, lanes)]
    registers = [read_vector(lanes, _shifted(value, start)) for start in starts]

    def number(position: int) -> Expr:
        register = min(position // lanes, len(starts) - 1)
        return registers[register][position - starts[register]]

    return number


def on_stack(shape: Sequence[int]) -> Any:
    """Return a small buffer that is private to the code around it; TVM would take it from the heap on every use."""
    return T.alloc_buffer(tuple(shape), "float32", scope="local", annotations={"disable_lower_builtin": True})


def read_vector(lanes: int, value: Callable[[Expr], Expr]) -> Any:
    """Read a vector into a register; its lanes can then be indexed by constants."""
    register = T.alloc_buffer((lanes,), "float32", scope="global")
    with T.vectorized(lanes) as lane:
        T.buffer_store(register, value(lane), [lane])
    return register


def flat(buffer: Any) -> Any:
    """Return a buffer as one axis over the same memory."""
    return T.decl_buffer((prod(int(extent) for extent in buffer.shape),), "float32", data=buffer.data)
