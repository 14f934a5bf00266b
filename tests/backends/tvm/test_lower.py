"""Compiled kernels compute what eager PyTorch does, for the vector units of ARM and x86 cores.

A vector unit decides the tiles only, so the tiles of ARM cores are checked on any machine.
"""

import pytest
import torch
from compiling import compare_all
from torch import nn
from torch.nn import functional as F

from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.target import core_target
from cospipe.backends.tvm.tiling import Core
from cospipe.ir.capture import capture
from cospipe.ir.errors import LoweringError
from cospipe.ir.soc import load_soc

UNITS = {"neon": Core("aarch64", 16, 32), "avx2": Core("x86_64", 32, 16), "avx512": Core("x86_64", 64, 32)}
TOLERANCE = 1e-4


def image(channels, height, width=None, batch=1):
    generator = torch.Generator().manual_seed(channels * height)
    return (torch.randn(batch, channels, height, width or height, generator=generator),)


def numbers(*shapes):
    generator = torch.Generator().manual_seed(sum(sum(shape) for shape in shapes))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def separable(channels, outputs, kernel, stride):
    depthwise = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    norms = nn.BatchNorm2d(channels), nn.BatchNorm2d(outputs)
    return nn.Sequential(depthwise, norms[0], nn.ReLU6(), nn.Conv2d(channels, outputs, 1), norms[1], nn.Hardswish())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.conv(x)) * x.mean((2, 3), keepdim=True)


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 1)

    def forward(self, x):
        return torch.cat([x * F.hardsigmoid(self.conv(F.adaptive_avg_pool2d(x, 1))), F.max_pool2d(x, 3, 1, 1)], 1)


CONVOLUTIONS = {
    "3x3": (nn.Conv2d(8, 16, 3, padding=1), image(8, 14)),
    "3x3 stride 2, odd channels and sizes": (nn.Conv2d(13, 7, 3, 2, 1), image(13, 15)),
    "7x7 stride 2 of 3 channels": (nn.Conv2d(3, 16, 7, 2, 3), image(3, 33, 31)),
    "dilated": (nn.Conv2d(8, 8, 3, padding=2, dilation=2), image(8, 12)),
    "grouped": (nn.Conv2d(8, 12, 3, padding=1, groups=4), image(8, 10)),
    "same, even kernel": (nn.Conv2d(5, 6, 4, padding="same"), image(5, 9, 11)),
    "padded to one side": (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 6, 3, 2)), image(4, 16)),
    "1x1 on 7x7": (nn.Conv2d(13, 29, 1), image(13, 7)),
    "1x1 without bias, batch 2": (nn.Conv2d(16, 32, 1, bias=False), image(16, 8, batch=2)),
    "1x1 to one channel": (nn.Conv2d(16, 1, 1), image(16, 7)),
    "1x1 on one pixel": (nn.Conv2d(16, 8, 1), image(16, 1)),
    "kernel as large as the image": (nn.Conv2d(16, 8, 7), image(16, 7)),
    "one image without a batch": (nn.Conv2d(4, 6, 3, padding=1), (image(4, 9)[0][0],)),
    "rectangular": (nn.Conv2d(4, 6, (1, 5), (1, 2), (0, 2)), image(4, 12, 20)),
    "depthwise 3x3": (nn.Conv2d(12, 12, 3, padding=1, groups=12), image(12, 14)),
    "depthwise 5x5 stride 2": (nn.Conv2d(12, 12, 5, 2, 2, groups=12), image(12, 15)),
    "depthwise with two outputs a channel": (nn.Conv2d(6, 12, 3, padding=1, groups=6), image(6, 14)),
    "separable with batch norms": (separable(16, 24, 3, 1), image(16, 13)),
    "separable 5x5 stride 2": (separable(16, 24, 5, 2), image(16, 14, batch=2)),
    "residual": (Residual(), image(8, 14)),
    "squeeze and concatenate": (Squeeze(), image(12, 14)),
    "large enough to run in parallel": (nn.Conv2d(16, 32, 3, padding=1), image(16, 28)),
    "1d": (nn.Conv1d(6, 10, 5, 2, 2), numbers((1, 6, 33))),
    "1d depthwise": (nn.Conv1d(6, 6, 3, padding=1, groups=6), numbers((2, 6, 20))),
    "1d same": (nn.Conv1d(6, 6, 4, padding="same"), numbers((1, 6, 20))),
    "3d": (nn.Conv3d(3, 4, 3, padding=1), numbers((1, 3, 6, 6, 6))),
    "transposed": (nn.ConvTranspose2d(8, 5, 3, 2, 1, output_padding=1), image(8, 7)),
    "transposed 2x2": (nn.ConvTranspose2d(6, 4, 2, 2), image(6, 7)),
    "transposed, grouped": (nn.ConvTranspose2d(6, 4, 3, 2, 1, groups=2), image(6, 7)),
    "transposed, dilated": (nn.ConvTranspose2d(6, 4, 3, padding=1, dilation=2), image(6, 7)),
    "batch norm before the convolution": (nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)), image(8, 13)),
}

