"""Direct convolution over channel blocks: any kernel, stride, padding, dilation and number of groups.

Inputs and outputs are stored as (N, C/b, H, W, b). A register tile of ``pixels`` x ``vectors`` outputs is summed over
all input channels and kernel positions. Kernel positions outside the image are left out of the code of the columns at
its sides, and out of the loop over kernel rows at its top and bottom, so no padded copy of the input is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import Sums, add_products, element, last_moved_back, read_run, shared_items
from cospipe.backends.tvm.kernels.window import Window
from cospipe.backends.tvm.tiling import FP32_BYTES, Core, register_tile, runs_channels_outside, tile_starts

NAME = "convolution"


@dataclass(frozen=True)
class Convolution:
    """A direct convolution.

    Parameters
    ----------
    batch : int
        Images.
    groups : int
        Groups, several of the network's merged into each so that it fills whole channel blocks.
    input_channels, output_channels : int
        Of one group, padded to whole blocks.
    input_block, output_block : int
        Channels stored side by side; an input block of 1 is plain NCHW.
    rows, columns : Window
        How the kernel slides.
    tile_columns, tile_vectors : int
        The register tile.
    """

    batch: int
    groups: int
    input_channels: int
    output_channels: int
    input_block: int
    output_block: int
    rows: Window
    columns: Window
    tile_columns: int
    tile_vectors: int

    @classmethod
    def read(cls, options: dict[str, Any]) -> Convolution:
        """Return the convolution that a kernel was declared with."""
        rows, columns = Window(**options["rows"]), Window(**options["columns"])
        return cls(**{**options, "rows": rows, "columns": columns})

    @property
    def vectors(self) -> int:
        """Output channel blocks of one group."""
        return self.output_channels // self.output_block

    @property
    def channel_tiles(self) -> int:
        """Register tiles along the output channels of one group."""
        return ceil(self.vectors / self.tile_vectors)

    @property
    def input_blocks(self) -> int:
        """Input channel blocks of one group."""
        return self.input_channels // self.input_block

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.batch, self.groups * self.vectors, self.rows.output, self.columns.output, self.output_block

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weight: one stream a register tile."""
        width = self.tile_vectors * self.output_block
        kernel = self.rows.kernel, self.columns.kernel
        return self.groups, self.channel_tiles, self.input_blocks, *kernel, self.input_block, width

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those at the padding included."""
        outputs = self.batch * self.groups * self.output_channels * self.rows.output * self.columns.output
        return outputs * self.input_channels * self.rows.kernel * self.columns.kernel


def choose_tile(columns: int, vectors: int, core: Core) -> tuple[int, int]:
    """Return the columns and vectors of the register tile."""
    tile = register_tile(columns, vectors, core)
    return tile.pixels, tile.vectors


def pack_weight(weight: te.Tensor, convolution: Convolution, groups: int, merged_groups: int) -> te.Tensor:
    """Return a weight in the order the kernel reads it.

    Parameters
    ----------
    weight : te.Tensor
        Shape (output channels, input channels of a group, kernel rows, kernel columns).
    convolution : Convolution
        What it is packed for.
    groups : int
        Groups of the weight.
    merged_groups : int
        How many of them make one group of the convolution, whose last may get fewer; channels of different ones get
        zeros.
    """
    outputs, inputs = (int(extent) for extent in weight.shape[:2])
    group_outputs = outputs // groups
    block, vectors = convolution.output_block, convolution.vectors

    def packed(*index: Expr) -> Expr:
        group, tile, input_block, row, column, lane, channel = index
        first = last_moved_back(tile, convolution.tile_vectors, vectors)
        output, source = first * block + channel, input_block * convolution.input_block + lane
        exists = tirx.all(output < group_outputs * merged_groups, source < inputs * merged_groups)
        if merged_groups > 1:
            exists = tirx.all(exists, output // group_outputs == source // inputs)
        stored = group * group_outputs * merged_groups + output
        if groups % merged_groups:
            exists = tirx.all(exists, stored < outputs)
        value = weight(stored, source % inputs, row, column)
        return tirx.if_then_else(exists, value, tirx.const(0.0, "float32"))

    return te.compute(convolution.weight_shape, packed, name="packed_weight")


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the convolution with its loops."""
    convolution = Convolution.read(kernel.options)
    return kernel.emitted(lambda: emit_loops(kernel, convolution, core))


