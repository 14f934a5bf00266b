"""Tiles of outputs under a sliding window: which inputs they read, and which outputs each input goes into.

The inputs of a tile are read row by row, each once for all outputs of the tile. Rows that may lie outside the image are
read under a condition; columns at the sides of the image have code of their own, which leaves out what lies outside.

One vectorised loop holds many statements here, not one: TVM's FlattenBuffer takes time with the square of the loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.loops import last_moved_back
from cospipe.backends.tvm.kernels.window import Window
from cospipe.backends.tvm.tiling import tile_starts


@dataclass(frozen=True)
class Line:
    """One row, or one column, of the inputs of a tile.

    Parameters
    ----------
    position : Expr
        Where it lies in the image.
    taps : tuple of (int, int)
        Outputs of the tile that read it, each with the tap of its window.
    conditions : tuple of Expr
        What must hold for it to lie in the image.
    """

    position: Expr
    taps: tuple[tuple[int, int], ...]
    conditions: tuple[Expr, ...] = ()

    @contextmanager
    def if_inside(self) -> Iterator[None]:
        """Emit statements for when the line lies in the image."""
        if not self.conditions:
            yield
            return
        with T.If(tirx.all(*self.conditions)), T.Then():
            yield


def input_rows(rows: Window, tile: int, first: Expr) -> list[Line]:
    """Return the rows a tile reads; those that are inside whichever tile it is come first.

    Parameters
    ----------
    rows : Window
        How the window moves down the image.
    tile : int
        Output rows of a tile.
    first : Expr
        The first of them.
    """
    last_start = (rows.output - tile) * rows.stride
    lines = []
    for offset, taps in _readers(rows, tile).items():
        lowest = offset - rows.padding
        if lowest + last_start < 0 or lowest >= rows.input:
            continue  # outside whichever tile it is
        position = first * rows.stride + lowest
        conditions = []
        if lowest < 0:
            conditions.append(position >= 0)
        if lowest + last_start >= rows.input:
            conditions.append(position < rows.input)
        lines.append(Line(position, taps, tuple(conditions)))
    return sorted(lines, key=lambda line: bool(line.conditions))


def inside_and_at_edges(lines: list[Line], emit: Callable[[list[Line]], None]) -> None:
    """Emit code twice where rows may leave the image: for tiles that lie inside, and with conditions for the others."""
    conditions = [condition for line in lines for condition in line.conditions]
    if not conditions:
        emit(lines)
        return
    with T.If(tirx.all(*conditions)):
        with T.Then():
            emit([Line(line.position, line.taps) for line in lines])
        with T.Else():
            emit(lines)


def with_finished_rows(lines: list[Line], rows: int) -> Iterator[tuple[Line | None, list[int]]]:
    """Yield the rows of inputs, each with the output rows of the tile that are finished once it is added.

    The sooner an output is stored, the sooner its register is free. Outputs that no row reaches come at the end.
    """
    waiting = set(range(rows))
    for number, line in enumerate(lines):
        awaited = {output for later in lines[number + 1 :] for output, _ in later.taps}
        finished = {output for output, _ in line.taps} & waiting - awaited
        waiting -= finished
        yield line, sorted(finished)
    if waiting:
        yield None, sorted(waiting)


@contextmanager
def each_kernel_row(rows: Window, output: Expr) -> Iterator[tuple[Expr, Expr]]:
    """Loop over the rows of the kernel inside the image for one row of outputs; yield each and the input row it meets.

    The first input row is written without a constant: AArch64 has no room for a large negative one in a load.
    """
    first, behind = rows.taps(output)
    start = output * rows.stride - rows.padding
    if rows.padding:
        start = T.max(start, tirx.floormod(start, tirx.const(rows.dilation, "int32")))
    with T.serial(behind - first) as number:
        yield first + number, start + number * rows.dilation


def input_columns(columns: Window, tile: int, first: Expr) -> list[Line]:
    """Return the columns a tile reads; for a tile at a known place, only those inside the image."""
    lines = [
        Line(first * columns.stride + offset - columns.padding, taps)
        for offset, taps in _readers(columns, tile).items()
    ]
    if not isinstance(first, int):
        return lines
    return [line for line in lines if 0 <= line.position < columns.input]


def _readers(window: Window, tile: int) -> dict[int, tuple[tuple[int, int], ...]]:
    """Return, for each input by its distance from the tile's first, the outputs and taps that read it."""
    readers: dict[int, tuple[tuple[int, int], ...]] = {}
    for output in range(tile):
        for tap in range(window.kernel):
            offset = output * window.stride + tap * window.dilation
            readers[offset] = (*readers.get(offset, ()), (output, tap))
    return dict(sorted(readers.items()))


def each_column_tile(columns: Window, tile: int, emit: Callable[[Expr], None]) -> None:
    """Emit code for every tile along a row of outputs.

    Parameters
    ----------
    columns : Window
        How the window moves along the row.
    tile : int
        Output columns of a tile.
    emit : callable
        Called with the first output: a number where taps leave the image, so that the code knows which; an expression
        for each run of other tiles, which share their code, and for the tiles of a long row, whose taps are loops.
    """
    starts = tile_starts(columns.output, tile)
    is_whole = [
        columns.loops_over_taps
        or (columns.is_inside(start, 0) and columns.is_inside(start + tile - 1, columns.kernel - 1))
        for start in starts
    ]
    number = 0
    while number < len(starts):
        behind = number + 1
        while is_whole[number] and behind < len(starts) and is_whole[behind]:
            behind += 1
        if behind == number + 1:
            emit(starts[number])
        else:
            with T.serial(number, behind) as column_tile:
                emit(last_moved_back(column_tile, tile, columns.output))
        number = behind


def register(lanes: int) -> Any:
    """Return a buffer that becomes a vector register: TVM keeps small ones of this scope on the stack, LLVM off it."""
    return T.alloc_buffer((lanes,), "float32", scope="global")


class Registers:
    """Vector registers that values are combined into, by key.

    The first value of a register is stored as it is; where no value is certain to come, the neutral one is.

    Parameters
    ----------
    keys : sequence
        One for each register.
    lanes : int
        Width of a register.
    combine : callable
        Makes the new value from the old one and what is added.
    neutral : float
        What changes nothing when it is combined.
    """

    def __init__(
        self, keys: Sequence[Any], lanes: int, combine: Callable[[Expr, Expr], Expr], neutral: float = 0.0
    ) -> None:
        self._buffers = {key: register(lanes) for key in keys}
        self._lanes, self._combine, self._neutral = lanes, combine, neutral
        self._is_started: set[Any] = set()

    def get(self, key: Any, lane: Expr) -> Expr:
        """Return the value of a register."""
        return self._buffers[key][lane]

    def add(self, key: Any, lane: Expr, value: Expr) -> None:
        """Combine a register with a value; within a vectorised loop over the lanes."""
        added = self._combine(self.get(key, lane), value) if key in self._is_started else value
        T.buffer_store(self._buffers[key], added, [lane])
        self._is_started.add(key)

    def start_all(self) -> None:
        """Give the neutral value to registers that have none yet: what follows may not be executed."""
        missing = [key for key in self._buffers if key not in self._is_started]
        if missing:
            with T.vectorized(self._lanes) as lane:
                for key in missing:
                    self.add(key, lane, tirx.const(self._neutral, "float32"))
