"""Tiles divide their shapes, fit the registers and stay on the stack, whatever the shape and the core."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.tvm.target import kernel_core
from cospipe.backends.tvm.tiling import (
    ConvolutionShape,
    Core,
    RegisterTile,
    channel_block,
    direct_cycles,
    largest_divisor,
    output_tile,
    register_tile,
    runs_channels_outside,
    tile_cycles,
    tile_instructions,
    tile_starts,
    winograd_cycles,
    winograd_panel,
)
from cospipe.ir.soc import load_soc, soc_names

UNITS = st.sampled_from(
    [Core("aarch64", 16, 32), Core("aarch64", 16, 16), Core("x86_64", 32, 16), Core("x86_64", 64, 32)]
)
SIZES = st.integers(1, 600)
STACK_BYTES = 1024


def registers(tile, unit):
    return tile.channels * tile.rows * -(-tile.columns // unit.lanes)


@given(channels=SIZES, rows=SIZES, columns=SIZES, shares_input=st.booleans(), unit=UNITS)
def test_output_tiles(channels, rows, columns, shares_input, unit):
    tile = output_tile(channels, rows, columns, shares_input, unit)
    assert (channels % tile.channels, rows % tile.rows, columns % tile.columns) == (0, 0, 0)
    assert registers(tile, unit) <= unit.registers - 4  # the rest holds inputs and weights
    assert tile.channels * tile.rows * tile.columns * 4 <= STACK_BYTES
    assert tile.columns <= 4 * unit.lanes
    assert shares_input or tile.channels == 1


@given(number=SIZES, limit=SIZES)
def test_the_largest_divisor_is_the_largest(number, limit):
    found = largest_divisor(number, limit)
    assert number % found == 0
    assert found <= limit
    assert not any(number % other == 0 for other in range(found + 1, min(limit, number) + 1))


@given(columns=SIZES, unit=UNITS)
def test_one_register_is_filled_where_a_divisor_does(columns, unit):
    tile = output_tile(64, 8, columns, True, unit)
    if columns % unit.lanes == 0:
        assert tile.columns == unit.lanes
    if tile.columns > unit.lanes:  # several registers only where one would be no more than half full
        assert largest_divisor(columns, unit.lanes) <= unit.lanes // 2


def test_a_usual_convolution_fills_most_registers():
    unit = Core("aarch64", 16, 32)  # Cortex-A
    assert registers(output_tile(64, 56, 56, True, unit), unit) >= 16
    assert registers(output_tile(1, 56, 56, False, unit), unit) >= 4


@pytest.mark.parametrize("simd_bytes", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_core_with_hardly_a_vector_unit_gets_small_tiles(simd_bytes, count):
    unit = Core("aarch64", simd_bytes, count)
    assert unit.lanes == 1
    assert output_tile(12, 12, 12, True, unit).channels >= 1
    assert register_tile(12, 12, unit).pixels >= 1


@pytest.mark.parametrize("name", soc_names())
def test_every_described_core_has_tiles_that_keep_it_busy(name):
    soc = load_soc(name)
    for cluster in soc.clusters:
        core = kernel_core(cluster, 1, soc.architecture)
        tile = register_tile(56, 16, core)
        assert tile.pixels * tile.vectors >= 4 * core.fma_per_cycle  # sums enough to wait for no multiply-add
        assert tile.pixels * tile.vectors + tile.vectors < core.registers


@given(pixels=SIZES, vectors=st.integers(1, 64), unit=UNITS)
def test_register_tiles_fit_and_no_other_is_much_cheaper(pixels, vectors, unit):
    tile = register_tile(pixels, vectors, unit)
    assert tile.pixels <= pixels
    assert tile.vectors <= vectors
    data = tile.pixels if unit.multiplies_by_lane else 0
    assert tile.pixels * tile.vectors + tile.vectors + data < unit.registers
    others = [type(tile)(max(1, tile.pixels - 1), tile.vectors), type(tile)(tile.pixels, max(1, tile.vectors - 1))]
    cycles = tile_cycles(pixels, vectors, tile, unit)
    instructions = tile_instructions(pixels, vectors, tile, unit)
    for other in others:
        assert cycles <= 1.02 * tile_cycles(pixels, vectors, other, unit)
        is_slower = tile_cycles(pixels, vectors, other, unit) > cycles
        assert is_slower or tile_instructions(pixels, vectors, other, unit) >= instructions


def test_of_fast_tiles_the_one_with_fewer_instructions():
    core = Core("aarch64", 16, 32)
    tile, rival = register_tile(56, 16, core), RegisterTile(14, 1)
    assert tile_cycles(56, 16, rival, core) < tile_cycles(56, 16, tile, core)
    assert tile_instructions(56, 16, tile, core) < tile_instructions(56, 16, rival, core)


@given(pixels=SIZES, vectors=st.integers(1, 64))
def test_weights_of_several_steps_fit_where_they_are_loaded_first(pixels, vectors):
    tile = register_tile(pixels, vectors, Core("aarch64", 16, 32, loads_weights_first=True))
    assert tile.pixels * tile.vectors + tile.pixels + 4 * tile.vectors <= 32


@pytest.mark.parametrize(
    ("unit", "pixels", "vectors", "expected"),
    [
        (Core("x86_64", 64, 32), 56, 4, (14, 2)),  # AVX-512: 28 sums, 2 weights, pixels from memory
        (Core("aarch64", 16, 32), 49, 3, (7, 3)),  # NEON: 21 sums, 7 pixels, 3 weights, 1 to spare
        (Core("aarch64", 16, 32), 16, 2, (8, 2)),
    ],
)
def test_the_tiles_of_the_documentation(unit, pixels, vectors, expected):
    tile = register_tile(pixels, vectors, unit)
    assert (tile.pixels, tile.vectors) == expected


@given(extent=SIZES, size=st.integers(1, 32))
def test_tiles_cover_everything_and_stay_inside(extent, size):
    if size > extent:
        return
    starts = tile_starts(extent, size)
    assert {start + offset for start in starts for offset in range(size)} == set(range(extent))
    assert len(starts) == -(-extent // size)


@given(channels=SIZES, lanes=st.sampled_from([1, 4, 8, 16]))
def test_channel_blocks_use_the_fewest_vectors(channels, lanes):
    block = channel_block(channels, lanes)
    assert block <= lanes
    assert -(-channels // block) == -(-channels // lanes)
    assert channels % lanes or block == lanes


def shape(channels, size, lanes=4):
    return ConvolutionShape(channels, channels // lanes, size, size, 9, lanes)


def test_winograd_wins_on_large_images_and_reads_more_weights():
    core = Core("aarch64", 16, 32, l2_bytes=2**19, memory_bytes_per_cycle=2)
    assert winograd_cycles(shape(64, 56), 4, core) < direct_cycles(shape(64, 56), core)
    starved = Core("aarch64", 16, 32, l2_bytes=2**19, memory_bytes_per_cycle=0.1)
    assert winograd_cycles(shape(512, 7), 4, starved) > direct_cycles(shape(512, 7), starved)


@given(channels=st.sampled_from([16, 64, 256, 512]), size=st.integers(6, 112), tile=st.sampled_from([2, 4, 6]))
def test_panels_are_even_and_fit_where_one_register_tile_does(channels, size, tile):
    core = Core("aarch64", 16, 32)
    tiles = (-(-size // tile)) ** 2
    panel = winograd_panel(shape(channels, size), tile, core)
    assert 1 <= panel <= tiles
    fewest = register_tile(tiles, channels // 4, core).pixels
    assert panel <= fewest or panel * (tile + 2) ** 2 * channels * 4 <= core.l2_bytes // 2


def test_what_does_not_fit_is_read_as_seldom_as_possible():
    core = Core("x86_64", 64, 32, l2_bytes=2**20)
    assert runs_channels_outside(2**16, 2**22, 16, 7, core)  # a small image, much weight: each weight once
    assert not runs_channels_outside(2**24, 2**12, 4, 224, core)  # a large image: each row once
