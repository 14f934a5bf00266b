import pytest
import torch
import torchvision
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from cospipe.ir.capture import capture
from cospipe.ir.describe import describe, describe_graph
from cospipe.ir.layer import LayerKind

NETWORKS = [
    "alexnet",
    "squeezenet1_1",
    "mobilenet_v2",
    "resnet18",
    "resnext50_32x4d",
    "googlenet",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
]


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def layers_of(model, *shapes):
    inputs = tuple(torch.randn(shape) for shape in shapes)
    return describe_graph(capture(model, inputs).graph)


def layer_of(model, *shapes, operation=None):
    layers = layers_of(model, *shapes)
    found = [layer for node, layer in layers.items() if operation is None or operation in str(node.target)]
    assert len(found) == 1, [str(node.target) for node in layers]
    return found[0]


def counted_macs(model, *shapes):
    """MACs as torch's own counter sees them, attention in its plain form."""
    inputs = [torch.randn(shape) for shape in shapes]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_macs_of_a_network_agree_with_torch(name):
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None).eval()
        image = torch.randn(1, 3, 224, 224)
        layers = describe_graph(capture(model, (image,)).graph)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            model(image)
    assert sum(layer.macs for layer in layers.values()) == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


@pytest.mark.parametrize(
    ("model", "shape", "kind", "gemm", "groups", "stride"),
    [
        (nn.Conv2d(3, 8, (3, 5), stride=(1, 2)), (2, 3, 9, 11), LayerKind.CONV, (2 * 7 * 4, 45, 8), 1, 2),
        (nn.Conv2d(3, 8, 3, padding="same"), (1, 3, 6, 6), LayerKind.CONV, (36, 27, 8), 1, 1),
        (nn.Conv2d(6, 8, 1), (1, 6, 5, 5), LayerKind.POINTWISE_CONV, (25, 6, 8), 1, 1),
        (nn.Conv2d(6, 6, 3, groups=6), (1, 6, 5, 5), LayerKind.DEPTHWISE_CONV, (9, 9, 6), 6, 1),
        (nn.Conv2d(6, 12, 3, groups=6), (1, 6, 5, 5), LayerKind.DEPTHWISE_CONV, (9, 9, 12), 6, 1),
        (nn.Conv2d(6, 9, 3, groups=3), (1, 6, 5, 5), LayerKind.GROUPED_CONV, (9, 18, 9), 3, 1),
        (nn.Conv1d(4, 5, 3, stride=2), (2, 4, 9), LayerKind.CONV, (8, 12, 5), 1, 2),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (1, 4, 5, 5), LayerKind.TRANSPOSED_CONV, (25, 2, 54), 2, 2),
        (nn.ConvTranspose1d(4, 6, 3), (2, 4, 5), LayerKind.TRANSPOSED_CONV, (10, 4, 18), 1, 1),
        (nn.Linear(7, 5), (2, 3, 7), LayerKind.LINEAR, (6, 7, 5), 1, 1),
    ],
)
def test_layers_with_weights(model, shape, kind, gemm, groups, stride):
    layer = layer_of(model, shape)
    assert layer.kind is kind
    assert (layer.gemm_n, layer.gemm_k, layer.gemm_m) == gemm
    assert (layer.groups, layer.stride) == (groups, stride)
    assert layer.macs == counted_macs(model, shape)
    assert layer.macs == layer.gemm_n * layer.gemm_k * layer.gemm_m
    assert layer.input_bytes == 4 * torch.Size(shape).numel()
    assert layer.weight_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert layer.output_bytes == 4 * model(torch.zeros(shape)).numel()


@pytest.mark.parametrize(
    ("function", "shapes", "gemm"),
    [
        (torch.matmul, [(2, 3, 4, 5), (5, 6)], (24, 5, 6)),
        (torch.bmm, [(2, 4, 5), (2, 5, 6)], (8, 5, 6)),
        (torch.mm, [(4, 5), (5, 6)], (4, 5, 6)),
        (lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b), [(2, 3, 4, 5), (2, 3, 6, 5)], (24, 5, 6)),
        (lambda a, b: torch.einsum("...ij,...jk->...ik", a, b), [(2, 3, 4, 5), (2, 3, 5, 6)], (24, 5, 6)),
    ],
)
def test_matrix_products(function, shapes, gemm):
    layer = layer_of(Function(function), *shapes)
    assert layer.kind is LayerKind.MATMUL
    assert (layer.gemm_n, layer.gemm_k, layer.gemm_m) == gemm
    assert layer.macs == counted_macs(Function(function), *shapes) == gemm[0] * gemm[1] * gemm[2]


@pytest.mark.parametrize(
    ("model", "shape", "kernel", "output_size", "dilation"),
    [
        (nn.Conv2d(3, 8, (3, 5), stride=(1, 2)), (2, 3, 9, 11), (3, 5), (7, 4), 1),
        (nn.Conv2d(3, 8, 3, dilation=2, padding="same"), (1, 3, 6, 6), (3, 3), (6, 6), 2),
        (nn.Conv1d(4, 5, 3, stride=2), (2, 4, 9), (3,), (4,), 1),
        (nn.Linear(7, 5), (2, 3, 7), (), (), 1),
    ],
)
def test_kernel_output_size_and_dilation(model, shape, kernel, output_size, dilation):
    layer = layer_of(model, shape)
    assert (layer.kernel, layer.output_size, layer.dilation) == (kernel, output_size, dilation)


