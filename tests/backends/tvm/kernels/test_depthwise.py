"""Depthwise convolutions of random shapes against eager PyTorch, on every width of vector registers."""

import pytest
import torch
from compiling import ONE_LIST, compile_and_compare_all_widths, several
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

TOLERANCE = 1e-5
"""Of the output's scale; FP32 sums of at most 49 products in another order."""


@st.composite
def depthwise_convolutions(draw):
    """A depthwise convolution, what follows it, and an image it fits on."""
    channels = draw(st.integers(2, 40))
    kernel = draw(st.tuples(st.integers(1, 7), st.one_of(st.integers(1, 7), st.integers(17, 33))))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 6), st.integers(0, 6)))
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    rows, columns = (
        max(1, span - 2 * pad) + draw(st.integers(0, 40)) for span, pad in zip(reach, padding, strict=True)
    )
    options = {"groups": channels, "bias": draw(st.booleans())}
    module = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, **options)
    tail = draw(st.sampled_from([nn.Identity, nn.ReLU6, nn.SiLU, nn.Hardswish]))
    return nn.Sequential(module, tail()), torch.randn(draw(st.integers(1, 3)), channels, rows, columns)


def usual(channels, size, kernel, stride, tail):
    """Return a layer of a mobile network and its input."""
    module = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    return nn.Sequential(module, nn.BatchNorm2d(channels), tail()), (torch.randn(1, channels, size, size),)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(20, 20, 3, padding=1, groups=20)

    def forward(self, image):
        return torch.relu(image + self.convolution(image))


USUAL = {
    "3x3 of large images": usual(32, 57, 3, 1, nn.ReLU6),
    "3x3 stride 2": usual(24, 28, 3, 2, nn.ReLU6),
    "3x3 on 7x7": usual(48, 7, 3, 1, nn.Hardswish),
    "5x5 stride 2": usual(24, 29, 5, 2, nn.SiLU),
    "7x7 on one pixel": usual(16, 1, 7, 1, nn.ReLU),
    "31x31": usual(16, 20, 31, 1, nn.Identity),
    "a row of 65": (nn.Conv1d(16, 16, 65, 2, 32, groups=16), (torch.randn(2, 16, 70),)),
    "a row longer than the image": (nn.Conv1d(9, 9, 31, padding=15, groups=9), (torch.randn(1, 9, 6),)),
    "residual": (Residual(), (torch.randn(2, 20, 7, 7),)),
    "behind a pointwise convolution": (
        nn.Sequential(nn.Conv2d(5, 18, 1), nn.ReLU6(), nn.Conv2d(18, 18, 3, padding=1, groups=18), nn.Conv2d(18, 4, 1)),
        (torch.randn(1, 5, 9, 9),),
    ),
}


def test_usual_layers(tmp_path):
    errors = compile_and_compare_all_widths(USUAL, tmp_path)
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


@pytest.mark.slow
@ONE_LIST
@given(cases=several(depthwise_convolutions(), 12))
def test_random_depthwise_convolutions(tmp_path_factory, cases):
    named = {f"{number} {model} {tuple(image.shape)}": (model, (image,)) for number, (model, image) in enumerate(cases)}
    errors = compile_and_compare_all_widths(named, tmp_path_factory.mktemp("depthwise"))
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}
