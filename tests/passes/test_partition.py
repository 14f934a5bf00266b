"""From an annotated graph to a plan: units, their order, tags, the stored plan, and every refusal."""

import operator
from dataclasses import replace

import networkx as nx
import pytest
import torch
from torch import nn

from cospipe.ir.annotations import LATENCY, LATENCY_SOC_KEY, LAYER, PLAN_KEY, STAGE, plan_of
from cospipe.ir.capture import capture
from cospipe.ir.errors import PassError, PlanError, UsageError
from cospipe.ir.latency import LatencyPrediction, LatencySource
from cospipe.ir.plan import PipelinePlan
from cospipe.ir.soc import load_soc
from cospipe.passes.annotate_latency import AnnotateLatency
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.insert_adapters import InsertAdapters
from cospipe.passes.model_graph import cheap_order, compute_nodes, model_graph
from cospipe.passes.partition import Partition, tag_stages
from cospipe.passes.pipeline import PassManager

SOC = load_soc("hikey970")


class Residual(nn.Module):
    """Two convolutions, a skip connection around the second, and a classifier."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x) + x)
        return self.classifier(x.mean((2, 3)))


class Branches(nn.Module):
    """An inception block: three branches of two convolutions each."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, reduced, 1), nn.Conv2d(reduced, 16, 3, padding=1)) for reduced in (8, 4, 2)
        )

    def forward(self, x):
        x = torch.max_pool2d(x, 2)
        return torch.max_pool2d(torch.cat([branch(x) for branch in self.branches], dim=1), 2)


class TwoResults(nn.Module):
    def forward(self, x):
        values, indices = torch.topk(torch.relu(x), 2)
        return torch.sigmoid(values) * indices


def annotated(model, *inputs, passes=()):
    manager = PassManager([*passes, AnnotateLayers(), AnnotateLatency()])
    return manager(capture(model.eval(), inputs)).graph_module


def with_times(graph_module, times_us):
    """Predict the same time on every configuration for the nodes named, none for others."""
    for node in compute_nodes(graph_module.graph):
        predicted = LatencyPrediction(times_us.get(node.name, 0.0), LatencySource.ANALYTIC)
        LATENCY.set(node, dict.fromkeys([*SOC.configurations(), *SOC.accelerator_configurations()], predicted))
    return graph_module


@pytest.fixture
def residual():
    torch.manual_seed(0)
    return annotated(Residual(), torch.randn(1, 3, 16, 16))


def stage_numbers(graph_module):
    return {node: int(STAGE.require(node).removeprefix("stage")) for node in compute_nodes(graph_module.graph)}


def test_a_fused_layer_is_in_the_unit_of_its_kernel(residual):
    model = model_graph(residual.graph)
    units = {unit: data["nodes"] for unit, data in model.nodes(data=True) if "nodes" in data}
    assert units["conv2d"] == ("conv2d", "relu")
    assert units["conv2d_1"] == ("conv2d_1", "add", "relu_1")
    assert sorted(name for nodes in units.values() for name in nodes) == sorted(
        node.name for node in compute_nodes(residual.graph)
    )


def test_times_of_a_unit_are_those_of_its_nodes(residual):
    model = model_graph(residual.graph)
    tables = {node.name: LATENCY.require(node) for node in compute_nodes(residual.graph)}
    for _, data in model.nodes(data=True):
        for configuration, time_us in data.get("time_us", {}).items():
            assert time_us == sum(tables[name][configuration].time_us for name in data["nodes"])


def test_edges_carry_the_bytes_of_their_tensors(residual):
    model = model_graph(residual.graph)
    assert model.nodes["x"] == {"is_input": True}
    assert model.edges["x", "conv2d"]["values"] == {"x": 3 * 16 * 16 * 4}
    assert model.edges["conv2d", "conv2d_1"]["values"] == {"relu": 8 * 16 * 16 * 4}


def test_readers_of_a_tuple_stay_with_its_producer():
    graph_module = annotated(TwoResults(), torch.randn(2, 9))
    model = model_graph(graph_module.graph)
    (unit,) = (data["nodes"] for _, data in model.nodes(data=True) if any("topk" in n for n in data.get("nodes", ())))
    getitems = {node.name for node in graph_module.graph.nodes if node.target is operator.getitem}
    assert len(getitems) == 2
    assert getitems <= set(unit)


