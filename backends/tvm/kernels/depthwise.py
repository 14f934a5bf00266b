"""Depthwise convolution over channel blocks: any kernel, stride, padding and dilation, one input channel an output.

A tile of output rows x columns of one channel block is summed in registers. Every input is read once and multiplied
with all weights that outputs of the tile need it for. A kernel too large for the registers is read row by row, for
tiles of one row of outputs; one of long rows, tap by tap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from operator import add
from typing import Any

from tvm import te, tirx
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
from cospipe.backends.tvm.window_tiling import WindowTile, depthwise_tile, holds_kernel

NAME = "depthwise"
Weights = list[Any]
"""One row of the kernel, a register a column."""


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution.

    Parameters
    ----------
    batch : int
        Images.
    channel_blocks, block : int
        Channels, in blocks of ``block`` side by side.
    rows, columns : Window
        How the kernel slides.
    tile_rows, tile_columns : int
        Outputs computed together.
    """

    batch: int
    channel_blocks: int
    block: int
    rows: Window
    columns: Window
    tile_rows: int
    tile_columns: int

    @classmethod
    def choose(cls, batch: int, channels: int, block: int, rows: Window, columns: Window, core: Core) -> Depthwise:
        """Return the convolution with its tile."""
        tile = depthwise_tile(rows.slide, columns.slide, core)
        return cls(batch, ceil(channels / block), block, rows, columns, tile.rows, tile.columns)

    @classmethod
    def read(cls, options: dict[str, Any]) -> Depthwise:
        """Return the convolution that a kernel was declared with."""
        rows, columns = Window(**options["rows"]), Window(**options["columns"])
        return cls(**{**options, "rows": rows, "columns": columns})

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.batch, self.channel_blocks, self.rows.output, self.columns.output, self.block

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those at the padding included."""
        outputs = self.batch * self.channel_blocks * self.block * self.rows.output * self.columns.output
        return outputs * self.rows.kernel * self.columns.kernel


def pack_weight(weight: te.Tensor, convolution: Depthwise) -> te.Tensor:
    """Return a weight of shape (channels, 1, kernel rows, kernel columns) in the order the kernel reads it."""
    channels, block = int(weight.shape[0]), convolution.block

    def packed(outer: Expr, row: Expr, column: Expr, lane: Expr) -> Expr:
        channel = outer * block + lane
        value = weight(tirx.Min(channel, tirx.const(channels - 1, "int32")), 0, row, column)
        return tirx.Select(channel < channels, value, tirx.const(0.0, "float32"))

    shape = (convolution.channel_blocks, convolution.rows.kernel, convolution.columns.kernel, block)
    return te.compute(shape, packed, name="packed_weight")


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the convolution with its loops."""
    convolution = Depthwise.read(kernel.options)
    return kernel.emitted(lambda: _Emitter(kernel, convolution, core).emit())


