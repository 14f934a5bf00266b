"""Deltas become weights, or with ``at=load`` something that a device can compute from parameters."""

import copy
from collections import Counter

import numpy as np
import pytest
import scipy.fft
import torch
from torch import nn

from cospipe.ir.adapters import delta_nodes, fold_nodes
from cospipe.ir.annotations import LATENCY
from cospipe.ir.capture import capture
from cospipe.ir.errors import PassError, UsageError
from cospipe.passes.annotate_latency import AnnotateLatency
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.insert_adapters import InsertAdapters
from cospipe.passes.merge_adapters import MergeAdapters

aten = torch.ops.aten


def example():
    model = nn.Sequential(
        nn.Conv2d(3, 6, (3, 5), bias=False), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(), nn.Linear(24, 4)
    )
    return model, (torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)),)


def adapted(std):
    model, inputs = example()
    graph_module = capture(model, inputs)
    InsertAdapters(n=10)(graph_module)
    train(graph_module, std)
    return model, graph_module, inputs


def train(graph_module, std):
    """Give the coefficients values, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for node in delta_nodes(graph_module):
            graph_module.get_submodule(node.target).coefficients.normal_(std=std, generator=generator)


def operations(graph_module):
    return Counter(str(node.target) for node in graph_module.graph.nodes if node.op.startswith("call"))


def test_graph_is_as_before_the_adapters():
    model, graph_module, inputs = adapted(std=0.5)
    plain = capture(model, inputs)
    assert len(delta_nodes(graph_module)) == 3
    assert MergeAdapters()(graph_module).modified
    assert operations(graph_module) == operations(plain)
    assert [node.target for node in graph_module.graph.nodes] == [node.target for node in plain.graph.nodes]
    assert set(graph_module.state_dict()) == set(model.state_dict())
    assert all("val" in node.meta for node in graph_module.graph.nodes if node.op != "output")


def test_numbers_equal_the_adapted_model():
    model, graph_module, inputs = adapted(std=0.5)
    (expected,) = graph_module(*inputs)
    MergeAdapters()(graph_module)
    torch.testing.assert_close(graph_module(*inputs)[0], expected)
    assert (expected - model(*inputs)).abs().max() > 0.01


def test_weights_are_weight_plus_delta():
    model, graph_module, _ = adapted(std=0.5)
    delta = graph_module.get_submodule("0.weight_delta")
    spectrum = np.zeros((6, 45))
    spectrum[delta.rows.numpy(), delta.columns.numpy()] = delta.coefficients.detach().numpy()
    change = torch.from_numpy(scipy.fft.idctn(spectrum, norm="ortho").reshape(6, 3, 3, 5)).float()
    MergeAdapters()(graph_module)
    torch.testing.assert_close(graph_module.get_parameter("0.weight"), model[0].weight + change)


def test_users_model_is_left_alone():
    model, graph_module, _ = adapted(std=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    MergeAdapters()(graph_module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_zero_coefficients_are_bit_exact():
    model, graph_module, _ = adapted(std=0.0)
    MergeAdapters()(graph_module)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in graph_module.state_dict().items())


def test_second_run_changes_nothing():
    _, graph_module, _ = adapted(std=0.5)
    MergeAdapters()(graph_module)
    code, state = graph_module.code, {name: tensor.clone() for name, tensor in graph_module.state_dict().items()}
    assert not MergeAdapters()(graph_module).modified
    assert graph_module.code == code
    assert all(torch.equal(tensor, state[name]) for name, tensor in graph_module.state_dict().items())


def test_merged_model_can_be_adapted_again():
    _, graph_module, inputs = adapted(std=0.5)
    MergeAdapters()(graph_module)
    (expected,) = graph_module(*inputs)
    InsertAdapters(n=10)(graph_module)
    assert torch.equal(graph_module(*inputs)[0], expected)


def test_graph_without_adapters_is_left_alone():
    model, inputs = example()
    graph_module = capture(model, inputs)
    assert not MergeAdapters()(graph_module).modified
    assert graph_module.get_parameter("0.weight") is model[0].weight


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_would_not_be_finite_are_named_and_nothing_is_merged(value):
    _, graph_module, _ = adapted(std=0.5)
    with torch.no_grad():
        graph_module.get_submodule("2.weight_delta").coefficients[0] = value
        graph_module.get_submodule("4.weight_delta").coefficients[3] = value
    with pytest.raises(PassError) as failure:
        MergeAdapters()(graph_module)
    assert "2.weight" in str(failure.value)
    assert "4.weight" in str(failure.value)
    assert "0.weight" not in str(failure.value)
    assert len(delta_nodes(graph_module)) == 3


def test_adapter_in_another_place_is_refused():
    _, graph_module, _ = adapted(std=0.5)
    delta = delta_nodes(graph_module)[0]
    (weight,) = delta.args
    with graph_module.graph.inserting_before(delta):
        delta.args = (graph_module.graph.call_function(torch.ops.aten.relu.default, (weight,)),)
    with pytest.raises(PassError, match=r"0\.weight_delta"):
        MergeAdapters()(graph_module)


def test_text_form_and_unknown_time():
    assert str(MergeAdapters()) == "merge-adapters"
    assert str(MergeAdapters(at="load")) == "merge-adapters{at=load}"
    with pytest.raises(UsageError, match=r"at=lode.*Did you mean load"):
        MergeAdapters(at="lode")


def network_with_norm(layer=None, channels=6):
    layer = layer or nn.Conv2d(3, channels, 3, bias=False)
    model = nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).eval()
    inputs = (torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)),)
    model(*inputs)
    with torch.no_grad():
        for tensor in (*model[1].buffers(), *model[1].parameters()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2)
    return model, inputs


def folded(model, inputs, std=0.5):
    graph_module = capture(model, inputs)
    InsertAdapters(n=10, selection="random")(graph_module)
    train(graph_module, std)
    (expected,) = graph_module(*inputs)
    assert MergeAdapters(at="load")(graph_module).modified
    return graph_module, expected


def test_at_load_every_delta_becomes_a_fold_of_parameters_under_its_name():
    model, inputs = network_with_norm()
    graph_module, expected = folded(model, inputs)
    assert not delta_nodes(graph_module)
    assert [node.target for node in fold_nodes(graph_module)] == ["0.weight_delta", "4.weight_delta"]
    parameters = dict(graph_module.named_parameters())
    assert {"0.weight", "0.weight_delta.coefficients", "0.weight_delta.places"} <= set(parameters)
    assert torch.equal(parameters["0.weight"], model[0].weight)
    torch.testing.assert_close(graph_module(*inputs)[0], expected)


def test_at_load_a_second_run_changes_nothing():
    graph_module, _ = folded(*network_with_norm())
    code = graph_module.code
    for at in ("load", "compile"):
        assert not MergeAdapters(at=at)(graph_module).modified
    assert graph_module.code == code


def test_every_reader_of_a_shared_weight_gets_a_fold_of_its_own():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(x)))

    inputs = (torch.randn(2, 8),)
    graph_module, expected = folded(Twice(), inputs)
    folds = fold_nodes(graph_module)
    assert [node.target for node in folds] == ["layer.weight_delta"] * 2
    assert all(len(node.users) == 1 for node in folds)
    torch.testing.assert_close(graph_module(*inputs)[0], expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, 3, bias=False),
        nn.Conv2d(3, 6, 3, groups=3),
        nn.ConvTranspose2d(3, 6, 3),
        nn.ConvTranspose2d(3, 6, 3, groups=3, bias=False),
    ],
)
def test_batch_norm_behind_a_fold_scales_what_is_folded(layer):
    model, inputs = network_with_norm(copy.deepcopy(layer))
    graph_module, expected = folded(model, inputs)
    assert FoldBatchNorm()(graph_module).modified
    targets = [node.target for node in graph_module.graph.nodes]
    assert targets.count(aten.mul.Tensor) == 1
    assert not any("batch_norm" in str(target) for target in targets)
    assert torch.equal(dict(graph_module.named_parameters())["0.weight"], model[0].weight)
    torch.testing.assert_close(graph_module(*inputs)[0], expected)


def test_folding_costs_a_frame_nothing():
    model, inputs = network_with_norm()
    graph_module, _ = folded(model, inputs)
    plain = capture(model, inputs)
    for graph in (graph_module, plain):
        for step in (FoldBatchNorm(), AnnotateLayers(), AnnotateLatency()):
            step(graph)
    assert all(not any(found.time_us for found in LATENCY.require(node).values()) for node in fold_nodes(graph_module))
    cost, plain_cost = (total(graph) for graph in (graph_module, plain))
    assert cost == pytest.approx(plain_cost)


def total(graph_module):
    return sum(
        max(found.time_us for found in LATENCY.require(node).values())
        for node in graph_module.graph.nodes
        if LATENCY.get(node)
    )


def test_at_load_numbers_that_are_not_finite_are_refused():
    model, inputs = network_with_norm()
    graph_module = capture(model, inputs)
    InsertAdapters(n=3)(graph_module)
    with torch.no_grad():
        graph_module.get_submodule("4.weight_delta").coefficients[0] = float("nan")
    with pytest.raises(PassError, match=r"infinite or undefined .*\n.*4\.weight"):
        MergeAdapters(at="load")(graph_module)