def test_nodes_that_depend_on_weights_alone_stay_with_their_first_reader():
    graph_module = annotated(Residual(), torch.randn(1, 3, 16, 16), passes=[InsertAdapters(n=4)])
    model = model_graph(graph_module.graph)
    inputs = {unit for unit in model if not model.pred[unit]}
    assert inputs == {"x"}
    # the adapted weight, and the convolution with what is fused into it
    assert len(model.nodes["conv2d"]["nodes"]) == 3
    assert not STAGE.get(next(iter(graph_module.graph.nodes)))


def test_a_unit_takes_in_what_lies_between_its_nodes(residual):
    # claim that the second convolution is computed by the first one's kernel: the nodes between have to follow
    calls = {node.name: node for node in compute_nodes(residual.graph)}
    LAYER.set(calls["mean"], replace(LAYER.require(calls["mean"]), fused_into="conv2d"))
    model = model_graph(residual.graph)
    assert nx.is_directed_acyclic_graph(model)
    assert {"conv2d", "relu", "conv2d_1", "add", "relu_1", "mean"} in [
        set(data.get("nodes", ())) for _, data in model.nodes(data=True)
    ]


def live_bytes(model, order):
    """Bytes of all tensors alive after each unit of an order."""
    position = {unit: index for index, unit in enumerate(order)}
    last_reader = {}
    for producer, reader, edge in model.edges(data=True):
        for name, size in edge["values"].items():
            start, stop, _ = last_reader.get(name, (position.get(producer, -1), -1, size))
            last_reader[name] = (start, max(stop, position[reader]), size)
    alive = last_reader.values()
    return [sum(size for start, stop, size in alive if start <= at < stop) for at in range(len(order))]


def test_the_order_of_branches_keeps_few_bytes_alive():
    graph_module = annotated(Branches(), torch.randn(1, 16, 8, 8))
    model = model_graph(graph_module.graph)
    order = cheap_order(model)
    # the reductions (8, 4 and 2 channels), smallest first, then what grows: 8 -> 16, 4 -> 16, 2 -> 16
    convolutions = [unit for unit in order if unit.startswith("conv2d")]
    assert convolutions == ["conv2d_4", "conv2d_2", "conv2d", "conv2d_1", "conv2d_3", "conv2d_5"]
    channel = 4 * 4 * 4
    assert live_bytes(model, order)[:7] == [channels * channel for channels in (16, 18, 22, 14, 22, 34, 48)]
    in_graph_order = [unit for unit in model if unit in order]
    assert max(live_bytes(model, order)[:-2]) <= max(live_bytes(model, in_graph_order)[:-2])


def test_the_order_is_topological(residual):
    model = model_graph(residual.graph)
    order = cheap_order(model)
    position = {unit: index for index, unit in enumerate(order)}
    assert set(order) == set(model) - {"x"}
    assert all(position[a] < position[b] for a, b in model.edges if a != "x")


def test_every_node_is_tagged_and_tensors_flow_to_later_stages(residual):
    result = Partition()(residual)
    assert result.modified
    assert result.graph_module is residual
    numbers = stage_numbers(residual)
    assert all(
        numbers[read] <= number for node, number in numbers.items() for read in node.all_input_nodes if read in numbers
    )
    assert set(numbers.values()) == set(range(len(plan_of(residual).stages)))


def test_the_graph_stays_as_it_is(residual):
    before = str(residual.graph)
    x = torch.randn(1, 3, 16, 16)
    expected = residual(x)
    Partition()(residual)
    assert str(residual.graph) == before
    assert torch.equal(residual(x)[0], expected[0])


def test_a_second_run_changes_nothing(residual):
    Partition()(residual)
    plan = plan_of(residual)
    assert not Partition()(residual).modified
    assert plan_of(residual) is plan
    assert Partition(max_stages=1, objective="latency")(residual).modified
    assert plan_of(residual) != plan


def test_the_plan_says_what_runs_where(residual):
    times = {"conv2d": 2000.0, "conv2d_1": 2000.0, "linear": 2000.0}
    plan = plan_of(Partition(plans="pipeline")(with_times(residual, times)).graph_module)
    assert plan.soc == "hikey970"
    assert len(plan.stages) == 3
    assert [stage.name for stage in plan.stages] == ["stage0", "stage1", "stage2"]
    assert [name for stage in plan.stages for name in stage.nodes] == [n.name for n in compute_nodes(residual.graph)]
    assert plan.stages[0].hand_over_bytes == 0
    # the convolution and the skip connection read one and the same tensor
    assert plan.stages[1].hand_over_bytes == 8 * 16 * 16 * 4
    expected_us = SOC.hand_over_us + plan.stages[1].hand_over_bytes / (SOC.hand_over_gb_per_s * 1e3)
    assert plan.stages[1].hand_over_us == pytest.approx(expected_us, abs=1e-6)
    assert plan.kind == "pipeline"
    assert plan.period_us == pytest.approx(plan.contention * (2000 + expected_us), abs=1e-3)
    assert plan.contention in (1, pytest.approx(1 + SOC.contention, abs=1e-3))
    assert plan.energy_mj > plan.power_mw * plan.period_us / 1e6 / 2
    assert plan.single_stage_us == {str(c): 6000.0 for c in SOC.configurations()}
    assert PipelinePlan.model_validate_json(plan.model_dump_json()) == plan


