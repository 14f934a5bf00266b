from dataclasses import replace

import pytest
import torch
from profile_examples import kernel, network, on_cores, profile
from torch import nn

from cospipe.ir.accelerator_latency import accelerator_us
from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.annotations import LATENCY, LAYER
from cospipe.ir.capture import capture
from cospipe.ir.crowding import Crowding
from cospipe.ir.errors import PassError, UsageError
from cospipe.ir.graph_fingerprint import graph_fingerprint
from cospipe.ir.latency import LatencySource
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import write_profile
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
    model, crowding = AnalyticLatencyModel(load_soc(soc_file)), Crowding(load_soc(soc_file))
    for node in described.graph.nodes:
        for configuration, predicted in (LATENCY.get(node) or {}).items():
            layer = LAYER.require(node)
            expected = replace(model.predict(layer, configuration), crowding=crowding.factor(layer, configuration))
            assert predicted == expected


def test_times_tell_cores_and_layers_apart(described, soc_file):
    AnnotateLatency(soc_file)(described)
    tables = latencies(described)
    big, little = CoreConfiguration("big", 1), CoreConfiguration("little", 1)
    assert 0 < tables["conv2d"][big].time_us < tables["conv2d"][little].time_us
    assert tables["relu"][big].time_us == 0  # computed by the convolution
    assert tables["view"][big].time_us == 0


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


def test_accelerators_that_are_modelled_have_a_time_too(described):
    AnnotateLatency("rk3399")(described)
    tables = latencies(described)
    gpu = load_soc("rk3399").accelerator("gpu")
    for node in described.graph.nodes:
        if node.name in tables:
            assert tables[node.name][CoreConfiguration("gpu", 1)].time_us == accelerator_us(LAYER.require(node), gpu)


def written_profile(path, graph_module, fingerprint, soc_file):
    """Write a profile in which the convolution takes 30 us on one core, the linear layer 10, on two cores half."""
    layers = {node.name: LAYER.require(node) for node in graph_module.graph.nodes if node.op == "call_function"}
    configurations = {
        str(cores): on_cores(*(kernel(name, us / cores.cores, layers[name]) for name, us in TIMES_US.items()))
        for cores in load_soc(soc_file).configurations()
    }
    write_profile(profile(network(configurations, fingerprint=fingerprint)), path)
    return str(path)


TIMES_US = {"conv2d": 30.0, "linear": 10.0}


def test_measured_times_are_looked_up_by_the_graph(described, soc_file, tmp_path):
    file = written_profile(tmp_path / "p.json", described, graph_fingerprint(described.graph), soc_file)
    AnnotateLatency(soc_file, "measured", file)(described)
    tables = latencies(described)
    one, two = CoreConfiguration("big", 1), CoreConfiguration("big", 2)
    assert {name: table[one].time_us for name, table in tables.items()} == {**dict.fromkeys(tables, 0.0), **TIMES_US}
    assert tables["conv2d"][two].time_us == 15.0
    assert {prediction.source for table in tables.values() for prediction in table.values()} == {LatencySource.MEASURED}


def test_a_profile_of_another_network(described, soc_file, tmp_path):
    file = written_profile(tmp_path / "p.json", described, "00" * 32, soc_file)
    with pytest.raises(UsageError, match="does not hold this network"):
        AnnotateLatency(soc_file, "measured", file)(described)
