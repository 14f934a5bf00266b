"""Padding and cutting behind a kernel, where they read and write at the same index, are not taken for elementwise."""

import torch
from compiling import compare_all
from torch import nn
from torch.nn import functional as F

from cospipe.backends.tvm.tiling import Core


class Followed(nn.Module):
    """A layer and a function of its result."""

    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x):
        return self.function(self.layer(x))


def padded(x):
    return F.pad(x, (0, 3, 0, 2))


def first(x):
    return x[..., :2, :5].relu() + 1


def test_what_is_padded_or_cut_behind_is_whole(tmp_path):
    image, matrix = torch.randn(2, 8, 9, 9), torch.randn(6, 16)
    layers = {
        "linear": (nn.Linear(16, 32), matrix),
        "softmax": (nn.Softmax(-1), matrix),
        "layer norm": (nn.LayerNorm(16), matrix),
        "elementwise": (nn.Tanh(), matrix),
        "convolution": (nn.Conv2d(8, 12, 3), image),
        "depthwise": (nn.Conv2d(8, 8, 3, groups=8), image),
        "transposed": (nn.ConvTranspose2d(8, 12, 2, 2), image),
        "pooling": (nn.MaxPool2d(3, 1), image),
    }
    cases = {
        f"{name}, {function.__name__}": (Followed(layer, function), (x,))
        for name, (layer, x) in layers.items()
        for function in (padded, first)
    }
    errors = compare_all(cases, Core("x86_64", 32, 16), tmp_path)
    assert {name: error for name, error in errors.items() if not error <= 1e-5} == {}