def test_stages_have_cores_of_their_own(residual):
    times = {"conv2d": 3000.0, "conv2d_1": 3000.0, "linear": 3000.0}
    stages = plan_of(Partition()(with_times(residual, times)).graph_module).stages
    ids = [cpu for stage in stages for cpu in stage.cpu_ids]
    assert len(ids) == len(set(ids))
    for replica in (replica for stage in stages for replica in stage.replicas):
        assert len(replica.cpu_ids) == sum(part.cores for part in replica.cores)
        assert set(replica.cpu_ids) <= {cpu for part in replica.cores for cpu in SOC.cluster(part.cluster).cpu_ids}


def test_latency_uses_one_stage_when_hand_over_costs_and_the_big_cores_are_faster(residual):
    plan = plan_of(Partition(objective="latency", plans="pipeline")(residual).graph_module)
    assert plan.objective == "latency"
    assert plan.best_single_stage == (plan.stages[0].text, pytest.approx(plan.latency_us, abs=1e-3))
    assert "no cut makes one input faster" in plan.search.limited_by


@pytest.mark.parametrize(
    ("options", "times_us", "sentence"),
    [
        (
            {},
            dict.fromkeys(["conv2d", "conv2d_1", "linear"], 600.0),
            "one layer, conv2d_1, takes 92 % of the period on",
        ),
        ({"max_stages": 1}, {"conv2d": 900.0, "linear": 900.0}, "no more than 1 stage(s) are allowed"),
        ({"cores": "big:1"}, {"conv2d": 900.0, "linear": 900.0}, "all 1 cores are used; the longest stage is stage0"),
        ({}, {"conv2d": 1.0, "linear": 1.0}, "7 core(s) stay idle"),
    ],
)
def test_the_report_says_what_limits_the_period(residual, options, times_us, sentence):
    times_us = {"conv2d_1": 1.0, **times_us}
    plan = plan_of(Partition(**options, plans="pipeline")(with_times(residual, times_us)).graph_module)
    assert plan.search is not None
    assert plan.search.positions == len(cheap_order(model_graph(residual.graph))) + 1
    assert plan.search.limited_by.startswith(sentence)


def test_copies_are_a_plan_of_one_stage_with_replicas(residual):
    times = {"conv2d": 10.0, "conv2d_1": 30000.0, "linear": 10.0}
    plan = plan_of(Partition(cores="big:2")(with_times(residual, times)).graph_module)
    assert (plan.kind, [stage.text for stage in plan.stages]) == ("copies", ["2x big:1"])
    assert plan.period_us == pytest.approx(30020 / 2, rel=1e-6)
    assert plan.latency_us == pytest.approx(30020, rel=1e-6)


def test_a_plan_keeps_to_its_limits_or_says_which_binds(residual):
    with_times(residual, {"conv2d": 3000.0, "conv2d_1": 3000.0, "linear": 3000.0})
    free = plan_of(Partition()(residual).graph_module)
    power_mw, memory = free.power_mw - 1, free.memory_bytes - 1
    assert plan_of(Partition(max_power_mw=power_mw)(residual).graph_module).power_mw <= power_mw
    assert plan_of(Partition(max_memory_bytes=memory)(residual).graph_module).memory_bytes <= memory
    with pytest.raises(PlanError, match=r"power: 0.1 W wanted, no plan has less than"):
        Partition(max_power_mw=100.0)(residual)


def test_energy_needs_a_chip_whose_power_is_known(residual, monkeypatch):
    with_times(residual, {"conv2d": 3000.0})
    unknown = SOC.model_copy(update={"idle_power_mw": None})
    monkeypatch.setattr("cospipe.passes.partition.load_soc", lambda name: unknown)
    assert plan_of(Partition()(residual).graph_module).energy_mj is None
    with pytest.raises(UsageError, match="does not say what its cores draw"):
        Partition(objective="energy")(residual)