PRODUCTS = {
    "1000 classes": (nn.Linear(64, 1000), numbers((1, 64))),
    "without bias": (nn.Linear(64, 10, bias=False), numbers((1, 64))),
    "prime sizes": (nn.Linear(37, 13), numbers((1, 37))),
    "tokens in two images": (nn.Linear(48, 31), numbers((2, 5, 48))),
    "tiles do not reach over images": (nn.Linear(16, 8), numbers((3, 6, 16))),
    "a vector alone": (nn.Linear(16, 8), numbers((16,))),
    "a vector alone, without bias": (nn.Linear(16, 8, bias=False), numbers((16,))),
    "four dimensions": (nn.Linear(16, 8), numbers((1, 7, 7, 16))),
    "one output": (nn.Linear(16, 1), numbers((4, 16))),
    "one input": (nn.Linear(1, 6), numbers((4, 1))),
    "two layers": (nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 5), nn.ReLU()), numbers((1, 7, 16))),
    "large enough to run in parallel": (nn.Linear(128, 256), numbers((1, 9, 128))),
    "matrices": (lambda a, b: a @ b, numbers((5, 7), (7, 11))),
    "matrix and vector": (lambda a, b: a @ b, numbers((5, 7), (7,))),
    "vector and matrix": (lambda a, b: a @ b, numbers((7,), (7, 5))),
    "batches": (torch.bmm, numbers((3, 13, 16), (3, 16, 12))),
    "heads": (lambda a, b: a @ b.transpose(-1, -2), numbers((1, 4, 17, 16), (1, 4, 17, 16))),
    "one matrix for all": (lambda a, b: a @ b, numbers((2, 4, 5, 6), (6, 7))),
    "added": (lambda a, b, c: torch.addmm(c, a, b, beta=0.5, alpha=2.0), numbers((5, 7), (7, 8), (8,))),
    "LSTM": (nn.LSTM(6, 9, 2, batch_first=True, bidirectional=True), numbers((2, 4, 6))),
    "GRU": (nn.GRU(6, 9), numbers((5, 1, 6))),
    "RNN": (nn.RNN(6, 9, nonlinearity="relu"), numbers((5, 1, 6))),
    "attention": (nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), numbers((1, 17, 32))),
}

