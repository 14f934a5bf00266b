import pytest
import torch
from torch import nn

from cospipe.ir.annotations import LATENCY, LAYER
from cospipe.ir.capture import capture
from cospipe.ir.errors import PassError, UsageError
from cospipe.ir.latency import AnalyticLatencyModel
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import load_soc
from cospipe.passes.annotate_latency import AnnotateLatency
from cospipe.passes.annotate_layers import AnnotateLayers

SOC = """
name = "two-clusters"
title = "Two clusters"
architecture = "aarch64"
hand_over_us = 20.0
hand_over_gb_per_s = 4.0
sources = ["made up"]

[[clusters]]
name = "big"
core_type = "cortex-a73"
cores = 2
cpu_ids = [2, 3]
clock_mhz = [2000.0]
simd_bytes = 16
simd_registers = 32
flop_per_cycle = 8.0
l1d_kib = 64
l2_kib = 1024
memory_bandwidth_gb_per_s = [4.0, 6.0]
parallel_efficiency = [1.0, 0.9]

[[clusters]]
name = "little"
core_type = "cortex-a53"
cores = 1
cpu_ids = [0]
clock_mhz = [1000.0]
simd_bytes = 16
simd_registers = 32
flop_per_cycle = 8.0
l1d_kib = 32
l2_kib = 512
memory_bandwidth_gb_per_s = [2.0]
parallel_efficiency = [1.0]
"""


@pytest.fixture
def soc_file(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(SOC)
    return str(path)


@pytest.fixture
def described():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 2)).eval()
    graph_module = capture(model, (torch.randn(1, 3, 8, 8),))
    AnnotateLayers()(graph_module)
    return graph_module


def latencies(graph_module):
    return {node.name: table for node in graph_module.graph.nodes if (table := LATENCY.get(node)) is not None}


def test_every_call_has_a_time_on_every_configuration(described, soc_file):
    assert AnnotateLatency(soc_file)(described).modified
    tables = latencies(described)
    assert list(tables) == [node.name for node in described.graph.nodes if node.op == "call_function"]
    configurations = [CoreConfiguration("big", 1), CoreConfiguration("big", 2), CoreConfiguration("little", 1)]
    assert all(list(table) == configurations for table in tables.values())


def test_times_are_the_models(described, soc_file):
    AnnotateLatency(soc_file)(described)
    model = AnalyticLatencyModel(load_soc(soc_file))
    for node in described.graph.nodes:
        for configuration, time_us in (LATENCY.get(node) or {}).items():
            assert time_us == model.predict_us(LAYER.require(node), configuration)


def test_times_tell_cores_and_layers_apart(described, soc_file):
    AnnotateLatency(soc_file)(described)
    tables = latencies(described)
    big, little = CoreConfiguration("big", 1), CoreConfiguration("little", 1)
    assert 0 < tables["conv2d"][big] < tables["conv2d"][little]
    assert tables["relu"][big] == 0  # computed by the convolution
    assert tables["view"][big] == 0


def test_graph_and_numbers_do_not_change(described, soc_file):
    x, code = torch.randn(1, 3, 8, 8), described.code
    expected = described(x)[0]
    AnnotateLatency(soc_file)(described)
    assert described.code == code
    assert torch.equal(described(x)[0], expected)


def test_second_run_changes_nothing_and_another_chip_does(described, soc_file):
    AnnotateLatency(soc_file)(described)
    assert not AnnotateLatency(soc_file)(described).modified
    assert AnnotateLatency("hikey970")(described).modified


def test_layers_are_required(soc_file):
    graph_module = capture(nn.Linear(4, 3), (torch.randn(2, 4),))
    with pytest.raises(PassError, match="run the pass 'annotate-layers' first"):
        AnnotateLatency(soc_file)(graph_module)


def test_unknown_chip(described):
    with pytest.raises(UsageError, match="hikey970"):
        AnnotateLatency("hikey97")(described)
    assert not latencies(described)


def test_text_form():
    assert str(AnnotateLatency()) == "annotate-latency"
    assert str(AnnotateLatency("rk3588")) == "annotate-latency{soc=rk3588}"
