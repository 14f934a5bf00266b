"""Tiles of matrix products fit the registers and the L1, whatever the shape and the core."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.tvm.product_tiling import dot_tile, matrix_tile
from cospipe.backends.tvm.tiling import Core

AVX512, AVX2 = Core("x86_64", 64, 32), Core("x86_64", 32, 16)
NEON, OLD_NEON = Core("aarch64", 16, 32), Core("armv7", 16, 16)
CORES = st.sampled_from([AVX512, AVX2, NEON, OLD_NEON])
SIZES = st.integers(1, 5000)


@given(rows=SIZES, columns=SIZES, depth=SIZES, core=CORES)
def test_matrix_tiles(rows, columns, depth, core):
    tile = matrix_tile(rows, columns, 4 * depth, core)
    assert 1 <= tile.pixels <= rows
    assert 1 <= tile.vectors <= max(1, columns // core.lanes)
    assert tile.pixels * tile.vectors + tile.vectors < core.registers


@given(rows=SIZES, outputs=SIZES, depth=SIZES, core=CORES)
def test_dot_tiles(rows, outputs, depth, core):
    tile = dot_tile(rows, outputs, 4 * depth, core)
    assert 1 <= tile.pixels <= min(rows, 3)
    assert 1 <= tile.vectors <= min(outputs, 8)
    assert tile.pixels * tile.vectors + tile.pixels + tile.vectors < core.registers


@pytest.mark.parametrize(("core", "places"), [(AVX512, 8), (AVX2, 8), (NEON, 4)])
def test_rows_that_meet_in_the_same_places_of_the_l1_do_not_drive_each_other_out(core, places):
    assert matrix_tile(100, 64, 16384, core).pixels <= places
    assert dot_tile(1, 1000, 16384, core).vectors <= places


def test_few_rows_are_one_tile_so_that_a_weight_is_read_once():
    for rows in (4, 6, 8):
        assert matrix_tile(rows, 4096, 4 * 520, AVX512).pixels == rows


@pytest.mark.parametrize("columns", [10, 13, 197, 1000, 1001])
def test_shapes_that_divide_badly_cost_little(columns):
    tile = matrix_tile(197, columns, 4 * 768, AVX512)
    computed = -(-197 // tile.pixels) * tile.pixels * -(-columns // (tile.vectors * 16)) * tile.vectors * 16
    assert computed <= 1.15 * 197 * max(columns, 16)


@pytest.mark.parametrize(
    ("core", "shape", "expected"),
    [
        (AVX512, (197, 768, 4 * 768), (9, 3)),  # 27 sums, 3 weights, data from memory
        (AVX512, (128, 384, 4 * 1536), (8, 3)),
        (AVX2, (197, 768, 4 * 768), (6, 2)),
        (NEON, (197, 768, 4 * 768), (9, 2)),  # 18 sums, 9 rows, 2 weights
    ],
)
def test_the_tiles_of_networks(core, shape, expected):
    tile = matrix_tile(*shape, core)
    assert (tile.pixels, tile.vectors) == expected
