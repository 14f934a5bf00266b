"""Depthwise convolution over channel blocks: any kernel, stride, padding and dilation, one input for one output channel.

A tile of output rows x columns of one channel block is summed in registers. Every input is read once and multiplied with
all weights that outputs of the tile need it for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from operator import add
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.convolution import Window
from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import last_moved_back, shared_items
from cospipe.backends.tvm.kernels.windows import (
    Line,
    Registers,
    each_column_tile,
    for_tiles_inside_and_at_edges,
    input_columns,
    input_rows,
    slide,
)
from cospipe.backends.tvm.tiling import Core, WindowTile, depthwise_tile, holds_all_taps

NAME = "depthwise"


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
        tile = depthwise_tile(slide(rows), slide(columns), core)
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
        tile = WindowTile(convolution.tile_rows, convolution.tile_columns)
        self.keeps_weight = holds_all_taps(tile, slide(convolution.rows), slide(convolution.columns), core)

    def emit(self) -> None:
        c = self.convolution
        extents = [c.batch, c.channel_blocks, ceil(c.rows.output / c.tile_rows)]
        cycles = c.macs / (self.core.lanes * self.core.fma_per_cycle)
        with shared_items(extents, cycles, self.core) as (image, block, row_tile):
            row = last_moved_back(row_tile, c.tile_rows, c.rows.output)
            weights = _Weights(self.weight, c, block)
            if self.keeps_weight:
                weights.read(range(c.rows.kernel))
            for_tiles_inside_and_at_edges(
                input_rows(c.rows, c.tile_rows, row),
                lambda lines: each_column_tile(
                    c.columns, c.tile_columns, lambda column: self._tile([image, block, row], lines, column, weights)
                ),
            )

    def _tile(self, first: list[Expr], lines: list[Line], column: Expr, weights: _Weights) -> None:
        c = self.convolution
        outputs = [(r, k) for r in range(c.tile_rows) for k in range(c.tile_columns)]
        sums = Registers(outputs, c.block, add)
        for number, line in enumerate(lines):
            if line.conditions:
                sums.start_all()
            if not self.keeps_weight:
                weights.read([tap for _, tap in line.taps])
            with line.if_inside():
                self._add_row(sums, [*first[:2], line.position], line, column, weights)
            awaited = {output for later in lines[number + 1 :] for output, _ in later.taps}
            self._store(sums, sorted({output for output, _ in line.taps} - awaited), first, column)

    def _store(self, sums: Registers, rows: list[int], first: list[Expr], column: Expr) -> None:
        """Store finished rows of the tile; the sooner, the sooner their registers are free."""
        image, block, row = first
        if not rows:
            return
        with T.vectorized(self.convolution.block) as lane:
            for output in rows:
                for number in range(self.convolution.tile_columns):
                    index = [image, block, row + output, column + number, lane]
                    self.epilogue.store(index, sums.get((output, number), lane))

    def _add_row(self, sums: Registers, source: list[Expr], line: Line, column: Expr, weights: _Weights) -> None:
        c = self.convolution
        data = T.alloc_buffer((c.block,), "float32", scope="global")
        with T.vectorized(c.block) as lane:
            for pixel in input_columns(c.columns, c.tile_columns, column):
                T.buffer_store(data, self.data[(*source, pixel.position, lane)], [lane])
                for row, kernel_row in line.taps:
                    for output, kernel_column in pixel.taps:
                        sums.add((row, output), lane, data[lane] * weights.get(kernel_row, kernel_column, lane))


class _Weights:
    """Rows of the kernel of one channel block, in registers."""

    def __init__(self, weight: Any, convolution: Depthwise, block: Expr) -> None:
        self._weight, self._convolution, self._block = weight, convolution, block
        self._rows: dict[int, list[Any]] = {}

    def get(self, row: int, column: int, lane: Expr) -> Expr:
        return self._rows[row][column][lane]

    def read(self, rows: Sequence[int]) -> None:
        """Have these rows of the kernel in registers, and no others."""
        self._rows = {row: self._rows[row] if row in self._rows else self._read_row(row) for row in rows}

    def _read_row(self, row: int) -> list[Any]:
        lanes, columns = self._convolution.block, range(self._convolution.columns.kernel)
        registers = [T.alloc_buffer((lanes,), "float32", scope="global") for _ in columns]
        with T.vectorized(lanes) as lane:
            for column in columns:
                T.buffer_store(registers[column], self._weight[self._block, row, column, lane], [lane])
        return registers
