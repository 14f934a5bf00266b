from collections import Counter

import pytest
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cospipe.ir.annotations import LAYER
from cospipe.ir.capture import capture, load_model
from cospipe.ir.errors import PassError
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.fold_batch_norm import FoldBatchNorm

aten = torch.ops.aten

CONV = "aten.conv2d.default"
MULTIPLY_AND_ADD = {"aten.mul.Tensor": 1, "aten.add.Tensor": 1}


class SharedResult(nn.Module):
    """The batch norm is not the only reader of the convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y), y


class SharedWeight(nn.Module):
    """The convolution is not the only reader of its weight."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.conv(self.norm(self.conv(x)))


class ComputedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(nn.functional.conv2d(x, self.conv.weight * 2))


class SharedBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.second.bias = self.first.bias
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.first(x)) + self.second(x)


class NormAfterSum(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x + x)


def randomise(model):
    """Statistics far from their start, so that a wrong fold shows."""
    generator = torch.Generator().manual_seed(0)
    for norm in [module for module in model.modules() if isinstance(module, _BatchNorm)]:
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.2, 3.0, generator=generator)
        if norm.affine:
            nn.init.uniform_(norm.weight, -1.5, 1.5, generator=generator)
            nn.init.normal_(norm.bias, generator=generator)
    return model.eval()


def captured(model, *shape):
    inputs = (torch.randn(shape, generator=torch.Generator().manual_seed(1)),)
    return capture(randomise(model), inputs), inputs


def operations(graph_module):
    return Counter(str(node.target) for node in graph_module.graph.nodes if node.op == "call_function")


def assert_equal(model, graph_module, inputs):
    with torch.no_grad():
        expected, results = model(*inputs), graph_module(*inputs)
    for wanted, result in zip(expected if isinstance(expected, tuple) else (expected,), results, strict=True):
        assert (wanted - result).abs().max() < 1e-5 * wanted.abs().max()


def assert_clean(graph_module):
    read = {node.target for node in graph_module.graph.nodes if node.op == "get_attr"}
    assert set(graph_module.state_dict()) == read
    assert not list(graph_module.named_buffers())
    assert all("val" in node.meta for node in graph_module.graph.nodes if node.op != "output")


FOLDABLE = [
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), (2, 3, 8, 8)),
    (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False, padding="same"), nn.BatchNorm2d(4)), (2, 3, 8, 8)),
    (nn.Sequential(nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6, affine=False)), (2, 6, 8, 8)),
    (nn.Sequential(nn.Conv2d(6, 9, (1, 3), groups=3, stride=2), nn.BatchNorm2d(9)), (2, 6, 8, 8)),
    (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 8)),
    (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    (nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6)), (2, 4, 5)),
    (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (5, 4)),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), (2, 3, 8, 8)),
]


@pytest.mark.parametrize(("model", "shape"), FOLDABLE)
def test_norm_after_a_layer_is_folded_into_it(model, shape):
    graph_module, inputs = captured(model, *shape)
    before = operations(graph_module)
    result = FoldBatchNorm()(graph_module)
    assert result.modified
    kept = {name: count for name, count in before.items() if "norm" not in name and "getitem" not in name}
    assert operations(graph_module) == kept
    assert {"0.weight", "0.bias"} == set(graph_module.state_dict())
    assert_equal(model, graph_module, inputs)
    assert_clean(graph_module)


KEPT_APART = [
    (SharedResult(), (2, 3, 8, 8), {CONV: 1}),
    (SharedWeight(), (2, 3, 8, 8), {CONV: 2}),
    (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), (2, 3, 4, 4), {CONV: 1}),
    (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), (2, 3, 4, 4), {CONV: 1, "aten.relu.default": 1}),
    (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(5)), (2, 5, 4), {"aten.linear.default": 1}),
]


@pytest.mark.parametrize(("model", "shape", "others"), KEPT_APART)
def test_norm_that_cannot_be_folded_becomes_a_scale_and_a_shift(model, shape, others):
    graph_module, inputs = captured(model, *shape)
    assert FoldBatchNorm()(graph_module).modified
    assert operations(graph_module) == {**others, **MULTIPLY_AND_ADD}
    added = set(graph_module.state_dict()) - set(model.state_dict())
    assert {name.rpartition(".")[2] for name in added} == {"scale", "shift"}
    assert all(isinstance(graph_module.get_parameter(name), nn.Parameter) for name in added)
    assert_equal(model, graph_module, inputs)
    assert_clean(graph_module)


