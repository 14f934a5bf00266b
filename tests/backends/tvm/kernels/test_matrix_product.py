"""Matrix products of random shapes against eager PyTorch, on every width of vector registers."""

import pytest
import torch
from compiling import ONE_LIST, WIDTHS, Function, compile_and_compare_all_widths, several
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.target import core_target
from cospipe.ir.capture import capture
from cospipe.ir.soc import load_soc

TOLERANCE = 1e-5
"""Of the output's scale; FP32 sums of up to some thousand products in another order."""
SIZES = st.one_of(st.integers(1, 70), st.sampled_from([1, 3, 4, 15, 16, 17, 32, 48, 64, 65]))
LEADING = st.lists(st.integers(1, 3), max_size=2)


class Linear(nn.Module):
    """A linear layer with what usually follows it."""

    def __init__(self, inputs, outputs, bias, tail):
        super().__init__()
        self.linear, self.tail = nn.Linear(inputs, outputs, bias), tail

    def forward(self, x, residual):
        result = self.linear(x)
        return result + residual if self.tail == "residual" else getattr(torch.nn.functional, self.tail)(result)


class Weighted(nn.Module):
    """A product with a weight that is stored as it is used, (inputs, outputs)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight


@st.composite
def linears(draw):
    rows, inputs, outputs = draw(SIZES), draw(SIZES), draw(SIZES)
    shape = (*draw(LEADING), rows)
    module = Linear(inputs, outputs, draw(st.booleans()), draw(st.sampled_from(["relu", "gelu", "residual"])))
    return module, (torch.randn(*shape, inputs), torch.randn(*shape, outputs))


@st.composite
def weighted(draw):
    inputs = draw(SIZES)
    return Weighted(inputs, draw(SIZES)), (torch.randn(*draw(LEADING), draw(SIZES), inputs),)


@st.composite
def products(draw):
    """Batches of matrices, broadcast, each side plain or transposed."""
    batch, rows, depth, columns = draw(LEADING), draw(SIZES), draw(SIZES), draw(SIZES)
    sides = []
    for matrix in ((rows, depth), (depth, columns)):
        own = [draw(st.sampled_from([1, extent])) for extent in batch][draw(st.integers(0, len(batch))) :]
        sides.append((own, matrix, draw(st.booleans())))
    flips = [is_transposed for _, _, is_transposed in sides]
    tensors = [torch.randn(*own, *(matrix[::-1] if flipped else matrix)) for own, matrix, flipped in sides]

    def multiply(left, right):
        return (left.mT if flips[0] else left) @ (right.mT if flips[1] else right) / 2

    return Function(multiply), tuple(tensors)


@st.composite
def heads(draw):
    """Attention over parts of one tensor, as networks take it apart."""
    images, tokens, count, width = (draw(st.integers(1, limit)) for limit in (2, 40, 4, 40))

    def attend(x):
        query, key, value = x.reshape(images, tokens, 3, count, width).permute(2, 0, 3, 1, 4).unbind(0)
        return ((query @ key.mT) @ value).transpose(1, 2).reshape(images, tokens, count * width)

    def attend_by_index(x):
        parts = x.unflatten(-1, (3, count * width)).movedim(2, 0)
        query, key, value = (parts[i].view(images, tokens, count, width).transpose(1, 2) for i in range(3))
        return (value.mT @ (key @ query.mT)).flatten(2)

    return Function(draw(st.sampled_from([attend, attend_by_index]))), (torch.randn(images, tokens, 3 * count * width),)


LARGE = {
    "a class": (nn.Linear(300, 1), (torch.randn(5, 300),)),
    "classes of one image": (nn.Linear(1283, 1000), (torch.randn(1, 1283),)),
    "classes of three images": (nn.Linear(520, 1001), (torch.randn(3, 520),)),
    "classes of many images": (nn.Linear(520, 10), (torch.randn(40, 520),)),
    "tokens": (nn.Sequential(nn.Linear(192, 771), nn.GELU(), nn.Linear(771, 192)), (torch.randn(1, 197, 192),)),
    "a tensor with itself": (Function(lambda x: x @ x.mT), (torch.randn(1, 4, 32, 32),)),
    "vectors": (
        Function(lambda a, b: (a @ b, b @ a, a[0] @ b[:, 0], a @ b[:, 0])),
        (torch.randn(1, 33), torch.randn(33, 1)),
    ),
    "whole numbers": (Function(lambda a, b: a.long() @ b.long()), (torch.randn(5, 9) * 9, torch.randn(9, 4) * 9)),
    "double precision": (nn.Linear(33, 5).double(), (torch.randn(7, 33).double(),)),
}


@pytest.mark.slow
@ONE_LIST
@given(cases=several(st.one_of(linears(), weighted()), 7))
def test_random_linear_layers(tmp_path_factory, cases):
    check(cases, tmp_path_factory)


@pytest.mark.slow
@ONE_LIST
@given(cases=several(st.one_of(products(), heads()), 5))
def test_random_batched_products(tmp_path_factory, cases):
    check(cases, tmp_path_factory)


@pytest.mark.slow
def test_shapes_of_networks(tmp_path_factory):
    errors = compile_and_compare_all_widths(LARGE, tmp_path_factory.mktemp("products"))
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


@pytest.mark.parametrize(("rows", "prepared"), [(1, 0), (3, 0), (4, 1)])
def test_the_weight_of_few_rows_is_used_as_it_is_stored(rows, prepared, tmp_path):
    inputs = (torch.randn(rows, 64),)
    soc = load_soc("host")
    target = core_target(soc.clusters[0], 1, soc.architecture)
    lowered = lower_stage(capture(nn.Linear(64, 100), inputs), inputs, target, WIDTHS["neon"], tmp_path / "stage.so")
    assert len([argument for argument in lowered.weight_arguments if argument.function]) == prepared


def check(cases, tmp_path_factory):
    named = {
        f"{number} {model} {[tuple(tensor.shape) for tensor in inputs]}": (model, inputs)
        for number, (model, inputs) in enumerate(cases)
    }
    errors = compile_and_compare_all_widths(named, tmp_path_factory.mktemp("products"))
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}
