import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.dct import KEPT_SIZE
from cospipe.ir.sparse_dct import SparseDct

FORMS = ["fft", "matmul", None]
SHAPES = [(1, 1), (1, 9), (9, 1), (2, 3), (13, 7), (16, 16), (31, 32), (144, 9), (9, 144), (97, 101)]


def flat_places(shape, n, seed=0):
    height, width = shape
    return torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))[:n]


def places(shape, n, seed=0):
    flat = flat_places(shape, n, seed)
    return flat // shape[1], flat % shape[1]


def values(n, dtype=torch.float64):
    return torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def scipys_inverse(shape, rows, columns, coefficients):
    spectrum = np.zeros(shape)
    spectrum[rows.numpy(), columns.numpy()] = coefficients.double().numpy()
    return scipy.fft.idctn(spectrum, norm="ortho")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
def test_inverse_equals_scipys_of_the_dense_spectrum(shape, form, share, dtype, tolerance):
    n = max(1, round(share * shape[0] * shape[1]))
    rows, columns = places(shape, n)
    coefficients = values(n, dtype)
    found = SparseDct(shape, rows, columns, form).inverse(coefficients)
    assert (found.shape, found.dtype) == (shape, dtype)
    np.testing.assert_allclose(found.numpy(), scipys_inverse(shape, rows, columns, coefficients), atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
def test_forward_equals_scipys_at_the_places(shape, dtype, tolerance):
    rows, columns = places(shape, max(1, shape[0] * shape[1] // 3))
    matrix = values(shape[0] * shape[1], dtype).reshape(shape)
    expected = scipy.fft.dctn(matrix.double().numpy(), norm="ortho")[rows.numpy(), columns.numpy()]
    np.testing.assert_allclose(SparseDct(shape, rows, columns).forward(matrix).numpy(), expected, atol=tolerance)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 24), st.integers(1, 24), st.data(), st.sampled_from(FORMS))
def test_any_places_in_any_order(height, width, data, form):
    flat = data.draw(st.lists(st.integers(0, height * width - 1), min_size=1, unique=True))
    rows, columns = torch.tensor(flat) // width, torch.tensor(flat) % width
    coefficients = values(len(flat))
    transform = SparseDct((height, width), rows.int(), columns.int(), form)
    inverse = transform.inverse(coefficients)
    expected = scipys_inverse((height, width), rows, columns, coefficients)
    np.testing.assert_allclose(inverse.numpy(), expected, atol=1e-11)
    matrix = values(height * width).reshape(height, width)
    # forward is the adjoint of inverse, and its left inverse
    torch.testing.assert_close((inverse * matrix).sum(), (transform.forward(matrix) * coefficients).sum())
    torch.testing.assert_close(transform.forward(inverse), coefficients, atol=1e-11, rtol=0)


@pytest.mark.parametrize("shape", [(KEPT_SIZE + 5, 12), (12, KEPT_SIZE + 5), (KEPT_SIZE + 1, 3)])
@pytest.mark.parametrize("form", FORMS)
def test_lengths_whose_matrix_is_not_kept(shape, form):
    rows, columns = places(shape, 40)
    coefficients = values(40)
    transform = SparseDct(shape, rows, columns, form)
    expected = scipys_inverse(shape, rows, columns, coefficients)
    np.testing.assert_allclose(transform.inverse(coefficients).numpy(), expected, atol=1e-12)
    torch.testing.assert_close(transform.forward(torch.from_numpy(expected)), coefficients, atol=1e-11, rtol=0)


def test_half_precision():
    rows, columns = places((32, 24), 60)
    coefficients = values(60, torch.bfloat16)
    transform = SparseDct((32, 24), rows, columns)
    found = transform.inverse(coefficients)
    assert found.dtype == torch.bfloat16
    expected = scipys_inverse((32, 24), rows, columns, coefficients)
    assert np.abs(found.float().numpy() - expected).max() < 0.02 * np.abs(expected).max() + 0.01


def test_either_axis_is_added_up_whichever_is_cheaper():
    column, row = torch.zeros(30, dtype=torch.long), torch.arange(30)
    one_column = SparseDct((64, 48), row, column)
    one_row = SparseDct((48, 64), column, row)
    assert len(one_column.lines) == len(one_row.lines) == 1
    assert one_column.is_swapped != one_row.is_swapped


@pytest.mark.parametrize("form", ["fft", "matmul"])
@pytest.mark.parametrize("shape", [(6, 8), (7, 8), (8, 7), (1, 5), (5, 1), (40, 3), (3, 40)])
def test_inverse_is_added_to_a_matrix_that_stays_as_it_is(shape, form):
    generator = torch.Generator().manual_seed(0)
    places = torch.randperm(shape[0] * shape[1], generator=generator)[:4]
    transform = SparseDct(shape, places // shape[1], places % shape[1], form)
    values, base = torch.randn(len(places), generator=generator), torch.randn(shape, generator=generator)
    before = base.clone()
    torch.testing.assert_close(transform.inverse(values, base), before + transform.inverse(values))
    assert torch.equal(base, before)
