"""The roofline of an accelerator against times worked out by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.ir.accelerator_latency import accelerator_us
from cospipe.ir.errors import UsageError
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.soc import Accelerator

GPU = Accelerator(
    name="GPU", kind="gpu", gflops=20, depthwise_gflops=2, memory_bandwidth_gb_per_s=4, launch_us=100, power_mw=None
)
CONV = LayerDescriptor(
    kind=LayerKind.CONV,
    gemm_n=1000,
    gemm_k=100,
    gemm_m=10,
    macs=1_000_000,
    input_bytes=4_000,
    weight_bytes=4_000,
    output_bytes=40_000,
)


def test_a_convolution_computes():
    # 2e6 operations at 20 per ns are 100 us, 48 kB at 4 per ns only 12
    assert accelerator_us(CONV, GPU) == pytest.approx(100 + 100)


@pytest.mark.parametrize("kind", [LayerKind.DEPTHWISE_CONV, LayerKind.GROUPED_CONV])
def test_depthwise_and_grouped_convolutions_have_a_rate_of_their_own(kind):
    assert accelerator_us(replace(CONV, kind=kind), GPU) == pytest.approx(1000 + 100)
    same = GPU.model_copy(update={"depthwise_gflops": None})
    assert accelerator_us(replace(CONV, kind=kind), same) == accelerator_us(CONV, same)


def test_a_fully_connected_layer_reads_its_weights():
    layer = replace(CONV, kind=LayerKind.LINEAR, weight_bytes=4_000_000, macs=1_000_000)
    assert accelerator_us(layer, GPU) == pytest.approx(4_044_000 / 4_000 + 100)


def test_a_layer_without_products_moves_its_bytes():
    layer = replace(CONV, kind=LayerKind.ELEMENTWISE, gemm_k=0, gemm_m=0, macs=0, weight_bytes=0)
    assert accelerator_us(layer, GPU) == pytest.approx(11 + 100)


def test_a_fused_layer_costs_what_it_reads_in_addition_and_a_view_nothing():
    fused = replace(CONV, kind=LayerKind.ELEMENTWISE, macs=0, weight_bytes=0, fused_into="conv")
    assert accelerator_us(fused, GPU) == pytest.approx(1)
    assert accelerator_us(replace(fused, input_bytes=0), GPU) == 0
    view = replace(CONV, kind=LayerKind.RESHAPE, macs=0, input_bytes=0, weight_bytes=0, output_bytes=0)
    assert accelerator_us(view, GPU) == 0


@given(faster=st.floats(1, 100), macs=st.integers(0, 10**9), size=st.integers(0, 10**8))
def test_a_faster_accelerator_is_never_slower(faster, macs, size):
    layer = replace(CONV, macs=macs, input_bytes=size)
    for rate in ("gflops", "memory_bandwidth_gb_per_s"):
        better = GPU.model_copy(update={rate: getattr(GPU, rate) * faster})
        assert accelerator_us(layer, better) <= accelerator_us(layer, GPU)


def test_an_accelerator_without_rates_is_told():
    listed = Accelerator(name="Adreno 630", kind="gpu")
    with pytest.raises(UsageError, match=r"rates of Adreno 630 are not known; give it gflops and memory_bandwidth"):
        accelerator_us(CONV, listed)
