from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.ir.errors import UsageError
from cospipe.ir.latency import CPU_EFFICIENCY, AnalyticLatencyModel, KernelEfficiency
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
