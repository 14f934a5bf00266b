"""The fused linear layer against the plain parametrization, and against autograd over the dense formula."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from cospipe.ir import adapted_linear
from cospipe.ir.eager_adapters import adapt
from cospipe.ir.errors import UsageError
from cospipe.ir.spectral_config import SpectralConfig

# (inputs, outputs, options): few frequencies on either axis, so the inputs are projected, and all of them
CASES = {
    "projected": (96, 24, {"n": 12, "selection": "low"}),
    "projected from the other axis": (24, 96, {"n": 12, "selection": "low"}),
    "not projected": (16, 12, {"n": 100, "selection": "random"}),
    "one output": (9, 1, {"n": 4}),
}
SHAPES = [(7,), (2, 3), (2, 3, 2)]


def layer_of(kind, inputs, outputs, bias=True):
    torch.manual_seed(0)
    if kind == "Conv1D":
        layer = Conv1D(outputs, inputs)
        layer.bias.data.normal_()
        return layer
    return nn.Linear(inputs, outputs, bias=bias)


def adapted(kind, case, bias=True, dtype=torch.float64):
    inputs, outputs, options = CASES[case]
    layer = layer_of(kind, inputs, outputs, bias).to(dtype)
    adapters = adapt(layer, SpectralConfig(alpha=0.5, **options))
    (delta,) = adapters.deltas().values()
    with torch.no_grad():
        delta.coefficients.normal_(generator=torch.Generator().manual_seed(1))
    return layer, delta


def plain(layer, delta, x):
    """What the layer computes, written down directly."""
    weight = layer.parametrizations.weight.original + delta.change()
    return functional.linear(x, weight.T if "Conv1D" in type(layer).__name__ else weight, layer.bias)


def gradients(result, tensors):
    probe = torch.randn(result.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return torch.autograd.grad((result.double() * probe).sum(), tensors)


@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("leading", SHAPES)
@pytest.mark.parametrize("trained", ["nothing", "bias", "weight", "both"])
def test_it_equals_the_plain_formula(kind, case, leading, trained):
    layer, delta = adapted(kind, case)
    layer.bias.requires_grad_(trained in ("bias", "both"))
    layer.parametrizations.weight.original.requires_grad_(trained in ("weight", "both"))
    x = torch.randn(*leading, CASES[case][0], dtype=torch.float64, requires_grad=True)
    result, expected = layer(x), plain(layer, delta, x)
    assert "_Linear" in type(result.grad_fn).__name__
    torch.testing.assert_close(result, expected)
    tensors = [x, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
    assert len(tensors) == 2 + {"nothing": 0, "bias": 1, "weight": 1, "both": 2}[trained]
    for found, right in zip(gradients(result, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("leading", [(), (0,), (2, 0)])
def test_without_bias_and_with_inputs_that_need_no_gradient(case, leading):
    layer, delta = adapted("Linear", case, bias=False)
    x = torch.randn(*leading, CASES[case][0], dtype=torch.float64)
    result, expected = layer(x), plain(layer, delta, x)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(*(gradients(y, [delta.coefficients]) for y in (result, expected)))


@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_finite_differences(kind, case):
    layer, delta = adapted(kind, case)
    x = torch.randn(3, CASES[case][0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, coefficients: layer(x), (x, delta.coefficients))


def test_both_ways_are_tried():
    ways = {adapted_linear._is_projection_cheaper(adapted("Linear", case)[1].transform()) for case in CASES}
    assert ways == {True, False}
    layers = [adapted("Linear", case)[0] for case in CASES]
    kept = {layer(torch.randn(2, layer.in_features, dtype=torch.float64)).grad_fn.is_projected for layer in layers}
    assert kept == {True, False}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types(dtype):
    layer, delta = adapted("Linear", "projected", dtype=dtype)
    x = torch.randn(5, 96).to(dtype).requires_grad_()
    result, expected = layer(x), plain(copy.deepcopy(layer).double(), delta, x.double())
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(result.double(), expected, atol=tolerance, rtol=tolerance)
    found, right = gradients(result, [x])[0], gradients(expected, [x])[0]
    torch.testing.assert_close(found.double(), right.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_no_merged_weight_is_kept(case):
    layer, _ = adapted("Linear", case)
    inputs, outputs = layer.in_features, layer.out_features
    base = layer.parametrizations.weight.original.data_ptr()
    kept = []
    x = torch.randn(5, inputs, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept):
        layer(x)
    assert kept
    assert [t for t in kept if t.numel() == inputs * outputs and t.data_ptr() != base] == []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept):
        functional.linear(x, layer.weight)  # the check sees what the plain way keeps
    assert [t for t in kept if t.numel() == inputs * outputs and t.data_ptr() != base] != []


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    layer, delta = adapted("Linear", "projected")
    x = torch.randn(5, 96, dtype=torch.float64, requires_grad=True)
    result = checkpoint(layer, x, use_reentrant=reentrant)
    result.square().sum().backward()
    expected = torch.autograd.grad(plain(layer, delta, x).square().sum(), [delta.coefficients, x])
    torch.testing.assert_close([delta.coefficients.grad, x.grad], list(expected))


def test_changing_coefficients_before_the_backward_pass_is_an_error():
    layer, delta = adapted("Linear", "projected")
    result = layer(torch.randn(5, 96, dtype=torch.float64, requires_grad=True))
    with torch.no_grad():
        delta.coefficients.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_switching_before_the_backward_pass_changes_no_gradient():
    layer, delta = adapted("Linear", "projected")
    x = torch.randn(5, 96, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(layer(x).sum(), [delta.coefficients, x])
    result = layer(x)
    delta.strength = 0.0
    torch.testing.assert_close(torch.autograd.grad(result.sum(), [delta.coefficients, x]), expected)


def test_a_second_derivative_is_refused_not_wrong():
    layer, _ = adapted("Linear", "projected")
    x = torch.randn(5, 96, dtype=torch.float64, requires_grad=True)
    with pytest.raises(UsageError, match=r"run the forward pass under cospipe\.ir\.adapted_linear\.plain_forward"):
        torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)


def test_second_derivatives_of_the_plain_form():
    layer, delta = adapted("Linear", "projected")
    x = torch.randn(5, 96, dtype=torch.float64, requires_grad=True)

    def penalty(result):
        (first,) = torch.autograd.grad(result.pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), delta.coefficients)[0]

    with adapted_linear.plain_forward():
        found = penalty(layer(x))
    torch.testing.assert_close(found, penalty(plain(layer, delta, x)))
    assert "_Linear" in type(layer(x).grad_fn).__name__


def test_classes_with_a_forward_of_their_own_keep_it():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    torch.manual_seed(0)
    layer = Doubled(8, 6)
    x = torch.randn(3, 8)
    expected = layer(x)
    adapt(layer, SpectralConfig(n=5))
    assert torch.equal(layer(x), expected)


def test_a_plain_layer_of_the_same_class_is_untouched():
    layer, _ = adapted("Linear", "projected")
    assert type(layer) is not nn.Linear
    assert "adapted_linear" not in nn.Linear.forward.__module__
    other = copy.deepcopy(layer)
    assert type(other).forward is type(layer).forward
