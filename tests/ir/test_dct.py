import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.dct import dct2, dct_matrix, dct_rows, inverse_dct2

SHAPES = [(1, 1), (1, 7), (7, 1), (2, 3), (8, 8), (13, 9), (31, 64), (1152, 9)]


def random_matrix(shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13, 101, 768])
def test_matrix_is_scipys_transform_of_the_unit_vectors(size):
    expected = scipy.fft.dct(np.eye(size), type=2, norm="ortho", axis=0)
    np.testing.assert_allclose(dct_matrix(size, torch.float64).numpy(), expected, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_two_dimensional_transform_equals_scipy(shape, dtype, tolerance):
    matrix = random_matrix(shape, dtype)
    np.testing.assert_allclose(dct2(matrix).numpy(), scipy.fft.dctn(matrix.double(), norm="ortho"), atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_inverse_equals_scipy(shape, dtype, tolerance):
    spectrum = random_matrix(shape, dtype)
    expected = scipy.fft.idctn(spectrum.double(), norm="ortho")
    np.testing.assert_allclose(inverse_dct2(spectrum).numpy(), expected, atol=tolerance)


@settings(deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_inverse_undoes_the_transform_and_keeps_the_norm(rows, columns):
    matrix = random_matrix((rows, columns))
    torch.testing.assert_close(inverse_dct2(dct2(matrix)), matrix, atol=1e-11, rtol=0)
    torch.testing.assert_close(dct2(matrix).norm(), matrix.norm())


def test_rows_are_those_of_the_matrix():
    frequencies = torch.tensor([5, 0, 3, 3], dtype=torch.int32)
    assert torch.equal(dct_rows(frequencies, 9), dct_matrix(9)[frequencies.long()])


def test_single_precision_stays_exact_at_high_frequencies():
    size = 4608
    frequencies = torch.tensor([0, 1, size // 2, size - 1])
    exact = scipy.fft.dct(np.eye(size)[:, :size], type=2, norm="ortho", axis=0)[frequencies.numpy()]
    np.testing.assert_allclose(dct_rows(frequencies, size).numpy(), exact, atol=2e-9)
