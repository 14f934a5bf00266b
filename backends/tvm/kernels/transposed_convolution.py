"""Transposed convolution over channel blocks: any kernel, stride, padding, dilation and number of groups.

Along an axis, output o is the sum over taps k of input (o + padding - k * dilation) / stride, where that is whole. So
outputs whose positions leave the same remainder when divided by the stride, a phase, read the same taps, from inputs
side by side: a phase is a direct convolution of stride 1. Its outputs are stored with a distance of the stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, gcd
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels import convolution as direct
from cospipe.backends.tvm.kernels.convolution import Convolution, Window
from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import Epilogue, FusedKernel
from cospipe.backends.tvm.kernels.loops import shared_items
from cospipe.backends.tvm.tiling import Core

NAME = "transposed_convolution"


@dataclass(frozen=True)
class Phase:
    """Every ``step``-th output of an axis from ``first`` on, as a convolution of stride 1.

    Parameters
    ----------
    first, step : int
        Which outputs.
    last_tap, tap_step : int
        The convolution's taps are these taps of the kernel, from the last one on.
    window : Window
        How the convolution slides; its kernel is 0 when no tap hits these outputs.
    """

    first: int
    step: int
    last_tap: int
    tap_step: int
    window: Window

    def output(self, number: Expr) -> Expr:
        """Return the position of one of the outputs."""
        return self.first + self.step * number

    def tap(self, number: Expr) -> Expr:
        """Return which tap of the kernel a tap of the convolution is."""
        return self.last_tap - self.tap_step * number


@dataclass(frozen=True)
class Axis:
    """One axis of a transposed convolution, as PyTorch describes it."""

    input: int
    output: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def phases(self) -> list[Phase]:
        """All outputs, divided into phases."""
        return [self._phase(first) for first in range(min(self.stride, self.output))]

    def _phase(self, first: int) -> Phase:
        taps = [tap for tap in range(self.kernel) if (first + self.padding - tap * self.dilation) % self.stride == 0]
        last_tap = taps[-1] if taps else 0
        common = gcd(self.stride, self.dilation)
        padding = (last_tap * self.dilation - first - self.padding) // self.stride
        outputs = len(range(first, self.output, self.stride))
        window = Window(self.input, outputs, len(taps), 1, padding, self.dilation // common)
        return Phase(first, self.stride, last_tap, self.stride // common, window)


@dataclass(frozen=True)
class TransposedConvolution:
    """A transposed convolution.

    Parameters
    ----------
    batch : int
        Images.
    groups : int
        Groups, merged until each fills whole channel blocks.
    input_channels, output_channels : int
        Of one group, padded to whole blocks.
    input_block, output_block : int
        Channels stored side by side.
    rows, columns : Axis
        How the kernel is spread.
    tile_columns, tile_vectors : int
        The register tile of one phase.
    """

    batch: int
    groups: int
    input_channels: int
    output_channels: int
    input_block: int
    output_block: int
    rows: Axis
    columns: Axis
    tile_columns: int
    tile_vectors: int

    @classmethod
    def read(cls, options: dict[str, Any]) -> TransposedConvolution:
        """Return the convolution that a kernel was declared with."""
        return cls(**{**options, "rows": Axis(**options["rows"]), "columns": Axis(**options["columns"])})

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        blocks = self.groups * self.output_channels // self.output_block
        return self.batch, blocks, self.rows.output, self.columns.output, self.output_block

    def convolution(self, rows: Window, columns: Window) -> Convolution:
        """Return the direct convolution with these windows."""
        return Convolution(
            batch=self.batch,
            groups=self.groups,
            input_channels=self.input_channels,
            output_channels=self.output_channels,
            input_block=self.input_block,
            output_block=self.output_block,
            rows=rows,
            columns=columns,
            tile_columns=min(self.tile_columns, columns.output),
            tile_vectors=self.tile_vectors,
        )


def choose_tile(columns: Axis, vectors: int, core: Core) -> tuple[int, int]:
    """Return the columns and vectors of the register tile for the widest phase."""
    return direct.choose_tile(ceil(columns.output / columns.stride), vectors, core)


def pack_weight(weight: te.Tensor, transposed: TransposedConvolution, groups: int, merged_groups: int) -> te.Tensor:
    """Return a weight in the order the kernel reads it.

    Parameters
    ----------
    weight : te.Tensor
        Shape (input channels, output channels of a group, kernel rows, kernel columns).
    transposed : TransposedConvolution
        What it is packed for.
    groups : int
        Groups of the weight.
    merged_groups : int
        How many of them make one group of the convolution.
    """
    inputs, group_outputs, *kernel = (int(extent) for extent in weight.shape)
    group_inputs = inputs // groups

    def dense(output: Expr, source: Expr, row: Expr, column: Expr) -> Expr:
        return weight(output // group_outputs * group_inputs + source, output % group_outputs, row, column)

    turned = te.compute((groups * group_outputs, group_inputs, *kernel), dense, name="turned_weight")
    rows, columns = (Window(extent, 1, extent, 1, 0, 1) for extent in kernel)
    return direct.pack_weight(turned, transposed.convolution(rows, columns), groups, merged_groups)


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the convolution with its loops."""
    return kernel.emitted(lambda: _emit_phases(kernel, TransposedConvolution.read(kernel.options), core))


def _emit_phases(kernel: FusedKernel, transposed: TransposedConvolution, core: Core) -> None:
    data, weight = kernel.inputs
    for rows in transposed.rows.phases:
        for columns in transposed.columns.phases:
            convolution = transposed.convolution(rows.window, columns.window)
            epilogue = _SpreadOut(**vars(kernel.epilogue), rows=rows, columns=columns)
            if rows.window.kernel and columns.window.kernel:
                phase = replace(kernel, inputs=(data, _PhaseWeight(weight, rows, columns)), epilogue=epilogue)
                direct.emit_loops(phase, convolution, core)
            else:
                _emit_zeros(epilogue, convolution, core)


def _emit_zeros(epilogue: Epilogue, convolution: Convolution, core: Core) -> None:
    """Store outputs that no input reaches."""
    batch, blocks, rows, columns, lanes = convolution.output_shape
    with (
        shared_items([batch, blocks, rows], batch * blocks * rows * columns, core) as (image, block, row),
        T.serial(columns) as column,
        T.vectorized(lanes) as lane,
    ):
        epilogue.store([image, block, row, column, lane], tirx.const(0.0, "float32"))


@dataclass(frozen=True)
class _PhaseWeight:
    """The packed weight as the convolution of a phase reads it."""

    weight: Any
    rows: Phase
    columns: Phase

    def __getitem__(self, index: Sequence[Expr]) -> Expr:
        group, tile, block, row, column, channel, lane = index
        return self.weight[group, tile, block, self.rows.tap(row), self.columns.tap(column), channel, lane]


@dataclass(frozen=True)
class _SpreadOut(Epilogue):
    """An epilogue that stores the outputs of a phase at their places."""

    rows: Phase
    columns: Phase

    def store(self, index: Sequence[Expr], total: Expr) -> None:
        """Emit the store of one output."""
        image, block, row, column, lane = index
        super().store([image, block, self.rows.output(row), self.columns.output(column), lane], total)
