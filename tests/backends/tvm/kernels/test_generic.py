"""Elementwise computations and reductions of random tensors against eager PyTorch, on every width of registers."""

import ctypes
import mmap

import numpy as np
import pytest
import torch
from compiling import ONE_LIST, Function, compile_and_compare_all_widths, several
from direct import WIDTHS, Library
from hypothesis import given
from hypothesis import strategies as st
from tvm import te, tirx
from tvm.runtime import from_dlpack

from cospipe.backends.tvm.kernels.convolution import Convolution, pack_weight
from cospipe.backends.tvm.kernels.window import Window

TOLERANCE = 1e-5
"""Of the output's scale; FP32 sums of some thousand numbers in another order."""
SHAPES = st.lists(st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 33])), min_size=1, max_size=4)
REDUCTIONS = ["sum", "mean", "amax", "amin", "var", "logsumexp"]
UNARY = ["relu", "sigmoid", "tanh", "exp", "abs", "neg", "square", "erf"]


@st.composite
def elementwise(draw):
    """Two tensors, one of them broadcast, whose axes change places before and after."""
    shape = draw(SHAPES)
    own = [draw(st.sampled_from([size, size, 1])) for size in shape][draw(st.integers(0, len(shape) - 1)) :]
    order, function = draw(st.permutations(range(len(shape)))), getattr(torch, draw(st.sampled_from(UNARY)))
    start, step = draw(st.integers(0, shape[0] - 1)), draw(st.integers(1, 3))

    def compute(x, y):
        return (function(x) * y + x).permute(order), function(x[start::step].flip(0)) / 2

    return Function(compute), (torch.randn(shape), torch.randn(own))


@st.composite
def reductions(draw):
    """A reduction over some axes of a tensor that is computed before, and something behind it."""
    shape = draw(SHAPES)
    axes = sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    order, keeps = draw(st.permutations(range(len(shape)))), draw(st.booleans())
    name = draw(st.sampled_from(REDUCTIONS))
    more = {"unbiased": False} if name == "var" else {}

    def compute(x):
        reduced = getattr(torch, name)(torch.tanh(x.permute(order)) * 2, axes, keepdim=keeps, **more)
        return torch.sigmoid(reduced + 1)

    return Function(compute), (torch.randn(shape),)


def wrong(cases, folder):
    named = {f"{number} of {[tuple(x.shape) for x in inputs]}": (m, inputs) for number, (m, inputs) in enumerate(cases)}
    errors = compile_and_compare_all_widths(named, folder)
    return {name: error for name, error in errors.items() if not error <= TOLERANCE}


@pytest.mark.slow
@ONE_LIST
@given(cases=several(elementwise(), 10))
def test_random_elementwise_computations(tmp_path_factory, cases):
    assert wrong(cases, tmp_path_factory.mktemp("elementwise")) == {}


@pytest.mark.slow
@ONE_LIST
@given(cases=several(reductions(), 10))
def test_random_reductions(tmp_path_factory, cases):
    assert wrong(cases, tmp_path_factory.mktemp("reductions")) == {}


def test_reductions_of_networks(tmp_path):
    usual = [
        (Function(lambda x: x.mean((2, 3))), (torch.randn(2, 20, 7, 7),)),
        (Function(lambda x: x.amax(1, keepdim=True) * x), (torch.randn(1, 24, 9, 9),)),
        (Function(lambda x: x / x.norm(dim=-1, keepdim=True)), (torch.randn(5, 384),)),
        (Function(lambda x, y: (x * y).sum(-1)), (torch.randn(3, 197, 64), torch.randn(64))),
        (Function(lambda x: x.softmax(1).sum(2)), (torch.randn(2, 3, 1000),)),
        (Function(lambda x: x.double().sum(1)), (torch.randn(4, 50),)),
        (Function(lambda x: (x > 0).sum(1)), (torch.randn(4, 50),)),
    ]
    assert wrong(usual, tmp_path) == {}


def before_unreadable_memory(array):
    """Return a copy of an array that ends where reading on ends the process."""
    readable = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, readable + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + readable), mmap.PAGESIZE, 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, readable - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


PACKED = Convolution(1, 1, 1, 408, 1, 8, Window(1, 1, 1, 1, 0, 1), Window(16, 1, 16, 1, 0, 1), 1, 2)
"""Of 402 output channels in 51 blocks; the last of 26 tiles of two is moved back, and its block is not full."""
CONDITIONAL = {
    "squares below 49": (
        lambda data: te.compute(
            (8, 16), lambda i, j: tirx.if_then_else(i * i < 49, data(j, i), tirx.const(0.0, "float32")), name="chosen"
        ),
        [((16, 7), "float32")],
    ),
    "packed weights": (lambda weight: pack_weight(weight, PACKED, 1, 1), [((402, 1, 1, 16), "float32")]),
}


@pytest.mark.parametrize("width", WIDTHS)
def test_what_a_condition_keeps_from_being_read_is_not_read(width):
    library = Library(CONDITIONAL, WIDTHS[width])
    data = before_unreadable_memory(np.random.default_rng(0).standard_normal((16, 7)).astype("float32"))
    assert np.array_equal(library("squares below 49", from_dlpack(data)), np.pad(data.T, ((0, 1), (0, 0))))
    weight = before_unreadable_memory(np.random.default_rng(0).standard_normal((402, 1, 1, 16)).astype("float32"))
    blocks = np.pad(weight[:, 0, 0], ((0, 6), (0, 0))).reshape(51, 8, 16).transpose(0, 2, 1)
    tiles = [np.concatenate(blocks[first : first + 2], axis=1) for first in (*range(0, 50, 2), 49)]
    assert np.array_equal(library("packed weights", from_dlpack(weight)), np.array(tiles)[None, :, None, None, :, None])
