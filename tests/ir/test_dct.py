import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.dct import cheapest_form, dct2, dct_matrix, dct_rows, inverse_dct2, matmul_cost

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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["fft", "matmul"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_both_forms_equal_scipy(shape, form, dtype, tolerance):
    matrix = random_matrix(shape, dtype)
    exact = matrix.double().numpy()
    np.testing.assert_allclose(dct2(matrix, form).numpy(), scipy.fft.dctn(exact, norm="ortho"), atol=tolerance)
    np.testing.assert_allclose(inverse_dct2(matrix, form).numpy(), scipy.fft.idctn(exact, norm="ortho"), atol=tolerance)


@pytest.mark.parametrize("shape", [(1, 7), (13, 9), (32, 24)])
def test_half_precision_by_products(shape):
    matrix = random_matrix(shape).bfloat16()
    found, expected = inverse_dct2(matrix), scipy.fft.idctn(matrix.double().numpy(), norm="ortho")
    assert found.dtype == torch.bfloat16
    assert np.abs(found.double().numpy() - expected).max() < 0.02 * np.abs(expected).max()
    assert (inverse_dct2(dct2(matrix)).double() - matrix.double()).abs().max() < 0.1


@pytest.mark.parametrize("transform", [dct2, inverse_dct2])
def test_exported_and_compiled_transforms_equal_eager(transform):
    class Whole(torch.nn.Module):
        def forward(self, matrix):
            return transform(matrix)

    matrix = random_matrix((13, 600), torch.float32)
    program = torch.export.export(Whole(), (matrix,))
    assert not any("fft" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(matrix), transform(matrix), atol=2e-5, rtol=0)
    compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(matrix), transform(matrix), atol=2e-5, rtol=0)


@pytest.mark.slow
def test_transform_made_of_generated_code_equals_eager():
    matrix = random_matrix((31, 64), torch.float32)
    compiled = torch.compile(inverse_dct2, fullgraph=True)
    torch.testing.assert_close(compiled(matrix), inverse_dct2(matrix), atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_no_fft(dtype):
    assert cheapest_form(10**6, 10**4, dtype=dtype) == "matmul"


@given(
    signals=st.integers(1, 10**5), size=st.integers(1, 10**5), used=st.integers(0, 10**5), more=st.integers(0, 10**5)
)
def test_fewer_frequencies_never_speak_for_the_fft(signals, size, used, more):
    many, few = min(used + more, size), min(used, size)
    if cheapest_form(signals, size, many) == "matmul":
        assert cheapest_form(signals, size, few) == "matmul"


@given(signals=st.integers(1, 10**5), more=st.integers(0, 10**5), size=st.integers(1, 10**5))
def test_more_signals_never_speak_against_the_fft(signals, more, size):
    if cheapest_form(signals, size) == "fft":
        assert cheapest_form(signals + more, size) == "fft"


def test_costs_order_as_operations_do():
    assert cheapest_form(768, 768) == "fft"  # 0.9 GFLOP of products against 0.13 of passes over memory
    assert cheapest_form(16, 16) == "matmul"
    assert cheapest_form(768, 768, used=10) == "matmul"
    assert matmul_cost(3, 5) == 2 * 3 * 5 * 5
    assert matmul_cost(3, 5, 2) == 2 * 3 * 5 * 2


def test_tables_made_while_inferring_can_be_trained_with():
    with torch.inference_mode():
        dct2(torch.zeros(17, 19), "fft"), dct2(torch.zeros(17, 19), "matmul")
    for form in ("fft", "matmul"):
        matrix = torch.zeros(17, 19, requires_grad=True)
        dct2(matrix, form).sum().backward()
        assert matrix.grad.any()


def test_gradient_of_the_transform_is_its_inverse():
    for form in ("fft", "matmul"):
        matrix = random_matrix((13, 9)).requires_grad_()
        gradient = random_matrix((13, 9)) + 1
        found = torch.autograd.grad(dct2(matrix, form), matrix, gradient)[0]
        np.testing.assert_allclose(found.numpy(), scipy.fft.idctn(gradient.numpy(), norm="ortho"), atol=1e-12)
