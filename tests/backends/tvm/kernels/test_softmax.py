"""Softmax and its logarithm against double precision: any length of rows, large numbers, and what follows them."""

import numpy as np
import pytest
import torch
from compiling import ONE_LIST, compile_and_compare_all_widths, several
from direct import WIDTHS, Library
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from cospipe.backends.tvm.kernels import softmax
from cospipe.backends.tvm.kernels.fused import declare
from cospipe.backends.tvm.kernels.softmax import Softmax

INFINITY = float("inf")
LENGTHS = [1, 2, 3, 7, 8, 13, 15, 16, 17, 31, 49, 64, 65, 100, 197, 1000, 4097]


def kernel(shape, is_logarithm):
    described = Softmax(shape, is_logarithm)
    return lambda data: declare(softmax.NAME, shape, described, data), [(shape, "float32")]


@pytest.fixture(scope="module", params=WIDTHS)
def compiled(request):
    cases = {(length, is_log): kernel((3, length), is_log) for length in LENGTHS for is_log in (False, True)}
    return Library(cases, WIDTHS[request.param])


def exactly(numbers, is_logarithm):
    wide = torch.from_numpy(numbers.astype("float64"))
    return (wide.log_softmax(-1) if is_logarithm else wide.softmax(-1)).numpy()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("scale", [1, 30])
def test_rows_of_any_length(compiled, length, scale):
    numbers = scale * np.random.default_rng(length).standard_normal((3, length)).astype("float32")
    shares = compiled((length, False), numbers)
    np.testing.assert_allclose(shares, exactly(numbers, False), rtol=1e-5, atol=2e-38)
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
    logarithms = compiled((length, True), numbers)
    np.testing.assert_allclose(logarithms, exactly(numbers, True), rtol=3e-7, atol=3e-7 * scale)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.sampled_from(LENGTHS[:-1]),
    seed=st.integers(0, 2**32 - 1),
    shift=st.sampled_from([0.0, 1e4, -1e4, 3e38, -3e38]),
)
def test_what_all_numbers_have_more_or_less_changes_nothing(compiled, length, seed, shift):
    shifted = (np.random.default_rng(seed).standard_normal((3, length)).astype("float32") + np.float32(shift)).astype(
        "float32"
    )
    np.testing.assert_allclose(compiled((length, False), shifted), exactly(shifted, False), rtol=1e-6)


def test_infinities_and_what_is_not_a_number(compiled):
    numbers = np.zeros((3, 49), "float32")
    numbers[0, 5:] = -INFINITY
    numbers[1, 48] = np.nan
    numbers[2, 7] = INFINITY
    shares = compiled((49, False), numbers)
    np.testing.assert_allclose(shares[0], [0.2] * 5 + [0] * 44, rtol=1e-6)
    assert np.isnan(shares[1]).all()
    assert np.isnan(shares[2, 7])  # as in PyTorch


class Attended(nn.Module):
    """A softmax behind a product, with what networks do before and after it."""

    def __init__(self, axis, is_logarithm):
        super().__init__()
        self.axis, self.is_logarithm = axis, is_logarithm

    def forward(self, x):
        shares = (x * 3 - 1).log_softmax(self.axis) if self.is_logarithm else (x * 3 - 1).softmax(self.axis)
        return shares * 2 + x


@st.composite
def attended(draw):
    shape = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    axis = draw(st.sampled_from([-1, -1, *range(len(shape))]))
    return Attended(axis, draw(st.booleans())), (torch.randn(shape),)


@ONE_LIST
@given(modules=several(attended(), 8))
def test_any_axis_of_random_tensors(tmp_path_factory, modules):
    cases = {f"{i} axis {m.axis} of {tuple(x.shape)}": (m, (x,)) for i, (m, (x,)) in enumerate(modules)}
    errors = compile_and_compare_all_widths(cases, tmp_path_factory.mktemp("softmax"))
    assert {name: error for name, error in errors.items() if not error <= 1e-6} == {}