class _Emitter:
    def __init__(self, kernel: FusedKernel, convolution: Depthwise, core: Core) -> None:
        self.data, self.weight = kernel.inputs
        self.epilogue, self.convolution, self.core = kernel.epilogue, convolution, core

    def emit(self) -> None:
        c = self.convolution
        extents = [c.batch, c.channel_blocks, ceil(c.rows.output / c.tile_rows)]
        cycles = c.macs / (self.core.lanes * self.core.fma_per_cycle)
        holds = holds_kernel(WindowTile(c.tile_rows, c.tile_columns), c.rows.slide, c.columns.slide, self.core)
        with shared_items(extents, cycles, self.core) as (image, block, row_tile):
            first = [image, block, last_moved_back(row_tile, c.tile_rows, c.rows.output)]
            if holds:
                self._tiles(first)
            else:
                tile = self._tile_by_taps if c.columns.loops_over_taps else self._tile_by_kernel_rows
                each_column_tile(c.columns, c.tile_columns, lambda column: tile(first, column))

    def _tiles(self, first: list[Expr]) -> None:
        """Emit a row of tiles with the whole kernel in registers."""
        c = self.convolution
        kernel = {row: self._read_weights(first[1], row) for row in range(c.rows.kernel)}

        def tiles(lines: list[Line]) -> None:
            each_column_tile(c.columns, c.tile_columns, lambda column: self._tile(first, lines, column, kernel))

        inside_and_at_edges(input_rows(c.rows, c.tile_rows, first[2]), tiles)

    def _tile(self, first: list[Expr], lines: list[Line], column: Expr, kernel: Mapping[int, Weights]) -> None:
        sums = self._sums()
        for line, finished in with_finished_rows(lines, self.convolution.tile_rows):
            if line:
                if line.conditions:
                    sums.start_all()
                with line.if_inside():
                    self._add_row(sums, first, line, column, kernel)
            self._store(sums, finished, first, column)

    def _tile_by_kernel_rows(self, first: list[Expr], column: Expr) -> None:
        """Emit a tile of one row of outputs as a loop over the rows of a kernel too large for the registers."""
        sums = self._sums()
        sums.start_all()
        with each_kernel_row(self.convolution.rows, first[2]) as (kernel_row, position):
            weights = self._read_weights(first[1], kernel_row)
            self._add_row(sums, first, Line(position, taps=((0, 0),)), column, {0: weights})
        self._store(sums, [0], first, column)

    def _tile_by_taps(self, first: list[Expr], column: Expr) -> None:
        """Emit a tile of one row of outputs as loops over the rows of a kernel and the taps of each."""
        c, sums = self.convolution, self._sums()
        sums.start_all()
        with each_kernel_row(c.rows, first[2]) as (kernel_row, position):
            source, weight = [*first[:2], position], [first[1], kernel_row]
            c.columns.each_tap(
                column,
                c.tile_columns,
                lambda tap, is_inside: self._add_tap(sums, source, weight, column, tap, is_inside),
            )
        self._store(sums, [0], first, column)

    def _add_tap(
        self, sums: Registers, source: list[Expr], weight: list[Expr], column: Expr, tap: Expr, is_inside: bool
    ) -> None:
        c, factor = self.convolution, register(self.convolution.block)
        with T.vectorized(c.block) as lane:
            T.buffer_store(factor, element(self.weight, *weight, tap, lane), [lane])
            for number in range(c.tile_columns):
                data = element(self.data, *source, c.columns.position(column + number, tap), lane)
                data = data if is_inside else c.columns.if_inside(column + number, tap, data)
                sums.add((0, number), lane, data * factor[lane])

    def _sums(self) -> Registers:
        c = self.convolution
        return Registers(list(product(range(c.tile_rows), range(c.tile_columns))), c.block, add)

    def _read_weights(self, block: Expr, row: Expr) -> Weights:
        lanes, columns = self.convolution.block, range(self.convolution.columns.kernel)
        weights = [register(lanes) for _ in columns]
        with T.vectorized(lanes) as lane:
            for column in columns:
                T.buffer_store(weights[column], self.weight[block, row, column, lane], [lane])
        return weights

    def _add_row(
        self, sums: Registers, first: list[Expr], line: Line, column: Expr, kernel: Mapping[int, Weights]
    ) -> None:
        """Add what one row of inputs contributes; each input is multiplied with all weights it meets."""
        c, data = self.convolution, register(self.convolution.block)
        with T.vectorized(c.block) as lane:
            for pixel in input_columns(c.columns, c.tile_columns, column):
                T.buffer_store(data, self.data[first[0], first[1], line.position, pixel.position, lane], [lane])
                for row, kernel_row in line.taps:
                    for output, kernel_column in pixel.taps:
                        sums.add((row, output), lane, data[lane] * kernel[kernel_row][kernel_column][lane])

    def _store(self, sums: Registers, rows: Sequence[int], first: list[Expr], column: Expr) -> None:
        if not rows:
            return
        sums.start_all()
        image, block, row = first
        with T.vectorized(self.convolution.block) as lane:
            for output, number in product(rows, range(self.convolution.tile_columns)):
                index = [image, block, row + output, column + number, lane]
                self.epilogue.store(index, sums.get((output, number), lane))
