import copy
import pickle

import numpy as np
import pytest
import scipy.fft
import torch

from cospipe.ir.coefficient_places import choose_places, matrix_shape
from cospipe.ir.spectral_config import SpectralConfig
from cospipe.ir.spectral_delta import SpectralDelta

SHAPES = [(6, 5), (1, 7), (8, 3, 3, 3), (8, 1, 3, 5), (4, 2, 3), (7, 1), (13, 11)]


def places_of(shape, n, seed=0):
    return choose_places("weight", torch.zeros(shape), n, SpectralConfig(selection="random", seed=seed))


def delta_of(shape, n, alpha=1.0, dtype=torch.float64):
    delta = SpectralDelta(shape, *places_of(shape, n), alpha=alpha, dtype=dtype)
    with torch.no_grad():
        delta.coefficients.normal_(generator=torch.Generator().manual_seed(1))
    return delta


def dense_change(delta):
    """What scipy makes of the coefficients, without alpha; shape of the weight."""
    spectrum = np.zeros(matrix_shape(delta.shape))
    spectrum[delta.rows.numpy(), delta.columns.numpy()] = delta.coefficients.detach().double().numpy()
    return scipy.fft.idctn(spectrum, norm="ortho").reshape(delta.shape)


def saved_sizes(run):
    """Run something; return the sizes of the tensors that its backward pass keeps."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (sizes.append(tensor.numel()), tensor)[1], lambda x: x
    ):
        run()
    return sizes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("traced", [False, True])
def test_change_equals_scipys_inverse_transform(shape, traced):
    delta = delta_of(shape, n=5, alpha=0.7)
    found = delta._traced_change() * 0.7 if traced else delta.change()
    np.testing.assert_allclose(found.detach().numpy(), 0.7 * dense_change(delta), atol=1e-13)


@pytest.mark.parametrize("n", [1, 20, 200, 1728])
def test_single_precision(n):
    delta = delta_of((64, 27), n=n, dtype=torch.float32)
    assert delta.change().dtype == torch.float32
    np.testing.assert_allclose(delta.change().detach().numpy(), dense_change(delta), atol=3e-6)
    np.testing.assert_allclose(delta._traced_change().detach().numpy(), dense_change(delta), atol=3e-6)


def test_call_adds_the_change_times_alpha_and_strength():
    delta, weight = delta_of((6, 5), 8, alpha=0.5), torch.randn(6, 5, dtype=torch.float64)
    delta.strength = -3.0
    np.testing.assert_allclose(delta(weight).detach(), weight - 1.5 * dense_change(delta), atol=1e-13)
    delta.strength = 0.0
    assert delta(weight) is weight


def test_norm_of_the_change_is_that_of_the_coefficients():
    delta = delta_of((16, 4, 3, 3), n=50, alpha=2.5)
    torch.testing.assert_close(delta.change().norm(), 2.5 * delta.coefficients.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_transform_of_the_weights_gradient(shape):
    delta = delta_of(shape, n=5, alpha=0.3)
    gradient = torch.randn(shape, dtype=torch.float64)
    (delta.change() * gradient).sum().backward()
    spectrum = scipy.fft.dctn(gradient.numpy().reshape(matrix_shape(shape)), norm="ortho")
    expected = 0.3 * spectrum[delta.rows.numpy(), delta.columns.numpy()]
    np.testing.assert_allclose(delta.coefficients.grad.numpy(), expected, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_and_its_gradient_equal_finite_differences(shape):
    delta = delta_of(shape, n=4, alpha=1.3)
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def run(weight, coefficients):
        return torch.func.functional_call(delta, {"coefficients": coefficients}, (weight,))

    def run_directly(weight, coefficients):
        with torch.no_grad():
            delta.coefficients.copy_(coefficients)
        return delta(weight)

    coefficients = delta.coefficients.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (weight, coefficients))
    assert torch.autograd.gradgradcheck(run, (weight, coefficients))
    assert torch.equal(run(weight, coefficients), run_directly(weight, coefficients))


def test_second_derivative_of_a_product():
    delta, weight = delta_of((6, 5), 7), torch.randn(6, 5, dtype=torch.float64)
    (first,) = torch.autograd.grad(delta(weight).pow(3).sum(), delta.coefficients, create_graph=True)
    first.square().sum().backward()
    basis = [scipy.fft.idctn(unit_spectrum(delta, j), norm="ortho") for j in range(7)]
    merged = delta(weight).detach().numpy()
    gradient = np.array([(3 * merged**2 * atom).sum() for atom in basis])
    hessian = np.array([[(6 * merged * a * b).sum() for a in basis] for b in basis])
    np.testing.assert_allclose(delta.coefficients.grad.numpy(), 2 * hessian @ gradient, rtol=1e-9)


def unit_spectrum(delta, which):
    spectrum = np.zeros(matrix_shape(delta.shape))
    spectrum[delta.rows[which], delta.columns[which]] = 1
    return spectrum


def test_nothing_is_kept_for_the_backward_pass():
    delta, weight = delta_of((64, 48), 100, dtype=torch.float32), torch.randn(64, 48)
    assert saved_sizes(lambda: delta(weight)) == []


def test_half_precision_weights_are_rounded_once():
    delta, weight = delta_of((32, 24), 50, alpha=0.1, dtype=torch.float32), torch.randn(32, 24).bfloat16()
    expected = (weight.double() + 0.1 * torch.from_numpy(dense_change(delta))).bfloat16()
    assert delta(weight).dtype == torch.bfloat16
    assert (delta(weight) != expected).sum() <= 2  # ties between two BF16 numbers may round either way
    delta(weight).float().sum().backward()
    assert delta.coefficients.grad.dtype == torch.float32


def test_half_precision_coefficients_are_computed_in_single():
    delta = delta_of((32, 24), 50, dtype=torch.float32).bfloat16()
    assert delta.change().dtype == torch.float32
    np.testing.assert_allclose(delta.change().detach(), dense_change(delta), atol=1e-5)
    delta.change().sum().backward()
    assert delta.coefficients.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(64, 48), (8, 8)])
def test_autocast_does_not_round_the_change(shape):
    delta, weight = delta_of(shape, 40, dtype=torch.float32), torch.randn(shape)
    gradient = torch.randn(shape)
    plain = torch.autograd.grad(delta(weight), delta.coefficients, gradient)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert delta(weight).dtype == torch.float32
        np.testing.assert_allclose(delta.change().detach(), dense_change(delta), atol=2e-6)
        assert torch.equal(torch.autograd.grad(delta(weight), delta.coefficients, gradient)[0], plain)


def test_starts_at_zero():
    delta, weight = SpectralDelta((6, 5), *places_of((6, 5), 10)), torch.randn(6, 5)
    assert torch.equal(delta(weight), weight)


def test_only_the_coefficients_are_trained():
    delta = delta_of((6, 5), n=4)
    assert [name for name, _ in delta.named_parameters()] == ["coefficients"]
    assert {name: buffer.dtype for name, buffer in delta.named_buffers()} == {
        "rows": torch.int32,
        "columns": torch.int32,
    }


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda delta: pickle.loads(pickle.dumps(delta))])
def test_copies_are_whole_and_independent(copied):
    delta = delta_of((6, 5), 8, alpha=0.3)
    before = delta.change().detach()  # prepares the transform
    other = copied(delta)
    assert torch.equal(other.change(), before)
    with torch.no_grad():
        other.coefficients.mul_(2)
    torch.testing.assert_close(other.change(), 2 * before)
    assert torch.equal(delta.change(), before)


def test_state_survives_in_another_delta_even_after_that_was_used():
    delta, other = delta_of((6, 5), 8), SpectralDelta((6, 5), *places_of((6, 5), 8, seed=5), dtype=torch.float64)
    other.change()
    other.load_state_dict(delta.state_dict())
    assert torch.equal(other.change(), delta.change())


@pytest.mark.parametrize("assign", [False, True])
def test_places_that_change_back_and_forth_are_noticed(assign):
    deltas = [SpectralDelta((6, 5), *places_of((6, 5), 8, seed=seed), dtype=torch.float64) for seed in range(3)]
    states = [{**delta.state_dict(), "coefficients": torch.ones(8, dtype=torch.float64)} for delta in deltas]
    used = delta_of((6, 5), 8)
    for state in states * 3:
        used.load_state_dict({key: value.clone() for key, value in state.items()}, assign=assign)
        np.testing.assert_allclose(used.change().detach(), dense_change(used), atol=1e-13)


def test_transform_is_prepared_once_even_when_the_same_places_are_written_again():
    delta = delta_of((6, 5), 8)
    first = delta.transform()
    delta.rows.copy_(delta.rows.clone())
    assert delta.transform() is first


def test_moving_to_other_types_and_the_meta_device():
    delta = delta_of((6, 5), 8, dtype=torch.float32)
    single = delta.change().detach()
    torch.testing.assert_close(delta.double().change().float(), single)
    assert delta.rows.dtype == torch.int32
    change = delta.to("meta").change()
    assert (change.shape, change.is_meta) == ((6, 5), True)


def test_first_used_for_inference_then_for_training():
    delta, weight = delta_of((6, 5), 8), torch.randn(6, 5, dtype=torch.float64)
    with torch.inference_mode():
        delta(weight)
    (first,) = torch.autograd.grad(delta(weight).pow(3).sum(), delta.coefficients, create_graph=True)
    first.sum().backward()
    assert delta.coefficients.grad.any()


def test_training_moves_a_weight_by_the_learning_rate_in_each_direction():
    for shape in ((6, 5), (64, 9), (3, 200)):  # the unit of the learning rate does not depend on the shape
        delta = SpectralDelta(shape, *places_of(shape, 10))
        optimizer = torch.optim.Adam(delta.parameters(), lr=5e-3)
        (delta(torch.zeros(shape)) * torch.randn(shape)).sum().backward()
        optimizer.step()
        torch.testing.assert_close(delta.change().norm(), torch.tensor(5e-3 * 10**0.5), rtol=1e-3, atol=0)


def test_traced_and_compiled_forms_agree_with_eager():
    delta, weight = delta_of((12, 20), 30, alpha=0.7, dtype=torch.float32), torch.randn(12, 20)
    expected = delta(weight)
    program = torch.export.export(delta, (weight,))
    torch.testing.assert_close(program.module()(weight), expected)
    compiled = torch.compile(delta, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(weight), expected)
    gradient = torch.randn(12, 20)
    (eager,) = torch.autograd.grad(expected, delta.coefficients, gradient)
    torch.testing.assert_close(torch.autograd.grad(compiled(weight), delta.coefficients, gradient)[0], eager)


def test_print_shows_the_sizes():
    assert "shape=(6, 5), n=4, alpha=2.0" in str(delta_of((6, 5), n=4, alpha=2.0))
