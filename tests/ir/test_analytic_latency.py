from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.errors import UsageError
from cospipe.ir.kernel_libraries import CPU_EFFICIENCY, KernelEfficiency, library_efficiency
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Cluster, Soc

CLUSTER = Cluster(
    name="big",
    core_type="cortex-a73",
    cores=2,
    cpu_ids=(0, 1),
    clock_mhz=(1000, 2000),
    simd_bytes=16,
    simd_registers=32,
    flop_per_cycle=8,
    l1d_kib=64,
    l2_kib=1024,
    memory_bandwidth_gb_per_s=(4, 6),
    parallel_efficiency=(1.0, 0.9),
)
SOC = Soc(
    name="test",
    title="Test",
    architecture="aarch64",
    clusters=(CLUSTER,),
    hand_over_us=10,
    hand_over_gb_per_s=4,
    sources=("made up",),
)
ONE, TWO = CoreConfiguration("big", 1), CoreConfiguration("big", 2)
EXACT = AnalyticLatencyModel(
    SOC, "exact", dict.fromkeys(LayerKind, KernelEfficiency(0.5, 4)), launch_cycles=2_000, fork_cycles=4_000
)


def conv(macs=0, input_bytes=0, weight_bytes=0, output_bytes=4, **more):
    return LayerDescriptor(LayerKind.CONV, 1, 1, 1, macs, input_bytes, weight_bytes, output_bytes, **more)


def test_layer_bound_by_computing():
    # 2 * 16e6 operations at 16 GFLOP/s * 0.5 = 4000 us, started in 2000 / 2000 MHz = 1 us
    assert EXACT.predict_us(conv(macs=16_000_000), ONE) == pytest.approx(4001)


def test_second_core_helps_by_its_parallel_efficiency():
    assert EXACT.predict_us(conv(macs=16_000_000), TWO) == pytest.approx(4000 / 1.8 + 3)


def test_layer_bound_by_memory():
    # 8 MB of weights at 4 GB/s
    assert EXACT.predict_us(conv(macs=1, weight_bytes=8_000_000 - 4), ONE) == pytest.approx(2001)
    assert EXACT.predict_us(conv(macs=1, weight_bytes=8_000_000 - 4), TWO) == pytest.approx(8_000 / 6 + 3)


def test_cached_input_is_not_read_from_memory():
    cached = conv(macs=1, input_bytes=400_000, output_bytes=400_000)
    too_large = conv(macs=1, input_bytes=800_000, output_bytes=400_000)
    assert EXACT.predict_us(cached, ONE) == pytest.approx(100 + 1)
    assert EXACT.predict_us(too_large, ONE) == pytest.approx(300 + 1)


def test_private_caches_add_up_and_so_does_l3():
    changed = CLUSTER.model_copy(update={"l2_shared": False, "l2_kib": 256, "l3_kib": 256})
    model = AnalyticLatencyModel(SOC.model_copy(update={"clusters": (changed,)}), launch_cycles=0, fork_cycles=0)
    layer = conv(input_bytes=300_000, output_bytes=300_000)
    assert model.predict_us(layer, ONE) == pytest.approx(150)  # 512 KiB: read and written
    assert model.predict_us(layer, TWO) == pytest.approx(50)  # 768 KiB: only written


def test_layer_without_products_counts_operations_of_its_elements():
    layer = LayerDescriptor(LayerKind.SOFTMAX, 2_000_000, 0, 0, 0, 0, 0, 4)
    assert EXACT.predict_us(layer, ONE) == pytest.approx(8_000_000 / 8_000 + 1)


def test_view_costs_nothing():
    assert EXACT.predict_us(LayerDescriptor(LayerKind.RESHAPE, 10, 0, 0, 0, 0, 0, 0), ONE) == 0


def test_fused_layer_costs_only_what_it_reads_in_addition():
    layer = conv(macs=1_000, input_bytes=40_000, output_bytes=40_000, fused_into="conv2d")
    assert EXACT.predict_us(layer, ONE) == pytest.approx(10)
    assert EXACT.predict_us(conv(output_bytes=40_000, fused_into="conv2d"), ONE) == 0


@pytest.mark.parametrize("configuration", [CoreConfiguration("big", 3), CoreConfiguration("small", 1)])
def test_cores_the_chip_does_not_have(configuration):
    with pytest.raises(UsageError):
        EXACT.predict_us(conv(), configuration)


FEWER_PRODUCTS = {LayerKind.CONV: 81 / 16}
"""F(6x6, 3x3), the largest Winograd tile, does 64 products where 324 are counted."""


def product(rows, inner, columns, **more):
    return LayerDescriptor(LayerKind.CONV, rows, inner, columns, rows * inner * columns, 4, 4, 4, **more)


def test_a_core_waits_for_the_one_with_most_row_blocks():
    # 5 blocks of 8 rows: one core computes 3 of them; 64 columns are whole vectors
    one, two = (EXACT.predict_us(product(40, 100_000, 64), cores) for cores in (ONE, TWO))
    assert two - 3 == pytest.approx((one - 1) * 3 / 5 / 0.9)


