"""Winograd convolutions against eager PyTorch in double precision; transformations against their definition."""

import numpy as np
import pytest
import torch
from compiling import ONE_LIST, compile_and_compare_all_widths, several
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cospipe.backends.tvm.kernels import winograd
from cospipe.backends.tvm.layout_rules import convolution

TOLERANCE = 1e-3
"""Of the output's scale, as promised in docs/kernels.md; F(6x6, 3x3) loses most."""


def matrix(transform, size):
    """Return the matrix of a linear function of ``size`` numbers."""
    columns = [transform(list(row)) for row in np.eye(size)]
    return np.array([[float(value) for value in column] for column in columns]).T


@pytest.mark.parametrize("size", winograd.SIZES)
def test_one_dimensional_winograd_is_a_correlation(size, monkeypatch):
    monkeypatch.setattr(winograd, "_by", lambda factor, value: factor * value)
    weights, inputs, outputs = (
        np.array(winograd._WEIGHT[size]),
        matrix(winograd._INPUT[size], size + 2),
        matrix(winograd._OUTPUT[size], size + 2),
    )
    rng = np.random.default_rng(0)
    signal, kernel = rng.normal(size=size + 2), rng.normal(size=3)
    result = outputs @ ((weights @ kernel) * (inputs @ signal))
    np.testing.assert_allclose(result, np.correlate(signal, kernel, "valid"), atol=1e-12)


@st.composite
def convolutions(draw):
    """A 3x3 convolution of stride 1."""
    inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    rows, columns = (draw(st.integers(8, 27)) for _ in range(2))
    image = torch.randn(draw(st.integers(1, 2)), inputs, rows, columns)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=padding), nn.ReLU()), image


@pytest.mark.slow
@pytest.mark.parametrize("size", winograd.SIZES)
@ONE_LIST
@given(cases=several(convolutions(), 4))
def test_random_convolutions(tmp_path_factory, monkeypatch, size, cases):
    monkeypatch.setattr(convolution, "_winograd_size", lambda *_: size)
    named = {f"{number} {model} {tuple(image.shape)}": (model, (image,)) for number, (model, image) in enumerate(cases)}
    errors = compile_and_compare_all_widths(named, tmp_path_factory.mktemp("winograd"))
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}
