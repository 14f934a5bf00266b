"""Tiles divide their shapes, fit the registers and stay on the stack, whatever the shape and the core."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.tvm.tiling import Core, largest_divisor, output_tile, product_tile
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


@given(rows=SIZES, outputs=SIZES, unit=UNITS)
def test_product_tiles(rows, outputs, unit):
    tile = product_tile(rows, outputs, unit)
    assert (rows % tile.rows, outputs % tile.columns, tile.channels) == (0, 0, 1)
    assert tile.rows * tile.columns <= unit.registers // 2
    assert tile.rows * tile.columns * unit.simd_bytes <= STACK_BYTES


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
    assert product_tile(12, 12, unit).rows >= 1


@pytest.mark.parametrize("name", soc_names())
def test_every_described_core_has_tiles(name):
    for cluster in load_soc(name).clusters:
        unit = Core(soc.architecture, cluster.simd_bytes, cluster.simd_registers)
        assert registers(output_tile(32, 28, 28, True, unit), unit) <= unit.registers
