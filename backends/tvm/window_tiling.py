"""Tiles of outputs under a sliding window, by formula: depthwise convolution and pooling. Knows no TVM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import ceil

from cospipe.backends.tvm.tiling import Core

_MOST_ROWS = 4
_MOST_UNROLLED_KERNEL_ROWS = 3
_LATENCY_CYCLES = 6
"""More than of one multiply-add: the first and the last of a tile wait for the tiles before and behind it."""
_LOOP_CYCLES = 2
_TILE_CYCLES = 4
"""Finding where a tile starts and which of its rows leave the image."""


@dataclass(frozen=True)
class Slide:
    """How a window slides along one axis, as far as tiles depend on it."""

    outputs: int
    kernel: int
    stride: int
    dilation: int
    loops_over_taps: bool = False

    def reads(self, tile: int) -> int:
        """Return how many different input positions the windows of ``tile`` outputs side by side look at."""
        return len({o * self.stride + k * self.dilation for o in range(tile) for k in range(self.kernel)})


@dataclass(frozen=True)
class WindowTile:
    """Outputs of one channel block that are computed together, from inputs that are read once for all of them."""

    rows: int
    columns: int


def holds_kernel(tile: WindowTile, rows: Slide, columns: Slide, core: Core) -> bool:
    """Tell whether the whole kernel of a depthwise convolution stays in registers beside the sums of a tile."""
    if columns.loops_over_taps:
        return False
    return tile.rows * tile.columns + rows.kernel * columns.kernel + _spare_registers(core) <= core.registers


@cache
def depthwise_tile(rows: Slide, columns: Slide, core: Core) -> WindowTile:
    """Choose the tile of a depthwise convolution that needs the fewest cycles for the whole image.

    A small kernel stays in registers, and every input is read once for all outputs of a tile of several rows. Of a
    larger one, a row of weights after the other is read for each tile of one row; of one with long rows, each weight.

    Parameters
    ----------
    rows, columns : Slide
        How the kernel slides.
    core : Core
        Where it runs.
    """
    taps = rows.kernel * columns.kernel

    def fits(tile: WindowTile) -> bool:
        if columns.loops_over_taps:
            return tile.rows == 1 and tile.columns + 1 + _spare_registers(core) <= core.registers
        by_kernel_rows = tile.rows == 1 and tile.columns + columns.kernel + _spare_registers(core) <= core.registers
        return by_kernel_rows or holds_kernel(tile, rows, columns, core)

    def cycles(tile: WindowTile) -> float:
        outputs = tile.rows * tile.columns
        if columns.loops_over_taps:
            return _tile_cycles(outputs * taps, taps * (outputs + 1), outputs, taps, core) + taps * _LOOP_CYCLES
        if holds_kernel(tile, rows, columns, core):
            row_taps = ceil(taps / ceil(columns.outputs / tile.columns))  # read once for a row of tiles
            loads = rows.reads(tile.rows) * columns.reads(tile.columns) + row_taps
            return _tile_cycles(outputs * taps, loads, outputs, taps, core)
        loads = rows.kernel * (columns.reads(tile.columns) + columns.kernel)
        return _tile_cycles(outputs * taps, loads, outputs, taps, core) + rows.kernel * _LOOP_CYCLES

    return _cheapest_tile(rows, columns, core, fits, cycles)


def unrolls_window(rows: Slide) -> bool:
    """Tell whether the rows of a pooling window are written out; else they are a loop, for one row of outputs."""
    return rows.kernel <= _MOST_UNROLLED_KERNEL_ROWS


@cache
def pooling_tile(rows: Slide, columns: Slide, core: Core) -> WindowTile:
    """Choose the tile of a pooling that needs the fewest cycles for the whole image.

    Each column of inputs is combined first, one register a column and output row; then the columns of each window are.
    Under a window of long rows, each output of a tile of one row is combined on its own.
    """

    def fits(tile: WindowTile) -> bool:
        if columns.loops_over_taps:
            return tile.rows == 1 and tile.columns + _spare_registers(core) <= core.registers
        is_one_row = tile.rows == 1 or unrolls_window(rows)
        return is_one_row and tile.rows * columns.reads(tile.columns) + _spare_registers(core) <= core.registers

    def cycles(tile: WindowTile) -> float:
        read, outputs = columns.reads(tile.columns), tile.rows * tile.columns
        if columns.loops_over_taps:
            taps = rows.kernel * columns.kernel
            return _tile_cycles(outputs * taps, outputs * taps, outputs, taps, core) + taps * _LOOP_CYCLES
        operations = tile.rows * read * (rows.kernel - 1) + outputs * (columns.kernel - 1)
        return _tile_cycles(operations, rows.reads(tile.rows) * read, outputs, rows.kernel, core)

    return _cheapest_tile(rows, columns, core, fits, cycles)


def _cheapest_tile(
    rows: Slide,
    columns: Slide,
    core: Core,
    fits: Callable[[WindowTile], bool],
    cycles: Callable[[WindowTile], float],
) -> WindowTile:
    candidates = (
        WindowTile(height, width)
        for height in range(1, min(rows.outputs, _MOST_ROWS) + 1)
        for width in range(1, min(columns.outputs, core.registers) + 1)
    )
    fitting = [tile for tile in candidates if fits(tile)] or [WindowTile(1, 1)]

    def total(tile: WindowTile) -> float:
        return ceil(rows.outputs / tile.rows) * ceil(columns.outputs / tile.columns) * cycles(tile)

    return min(fitting, key=lambda tile: (round(total(tile), 3), tile.rows))


def _tile_cycles(operations: int, loads: int, stores: int, chain: int, core: Core) -> float:
    """Cycles of one tile: its arithmetic, its loads or all its instructions, and what starts and ends it."""
    instructions = (operations + loads + stores) / (3 * core.fma_per_cycle)
    busy = max(operations / core.fma_per_cycle, loads / core.fma_per_cycle, instructions, chain * _LATENCY_CYCLES)
    return busy + (0.25 * loads + stores) / core.fma_per_cycle + _TILE_CYCLES


def _spare_registers(core: Core) -> int:
    """Count registers for inputs on their way to the sums and for constants; x86 reads the latter from memory."""
    return core.registers // 4 + 1 if core.multiplies_by_lane else 2