def test_columns_are_computed_in_whole_vectors():
    narrow, wide = (EXACT.predict_us(product(800, 10_000, columns), ONE) for columns in (13, 16))
    assert narrow == pytest.approx(wide)


def test_depthwise_and_fully_connected_layers_are_bound_by_memory():
    model = AnalyticLatencyModel(SOC)
    linear = LayerDescriptor(LayerKind.LINEAR, 1, 4096, 4096, 4096**2, 4 * 4096, 4 * 4096**2, 4 * 4096)
    depthwise = LayerDescriptor(
        LayerKind.DEPTHWISE_CONV, 112 * 112, 9, 96, 9 * 96 * 112**2, 4 * 96 * 112**2, 4 * 9 * 96, 4 * 96 * 112**2,
        groups=96, kernel=(3, 3), output_size=(112, 112),
    )  # fmt: skip
    for layer in (linear, depthwise):
        assert model.predict(layer, ONE).clock_bound < 0.1
        assert model.predict_us(layer, ONE) == pytest.approx(layer.total_bytes / 4e3, rel=0.05)


def square(channels, side=28, kernel=3, stride=1):
    inner = kernel * kernel * channels
    return LayerDescriptor(
        LayerKind.CONV, side * side, inner, 128, side * side * inner * 128, 4, 4, 4,
        stride=stride, kernel=(kernel, kernel), output_size=(side, side),
    )  # fmt: skip


def test_winograd_computes_square_convolutions_that_skip_nothing():
    model = AnalyticLatencyModel(SOC, efficiency=library_efficiency("ARM Compute Library"))
    per_mac = {
        name: model.predict_us(layer, ONE) / layer.macs
        for name, layer in {
            "winograd": square(64),
            "few channels": square(8),
            "strided": square(64, stride=2),
            "5x5": square(64, kernel=5),
        }.items()
    }
    slowest = per_mac.pop("winograd")
    assert all(time > 1.5 * slowest for time in per_mac.values())


def test_transformed_weights_are_read_four_times_as_long():
    model = AnalyticLatencyModel(SOC, efficiency=library_efficiency("ARM Compute Library"))
    weights = replace(square(64, side=1), weight_bytes=4_000_000)
    assert model.moving_us(weights, ONE) == pytest.approx(4_000)
    assert model.moving_us(replace(weights, stride=2), ONE) == pytest.approx(1_000, rel=1e-3)


def test_the_kernel_that_a_table_names_is_believed():
    direct, winograd = (library_efficiency("AutoTVM", name)[LayerKind.CONV] for name in ("spatial_pack", "winograd"))
    assert not direct.takes_winograd(square(64))
    assert winograd.takes_winograd(square(8))
    with pytest.raises(UsageError, match=r"Known: .*AutoTVM"):
        library_efficiency("autotvm2")


@given(st.floats(1.01, 4), st.integers(1, 200), st.integers(1, 500), st.integers(1, 500))
def test_a_faster_core_is_never_slower(factor, side, channels, columns):
    layer = LayerDescriptor(
        LayerKind.POINTWISE_CONV, side * side, channels, columns, side * side * channels * columns,
        4 * channels * side * side, 4 * channels * columns, 4 * columns * side * side, kernel=(1, 1),
    )  # fmt: skip
    faster = CLUSTER.model_copy(update={"clock_mhz": (2000 * factor,)})
    model = AnalyticLatencyModel(SOC.model_copy(update={"clusters": (faster,)}))
    assert model.predict_us(layer, ONE) <= AnalyticLatencyModel(SOC).predict_us(layer, ONE)


def test_every_kind_of_layer_has_an_efficiency():
    assert set(CPU_EFFICIENCY) == set(LayerKind)
    for kind, kernel in CPU_EFFICIENCY.items():
        assert 0 < kernel.peak_fraction <= FEWER_PRODUCTS.get(kind, 1), kind


sizes = st.integers(0, 10**8)


@given(macs=sizes, input_bytes=sizes, weight_bytes=sizes, output_bytes=st.integers(1, 10**8), data=st.data())
def test_never_faster_than_the_peaks_of_the_chip(macs, input_bytes, weight_bytes, output_bytes, data):
    kind = data.draw(st.sampled_from(LayerKind))
    layer = replace(conv(macs, input_bytes, weight_bytes, output_bytes), kind=kind)
    for configuration in SOC.configurations():
        time_us = AnalyticLatencyModel(SOC).predict_us(layer, configuration)
        peak_gflops = CLUSTER.peak_gflops_per_core * configuration.cores
        assert time_us >= 2 * macs / (peak_gflops * 1e3) / FEWER_PRODUCTS.get(kind, 1)
        assert time_us >= (weight_bytes + output_bytes) / 6e3


@given(macs=sizes, more=sizes)
def test_more_work_never_takes_less_time(macs, more):
    model = AnalyticLatencyModel(SOC)
    assert model.predict_us(conv(macs + more), ONE) >= model.predict_us(conv(macs), ONE)