def test_matrix_times_vector():
    layer = layer_of(Function(torch.matmul), (4, 5), (5,))  # torch's counter leaves these out
    assert (layer.gemm_n, layer.gemm_k, layer.gemm_m, layer.macs) == (4, 5, 1, 20)


def test_addmm():
    shapes = [(6,), (4, 5), (5, 6)]
    layer = layer_of(Function(torch.addmm), *shapes)
    assert (layer.kind, layer.macs) == (LayerKind.MATMUL, counted_macs(Function(torch.addmm), *shapes))
    assert layer.input_bytes == 4 * (6 + 20 + 30)


def test_attention():
    shapes = [(2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6)]
    layer = layer_of(Function(scaled_dot_product_attention), *shapes)
    assert layer.kind is LayerKind.ATTENTION
    assert layer.macs == counted_macs(Function(scaled_dot_product_attention), *shapes)


@pytest.mark.parametrize(
    ("model", "kind", "stride"),
    [
        (nn.MaxPool2d(3, stride=2), LayerKind.POOLING, 2),
        (nn.AvgPool2d(2), LayerKind.POOLING, 2),
        (nn.AdaptiveAvgPool2d(1), LayerKind.POOLING, 1),
        (Function(lambda x: x.mean([2, 3])), LayerKind.POOLING, 1),
        (Function(lambda x: x.mean((-1, -2), keepdim=True)), LayerKind.POOLING, 1),
        (Function(lambda x: x.mean(1)), LayerKind.OTHER, 1),
        (nn.LayerNorm([8, 8]), LayerKind.NORMALISATION, 1),
        (nn.GroupNorm(2, 4), LayerKind.NORMALISATION, 1),
        (nn.RMSNorm(8), LayerKind.NORMALISATION, 1),
        (nn.Softmax(dim=1), LayerKind.SOFTMAX, 1),
        (nn.Hardswish(), LayerKind.ELEMENTWISE, 1),
        (nn.GELU(), LayerKind.ELEMENTWISE, 1),
        (Function(lambda x: torch.cumsum(x, 1)), LayerKind.OTHER, 1),
        (nn.ZeroPad2d(1), LayerKind.RESHAPE, 1),
        (Function(lambda x: x.permute(0, 2, 3, 1)), LayerKind.RESHAPE, 1),
    ],
)
def test_layers_that_move_bytes(model, kind, stride):
    layer = layer_of(model, (1, 4, 8, 8))
    output = model(torch.zeros(1, 4, 8, 8))
    assert (layer.kind, layer.stride, layer.macs) == (kind, stride, 0)
    assert (layer.gemm_n, layer.gemm_k, layer.gemm_m) == (output.numel(), 0, 0)
    assert layer.input_bytes == 4 * 256
    assert layer.output_bytes == 4 * output.numel()


def test_concat_reads_every_input():
    layer = layer_of(Function(lambda x, y: torch.cat([x, y], 1)), (1, 2, 4), (1, 3, 4))
    assert (layer.kind, layer.input_bytes, layer.output_bytes) == (LayerKind.CONCAT, 80, 80)


def test_slice_reads_only_what_it_keeps():
    layer = layer_of(Function(lambda x: x[:, 1:3]), (1, 8, 4))
    assert (layer.kind, layer.input_bytes, layer.output_bytes) == (LayerKind.RESHAPE, 32, 32)


@pytest.mark.parametrize(
    "function",
    [lambda x: x.view(4, 8), lambda x: x.unsqueeze(0), lambda x: x[0], lambda x: x.squeeze(0)],
    ids=["view", "unsqueeze", "select", "squeeze"],
)
def test_views_move_nothing(function):
    layer = layer_of(Function(function), (1, 8, 4))
    assert layer.kind is LayerKind.RESHAPE
    assert layer.total_bytes == 0


def test_what_is_computed_from_weights_counts_as_weight():
    class ScaledWeight(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight * 2)

    layer = layer_of(ScaledWeight(4, 3, bias=False), (2, 4), operation="linear")
    assert (layer.input_bytes, layer.weight_bytes) == (4 * 8, 4 * 12)


def test_what_is_computed_from_weights_costs_nothing_itself():
    class ProductOfWeights(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight @ self.weight.T)

    layer = layer_of(ProductOfWeights(4, 4, bias=False), (2, 4), operation="matmul")
    assert layer.total_bytes == layer.macs == 0


def test_half_precision_counts_two_bytes():
    model = nn.Linear(4, 3).half()
    layers = describe_graph(capture(model, (torch.randn(2, 4).half(),)).graph)
    assert [layer.output_bytes for layer in layers.values()] == [12]


def test_describe_gives_one_node_of_the_graph():
    graph = capture(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (torch.randn(2, 4),)).graph
    layers = describe_graph(graph)
    assert [describe(node) for node in layers] == list(layers.values())
