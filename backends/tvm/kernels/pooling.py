"""Maxima and sums under a sliding window over channel blocks.

A tile of output rows x columns of one channel block is computed at once. Each column of inputs is combined first, in a
register for each row of outputs; then the columns of each window are. A window of many rows is a loop over its rows,
and one of long rows a loop over its taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import ceil, inf
from operator import add
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import element, last_moved_back, shared_items
from cospipe.backends.tvm.kernels.window import Window
from cospipe.backends.tvm.kernels.window_tiles import (
    Line,
    Registers,
    each_column_tile,
    each_kernel_row,
    input_columns,
    input_rows,
    inside_and_at_edges,
    register,
    with_finished_rows,
)
from cospipe.backends.tvm.tiling import Core
from cospipe.backends.tvm.window_tiling import pooling_tile, unrolls_window

NAME = "pooling"
_COMBINATIONS: dict[str, tuple[Callable[[Expr, Expr], Expr], float]] = {"maximum": (T.max, -inf), "sum": (add, 0.0)}
"""Each with what changes nothing."""


@dataclass(frozen=True)
class Pooling:
    """A pooling.

    Parameters
    ----------
    combination : str
        ``maximum`` or ``sum`` of the inputs of a window inside the image.
    batch : int
        Images.
    channel_blocks, block : int
        Channels, in blocks of ``block`` side by side.
    rows, columns : Window
        How the window slides.
    tile_rows, tile_columns : int
        Outputs computed together.
    """

    combination: str
    batch: int
    channel_blocks: int
    block: int
    rows: Window
    columns: Window
    tile_rows: int
    tile_columns: int

    @classmethod
    def choose(
        cls, combination: str, blocked_shape: Sequence[int], rows: Window, columns: Window, core: Core
    ) -> Pooling:
        """Return the pooling of an image in channel blocks, with its tile."""
        tile = pooling_tile(rows.slide, columns.slide, core)
        images, channel_blocks, block = blocked_shape[0], blocked_shape[1], blocked_shape[-1]
        return cls(combination, images, channel_blocks, block, rows, columns, tile.rows, tile.columns)

    @classmethod
    def read(cls, options: dict[str, Any]) -> Pooling:
        """Return the pooling that a kernel was declared with."""
        rows, columns = Window(**options["rows"]), Window(**options["columns"])
        return cls(**{**options, "rows": rows, "columns": columns})

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.batch, self.channel_blocks, self.rows.output, self.columns.output, self.block

    @property
    def operations(self) -> int:
        """How many numbers are combined, roughly."""
        outputs = self.batch * self.channel_blocks * self.block * self.rows.output * self.columns.output
        return outputs * (self.rows.kernel * self.columns.stride + self.columns.kernel)


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the pooling with its loops."""
    pooling = Pooling.read(kernel.options)
    return kernel.emitted(lambda: _Emitter(kernel, pooling, core).emit())


