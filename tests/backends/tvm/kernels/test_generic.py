"""Elementwise computations and reductions of random tensors against eager PyTorch, on every width of registers."""

import pytest
import torch
from compiling import ONE_LIST, Function, compile_and_compare_all_widths, several
from hypothesis import given
from hypothesis import strategies as st

TOLERANCE = 1e-5
"""Of the output's scale; FP32 sums of some thousand numbers in another order."""
SHAPES = st.lists(st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 33])), min_size=1, max_size=4)
REDUCTIONS = ["sum", "mean", "amax", "amin", "var", "logsumexp"]
UNARY = ["relu", "sigmoid", "tanh", "exp", "abs", "neg", "square", "erf"]


@st.composite
def elementwise(draw):
    """Two tensors, one of them broadcast, whose axes change places before and after."""
    shape = draw(SHAPES)
    own = [draw(st.sampled_from([size, size, 1])) for size in shape][draw(st.integers(0, len(shape) - 1)) :]
    order, function = draw(st.permutations(range(len(shape)))), getattr(torch, draw(st.sampled_from(UNARY)))
    start, step = draw(st.integers(0, shape[0] - 1)), draw(st.integers(1, 3))

    def compute(x, y):
        return (function(x) * y + x).permute(order), function(x[start::step].flip(0)) / 2

    return Function(compute), (torch.randn(shape), torch.randn(own))


@st.composite
def reductions(draw):
    """A reduction over some axes of a tensor that is computed before, and something behind it."""
    shape = draw(SHAPES)
    axes = sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    order, keeps = draw(st.permutations(range(len(shape)))), draw(st.booleans())
    name = draw(st.sampled_from(REDUCTIONS))
    more = {"unbiased": False} if name == "var" else {}

    def compute(x):
        reduced = getattr(torch, name)(torch.tanh(x.permute(order)) * 2, axes, keepdim=keeps, **more)
        return torch.sigmoid(reduced + 1)

    return Function(compute), (torch.randn(shape),)


def wrong(cases, folder):
    named = {f"{number} of {[tuple(x.shape) for x in inputs]}": (m, inputs) for number, (m, inputs) in enumerate(cases)}
    errors = compile_and_compare_all_widths(named, folder)
    return {name: error for name, error in errors.items() if not error <= TOLERANCE}


@pytest.mark.slow
@ONE_LIST
@given(cases=several(elementwise(), 10))
def test_random_elementwise_computations(tmp_path_factory, cases):
    assert wrong(cases, tmp_path_factory.mktemp("elementwise")) == {}


@pytest.mark.slow
@ONE_LIST
@given(cases=several(reductions(), 10))
def test_random_reductions(tmp_path_factory, cases):
    assert wrong(cases, tmp_path_factory.mktemp("reductions")) == {}


def test_reductions_of_networks(tmp_path):
    usual = [
        (Function(lambda x: x.mean((2, 3))), (torch.randn(2, 20, 7, 7),)),
        (Function(lambda x: x.amax(1, keepdim=True) * x), (torch.randn(1, 24, 9, 9),)),
        (Function(lambda x: x / x.norm(dim=-1, keepdim=True)), (torch.randn(5, 384),)),
        (Function(lambda x, y: (x * y).sum(-1)), (torch.randn(3, 197, 64), torch.randn(64))),
        (Function(lambda x: x.softmax(1).sum(2)), (torch.randn(2, 3, 1000),)),
        (Function(lambda x: x.double().sum(1)), (torch.randn(4, 50),)),
        (Function(lambda x: (x > 0).sum(1)), (torch.randn(4, 50),)),
    ]
    assert wrong(usual, tmp_path) == {}
