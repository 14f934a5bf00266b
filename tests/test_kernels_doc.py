"""The tiles in docs/kernels.md are those that the formulas choose."""

import re
from math import ceil
from pathlib import Path

import pytest

from cospipe.backends.tvm.tiling import (
    Core,
    RegisterTile,
    channel_block,
    register_tile,
    registers_of_tile,
    tile_cycles,
    tile_instructions,
)

PAGE = (Path(__file__).parents[1] / "docs" / "kernels.md").read_text(encoding="utf-8")
NEON = Core("aarch64", 16, 32)
CORES = (NEON, Core("armv7", 16, 16), Core("x86_64", 32, 16, fma_per_cycle=2), Core("x86_64", 64, 32, fma_per_cycle=2))


def rows_below(header):
    """Cells of the table whose first column has this header."""
    table = PAGE[PAGE.index(f"| {header} |") :].split("\n\n")[0]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.splitlines()[2:]]


def sizes(text):
    return tuple(int(number) for number in re.fullmatch(r"(\d+) x (\d+)", text).groups())


def blocks(channels, core):
    return ceil(channels / channel_block(channels, core.lanes))


def test_tiles_that_are_compared():
    rows = rows_below("tile on NEON")
    assert len(rows) >= 4
    for cells in rows:
        tile = RegisterTile(*sizes(cells[0]))
        whole = tile_cycles(56, blocks(64, NEON), tile, NEON)
        step = tile_cycles(tile.pixels, tile.vectors, tile, NEON)
        expected = registers_of_tile(tile.pixels, tile.vectors, NEON), round(step, 2), round(whole, 1)
        assert tuple(float(cell) for cell in cells[1:]) == pytest.approx(expected, abs=0.011)
    chosen = register_tile(56, blocks(64, NEON), NEON)
    fewest = min(float(cells[3]) for cells in rows)
    fast = [RegisterTile(*sizes(cells[0])) for cells in rows if float(cells[3]) <= 1.02 * fewest]
    assert min(fast, key=lambda tile: tile_instructions(56, blocks(64, NEON), tile, NEON)) == chosen


@pytest.mark.parametrize("cells", rows_below("columns x channels"), ids=lambda cells: cells[0])
def test_tiles_of_layers(cells):
    columns, channels = sizes(cells[0])
    tiles = [register_tile(columns, blocks(channels, core), core) for core in CORES]
    assert list(cells[1:]) == [f"{tile.pixels} x {tile.vectors}" for tile in tiles]
