"""Which kernel is which layer, with graphs and kernels that are made up."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cospipe.backends.profiling.kernel_layers import NamedKernel, kernel_layers
from cospipe.ir.capture import capture
from cospipe.ir.describe import describe_graph
from cospipe.ir.layer import LayerKind

FP32 = 4


class Net(nn.Module):
    """A convolution with what is fused behind it, a concatenation, attention."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 8, 1)

    def forward(self, image, skip):
        early = torch.relu(self.one(image)) + skip
        joined = torch.cat([early, early.transpose(2, 3)], 1)
        late = self.two(joined)
        rows = late.flatten(2)
        return nn.functional.scaled_dot_product_attention(rows, rows, rows)


@pytest.fixture(scope="module")
def graph():
    return capture(Net().eval(), (torch.zeros(1, 3, 6, 6), torch.zeros(1, 8, 6, 6))).graph


@pytest.fixture(scope="module")
def described(graph):
    return {node.name: layer for node, layer in describe_graph(graph).items()}


def found(graph, *kernels):
    layers = kernel_layers(graph, kernels)
    assert sorted(place for layer in layers for place in layer.kernels) == list(range(len(kernels)))
    return layers


FIRST, SECOND = NamedKernel(("conv2d", "relu", "add")), NamedKernel(("conv2d_1",))
ATTENTION = NamedKernel(("scaled_dot_product_attention",))


def test_the_head_is_described_with_what_fused_nodes_read(graph, described):
    layer, *_ = found(graph, FIRST, SECOND, ATTENTION)
    assert layer.nodes == ("conv2d", "relu", "add")
    skip_bytes = 8 * 6 * 6 * FP32
    assert layer.layer == replace(
        described["conv2d"], input_bytes=described["conv2d"].input_bytes + skip_bytes, fused_into=None
    )


def test_a_node_without_a_kernel_belongs_to_the_first_that_needs_it(graph, described):
    _, layer, _ = found(graph, FIRST, SECOND, ATTENTION)
    assert set(layer.nodes) == {"conv2d_1", "cat", "transpose"}
    assert layer.nodes[0] == "conv2d_1"
    # what the concatenation reads takes the place of what the convolution reads of it
    assert layer.layer == described["conv2d_1"]


def test_a_kernel_that_only_copies_is_the_layer_of_what_it_copies(graph, described):
    _, copied, convolved, _ = found(graph, FIRST, NamedKernel(("conv2d_1",), only_copies=True), SECOND, ATTENTION)
    assert set(copied.nodes) == {"cat", "transpose"}
    assert copied.nodes[0] == "cat"
    assert copied.layer.kind is LayerKind.CONCAT
    assert convolved.nodes == ("conv2d_1",)


def test_a_change_of_memory_layout_belongs_to_the_node_that_needs_it(graph):
    first, *_ = found(graph, NamedKernel(("conv2d",), only_copies=True), FIRST, SECOND, ATTENTION)
    assert first.kernels == (0, 1)
    assert first.nodes == ("conv2d", "relu", "add")


def test_kernels_of_the_same_node_are_one_layer(graph):
    *_, attention = found(graph, FIRST, SECOND, ATTENTION, ATTENTION, ATTENTION)
    assert attention.kernels == (2, 3, 4)
    assert attention.layer.kind is LayerKind.ATTENTION


def test_a_kernel_that_belongs_to_nothing_joins_the_next(graph):
    first, second, third = found(graph, FIRST, NamedKernel(()), SECOND, ATTENTION, NamedKernel(()))
    assert (first.kernels, second.kernels, third.kernels) == ((0,), (1, 2), (3, 4))


def test_a_kernel_across_two_layers_joins_them(graph):
    layer, attention = found(graph, FIRST, NamedKernel(("add", "conv2d_1")), ATTENTION)
    assert layer.kernels == (0, 1)
    assert layer.nodes[0] == "conv2d"
    assert attention.kernels == (2,)


def test_no_node_is_counted_twice(graph):
    layers = found(graph, FIRST, NamedKernel(("conv2d_1",), only_copies=True), SECOND, ATTENTION)
    nodes = [node for layer in layers for node in layer.nodes]
    assert len(set(nodes)) == len(nodes)
    assert sum(layer.layer.macs for layer in layers) == sum(layer.macs for layer in describe_graph(graph).values())
