"""Tiles under a sliding window lie in the image and in the registers, and no other tile of theirs is cheaper."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.tvm.tiling import Core
from cospipe.backends.tvm.window_tiling import Slide, WindowTile, depthwise_tile, holds_kernel, pooling_tile

CORES = {
    "neon": Core("aarch64", 16, 32),
    "armv7": Core("armv7", 16, 16),
    "avx2": Core("x86_64", 32, 16, fma_per_cycle=2),
    "avx512": Core("x86_64", 64, 32),
}
SLIDES = st.builds(Slide, st.integers(1, 120), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3))


@given(slide=SLIDES, tile=st.integers(1, 12))
def test_the_inputs_of_a_tile_are_counted_once(slide, tile):
    read = {output * slide.stride + tap * slide.dilation for output in range(tile) for tap in range(slide.kernel)}
    assert slide.reads(tile) == len(read)


@given(rows=SLIDES, columns=SLIDES, core=st.sampled_from(list(CORES.values())))
def test_tiles_lie_in_the_image_and_their_sums_in_registers(rows, columns, core):
    for tile in (depthwise_tile(rows, columns, core), pooling_tile(rows, columns, core)):
        assert 1 <= tile.rows <= rows.outputs
        assert 1 <= tile.columns <= columns.outputs
        assert tile == WindowTile(1, 1) or tile.rows * tile.columns < core.registers


@given(rows=SLIDES, columns=SLIDES, core=st.sampled_from(list(CORES.values())))
def test_several_rows_share_inputs_only_while_the_kernel_is_in_registers(rows, columns, core):
    tile = depthwise_tile(rows, columns, core)
    assert tile.rows == 1 or holds_kernel(tile, rows, columns, core)


@pytest.mark.parametrize("size", [14, 28, 56, 112])
@pytest.mark.parametrize("core", ["neon", "avx512"])
def test_a_usual_kernel_stays_in_registers_and_its_rows_are_shared(size, core):
    slide = Slide(size, 3, 1, 1)
    tile = depthwise_tile(slide, slide, CORES[core])
    assert holds_kernel(tile, slide, slide, CORES[core])
    assert tile.rows >= 2
    assert tile.rows * tile.columns >= 12  # enough sums to hide how long one multiply-add takes


@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize("core", CORES)
def test_a_large_kernel_is_read_row_by_row(kernel, core):
    slide = Slide(28, kernel, 1, 1)
    tile = depthwise_tile(slide, slide, CORES[core])
    assert not holds_kernel(tile, slide, slide, CORES[core])
    assert tile.columns + kernel <= CORES[core].registers


def test_a_tile_divides_a_row_of_outputs_where_that_costs_nothing():
    slide = Slide(56, 3, 1, 1)
    assert 56 % depthwise_tile(slide, slide, CORES["neon"]).columns == 0
