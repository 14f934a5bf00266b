"""Stages compute the same bits as the graph they were cut from, and can be exported again."""

import operator
from collections import Counter
from functools import cache
from itertools import accumulate

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from cospipe.ir.annotations import LAYER, STAGE, plan_of
from cospipe.ir.capture import capture
from cospipe.ir.errors import PassError
from cospipe.passes.annotate_latency import AnnotateLatency
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.insert_adapters import InsertAdapters
from cospipe.passes.model_graph import compute_nodes
from cospipe.passes.partition import Partition
from cospipe.passes.split import Split


class Skips(nn.Module):
    """Two inputs, the second read late; a value that skips stages; a weight read twice; two outputs in a nest."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.register_buffer("offset", torch.randn(4, 1, 1))
        self.register_buffer("picks", torch.tensor([3, 1]))

    def forward(self, x, late):
        first = torch.relu(self.first(x))
        second = torch.relu(self.second(first)) + self.offset
        third = self.third(second) + self.offset * first
        again = self.second(third) * late
        return {"again": (again[:, self.picks], second), "mean": again.mean((2, 3))}


class TwoResults(nn.Module):
    def forward(self, x):
        values, indices = torch.topk(torch.relu(x), 2)
        return torch.sigmoid(values), indices


def tag(graph_module, stages):
    """Tag the compute nodes, in graph order, with these stage numbers."""
    nodes = compute_nodes(graph_module.graph)
    assert len(nodes) == len(stages)
    for node, stage in zip(nodes, stages, strict=True):
        STAGE.set(node, f"stage{stage}")
    return graph_module


def even_tags(graph_module, stages):
    count = len(compute_nodes(graph_module.graph))
    return tag(graph_module, [stages * index // count for index in range(count)])


def skips_and_inputs():
    torch.manual_seed(0)
    inputs = (torch.randn(2, 3, 8, 8), torch.randn(2, 4, 8, 8))
    return capture(Skips().eval(), inputs), inputs


@cache
def captured_once():
    return skips_and_inputs()


def same_bits(graph_module, inputs, parent):
    with torch.no_grad():
        expected, actual = graph_module(*inputs), parent(*inputs)
    assert len(expected) == len(actual)
    return all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


def stages_of(parent):
    return {name: module for name, module in parent.named_children() if isinstance(module, fx.GraphModule)}


def test_all_operations_are_in_exactly_one_stage():
    graph_module, _ = skips_and_inputs()
    parent = Split()(even_tags(graph_module, 3)).graph_module
    inside = Counter(str(n.target) for stage in stages_of(parent).values() for n in compute_nodes(stage.graph))
    assert inside == Counter(str(node.target) for node in compute_nodes(graph_module.graph))
    calls = [node for node in compute_nodes(parent.graph) if node.target is not operator.getitem]
    assert [(node.op, node.target) for node in calls] == [("call_module", f"stage{k}") for k in range(3)]


def test_stages_are_wired_by_the_names_of_their_tensors():
    graph_module, _ = skips_and_inputs()
    names = [node.name for node in compute_nodes(graph_module.graph)]
    first_add = names.index("add")
    parent = Split()(
        tag(graph_module, [0] * 2 + [1] * (first_add - 1) + [2] * (len(names) - first_add - 1))
    ).graph_module
    stages = stages_of(parent)
    inputs = {name: [n.name for n in stage.graph.find_nodes(op="placeholder")] for name, stage in stages.items()}
    outputs = {name: [n.name for n in stage.graph.output_node().all_input_nodes] for name, stage in stages.items()}
    # relu skips stage1 on its way to stage2, and the second input is read by the last stage only
    assert inputs == {"stage0": ["x"], "stage1": ["relu"], "stage2": ["add", "relu", "late"]}
    assert outputs["stage0"] == ["relu"]
    assert outputs["stage1"] == ["add"]
    wiring = [node for node in parent.graph.nodes if node.op == "call_module"]
    assert [node.name for node in wiring[2].all_input_nodes] == ["add", "relu", "late"]
    for stage in stages.values():
        assert all(isinstance(n.meta["val"], torch.Tensor) for n in stage.graph.find_nodes(op="placeholder"))
        assert isinstance(stage.graph.output_node().args[0], tuple)


def test_the_parent_computes_the_same_bits():
    graph_module, inputs = skips_and_inputs()
    result = Split()(even_tags(graph_module, 4))
    assert result.modified
    assert same_bits(graph_module, inputs, result.graph_module)


def test_a_second_run_changes_nothing():
    graph_module, _ = skips_and_inputs()
    parent = Split()(even_tags(graph_module, 3)).graph_module
    again = Split()(parent)
    assert not again.modified
    assert again.graph_module is parent


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_monotone_tags_give_the_same_bits(data):
    graph_module, inputs = captured_once()
    count = len(compute_nodes(graph_module.graph))
    steps = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    tag(graph_module, list(accumulate(steps)))
    parent = Split()(graph_module).graph_module
    assert len(stages_of(parent)) == len({STAGE.get(node) for node in compute_nodes(graph_module.graph)})
    assert same_bits(graph_module, inputs, parent)


def test_the_module_that_was_split_is_left_alone():
    graph_module, _ = skips_and_inputs()
    even_tags(graph_module, 3)
    code, state = graph_module.code, set(graph_module.state_dict())
    parameters = {name for name, _ in graph_module.named_parameters()}
    Split()(graph_module)
    assert graph_module.code == code
    assert set(graph_module.state_dict()) == state
    assert {name for name, _ in graph_module.named_parameters()} == parameters


def test_weights_keep_their_names_and_float_buffers_become_parameters():
    graph_module, _ = skips_and_inputs()
    stages = stages_of(Split()(even_tags(graph_module, 3)).graph_module).values()
    parameters = {name: value for stage in stages for name, value in stage.named_parameters()}
    layers = ["first", "second", "third"]
    assert set(parameters) == {"offset", *(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))}
    assert {name for stage in stages for name, _ in stage.named_buffers()} == {"picks"}
    assert not parameters["offset"].requires_grad
    assert parameters["offset"].data_ptr() == graph_module.offset.data_ptr()


def test_a_weight_read_in_two_stages_is_in_both_and_is_one_tensor():
    graph_module, _ = skips_and_inputs()
    stages = stages_of(Split()(even_tags(graph_module, 3)).graph_module).values()
    owners = [stage for stage in stages if "second.weight" in dict(stage.named_parameters())]
    assert len(owners) == 2
    assert owners[0].second.weight is owners[1].second.weight is graph_module.second.weight


def test_stages_keep_the_annotations_of_their_nodes():
    graph_module, _ = skips_and_inputs()
    AnnotateLayers()(graph_module)
    parent = Split()(even_tags(graph_module, 2)).graph_module
    copies = [node for stage in stages_of(parent).values() for node in compute_nodes(stage.graph)]
    assert {node.name: LAYER.require(node) for node in copies} == {
        node.name: LAYER.require(node) for node in compute_nodes(graph_module.graph)
    }


def test_each_stage_can_be_exported_again():
    graph_module, inputs = skips_and_inputs()
    parent = Split()(even_tags(graph_module, 3)).graph_module
    values = dict(zip(["x", "late"], inputs, strict=True))
    for name, stage in stages_of(parent).items():
        arguments = tuple(values[node.name] for node in stage.graph.find_nodes(op="placeholder"))
        program = torch.export.export(stage, arguments)
        targets = {spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
        assert targets == set(stage.state_dict()), name
        with torch.no_grad():
            results = program.module()(*arguments)
        outputs = [node.name for node in stage.graph.output_node().all_input_nodes]
        values.update(zip(outputs, results, strict=True))
    with torch.no_grad():
        expected = graph_module(*inputs)
    finals = [node.name for node in parent.graph.output_node().all_input_nodes]
    assert all(torch.equal(values[name], tensor) for name, tensor in zip(finals, expected, strict=True))


def test_modules_that_nodes_call_are_shared_not_copied():
    inputs = (torch.randn(1, 3, 8, 8),)
    graph_module = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval(), inputs)
    graph_module = InsertAdapters(n=5)(graph_module).graph_module
    for parameter in graph_module.get_submodule("0.weight_delta").parameters():
        nn.init.normal_(parameter)
    parent = Split()(even_tags(graph_module, 2)).graph_module
    assert same_bits(graph_module, inputs, parent)
    assert parent.stage0.get_submodule("0.weight_delta") is graph_module.get_submodule("0.weight_delta")


def test_a_parameter_or_an_input_that_is_an_output_stays_one():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, x):
            return x * self.weight, self.weight, x

    inputs = (torch.randn(3),)
    graph_module = capture(Direct().eval(), inputs)
    parent = Split()(even_tags(graph_module, 1)).graph_module
    assert same_bits(graph_module, inputs, parent)


def test_readers_in_the_same_stage_may_share_a_tuple():
    inputs = (torch.randn(2, 9),)
    graph_module = capture(TwoResults().eval(), inputs)
    names = [node.name for node in compute_nodes(graph_module.graph)]
    parent = Split()(tag(graph_module, [int(name == "sigmoid") for name in names])).graph_module
    assert same_bits(graph_module, inputs, parent)


@pytest.mark.slow
def test_resnet18_from_partition_to_stages():
    torch.manual_seed(0)
    inputs = (torch.randn(1, 3, 64, 64),)
    graph_module = capture(torchvision.models.resnet18(weights=None).eval(), inputs)
    for pass_ in (FoldBatchNorm(), AnnotateLayers(), AnnotateLatency(), Partition(plans="pipeline")):
        graph_module = pass_(graph_module).graph_module
    parent = Split()(graph_module).graph_module
    plan = plan_of(parent)
    assert [stage.name for stage in plan.stages] == list(stages_of(parent))
    assert len(plan.stages) > 1
    for stage in plan.stages:
        assert stage.nodes == tuple(node.name for node in compute_nodes(parent.get_submodule(stage.name).graph))
    assert same_bits(graph_module, inputs, parent)


def test_untagged_nodes_are_all_named():
    graph_module, _ = skips_and_inputs()
    with pytest.raises(PassError) as error:
        Split()(graph_module)
    assert all(f"{node.name} has no cospipe.stage" in str(error.value) for node in compute_nodes(graph_module.graph))
    assert "run the pass partition" in str(error.value)


def test_tags_of_another_form_are_named():
    graph_module, _ = skips_and_inputs()
    even_tags(graph_module, 2)
    STAGE.set(compute_nodes(graph_module.graph)[1], "fast")
    with pytest.raises(PassError, match="relu is tagged 'fast'"):
        Split()(graph_module)


def test_tensors_that_flow_backwards_are_named():
    graph_module, _ = skips_and_inputs()
    even_tags(graph_module, 1)
    for node in compute_nodes(graph_module.graph):
        if node.name in ("conv2d", "conv2d_2"):
            STAGE.set(node, "stage1")
    with pytest.raises(PassError) as error:
        Split()(graph_module)
    assert "relu in stage0 reads conv2d of stage1, which runs later" in str(error.value)
    assert "conv2d_2" in str(error.value)


def test_a_tuple_that_crosses_a_cut_is_named():
    graph_module = capture(TwoResults().eval(), (torch.randn(2, 9),))
    names = [node.name for node in compute_nodes(graph_module.graph)]
    after = names.index("topk") + 1
    tag(graph_module, [0] * after + [1] * (len(names) - after))
    with pytest.raises(PassError, match=r"topk is not one tensor, so getitem, getitem_1 must be in stage0 as well"):
        Split()(graph_module)
