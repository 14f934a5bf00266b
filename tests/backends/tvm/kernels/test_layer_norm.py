"""Layer normalisation against double precision: any length of rows, a mean far from zero, several axes."""

import numpy as np
import pytest
import torch
from compiling import ONE_LIST, compile_and_compare_all_widths, several
from direct import WIDTHS, Library, random_arrays
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cospipe.backends.tvm.kernels import layer_norm
from cospipe.backends.tvm.kernels.fused import declare
from cospipe.backends.tvm.kernels.layer_norm import LayerNorm

LENGTHS = [1, 2, 3, 7, 13, 16, 17, 48, 49, 96, 197, 768, 1023]
ROWS = 3


def kernel(length):
    described = LayerNorm((ROWS, length), 1e-5)
    specs = [((ROWS, length), "float32"), ((length,), "float32"), ((length,), "float32")]
    return lambda *tensors: declare(layer_norm.NAME, (ROWS, length), described, *tensors), specs


@pytest.fixture(scope="module", params=WIDTHS)
def compiled(request):
    return Library({length: kernel(length) for length in LENGTHS}, WIDTHS[request.param])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("mean", [0, 1000])
def test_rows_of_any_length(compiled, length, mean):
    data, scale, shift = random_arrays(kernel(length)[1], seed=length)
    data += np.float32(mean)
    wide = [torch.from_numpy(array.astype("float64")) for array in (data, scale, shift)]
    expected = F.layer_norm(wide[0], (length,), *wide[1:]).numpy()
    tolerance = 2e-6 if mean == 0 else 5e-4  # the mean itself has so few digits behind the point
    np.testing.assert_allclose(compiled(length, data, scale, shift), expected, rtol=tolerance, atol=tolerance)


def test_what_does_not_vary_becomes_the_shift(compiled):
    _, scale, shift = random_arrays(kernel(49)[1])
    same = np.full((ROWS, 49), 3.25, "float32")
    np.testing.assert_allclose(compiled(49, same, scale, shift), np.tile(shift, (ROWS, 1)), atol=1e-6)


class Normalised(nn.Module):
    """A layer normalisation with what stands before and behind it in a transformer."""

    def __init__(self, shape, epsilon):
        super().__init__()
        self.norm = nn.LayerNorm(shape, epsilon)
        for weight in self.norm.parameters():
            nn.init.normal_(weight)

    def forward(self, x):
        return F.gelu(self.norm(x + 1)) + x


@st.composite
def normalised(draw):
    shape = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    axes = draw(st.integers(1, len(shape)))
    return Normalised(shape[-axes:], draw(st.sampled_from([1e-5, 1e-12, 0.1]))), (torch.randn(shape),)


@ONE_LIST
@given(modules=several(normalised(), 8))
def test_random_tensors(tmp_path_factory, modules):
    cases = {f"{i} {m.norm.normalized_shape} of {tuple(x.shape)}": (m, (x,)) for i, (m, (x,)) in enumerate(modules)}
    errors = compile_and_compare_all_widths(cases, tmp_path_factory.mktemp("norm"))
    # the variance of one or two numbers may be as small as their rounding error
    assert {name: error for name, error in errors.items() if not error <= 1e-5} == {}
