"""Tile sizes by formula, from the shape of a kernel and the registers of a core. Knows no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

_FP32_BYTES = 4
_MOST_COLUMNS = 16
_STACK_TILE_BYTES = 1024
"""TVM keeps a buffer on the stack, and so in registers, up to this size; a larger one becomes a heap workspace."""


@dataclass(frozen=True)
class VectorUnit:
    """Vector registers of one core.

    Parameters
    ----------
    simd_bytes : int
        Width of a register.
    registers : int
        How many there are.
    """

    simd_bytes: int
    registers: int

    @property
    def lanes(self) -> int:
        """FP32 numbers in one register."""
        return max(1, self.simd_bytes // _FP32_BYTES)


@dataclass(frozen=True)
class OutputTile:
    """Part of an output that one pass over the reduction computes: channels x rows x columns."""

    channels: int
    rows: int
    columns: int


def output_tile(channels: int, rows: int, columns: int, shares_input: bool, unit: VectorUnit) -> OutputTile:
    """Choose the output tile whose accumulators fill the registers and whose columns fill one's lanes.

    Long vectors of odd length are avoided, LLVM does not keep them in registers: a 3x3 convolution on 56 columns ran
    eight times slower with one 56-wide vector than with four of 14, one on 111 columns five times slower with 37
    columns than with 3 (AVX-512). With four lanes, up to 16 columns beat one register.

    Parameters
    ----------
    channels, rows, columns : int
        Shape of the output of one image.
    shares_input : bool
        Whether output channels read the same input (a dense convolution); a tile of several channels then loads each
        input vector once for all of them. Otherwise (depthwise, pooling) only rows are added to the tile.
    unit : VectorUnit
        Registers of the core.
    """
    width = _columns(columns, unit)
    vectors = ceil(width / unit.lanes)
    accumulators = max(1, min(unit.registers - 4, _STACK_TILE_BYTES // unit.simd_bytes) // vectors)
    if not shares_input:
        return OutputTile(1, largest_divisor(rows, min(accumulators, 8)), width)
    height = largest_divisor(rows, max(1, accumulators // largest_divisor(channels, 4)))
    return OutputTile(largest_divisor(channels, accumulators // height), height, width)


def product_tile(rows: int, outputs: int, unit: VectorUnit) -> OutputTile:
    """Choose how many rows and outputs of a matrix product accumulate at once, one register each."""
    accumulators = max(1, min(unit.registers // 2, _STACK_TILE_BYTES // unit.simd_bytes))
    height = largest_divisor(rows, min(accumulators, 4))
    return OutputTile(1, height, largest_divisor(outputs, accumulators // height))


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of ``number`` that is at most ``limit``."""
    return max(d for d in range(1, min(number, limit) + 1) if number % d == 0)


def _columns(columns: int, unit: VectorUnit) -> int:
    """Divisor of the width that fills the lanes of one register best; of a few short registers where none does."""
    in_one = largest_divisor(columns, unit.lanes)
    if in_one > unit.lanes // 2:
        return in_one
    few = largest_filling(columns, max(unit.lanes, _MOST_COLUMNS), unit)
    return few if few > 1 else largest_filling(columns, 4 * unit.lanes, unit)


def largest_filling(columns: int, limit: int, unit: VectorUnit) -> int:
    """Return the divisor up to a limit that leaves the fewest lanes empty; the smallest of several."""
    divisors = [d for d in range(1, min(columns, limit) + 1) if columns % d == 0]
    return max(divisors, key=lambda d: (d / (ceil(d / unit.lanes) * unit.lanes), -d))
