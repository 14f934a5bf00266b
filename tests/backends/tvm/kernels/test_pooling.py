"""Pooling of random shapes against eager PyTorch, on every width of vector registers."""

import pytest
import torch
from compiling import ONE_LIST, compile_and_compare_all_widths, several
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

TOLERANCE = 1e-5
"""Of the output's scale; FP32 sums of some hundred numbers in another order."""


class Pooled(nn.Module):
    """A convolution, so that the image is in channel blocks, and a pooling of it."""

    def __init__(self, channels, pooling):
        super().__init__()
        self.convolution, self.pooling = nn.Conv2d(3, channels, 1), pooling

    def forward(self, image):
        return self.pooling(self.convolution(image))


@st.composite
def poolings(draw):
    """A pooling of odd sizes, strides and paddings, and an image it fits on."""
    kernel = draw(st.tuples(st.integers(1, 6), st.one_of(st.integers(1, 6), st.integers(17, 30))))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, size // 2)) for size in kernel)
    ceil_mode = draw(st.booleans())
    rows, columns = (size + draw(st.integers(0, 30)) for size in kernel)
    if draw(st.booleans()):
        dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
        rows, columns = rows * dilation[0], columns * dilation[1]
        pooling = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    else:
        pooling = nn.AvgPool2d(kernel, stride, padding, ceil_mode, draw(st.booleans()))
    return Pooled(draw(st.integers(1, 40)), pooling), torch.randn(draw(st.integers(1, 2)), 3, rows, columns)


def image(channels, rows, columns, batch=1):
    return (torch.randn(batch, channels, rows, columns),)


class Sequence(nn.Module):
    """Convolutions of a sequence, and a pooling between them."""

    def __init__(self, pooling):
        super().__init__()
        self.before, self.pooling, self.behind = nn.Conv1d(3, 20, 5), pooling, nn.Conv1d(20, 6, 1)

    def forward(self, sequence):
        return self.behind(self.pooling(self.before(sequence)))


def sequence(channels, size, batch=1):
    return (torch.randn(batch, channels, size),)


USUAL = {
    "maximum of a sequence": (Sequence(nn.MaxPool1d(3, 2, 1)), sequence(3, 40)),
    "maximum of a sequence, dilated, rounded up": (Sequence(nn.MaxPool1d(4, 3, 1, 2, ceil_mode=True)), sequence(3, 41)),
    "average of a sequence": (Sequence(nn.AvgPool1d(4)), sequence(3, 40, batch=2)),
    "average of a sequence, ends left out": (
        Sequence(nn.AvgPool1d(25, 2, 12, ceil_mode=True, count_include_pad=False)),
        sequence(3, 40),
    ),
    "adaptive average of a sequence": (Sequence(nn.AdaptiveAvgPool1d(5)), sequence(3, 40)),
    "averages of a sequence alone": (nn.AvgPool1d(3, 2), (torch.randn(20, 31),)),
    "global average of a sequence": (Sequence(nn.AdaptiveAvgPool1d(1)), sequence(3, 40)),
    "maximum of a sequence alone": (nn.MaxPool1d(3, 2), (torch.randn(20, 31),)),
    "maximum of few channels": (nn.MaxPool1d(3, 2), sequence(3, 31)),
    "maximum, 3x3 stride 2": (Pooled(32, nn.MaxPool2d(3, 2, 1)), image(3, 57, 56)),
    "maximum, 3x3 stride 1": (Pooled(24, nn.MaxPool2d(3, 1, 1)), image(3, 14, 14)),
    "maximum of negative numbers": (lambda x: nn.functional.max_pool2d(-5 - x.abs(), 3, 2, 1), image(16, 14, 14)),
    "maximum, 13x13": (Pooled(8, nn.MaxPool2d(13, 1, 6)), image(3, 20, 20)),
    "maximum, 31x31": (Pooled(8, nn.MaxPool2d(31, 2, 15)), image(3, 20, 40)),
    "average of a row of 75": (Pooled(12, nn.AvgPool2d((1, 75), (1, 15))), image(3, 2, 200)),
    "average of a row, ends left out": (Pooled(12, nn.AvgPool2d((1, 25), 1, (0, 12), True, False)), image(3, 1, 31)),
    "average, 3x3": (Pooled(24, nn.AvgPool2d(3, 1, 1, count_include_pad=False)), image(3, 13, 9)),
    "global average": (Pooled(33, nn.AdaptiveAvgPool2d(1)), image(3, 7, 7, batch=2)),
    "global average of large images": (Pooled(17, nn.AdaptiveAvgPool2d(1)), image(3, 56, 41)),
    "global average of a row": (Pooled(17, nn.AdaptiveAvgPool2d(1)), image(3, 1, 31)),
    "mean": (lambda x: nn.functional.relu(nn.functional.max_pool2d(x, 2)).mean((2, 3)), image(37, 14, 14, batch=2)),
    "mean, dimensions kept": (
        Pooled(20, nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(20, 8, 1))),
        image(3, 9, 9),
    ),
    "mean of one axis": (lambda x: nn.functional.max_pool2d(x, 2).mean(2), image(16, 14, 14)),
    "adaptive average": (Pooled(19, nn.AdaptiveAvgPool2d((7, 3))), image(3, 14, 12)),
    "adaptive average, not divisible": (Pooled(19, nn.AdaptiveAvgPool2d((5, 3))), image(3, 14, 13)),
    "adaptive average of the same size": (Pooled(19, nn.AdaptiveAvgPool2d(6)), image(3, 6, 6)),
    "double precision": (lambda x: nn.functional.max_pool2d(x.double(), 3).mean((2, 3)), image(16, 14, 14)),
    "an image alone": (nn.AvgPool2d(3, 2, 1), image(40, 15, 15)),
    "an image of few channels": (nn.MaxPool2d(3, 2, 1), image(3, 15, 15)),
}


def test_usual_layers(tmp_path):
    errors = compile_and_compare_all_widths(USUAL, tmp_path)
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


@pytest.mark.slow
@ONE_LIST
@given(cases=several(poolings(), 12))
def test_random_poolings(tmp_path_factory, cases):
    named = {f"{number} {model} {tuple(image.shape)}": (model, (image,)) for number, (model, image) in enumerate(cases)}
    errors = compile_and_compare_all_widths(named, tmp_path_factory.mktemp("pooling"))
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}
