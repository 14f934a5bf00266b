import numpy as np
import pytest
import scipy.fft
import torch

from cospipe.ir.coefficient_places import matrix_shape
from cospipe.ir.load_time_fold import LoadTimeFold
from cospipe.ir.spectral_delta import SpectralDelta


def fold_of(shape, n, alpha=1.0):
    generator = torch.Generator().manual_seed(3)
    height, width = matrix_shape(shape)
    places = torch.randperm(height * width, generator=generator)[:n]
    delta = SpectralDelta(shape, places // width, places % width, alpha)
    with torch.no_grad():
        delta.coefficients.normal_(generator=generator)
    return delta, LoadTimeFold(delta, "weight"), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("shape", [(6, 5), (1, 7), (7, 1), (8, 3, 3, 5), (8, 1, 3, 3), (31, 64), (1, 1)])
def test_fold_equals_scipys_inverse_transform(shape):
    delta, fold, weight = fold_of(shape, n=min(10, int(np.prod(shape))), alpha=0.6)
    spectrum = np.zeros(matrix_shape(shape))
    spectrum[delta.rows.numpy(), delta.columns.numpy()] = 0.6 * delta.coefficients.detach().numpy()
    expected = weight.numpy() + scipy.fft.idctn(spectrum, norm="ortho").reshape(shape)
    np.testing.assert_allclose(fold(weight).numpy(), expected, atol=1e-6)


def test_nothing_is_trained_and_zero_coefficients_change_nothing():
    _, fold, weight = fold_of((9, 4), n=6)
    assert not any(parameter.requires_grad for parameter in fold.parameters())
    fold.coefficients.zero_()
    assert torch.equal(fold(weight), weight)


def test_unused_coefficients_may_all_stand_at_the_same_place():
    delta, fold, weight = fold_of((9, 4), n=6)
    fold.coefficients[3:] = 0
    fold.places[3:] = 0
    with torch.no_grad():
        delta.coefficients[3:] = 0
        torch.testing.assert_close(fold(weight), delta(weight))


@pytest.mark.parametrize("rows", [1000, 70_000])
def test_whole_numbers_are_wide_enough_for_long_axes(rows):
    """The steps of a high frequency along a long axis do not fit 32 bits."""
    places = [rows - 1, rows // 2 + 1], [1, 0]
    delta = SpectralDelta((rows, 2), *map(torch.tensor, places))
    with torch.no_grad():
        delta.coefficients.fill_(1.0)
    spectrum = np.zeros((rows, 2))
    spectrum[places] = 1
    found = LoadTimeFold(delta, "weight")(torch.zeros(rows, 2))
    np.testing.assert_allclose(found.numpy(), scipy.fft.idctn(spectrum, norm="ortho"), atol=1e-7)


def test_it_can_be_exported():
    _, fold, weight = fold_of((8, 3, 3, 3), n=7)
    program = torch.export.export(fold, (weight,))
    torch.testing.assert_close(program.module()(weight), fold(weight))
