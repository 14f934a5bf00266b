"""Transposed convolution over channel blocks: any kernel, stride, padding, dilation and number of groups.

Along an axis, output o is the sum over taps k of input (o + padding - k * dilation) / stride, where that is whole. So
outputs whose positions leave the same remainder when divided by the stride, a phase, read the same taps, from inputs
side by side: a phase is a direct convolution of stride 1. Its outputs are stored with a distance of the stride.

Few phases have code of their own each. The hundreds of a large stride are a loop, and the taps of each are loops too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, gcd
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels import convolution as direct
from cospipe.backends.tvm.kernels.convolution import Convolution
from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import Epilogue, FusedKernel
from cospipe.backends.tvm.kernels.loops import shared_items
from cospipe.backends.tvm.kernels.window import LoopedWindow, Window
from cospipe.backends.tvm.tiling import Core

NAME = "transposed_convolution"
_MOST_UNROLLED_PHASES = 16


@dataclass(frozen=True)
class Phase:
    """Every ``step``-th output of an axis from ``first`` on, as a convolution of stride 1.

    Parameters
    ----------
    first, step : Expr, int
        Which outputs.
    last_tap, tap_step : Expr, int
        The convolution's taps are these taps of the kernel, from the last one on.
    window : Window
        How the convolution slides; its kernel is 0 when no tap hits these outputs.
    """

    first: Expr
    step: int
    last_tap: Expr
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

    @property
    def narrowest(self) -> int:
        """Outputs of the phase with the fewest."""
        return max(1, self.output // self.stride)

    @property
    def can_loop(self) -> bool:
        """Whether some tap hits every phase of a kernel that is large enough, so that all can be computed alike."""
        return gcd(self.stride, self.dilation) == 1

    def looped_phase(self, first: Expr) -> Phase:
        """Return the phase of an output that is known only when the code runs."""
        reached = first + self.padding
        first_tap = reached * pow(self.dilation, -1, self.stride) % self.stride if self.stride > 1 else 0
        taps = (self.kernel - first_tap + self.stride - 1) // self.stride
        last_tap = first_tap + (taps - 1) * self.stride
        padding = (last_tap * self.dilation - reached) // self.stride
        outputs = (self.output - first + self.stride - 1) // self.stride
        window = LoopedWindow(self.input, outputs, taps, 1, padding, self.dilation)
        return Phase(first, self.stride, last_tap, self.stride, window)

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

    @property
    def channel_tiles(self) -> int:
        """Register tiles along the output channels of one group."""
        return ceil(self.output_channels // self.output_block / self.tile_vectors)

    @property
    def loops_over_phases(self) -> bool:
        """Whether there are too many phases to write code for each."""
        can_loop = self.rows.can_loop and self.columns.can_loop
        return can_loop and self.rows.stride * self.columns.stride > _MOST_UNROLLED_PHASES

    def convolution(self, rows: Window, columns: Window, most_columns: int) -> Convolution:
        """Return the direct convolution with these windows, whose register tile has at most some columns."""
        return Convolution(
            batch=self.batch,
            groups=self.groups,
            input_channels=self.input_channels,
            output_channels=self.output_channels,
            input_block=self.input_block,
            output_block=self.output_block,
            rows=rows,
            columns=columns,
            tile_columns=min(self.tile_columns, most_columns),
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
    return direct.pack_weight(turned, transposed.convolution(rows, columns, 1), groups, merged_groups)


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the convolution with its loops."""
    transposed = TransposedConvolution.read(kernel.options)
    emit_phases = _emit_looped_phases if transposed.loops_over_phases else _emit_phases
    return kernel.emitted(lambda: emit_phases(kernel, transposed, core))


def _emit_phases(kernel: FusedKernel, transposed: TransposedConvolution, core: Core) -> None:
    for rows in transposed.rows.phases:
        for columns in transposed.columns.phases:
            convolution = transposed.convolution(rows.window, columns.window, columns.window.output)
            phase = _of_phase(kernel, rows, columns)
            if rows.window.kernel and columns.window.kernel:
                direct.emit_loops(phase, convolution, core)
            else:
                _emit_zeros(phase.epilogue, convolution, core)


def _emit_looped_phases(kernel: FusedKernel, transposed: TransposedConvolution, core: Core) -> None:
    """Emit one register tile, in loops over everything else."""
    rows, columns = transposed.rows, transposed.columns
    extents = [transposed.batch, transposed.groups, transposed.channel_tiles, rows.output]
    with (
        shared_items(extents, _cycles(transposed, core), core) as (image, group, tile, row),
        T.serial(min(columns.stride, columns.output)) as first,
    ):
        row_phase, column_phase = rows.looped_phase(row % rows.stride), columns.looped_phase(first)
        phase = _of_phase(kernel, row_phase, column_phase)
        convolution = transposed.convolution(row_phase.window, column_phase.window, columns.narrowest)
        outputs, size = column_phase.window.output, convolution.tile_columns
        with T.serial((outputs + size - 1) // size) as number:
            start = T.min(number * size, outputs - size)
            direct.emit_tile(phase, convolution, core, (image, group, tile), row // rows.stride, start)


def _cycles(transposed: TransposedConvolution, core: Core) -> float:
    taps = transposed.rows.kernel * transposed.columns.kernel
    inputs = transposed.batch * transposed.groups * transposed.rows.input * transposed.columns.input
    macs = inputs * transposed.input_channels * transposed.output_channels * taps
    return macs / (core.lanes * core.fma_per_cycle)


def _of_phase(kernel: FusedKernel, rows: Phase, columns: Phase) -> FusedKernel:
    """Return the kernel with the weights of a phase, and its outputs' places."""
    data, weight = kernel.inputs
    epilogue = _SpreadOut(**vars(kernel.epilogue), rows=rows, columns=columns)
    return replace(kernel, inputs=(data, _PhaseWeight(weight, rows, columns)), epilogue=epilogue)


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
