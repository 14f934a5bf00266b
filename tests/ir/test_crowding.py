"""How much the busy rest of a cluster slows a layer down."""

import pytest

from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.crowding import Crowding
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import load_soc

CHIP = load_soc("rk3399")
LITTLE = CHIP.cluster("little")
STREAMING = LayerDescriptor(LayerKind.LINEAR, 1, 4096, 4096, 4096 * 4096, 16_384, 4 * 4096 * 4096, 16_384)
COMPUTING = LayerDescriptor(LayerKind.CONV, 196, 4608, 512, 196 * 4608 * 512, 400_000, 9_400_000, 400_000)


def test_a_layer_that_streams_its_weights_gets_its_share_of_the_bandwidth():
    one = CoreConfiguration("little", 1)
    share = LITTLE.memory_bandwidth_gb_per_s[-1] / LITTLE.cores
    expected = LITTLE.memory_bandwidth_gb_per_s[0] / share
    assert Crowding(CHIP).factor(STREAMING, one) == pytest.approx(expected, rel=0.01)


def test_the_whole_cluster_has_no_neighbours():
    assert Crowding(CHIP).factor(STREAMING, CoreConfiguration("little", 4)) == 1


def test_a_layer_that_computes_is_hardly_slowed_down():
    configuration = CoreConfiguration("big", 1)
    assert AnalyticLatencyModel(CHIP).predict(COMPUTING, configuration).clock_bound == 1
    assert Crowding(CHIP).factor(COMPUTING, configuration) < 1.05


def test_a_view_costs_nothing_beside_others_either():
    view = LayerDescriptor(LayerKind.RESHAPE, 1, 0, 0, 0, 0, 0, 0)
    assert Crowding(CHIP).factor(view, CoreConfiguration("big", 1)) == 1