def test_only_the_cores_asked_for_are_used(residual):
    times = {"conv2d": 3000.0, "conv2d_1": 3000.0, "linear": 3000.0}
    for cores, allowed in [
        ("big", {"big": 4}),
        ("little:1", {"little": 1}),
        ("big:1 + little:2", {"big": 1, "little": 2}),
    ]:
        plan = plan_of(Partition(cores=cores)(with_times(residual, times)).graph_module)
        parts = [part for stage in plan.stages for replica in stage.replicas for part in replica.cores]
        used = {name: sum(part.cores for part in parts if part.cluster == name) for name in allowed}
        assert all(used[name] <= limit for name, limit in allowed.items())
        assert {part.cluster for part in parts} <= set(allowed)


def test_a_rewrite_of_the_graph_drops_tags_and_plan():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    graph_module = Partition()(annotated(model, torch.randn(1, 3, 8, 8))).graph_module
    assert PLAN_KEY in graph_module.meta
    rewritten = FoldBatchNorm()(graph_module).graph_module
    assert all(STAGE.get(node) is None for node in rewritten.graph.nodes)
    with pytest.raises(PassError, match="run the pass 'partition'"):
        plan_of(rewritten)


def test_a_stored_plan_tags_the_same_graph_again(residual):
    plan = plan_of(Partition(max_stages=2)(residual).graph_module)
    tags = {node.name: STAGE.require(node) for node in compute_nodes(residual.graph)}
    STAGE.remove(residual.graph)
    assert tag_stages(residual, plan)
    assert {node.name: STAGE.require(node) for node in compute_nodes(residual.graph)} == tags
    assert not tag_stages(residual, plan)


def test_a_plan_of_another_network_is_refused(residual):
    plan = plan_of(Partition()(residual).graph_module)
    other = annotated(TwoResults(), torch.randn(2, 9))
    with pytest.raises(PassError, match=r"plan is of another network: .*conv2d"):
        tag_stages(other, plan)


def test_unannotated_nodes_are_all_named(residual):
    LATENCY.remove(residual.graph)
    with pytest.raises(PassError) as error:
        Partition()(residual)
    assert all(node.name in str(error.value) for node in compute_nodes(residual.graph))
    assert "run the pass annotate-latency" in str(error.value)


def test_nodes_without_shape_are_named(residual):
    for node in residual.graph.nodes:
        if node.name in ("x", "relu"):
            del node.meta["val"]
    with pytest.raises(PassError, match=r"(?s)x has no shape.*relu has no shape"):
        Partition()(residual)


def test_a_kernel_that_is_not_in_the_graph_is_named(residual):
    linear = next(node for node in compute_nodes(residual.graph) if node.name == "linear")
    LAYER.set(linear, replace(LAYER.require(linear), fused_into="conv9"))
    with pytest.raises(PassError, match=r"linear is computed by conv9, which is not in the graph"):
        Partition()(residual)


def test_a_graph_that_computes_nothing_is_refused():
    with pytest.raises(PassError, match="nothing to cut"):
        Partition()(capture(nn.Identity(), (torch.randn(2),)))


def test_latencies_of_another_soc_are_refused(residual):
    with pytest.raises(PassError, match=r"run annotate-latency\{soc=sd855\} first"):
        Partition(soc="sd855")(residual)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soc": "hikey"}, "hikey970"),
        ({"cores": "huge"}, "no cluster 'huge'"),
        ({"cores": "huge:2"}, "no cluster 'huge'"),
        ({"cores": "big:five"}, "not a core configuration"),
        ({"cores": "big:5"}, "big: 5 cores asked for, 4 there"),
        ({"cores": "big:3+big:2"}, "big: 5 cores asked for, 4 there"),
    ],
)
def test_impossible_options_are_refused(residual, options, message):
    with pytest.raises(UsageError, match=message):
        Partition(**options)(residual)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "speed"}, "throughput, latency or energy"),
        ({"max_stages": -1}, "max_stages must be 0"),
        ({"plans": "some"}, "all or pipeline"),
        ({"max_latency_us": -1.0, "max_power_mw": float("nan")}, "max_latency_us=-1, max_power_mw=nan"),
    ],
)
def test_senseless_options_are_refused_before_any_work(options, message):
    with pytest.raises(UsageError, match=message):
        Partition(**options)


def test_latencies_of_a_like_soc_are_refused(residual):
    residual.meta[LATENCY_SOC_KEY] = "rk3588"  # the same clusters and core counts as the HiKey 970
    with pytest.raises(PassError, match="predicted for rk3588, not for hikey970"):
        Partition(soc="hikey970")(residual)
