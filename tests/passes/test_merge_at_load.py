"""``merge-adapters{at=load}``: the delta stays on its edge, as something a device can compute from parameters."""

import copy

import pytest
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


def example(layer=None, channels=6):
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
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for node in delta_nodes(graph_module):
            graph_module.get_submodule(node.target).coefficients.normal_(std=std, generator=generator)
    (expected,) = graph_module(*inputs)
    assert MergeAdapters(at="load")(graph_module).modified
    return graph_module, expected


def test_every_delta_becomes_a_fold_of_parameters_under_its_name():
    model, inputs = example()
    graph_module, expected = folded(model, inputs)
    assert not delta_nodes(graph_module)
    assert [node.target for node in fold_nodes(graph_module)] == ["0.weight_delta", "4.weight_delta"]
    parameters = dict(graph_module.named_parameters())
    assert {"0.weight", "0.weight_delta.coefficients", "0.weight_delta.places"} <= set(parameters)
    assert torch.equal(parameters["0.weight"], model[0].weight)
    torch.testing.assert_close(graph_module(*inputs)[0], expected)


def test_second_run_changes_nothing():
    graph_module, _ = folded(*example())
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

    graph_module, expected = folded(Twice(), (torch.randn(2, 8),))
    folds = fold_nodes(graph_module)
    assert [node.target for node in folds] == ["layer.weight_delta"] * 2
    assert all(len(node.users) == 1 for node in folds)
    torch.testing.assert_close(graph_module(*folded_input(graph_module))[0].shape, expected.shape)


def folded_input(graph_module):
    return [torch.zeros(node.meta["val"].shape) for node in graph_module.graph.find_nodes(op="placeholder")]


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
    model, inputs = example(copy.deepcopy(layer))
    graph_module, expected = folded(model, inputs)
    assert FoldBatchNorm()(graph_module).modified
    targets = [node.target for node in graph_module.graph.nodes]
    assert targets.count(aten.mul.Tensor) == 1
    assert not any("batch_norm" in str(target) for target in targets)
    assert torch.equal(dict(graph_module.named_parameters())["0.weight"], model[0].weight)
    torch.testing.assert_close(graph_module(*inputs)[0], expected)


def test_folding_costs_a_frame_nothing():
    model, inputs = example()
    graph_module, _ = folded(model, inputs)
    plain = capture(model, inputs)
    for graph in (graph_module, plain):
        for step in (FoldBatchNorm(), AnnotateLayers(), AnnotateLatency()):
            step(graph)
    assert all(not any(LATENCY.require(node).values()) for node in fold_nodes(graph_module))
    cost, plain_cost = (total(graph) for graph in (graph_module, plain))
    assert cost == pytest.approx(plain_cost)


def total(graph_module):
    return sum(max(LATENCY.require(node).values()) for node in graph_module.graph.nodes if LATENCY.get(node))


def test_numbers_that_are_not_finite_are_refused():
    model, inputs = example()
    graph_module = capture(model, inputs)
    InsertAdapters(n=3)(graph_module)
    with torch.no_grad():
        graph_module.get_submodule("4.weight_delta").coefficients[0] = float("nan")
    with pytest.raises(PassError, match=r"infinite or undefined .*\n.*4\.weight"):
        MergeAdapters(at="load")(graph_module)


def test_text_form_and_unknown_time():
    assert str(MergeAdapters(at="load")) == "merge-adapters{at=load}"
    with pytest.raises(UsageError, match="at=lode.*Did you mean load"):
        MergeAdapters(at="lode")