def test_norm_after_a_sum():
    graph_module, _ = captured(NormAfterSum(), 2, 3, 4, 4)
    FoldBatchNorm()(graph_module)
    assert operations(graph_module) == {"aten.add.Tensor": 2, "aten.mul.Tensor": 1}
    assert set(graph_module.state_dict()) == {"norm.scale", "norm.shift"}


def test_norm_after_a_computed_weight_stays_apart():
    model = ComputedWeight()
    graph_module, inputs = captured(model, 2, 3, 8, 8)
    FoldBatchNorm()(graph_module)
    assert operations(graph_module) == {CONV: 1, "aten.mul.Tensor": 2, "aten.add.Tensor": 1}
    assert_equal(model, graph_module, inputs)


def test_bias_of_another_layer_is_not_changed():
    model = SharedBias()
    graph_module, inputs = captured(model, 2, 3, 4, 4)
    FoldBatchNorm()(graph_module)
    assert operations(graph_module) == {CONV: 2, "aten.add.Tensor": 1}
    assert set(graph_module.state_dict()) == {"first.weight", "first.bias", "first.bias_1", "second.weight"}
    assert_equal(model, graph_module, inputs)


def test_other_forms_of_the_operation():
    """A graph that was not decomposed has ``batch_norm`` itself and ``convolution``."""

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)

        def forward(self, x):
            y = aten.convolution.default(x, self.conv.weight, self.conv.bias, [1, 1], [0, 0], [1, 1], True, [0, 0], 2)
            n = self.norm
            return aten.batch_norm.default(y, n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, 1e-5, False)

    model = randomise(Plain())
    x = torch.randn(2, 4, 5, 5)
    program = torch.export.export(model, (x,))
    graph_module = program.module(check_guards=False)
    plain = fx.GraphModule(graph_module, graph_module.graph)
    assert operations(plain) == {"aten.convolution.default": 1, "aten.batch_norm.default": 1}
    FoldBatchNorm()(plain)
    assert operations(plain) == {"aten.convolution.default": 1}
    assert (plain(x) - model(x)).abs().max() < 1e-5 * model(x).abs().max()


def test_second_run_changes_nothing():
    graph_module, _ = captured(SharedResult(), 2, 3, 8, 8)
    FoldBatchNorm()(graph_module)
    code, state = graph_module.code, graph_module.state_dict()
    assert not FoldBatchNorm()(graph_module).modified
    assert graph_module.code == code
    assert all(torch.equal(state[name], tensor) for name, tensor in graph_module.state_dict().items())


def test_users_model_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    graph_module, _ = captured(model, 2, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    FoldBatchNorm()(graph_module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_stale_annotations_are_removed():
    graph_module, _ = captured(SharedResult(), 2, 3, 8, 8)
    AnnotateLayers()(graph_module)
    FoldBatchNorm()(graph_module)
    assert all(LAYER.get(node) is None for node in graph_module.graph.nodes)


def test_norm_over_the_batch_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    graph_module = capture(model.eval(), (torch.randn(2, 3, 8, 8),))
    with pytest.raises(PassError, match=r"in 1 uses the statistics of its batch"):
        FoldBatchNorm()(graph_module)


def test_norm_with_computed_statistics_is_refused():
    class Computed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            n = self.norm
            return nn.functional.batch_norm(x, n.running_mean, n.running_var, n.weight * 2, n.bias)

    graph_module = capture(Computed().eval(), (torch.randn(2, 3, 8, 8),))
    with pytest.raises(PassError, match="has computed parameters: mul"):
        FoldBatchNorm()(graph_module)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5"])
def test_whole_network(name):
    model, inputs = load_model(f"torchvision.models:{name}", [(1, 3, 64, 64)])
    for norm in [module for module in model.modules() if isinstance(module, _BatchNorm)]:
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # a deep network must not blow up
        norm.running_var.uniform_(0.5, 1.5)
        norm.running_mean.normal_(std=0.1)
    graph_module = capture(model, inputs)
    FoldBatchNorm()(graph_module)
    assert not [name for name in operations(graph_module) if "norm" in name]
    assert_equal(model, graph_module, inputs)
    assert_clean(graph_module)
