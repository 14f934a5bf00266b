import networkx as nx
import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from cospipe.ir.capture import capture, load_model
from cospipe.ir.describe import describe_graph


class Residual(nn.Module):
    """Two convolutions that meet in a sum, and a third that reads the first one's result too."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return relu(self.first(x) + self.second(x))


class SharedResult(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.conv(x)
        return relu(y) + y


class Gate(nn.Module):
    """Squeeze-and-excite: the gate has another shape than what it scales."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.conv(x.mean((2, 3), keepdim=True)))


class ScaleShift(nn.Module):
    def forward(self, x):
        return relu(torch.cat([x, x]) * 2 + 1)


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        first, second = self.conv(x).chunk(2, dim=1)
        return relu(first) + second


def fusion_of(model, *shapes):
    layers = describe_graph(capture(model, tuple(torch.randn(shape) for shape in shapes)).graph)
    return {node.name: layer.fused_into for node, layer in layers.items()}


def test_chain_ends_in_the_convolution():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Hardswish())
    fused = fusion_of(model, (1, 3, 8, 8))
    assert fused.pop("conv2d") is None
    assert set(fused.values()) == {"conv2d"}
    assert len(fused) == 4  # batch norm, its getitem, two activations


def test_sum_joins_the_later_of_two_layers():
    fused = fusion_of(Residual(), (1, 3, 8, 8))
    assert fused == {"conv2d": None, "conv2d_1": None, "add": "conv2d_1", "relu": "conv2d_1"}


def test_residual_is_the_only_input_left():
    layers = describe_graph(capture(Residual(), (torch.randn(1, 3, 8, 8),)).graph)
    by_name = {node.name: layer for node, layer in layers.items()}
    assert by_name["add"].input_bytes == 4 * 4 * 64
    assert by_name["relu"].input_bytes == 0


def test_result_with_two_readers_is_not_joined():
    fused = fusion_of(SharedResult(), (1, 3, 8, 8))
    assert fused == {"conv2d": None, "relu": None, "add": "relu"}


def test_gate_of_another_shape_is_not_joined():
    fused = fusion_of(Gate(), (1, 3, 8, 8))
    assert fused == {"mean": None, "conv2d": None, "sigmoid": "conv2d", "mul": None}


def test_elementwise_operations_join_each_other():
    fused = fusion_of(ScaleShift(), (1, 4))
    assert fused == {"cat": None, "mul": None, "add": "mul", "relu": "mul"}


def test_getitem_joins_its_producer_and_ends_the_chain():
    fused = fusion_of(Halves(), (1, 3, 8, 8))
    assert fused == {
        "conv2d": None,
        "split": None,
        "getitem": "split",
        "getitem_1": "split",
        "relu": None,
        "add": "relu",
    }


@pytest.mark.parametrize("name", ["googlenet", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_contracting_the_groups_makes_no_cycle(name):
    model, inputs = load_model(f"torchvision.models:{name}", [(1, 3, 64, 64)])
    layers = describe_graph(capture(model, inputs).graph)
    group = {node: layer.fused_into or node.name for node, layer in layers.items()}
    edges = [(group[source], group[node]) for node in layers for source in node.all_input_nodes if source in group]
    contracted = nx.DiGraph([(source, target) for source, target in edges if source != target])
    assert nx.is_directed_acyclic_graph(contracted)
    assert contracted.number_of_nodes() < len(layers) / 2
