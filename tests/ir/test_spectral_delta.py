import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.spectral_delta import SpectralDelta, matrix_shape, random_places

SHAPES = [(6, 5), (1, 7), (8, 3, 3, 3), (8, 1, 3, 5), (4, 2, 3), (7, 1)]


def delta_of(shape, n, alpha=1.0, dtype=torch.float64):
    delta = SpectralDelta(shape, *random_places(shape, n, seed=0), alpha=alpha, dtype=dtype)
    with torch.no_grad():
        delta.coefficients.normal_(generator=torch.Generator().manual_seed(1))
    return delta


def dense_spectrum(delta):
    spectrum = np.zeros(matrix_shape(delta.shape))
    spectrum[delta.rows.numpy(), delta.columns.numpy()] = delta.coefficients.detach().numpy()
    return spectrum


@pytest.mark.parametrize("shape", SHAPES)
def test_change_equals_scipys_inverse_transform(shape):
    delta = delta_of(shape, n=5, alpha=0.7)
    expected = 0.7 * scipy.fft.idctn(dense_spectrum(delta), norm="ortho").reshape(shape)
    np.testing.assert_allclose(delta().detach().numpy(), expected, atol=1e-13)


def test_single_precision():
    delta = delta_of((64, 27), n=100, dtype=torch.float32)
    assert delta().dtype == torch.float32
    expected = scipy.fft.idctn(dense_spectrum(delta), norm="ortho")
    np.testing.assert_allclose(delta().detach().numpy(), expected, atol=1e-6)


def test_norm_of_the_change_is_that_of_the_coefficients():
    delta = delta_of((16, 4, 3, 3), n=50, alpha=2.5)
    torch.testing.assert_close(delta().norm(), 2.5 * delta.coefficients.norm())


def test_gradient_is_the_transform_of_the_weights_gradient():
    delta = delta_of((9, 7), n=10, alpha=0.3)
    gradient = torch.randn(9, 7, dtype=torch.float64)
    (delta() * gradient).sum().backward()
    expected = 0.3 * scipy.fft.dctn(gradient.numpy(), norm="ortho")[delta.rows.numpy(), delta.columns.numpy()]
    np.testing.assert_allclose(delta.coefficients.grad.numpy(), expected, atol=1e-13)


def test_starts_at_zero():
    delta = SpectralDelta((6, 5), *random_places((6, 5), 10, seed=0))
    assert not delta().any()


def test_only_the_coefficients_are_trained():
    delta = delta_of((6, 5), n=4)
    assert [name for name, _ in delta.named_parameters()] == ["coefficients"]
    assert {name: buffer.dtype for name, buffer in delta.named_buffers()} == {
        "rows": torch.int32,
        "columns": torch.int32,
    }


def test_print_shows_the_sizes():
    assert "shape=(6, 5), n=4, alpha=2.0" in str(delta_of((6, 5), n=4, alpha=2.0))


@settings(deadline=None)
@given(shape=st.lists(st.integers(1, 9), min_size=2, max_size=4), n=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_places_are_distinct_inside_the_matrix_and_as_many_as_asked(shape, n, seed):
    rows, columns = random_places(shape, n, seed)
    height, width = matrix_shape(shape)
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == len(rows) == min(n, height * width)
    assert rows.min() >= 0
    assert rows.max() < height
    assert columns.min() >= 0
    assert columns.max() < width


def test_places_follow_from_the_seed():
    first, again, other = (torch.stack(random_places((1000, 1000), 500, seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_places_are_spread_evenly():
    rows, columns = random_places((1000, 2000), 20_000, seed=0)
    assert abs(rows.double().mean() - 499.5) < 10  # five standard deviations
    assert abs(columns.double().mean() - 999.5) < 20
