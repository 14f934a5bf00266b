"""Transposed convolutions, and convolutions of sequences, of random shapes against eager PyTorch."""

import pytest
import torch
from compiling import ONE_LIST, compile_and_compare_all_widths, several
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from cospipe.backends.tvm.kernels.transposed_convolution import Axis

TOLERANCE = 1e-5
"""Of the output's scale; FP32 sums of up to some thousand products in another order."""
TAILS = st.sampled_from([nn.Identity, nn.ReLU, nn.Hardswish])


@st.composite
def axes(draw):
    """One axis of a transposed convolution, and its output padding."""
    kernel, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    size, padding = draw(st.integers(1, 9)), draw(st.integers(0, 4))
    output_padding = draw(st.integers(0, max(stride, dilation) - 1))
    output = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    assume(output >= 1)
    return Axis(size, output, kernel, stride, padding, dilation), output_padding


def looped_phases(axis):
    return [axis.looped_phase(first) for first in range(min(axis.stride, axis.output))]


@pytest.mark.parametrize("phases_of", [lambda axis: axis.phases, looped_phases], ids=["unrolled", "looped"])
@given(axes())
def test_phases_are_the_definition(phases_of, drawn):
    axis, _ = drawn
    assume(phases_of is not looped_phases or axis.can_loop)
    read = {}
    for phase in phases_of(axis):
        for number in range(phase.window.output):
            taps = {phase.tap(tap): phase.window.position(number, tap) for tap in range(phase.window.kernel)}
            read[phase.output(number)] = {tap: position for tap, position in taps.items() if 0 <= position < axis.input}
    defined = {output: {} for output in range(axis.output)}
    for position in range(axis.input):
        for tap in range(axis.kernel):
            output = position * axis.stride - axis.padding + tap * axis.dilation
            if output in defined:
                defined[output][tap] = position
    assert read == defined


@st.composite
def channels(draw):
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    return groups * draw(st.integers(1, 20)), groups * draw(st.integers(1, 30)), groups


@st.composite
def transposed(draw):
    """A transposed convolution, and the shape of an image."""
    inputs, outputs, groups = draw(channels())
    described = [draw(axes()), draw(axes())]
    kernel, stride, padding, dilation = (
        tuple(getattr(axis, name) for axis, _ in described) for name in ("kernel", "stride", "padding", "dilation")
    )
    output_padding = tuple(more for _, more in described)
    module = nn.ConvTranspose2d(
        inputs, outputs, kernel, stride, padding, output_padding, groups, draw(st.booleans()), dilation
    )
    shape = draw(st.integers(1, 2)), inputs, *(axis.input for axis, _ in described)
    return nn.Sequential(module, draw(TAILS)()), shape


@st.composite
def transposed_sequences(draw):
    inputs, outputs, groups = draw(channels())
    axis, more = draw(axes())
    module = nn.ConvTranspose1d(
        inputs, outputs, axis.kernel, axis.stride, axis.padding, more, groups, draw(st.booleans()), axis.dilation
    )
    return nn.Sequential(module, draw(TAILS)()), (draw(st.integers(1, 2)), inputs, axis.input)


@st.composite
def sequences(draw):
    inputs, outputs, groups = draw(channels())
    kernel, dilation, padding = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 4))
    shortest = max(1, (kernel - 1) * dilation + 1 - 2 * padding)
    module = nn.Conv1d(inputs, outputs, kernel, draw(st.integers(1, 3)), padding, dilation, groups)
    size = shortest + draw(st.integers(0, 30))
    return nn.Sequential(module, draw(TAILS)()), (draw(st.integers(1, 2)), inputs, size)


class Residual(nn.Module):
    """Stays in channel blocks all the way: a residual addition, a gate, a table of positions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(6, 20, 5, padding=2), nn.Conv1d(20, 20, 3, padding=1, groups=20)
        self.norm, self.gate = nn.BatchNorm1d(20), nn.Conv1d(20, 20, 1)
        self.positions = nn.Parameter(torch.randn(20, 21))
        self.last = nn.ConvTranspose1d(20, 7, 4, 2, 1)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = x + self.second(x) / 2 + self.positions
        return self.last(x * self.gate(x.mean(2, keepdim=True)).sigmoid()), x.transpose(1, 2)


def wrong(drawn, folder):
    cases = {f"{model} of {shape}": (model, (torch.randn(shape),)) for model, shape in drawn}
    errors = compile_and_compare_all_widths(cases, folder)
    return {name: error for name, error in errors.items() if not error <= TOLERANCE}


@pytest.mark.slow
@ONE_LIST
@given(drawn=several(transposed(), 8))
def test_random_transposed_convolutions(tmp_path_factory, drawn):
    assert wrong(drawn, tmp_path_factory.mktemp("transposed")) == {}


@pytest.mark.slow
@ONE_LIST
@given(drawn=st.tuples(several(transposed_sequences(), 4), several(sequences(), 4)).map(lambda pair: pair[0] + pair[1]))
def test_random_convolutions_of_sequences(tmp_path_factory, drawn):
    assert wrong([*drawn, (Residual(), (2, 6, 21))], tmp_path_factory.mktemp("sequences")) == {}


def test_large_strides(tmp_path):
    """Masks brought back to the size of an image, and sound made of spectra: phases are loops."""
    large = [
        (nn.ConvTranspose2d(9, 5, 16, 8, 4), (1, 9, 5, 6)),
        (nn.ConvTranspose2d(5, 7, 64, 32), (1, 5, 2, 3)),
        (nn.ConvTranspose2d(12, 12, (5, 9), (5, 7), (1, 2), (0, 6), groups=12), (2, 12, 4, 3)),
        (nn.ConvTranspose2d(4, 6, 3, 6), (1, 4, 3, 3)),
        (nn.ConvTranspose2d(4, 6, 4, 5, 2, 1, dilation=3), (1, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, 6, 1, dilation=2), (1, 4, 3, 3)),
        (nn.ConvTranspose1d(18, 1, 80, 32, 24), (1, 18, 7)),
        (nn.ConvTranspose1d(6, 3, 50, 20), (1, 6, 1)),
    ]
    assert wrong(large, tmp_path) == {}


def test_usual_upsampling_on_each_core(tmp_path):
    """What decoders and generators use: kernels of 2, 3 and 4 with stride 2, and a first layer from one pixel."""
    usual = [
        (nn.ConvTranspose2d(24, 12, 2, 2), (1, 24, 6, 7)),
        (nn.ConvTranspose2d(8, 20, 3, 2, 1, 1), (1, 8, 6, 7)),
        (nn.ConvTranspose2d(20, 3, 4, 2, 1), (2, 20, 6, 7)),
        (nn.ConvTranspose2d(30, 16, 4), (1, 30, 1, 1)),
        (nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=16), (1, 16, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 1, 3, 0, 2), (4, 5, 5)),
    ]
    assert wrong(usual, tmp_path) == {}
