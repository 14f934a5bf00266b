from collections import Counter

import numpy as np
import pytest
import scipy.fft
import torch
from torch import nn

from cospipe.ir.adapters import delta_nodes
from cospipe.ir.capture import capture
from cospipe.ir.errors import PassError
from cospipe.passes.insert_adapters import InsertAdapters
from cospipe.passes.merge_adapters import MergeAdapters


def example():
    model = nn.Sequential(
        nn.Conv2d(3, 6, (3, 5), bias=False), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(), nn.Linear(24, 4)
    )
    return model, (torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)),)


def adapted(std):
    model, inputs = example()
    graph_module = capture(model, inputs)
    InsertAdapters(n=10)(graph_module)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for node in delta_nodes(graph_module):
            graph_module.get_submodule(node.target).coefficients.normal_(std=std, generator=generator)
    return model, graph_module, inputs


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


def test_text_form():
    assert str(MergeAdapters()) == "merge-adapters"