OTHERS = {
    "layer norm": (nn.LayerNorm(33), numbers((1, 7, 33))),
    "layer norm of two axes": (nn.LayerNorm((5, 6)), numbers((2, 3, 5, 6))),
    "group norm": (nn.GroupNorm(4, 8), image(8, 7, batch=2)),
    "softmax": (nn.Softmax(-1), numbers((3, 100))),
    "softmax over channels": (nn.Softmax(1), image(5, 7, batch=2)),
    "log softmax": (nn.LogSoftmax(-1), numbers((3, 100))),
    "max pool": (nn.MaxPool2d(3, 2, 1), image(8, 14)),
    "max pool of negative numbers": (lambda x: F.max_pool2d(-5 - x.abs(), 3, 2, 1), image(8, 14)),
    "max pool, ceil mode": (nn.MaxPool2d(3, 2, ceil_mode=True), image(8, 14)),
    "max pool, ceil mode and padding": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), image(8, 8)),
    "max pool, dilated": (nn.MaxPool2d(3, 1, 1, dilation=2), image(8, 9)),
    "average pool": (nn.AvgPool2d(3, 2, 1), image(8, 15)),
    "average pool without the padding": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), image(8, 15)),
    "average pool, ceil mode": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), image(8, 8)),
    "average pool, ceil mode without the padding": (
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        image(8, 8),
    ),
    "adaptive pool to one": (nn.AdaptiveAvgPool2d(1), image(8, 7)),
    "adaptive pool, odd": (nn.AdaptiveAvgPool2d((3, 5)), image(8, 7, 11)),
    "adaptive pool to more": (nn.AdaptiveAvgPool2d(7), image(8, 2)),
    "concatenate channels": (lambda a, b: torch.cat([a, b, a.relu()], 1), (*image(3, 7), *image(5, 7))),
    "concatenate columns": (lambda a, b: torch.cat([a, b], -1), numbers((3, 5), (3, 7))),
    "split": (lambda x: x.chunk(2, 1)[1] * x.split([3, 5], 1)[1][:, :4], image(8, 5)),
    "shuffle channels": (lambda x: x.view(1, 2, 4, 7, 7).transpose(1, 2).reshape(1, 8, 7, 7), image(8, 7)),
    "mean": (lambda x: x.mean((2, 3)), image(8, 7)),
    "mean of everything": (lambda x: x.mean(), image(8, 7)),
    "argmax over channels": (lambda x: x.argmax(1), image(8, 7)),
    "flatten": (nn.Flatten(), image(8, 7)),
    "gather by position": (lambda x: x[:, [0, 2, 1]], image(8, 7)),
    "embedding": (nn.Embedding(10, 8), (torch.tensor([[1, 2, 9]]),)),
    "bytes in": (lambda x: x.float() / 255, (torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8),)),
    "choice by a condition": (lambda x, m: torch.where(m, x, -x), (*numbers((3, 4)), numbers((3, 4))[0] > 0)),
    "a number in": (lambda x, a: x * a, (*numbers((3, 4)), torch.tensor(2.0))),
    "double precision": (nn.Linear(8, 4).double(), (numbers((2, 8))[0].double(),)),
    **{
        type(activation).__name__: (activation, tuple(4 * x for x in image(8, 7)))
        for activation in (
            *(nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid(), nn.ReLU6(), nn.Sigmoid(), nn.Tanh()),
            *(nn.LeakyReLU(0.1), nn.ELU(0.3), nn.SELU(), nn.Softplus(2.0), nn.PReLU(8), nn.Hardtanh(-2, 2)),
        )
    },
}

GROUPS = {"convolutions": CONVOLUTIONS, "products": PRODUCTS, "others": OTHERS}


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Error of every case of a group on a vector unit, compiled when first asked for."""
    known = {}

    def of(group, unit):
        if (group, unit) not in known:
            known[group, unit] = compare_all(GROUPS[group], UNITS[unit], tmp_path_factory.mktemp("lower"))
        return known[group, unit]

    return of


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("group", "case"), [(group, case) for group, cases in GROUPS.items() for case in cases])
def test_numbers_equal_eager(errors, group, case, unit):
    assert errors(group, unit)[case] <= TOLERANCE


def test_what_the_compiler_cannot_do_is_one_sentence(tmp_path):
    module = capture(nn.Conv2d(3, 4, 3), image(3, 8))
    soc = load_soc("host")
    target = core_target(soc.clusters[0], 1, soc.architecture)
    wrong = (torch.randn(1, 5, 8, 8),)
    with pytest.raises(LoweringError, match=r"TVM could not compile stage7 \(\w+\): .*\.$") as failure:
        lower_stage(module, wrong, target, UNITS["neon"], tmp_path / "stage7.so")
    assert "\n" not in str(failure.value)