def emit_loops(kernel: FusedKernel, convolution: Convolution, core: Core) -> None:
    """Emit the loops of a convolution, which may be one of several that make a kernel."""
    _Emitter(kernel, convolution, core).emit()


def emit_tile(
    kernel: FusedKernel, convolution: Convolution, core: Core, outer: tuple[Expr, Expr, Expr], row: Expr, start: Expr
) -> None:
    """Emit one register tile.

    Parameters
    ----------
    kernel : FusedKernel
        The tensors, and where results go.
    convolution : Convolution
        What is computed.
    core : Core
        Where it runs.
    outer : tuple of Expr
        Image, group, and which register tile along the output channels.
    row, start : Expr
        Of outputs; the tile begins at column ``start``.
    """
    _Emitter(kernel, convolution, core).tile(*outer, row, start)


class _Emitter:
    def __init__(self, kernel: FusedKernel, convolution: Convolution, core: Core) -> None:
        self.data, self.weight = kernel.inputs
        self.epilogue, self.convolution, self.core = kernel.epilogue, convolution, core

    def emit(self) -> None:
        c = self.convolution
        extents = [c.batch, c.groups, c.channel_tiles, c.rows.output]
        if not self._channels_outside():
            extents = [c.batch, c.groups, c.rows.output, c.channel_tiles]
        cycles = c.macs / (self.core.lanes * self.core.fma_per_cycle)
        with shared_items(extents, cycles, self.core) as (image, group, third, fourth):
            tile, row = (third, fourth) if self._channels_outside() else (fourth, third)
            for first, is_static in self._column_tiles():
                if is_static:
                    self.tile(image, group, tile, row, first)
                else:
                    with T.serial(*first) as column_tile:
                        start = last_moved_back(column_tile, c.tile_columns, c.columns.output)
                        self.tile(image, group, tile, row, start)

    def _channels_outside(self) -> bool:
        c = self.convolution
        input_bytes = c.input_channels * c.rows.input * c.columns.input * FP32_BYTES
        weight_bytes = c.output_channels * c.input_channels * c.rows.kernel * c.columns.kernel * FP32_BYTES
        return runs_channels_outside(input_bytes, weight_bytes, c.channel_tiles, c.rows.output, self.core)

    def _column_tiles(self) -> list[tuple[Any, bool]]:
        """Tiles whose taps partly leave the image, each with code of its own, and runs of all the others."""
        c = self.convolution
        starts = tile_starts(c.columns.output, c.tile_columns)
        if c.columns.loops_over_taps:
            return [((0, len(starts)), False)]
        tiles: list[tuple[Any, bool]] = []
        for number, start in enumerate(starts):
            if self._is_cut(start):
                tiles.append((start, True))
            elif tiles and not tiles[-1][1]:
                tiles[-1] = ((tiles[-1][0][0], number + 1), False)
            else:
                tiles.append(((number, number + 1), False))
        return tiles

    def _is_cut(self, start: int) -> bool:
        columns = self.convolution.columns
        last = start + self.convolution.tile_columns - 1
        return not (columns.is_inside(start, 0) and columns.is_inside(last, columns.kernel - 1))

    def tile(self, image: Expr, group: Expr, tile: Expr, row: Expr, start: Expr) -> None:
        """Emit the sums of a register tile and their store."""
        c = self.convolution
        sums = Sums(c.tile_columns, c.tile_vectors, c.output_block)
        with T.serial(c.input_blocks) as block, T.serial(*c.rows.taps(row)) as kernel_row:
            source = [image, group * c.input_blocks + block, c.rows.position(row, kernel_row)]
            weight = [group, tile, block, kernel_row]
            if c.columns.loops_over_taps:
                self._products_of_long_row(sums, source, weight, start)
            elif self._reads_runs(start):
                self._products_of_run(sums, source, weight, start)
            elif isinstance(start, int) or c.input_block == 1:
                for kernel_column in range(c.columns.kernel):
                    self._products(sums, source, weight, start, kernel_column)
            else:
                with T.serial(c.columns.kernel) as kernel_column:
                    self._products(sums, source, weight, start, kernel_column)
        self._store(sums, image, group, tile, row, start)

    def _products_of_long_row(self, sums: Sums, source: Sequence[Expr], weight: Sequence[Expr], start: Expr) -> None:
        self.convolution.columns.each_tap(
            start,
            self.convolution.tile_columns,
            lambda tap, is_shared: self._products(sums, source, weight, start, tap, is_shared),
        )

    def _reads_runs(self, start: Expr) -> bool:
        """Whether neighbouring columns of a plain image are read as vectors, whose lanes then multiply."""
        is_plain = len(self.data.ty.shape) == 4 and not isinstance(start, int)
        return is_plain and self.core.multiplies_by_lane and self._run >= self.core.lanes

    @property
    def _run(self) -> int:
        """Input columns that the taps of a register tile cover."""
        columns = self.convolution.columns
        last = (self.convolution.tile_columns - 1) * columns.stride
        return last + (columns.kernel - 1) * columns.dilation + 1

    def _products_of_run(self, sums: Sums, source: Sequence[Expr], weight: Sequence[Expr], start: Expr) -> None:
        c = self.convolution
        first = c.columns.position(start, 0)
        number = read_run(self._run, self.core.lanes, lambda offset: element(self.data, *source, first + offset))
        for tap in range(c.columns.kernel):
            at = {j: number(j * c.columns.stride + tap * c.columns.dilation) for j in range(c.tile_columns)}
            self._products_of_numbers(sums, at, [*weight, tap])

    def _products_of_numbers(self, sums: Sums, at: dict[int, Expr], weight: Sequence[Expr]) -> None:
        pixels = {column: _always(number) for column, number in at.items()}
        add_products(sums, pixels, lambda channel, lane: element(self.weight, *weight, channel, lane), 1, self.core)

    def _products(
        self,
        sums: Sums,
        source: Sequence[Expr],
        weight: Sequence[Expr],
        start: Expr,
        kernel_column: Expr,
        is_inside: bool = True,
    ) -> None:
        """Add the products of one kernel position with one block of input channels."""
        c = self.convolution
        columns = [
            column
            for column in range(c.tile_columns)
            if not isinstance(start, int) or c.columns.is_inside(start + column, kernel_column)
        ]
        if not columns:
            return
        position = [*weight, kernel_column]
        add_products(
            sums,
            {column: self._pixel(source, start + column, kernel_column, is_inside) for column in columns},
            lambda channel, lane: element(self.weight, *position, channel, lane),
            c.input_block,
            self.core,
        )

    def _pixel(
        self, source: Sequence[Expr], output: Expr, kernel_column: Expr, is_inside: bool
    ) -> Callable[[Expr], Expr]:
        columns = self.convolution.columns
        position = columns.position(output, kernel_column)
        is_plain = len(self.data.ty.shape) == 4

        def pixel(channel: Expr) -> Expr:
            value = (
                element(self.data, *source, position) if is_plain else element(self.data, *source, position, channel)
            )
            return value if is_inside else columns.if_inside(output, kernel_column, value)

        return pixel

    def _store(self, sums: Sums, image: Expr, group: Expr, tile: Expr, row: Expr, start: Expr) -> None:
        c = self.convolution
        first = group * c.vectors + last_moved_back(tile, c.tile_vectors, c.vectors)
        with T.vectorized(c.output_block) as lane:
            for vector in range(c.tile_vectors):
                for column in range(c.tile_columns):
                    index = [image, first + vector, row, start + column, lane]
                    self.epilogue.store(index, sums.get(column, vector, lane))


def _always(number: Expr) -> Callable[[Expr], Expr]:
    return lambda _channel: number
