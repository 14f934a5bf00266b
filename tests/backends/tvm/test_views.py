"""Views of tensors: strides against PyTorch's own, and attention that copies no heads apart."""

import pytest
import torch
from compiling import WIDTHS, Function
from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.tvm.layout_rules.views import View, reshaped
from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.target import core_target
from cospipe.ir.capture import capture
from cospipe.ir.soc import load_soc


@st.composite
def strided(draw):
    """A tensor whose axes were exchanged and cut, and another shape for its elements."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    tensor = torch.empty(shape).permute(draw(st.permutations(range(len(shape)))))
    for axis in draw(st.lists(st.integers(0, len(shape) - 1), max_size=2)):
        first = draw(st.integers(0, tensor.shape[axis] - 1))
        tensor = tensor.narrow(axis, first, draw(st.integers(1, tensor.shape[axis] - first)))
    return tensor, draw(shapes_of(tensor.numel()))


@st.composite
def shapes_of(draw, elements):
    shape = [1] * draw(st.integers(1, 2))
    while elements > 1:
        extent = draw(st.sampled_from([number for number in range(2, elements + 1) if elements % number == 0]))
        shape.append(extent)
        elements //= extent
    return draw(st.permutations(shape))


@given(strided())
def test_reshaping_a_view_is_what_pytorch_does(drawn):
    tensor, shape = drawn
    result = reshaped(View(None, tuple(tensor.shape), tensor.storage_offset(), tensor.stride()), shape)
    try:
        expected = tensor.view(shape)
    except RuntimeError:
        assert result is None
        return
    axes = [axis for axis, extent in enumerate(shape) if extent > 1]
    assert result.shape == tuple(shape)
    assert result.offset == expected.storage_offset()
    assert [result.strides[axis] for axis in axes] == [expected.stride(axis) for axis in axes]


def by_permutation(x):
    query, key, value = x.reshape(1, 9, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
    return (query @ key.mT) @ value


def by_index(x):
    parts = x.unflatten(-1, (3, 32)).unsqueeze(0).transpose(0, -2).squeeze(-2)
    query, key, value = (parts[i].reshape(1, 9, 2, 16).transpose(1, 2) for i in range(3))
    return (query @ key.mT) @ value


def by_range(x):
    query, key, value = (x[..., first : first + 32].reshape(1, 9, 2, 16).transpose(1, 2) for first in (0, 32, 64))
    return (query @ key.mT) @ value


def by_chunks(x):
    query, key, value = (part.reshape(1, 9, 2, 16).transpose(1, 2) for part in x.chunk(3, -1))
    return (query @ key.mT) @ value


@pytest.mark.parametrize("attend", [by_permutation, by_index, by_range, by_chunks])
def test_attention_copies_no_heads_apart(attend, tmp_path):
    inputs = (torch.randn(1, 9, 96),)
    soc = load_soc("host")
    target = core_target(soc.clusters[0], 1, soc.architecture)
    lowered = lower_stage(capture(Function(attend), inputs), inputs, target, WIDTHS["neon"], tmp_path / "stage.so")
    assert [kernel.kind for kernel in lowered.kernels] == ["matrix_product", "matrix_product"]
