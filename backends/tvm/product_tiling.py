"""Tile sizes of matrix products by formula. Knows no TVM.

Unlike the pixels of an image, the rows of a matrix are often a power of two apart, and its weights are read from memory
for each tile of columns anew: both count here.
"""

from __future__ import annotations

from functools import cache
from math import ceil, gcd

from cospipe.backends.tvm.tiling import Core, RegisterTile, registers_of_tile, tile_cycles

_MOST_STREAMS = 8
_MOST_DOT_ROWS = 3
_STREAMED_BYTES_PER_CYCLE = 8
"""What a core reads from memory when it reads on and on."""
_X86_L1_WAY_BYTES = 4096
_ARM_L1_WAYS = 4


@cache
def matrix_tile(rows: int, columns: int, row_bytes: int, core: Core) -> RegisterTile:
    """Choose the tile, rows x vectors of columns, that computes a matrix product in the fewest cycles.

    The weights of a tile of columns come from memory while its first rows are computed, and from the L2 for the others.

    Parameters
    ----------
    rows, columns : int
        Of the product; tiles may overlap at any column.
    row_bytes : int
        From one row of the left matrix to the next.
    core : Core
        Where the kernel runs.
    """

    def cycles(tile: RegisterTile) -> float:
        step = tile_cycles(tile.pixels, tile.vectors, tile, core)
        fetching = tile.vectors * core.simd_bytes / _STREAMED_BYTES_PER_CYCLE
        column_tiles = ceil(columns / (tile.vectors * core.lanes))
        return column_tiles * (max(step, fetching) + (ceil(rows / tile.pixels) - 1) * step)

    vectors = range(1, min(max(1, columns // core.lanes), core.registers) + 1)
    most_rows = min(rows, core.registers, _rows_in_l1(row_bytes, core))
    tiles = [RegisterTile(p, v) for v in vectors for p in range(1, most_rows + 1)]
    fitting = [tile for tile in tiles if registers_of_tile(tile.pixels, tile.vectors, core) <= core.registers]
    return min(fitting or tiles[:1], key=lambda tile: (round(cycles(tile), 3), -tile.pixels))


@cache
def dot_tile(rows: int, outputs: int, row_bytes: int, core: Core) -> RegisterTile:
    """Choose how many rows (``pixels``) are multiplied with how many rows of a weight (``vectors``) at once.

    Each of the latter is a stream from memory. The registers hold the sums, the data and the weights.

    Parameters
    ----------
    rows, outputs : int
        Of the data and of the weight.
    row_bytes : int
        Of a row of the weight.
    core : Core
        Where the kernel runs.
    """
    tile_rows = min(rows, _MOST_DOT_ROWS)
    fitting = (core.registers - tile_rows - 2) // (tile_rows + 1)
    most = max(1, min(outputs, _MOST_STREAMS, fitting, _rows_in_l1(row_bytes, core)))
    streams = min(range(1, most + 1), key=lambda count: (ceil(outputs / count) * (count + 1), -count))
    return RegisterTile(tile_rows, streams)


def _rows_in_l1(row_bytes: int, core: Core) -> int:
    """Return how many rows the L1 can hold a piece of, each from the same position of its row.

    A cache has few places for addresses whose distance is a multiple of the size of one of its ways: 4 KiB on x86, a
    quarter of the cache on ARM.
    """
    ways = _ARM_L1_WAYS if core.multiplies_by_lane else max(1, core.l1_bytes // _X86_L1_WAY_BYTES)
    way_bytes = core.l1_bytes // ways
    return ways * (way_bytes // gcd(row_bytes, way_bytes))