class _Emitter:
    def __init__(self, kernel: FusedKernel, pooling: Pooling, core: Core) -> None:
        (self.data,) = kernel.inputs
        self.epilogue, self.pooling, self.core = kernel.epilogue, pooling, core
        self.combine, self.neutral = _COMBINATIONS[pooling.combination]

    def emit(self) -> None:
        p = self.pooling
        extents = [p.batch, p.channel_blocks, ceil(p.rows.output / p.tile_rows)]
        cycles = p.operations / (self.core.lanes * self.core.fma_per_cycle)
        with shared_items(extents, cycles, self.core) as (image, block, row_tile):
            first = [image, block, last_moved_back(row_tile, p.tile_rows, p.rows.output)]
            if p.columns.loops_over_taps:
                each_column_tile(p.columns, p.tile_columns, lambda column: self._tile_by_taps(first, column))
            elif unrolls_window(p.rows.slide):
                inside_and_at_edges(input_rows(p.rows, p.tile_rows, first[2]), lambda lines: self._tiles(first, lines))
            else:
                each_column_tile(p.columns, p.tile_columns, lambda column: self._tile_by_rows(first, column))

    def _tiles(self, first: list[Expr], lines: list[Line]) -> None:
        p = self.pooling
        each_column_tile(p.columns, p.tile_columns, lambda column: self._tile(first, lines, column))

    def _tile(self, first: list[Expr], lines: list[Line], column: Expr) -> None:
        pixels = input_columns(self.pooling.columns, self.pooling.tile_columns, column)
        combined = self._registers(pixels)
        for line, finished in with_finished_rows(lines, self.pooling.tile_rows):
            if line:
                if line.conditions:
                    combined.start_all()
                with line.if_inside():
                    self._add_row(combined, first, line, pixels)
            self._store(combined, finished, first, column, pixels)

    def _tile_by_rows(self, first: list[Expr], column: Expr) -> None:
        pixels = input_columns(self.pooling.columns, self.pooling.tile_columns, column)
        combined = self._registers(pixels)
        combined.start_all()
        with each_kernel_row(self.pooling.rows, first[2]) as (_kernel_row, position):
            self._add_row(combined, first, Line(position, taps=((0, 0),)), pixels)
        self._store(combined, [0], first, column, pixels)

    def _tile_by_taps(self, first: list[Expr], column: Expr) -> None:
        """Emit a tile under a window of long rows, each output on its own."""
        p = self.pooling
        outputs = Registers(list(range(p.tile_columns)), p.block, self.combine, self.neutral)
        outputs.start_all()
        with each_kernel_row(p.rows, first[2]) as (_kernel_row, position):
            source = [*first[:2], position]
            p.columns.each_tap(
                column, p.tile_columns, lambda tap, is_inside: self._add_tap(outputs, source, column, tap, is_inside)
            )
        with T.vectorized(p.block) as lane:
            for number in range(p.tile_columns):
                self.epilogue.store([*first, column + number, lane], outputs.get(number, lane))

    def _add_tap(self, outputs: Registers, source: list[Expr], column: Expr, tap: Expr, is_inside: bool) -> None:
        columns = self.pooling.columns
        with T.vectorized(self.pooling.block) as lane:
            for number in range(self.pooling.tile_columns):
                data = element(self.data, *source, columns.position(column + number, tap), lane)
                outputs.add(
                    number, lane, data if is_inside else columns.if_inside(column + number, tap, data, self.neutral)
                )

    def _registers(self, pixels: list[Line]) -> Registers:
        """Return one register for each row of outputs and column of inputs."""
        keys = list(product(range(self.pooling.tile_rows), range(len(pixels))))
        return Registers(keys, self.pooling.block, self.combine, self.neutral)

    def _add_row(self, combined: Registers, first: list[Expr], line: Line, pixels: list[Line]) -> None:
        data = register(self.pooling.block)
        with T.vectorized(self.pooling.block) as lane:
            for number, pixel in enumerate(pixels):
                T.buffer_store(data, self.data[first[0], first[1], line.position, pixel.position, lane], [lane])
                for row in {row for row, _ in line.taps}:
                    combined.add((row, number), lane, data[lane])

    def _store(
        self, combined: Registers, rows: Sequence[int], first: list[Expr], column: Expr, pixels: list[Line]
    ) -> None:
        """Combine the columns of each window of finished rows, and store it."""
        if not rows:
            return
        combined.start_all()
        image, block, row = first
        with T.vectorized(self.pooling.block) as lane:
            for output, number in product(rows, range(self.pooling.tile_columns)):
                seen = [i for i, pixel in enumerate(pixels) if number in {reader for reader, _ in pixel.taps}]
                values = [combined.get((output, i), lane) for i in seen] or [tirx.const(self.neutral, "float32")]
                self.epilogue.store([image, block, row + output, column + number, lane], reduce(self.combine, values))
