"""Direct convolutions of random shapes against eager PyTorch, on every width of vector registers."""

from math import ceil

import pytest
import torch
from compiling import ONE_LIST, compare_all, compile_and_compare_all_widths, several
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cospipe.backends.tvm.kernels.window import Window
from cospipe.backends.tvm.layout_rules import convolution
from cospipe.backends.tvm.tiling import Core

TOLERANCE = 1e-5
"""Of the output's scale; FP32 sums of up to some thousand products in another order."""


@st.composite
def convolutions(draw):
    """A dense or grouped convolution, and an image it fits on."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    inputs, outputs = groups * draw(st.integers(1, 20)), groups * draw(st.integers(1, 40))
    kernel = draw(st.tuples(st.integers(1, 5), st.one_of(st.integers(1, 5), st.integers(17, 24))))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    rows, columns = (
        max(1, span - 2 * pad) + draw(st.integers(0, 24)) for span, pad in zip(reach, padding, strict=True)
    )
    module = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    tail = draw(st.sampled_from([nn.Identity, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish]))
    return nn.Sequential(module, tail()), torch.randn(draw(st.integers(1, 2)), inputs, rows, columns)


@pytest.mark.slow
@ONE_LIST
@given(cases=several(convolutions(), 8))
def test_random_convolutions(tmp_path_factory, monkeypatch, cases):
    monkeypatch.setattr(convolution, "_winograd_size", lambda *_: None)
    named = {f"{number} {model} {tuple(image.shape)}": (model, (image,)) for number, (model, image) in enumerate(cases)}
    errors = compile_and_compare_all_widths(named, tmp_path_factory.mktemp("convolutions"))
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


def test_weights_loaded_before_the_first_product(tmp_path):
    core = Core("aarch64", 16, 32, loads_weights_first=True)
    cases = {
        "pointwise": (nn.Conv2d(24, 40, 1), (torch.randn(1, 24, 9, 9),)),
        "direct": (nn.Conv2d(10, 20, 3, 2), (torch.randn(2, 10, 9, 11),)),
        "winograd": (nn.Conv2d(16, 16, 3, padding=1), (torch.randn(1, 16, 12, 12),)),
        "first layer": (nn.Conv2d(3, 8, 3, 2, 1), (torch.randn(1, 3, 15, 15),)),
        "linear": (nn.Linear(33, 50), (torch.randn(9, 33),)),
        "product": (torch.matmul, (torch.randn(3, 9, 17), torch.randn(3, 17, 6))),
    }
    errors = compare_all(cases, core, tmp_path)
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


def test_long_rows_of_taps(tmp_path):
    """Kernels of networks for sound, which reach over one side of the image, or over both."""
    cases = {
        "a plain row, strided": (nn.Conv1d(1, 20, 40, 16), (torch.randn(1, 1, 400),)),
        "padded on both sides": (nn.Conv1d(1, 12, 64, 4, padding=32), (torch.randn(1, 1, 90),)),
        "longer than the image": (nn.Conv1d(24, 24, 33, padding=16), (torch.randn(2, 24, 9),)),
        "groups": (nn.Conv1d(48, 48, 128, padding=64, groups=4), (torch.randn(1, 48, 50),)),
        "dilated": (nn.Conv1d(8, 8, 17, padding=24, dilation=3), (torch.randn(1, 8, 61),)),
        "far apart": (nn.Conv1d(8, 8, 2, padding=60, dilation=60), (torch.randn(1, 8, 150),)),
        "padded by more than the kernel": (nn.Conv1d(8, 8, 17, padding=40), (torch.randn(1, 8, 5),)),
        "rows and columns": (nn.Conv2d(8, 16, (3, 39), padding=(1, 19)), (torch.randn(1, 8, 6, 44),)),
    }
    errors = compile_and_compare_all_widths(cases, tmp_path)
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.integers(0, 6), st.integers(1, 3), st.data())
def test_a_window_knows_its_taps_inside_the_image(size, kernel, stride, padding, dilation, data):
    output = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if output < 1:
        return
    window = Window(size, output, kernel, stride, padding, dilation)
    position = data.draw(st.integers(0, output - 1))
    inside = [tap for tap in range(kernel) if window.is_inside(position, tap)]
    first, behind = (int(bound) for bound in window.taps(position))
    assert list(range(first, behind)) == inside
    assert window.leaves_image or len(inside) == kernel
    is_whole = [window.is_inside(place, 0) and window.is_inside(place, kernel - 1) for place in range(output)]
    assert window.border_outputs == is_whole.count(False)


@given(st.integers(1, 60), st.integers(1, 32), st.integers(1, 32), st.sampled_from([1, 4, 8, 16]))
def test_merged_groups_fill_blocks_and_end_where_the_channels_end(groups, inputs, outputs, block):
    merged = convolution.merged_groups(groups, inputs, outputs, block, block)
    if merged == groups:
        return
    for channels in (inputs, outputs):
        assert merged * channels % block == 0
        assert ceil(groups / merged) * merged * channels // block == ceil(groups * channels / block)


@pytest.mark.parametrize(("groups", "channels", "merged"), [(32, 4, 4), (13, 8, 2), (55, 8, 2), (3, 24, 3), (5, 16, 1)])
def test_few_groups_are_merged(groups, channels, merged):
    assert convolution.merged_groups(groups, channels, channels, 16, 16) == merged


def test_groups_that_end_within_a_block(tmp_path):
    """Odd numbers of groups of half a vector, as in RegNet."""
    cases = {
        "13 groups of 8": (nn.Conv2d(104, 104, 3, padding=1, groups=13), (torch.randn(2, 104, 9, 9),)),
        "7 groups of 2 to 4": (nn.Conv2d(14, 28, 3, 2, groups=7), (torch.randn(1, 14, 9, 9),)),
        "transposed": (nn.ConvTranspose2d(40, 40, 2, 2, groups=5), (torch.randn(1, 40, 5, 5),)),
    }
    errors = compile_and_compare_all_widths(cases, tmp_path)
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}
