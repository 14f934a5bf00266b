"""What TVM's importer lacks or gets wrong computes what eager PyTorch does, after its rule or PyTorch's own."""

import pytest
import torch
from compiling import Function, compare_all, compile_and_compare
from torch import nn
from torch.nn import functional as F

from cospipe.backends.tvm.tiling import Core
from cospipe.ir.errors import UnsupportedModelError

ARM = Core("aarch64", 16, 32)


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


IMAGE = (numbers(1, 8, 7, 7),)
HEADS = tuple(numbers(1, 4, rows, 16) for rows in (9, 12, 12))
VISIBLE = (numbers(1, 1, 9, 12) > 0) | (torch.arange(12) == 0)

CASES = {
    # the importer gets these wrong, in silence
    "add with alpha": (lambda x: x.add(x.sin(), alpha=2), IMAGE),
    "add a number with alpha": (lambda x: x.add(2.0, alpha=3), IMAGE),
    "subtract with alpha": (lambda x: x.sub(x.sin(), alpha=3), IMAGE),
    "subtract from, with alpha": (lambda x: torch.rsub(x, 2.0, alpha=3), IMAGE),
    "celu": (lambda x: F.celu(x, 0.3), IMAGE),
    "average pool with a divisor": (nn.AvgPool2d(3, 2, 1, divisor_override=4), IMAGE),
    "standard deviation": (lambda x: x.std(1), IMAGE),
    "standard deviation without correction": (lambda x: x.std((2, 3), correction=0, keepdim=True), IMAGE),
    "nearest, to a size": (lambda x: F.interpolate(x, size=(5, 9)), IMAGE),
    "nearest, by a fraction": (lambda x: F.interpolate(x, scale_factor=1.7), IMAGE),
    "bilinear, by a fraction": (lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), IMAGE),
    "attention with a scale": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.5), HEADS),
    "grid sample": (lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False), IMAGE),
    # it fails at these
    "a whole number minus": (lambda x: 1 - x, IMAGE),
    "fill with infinity": (lambda x: x.masked_fill(x > x.mean(1, keepdim=True), -torch.inf).softmax(1), IMAGE),
    "integers with one bound": (lambda x: x.int().clamp(min=0) + x.int().clamp(max=0), IMAGE),
    "layer norm without weights": (nn.LayerNorm(7, elementwise_affine=False), IMAGE),
    "group norm without weights": (nn.GroupNorm(2, 8, affine=False), IMAGE),
    "instance norm": (nn.InstanceNorm2d(8, affine=True), IMAGE),
    "instance norm with statistics": (nn.InstanceNorm2d(8, track_running_stats=True), IMAGE),
    "pixel shuffle": (nn.PixelShuffle(2), IMAGE),
    "attention of three dimensions": (F.scaled_dot_product_attention, tuple(x[0] for x in HEADS)),
    "attention, causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), HEADS),
    "attention with a boolean mask": (
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        (*HEADS, VISIBLE),
    ),
    "attention with an added mask": (
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        (*HEADS, numbers(1, 1, 9, 12)),
    ),
    # it lacks these
    "largest along axes": (lambda x: x.amax((2, 3)), IMAGE),
    "largest of all": (lambda x: x.amax(), IMAGE),
    "smallest along an axis": (lambda x: x.amin(-1, keepdim=True), IMAGE),
    "smallest and where": (lambda x: x.min(1), IMAGE),
    "root mean square norm": (nn.RMSNorm(7), IMAGE),
    "root mean square norm without weights": (nn.RMSNorm((7, 7), eps=1e-3, elementwise_affine=False), IMAGE),
    "dilated, same": (nn.Conv2d(8, 4, 3, padding="same", dilation=2), IMAGE),
    "valid": (nn.Conv2d(8, 4, 3, padding="valid"), IMAGE),
    # it lacks these, PyTorch takes them apart
    "mish": (nn.Mish(), IMAGE),
    "log sigmoid": (nn.LogSigmoid(), IMAGE),
    "glu": (nn.GLU(1), IMAGE),
    "channel shuffle": (nn.ChannelShuffle(2), IMAGE),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (numbers(1, 8, 6, 6),)),
    "variance": (lambda x: x.var((2, 3)), IMAGE),
    "log sum exp": (lambda x: x.logsumexp(1), IMAGE),
    "threshold": (nn.Threshold(0.1, 2.0), IMAGE),
    "hard shrink": (nn.Hardshrink(), IMAGE),
    "cosine similarity": (lambda x: F.cosine_similarity(x, x.flip(1), 1), IMAGE),
    "add a product": (lambda x: torch.addcmul(x, x.sin(), x.cos(), value=2), IMAGE),
    "interpolate": (lambda x: torch.lerp(x, x.sin(), 0.3), IMAGE),
    "write to a part": (lambda x: torch.cat([x[:, :1] * 0, x[:, 1:]], 1).diff(dim=1), IMAGE),
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    return compare_all(CASES, ARM, tmp_path_factory.mktemp("rules"))


@pytest.mark.parametrize("case", CASES)
def test_numbers_equal_eager(errors, case):
    assert errors[case] <= 1e-4


def test_group_norm_keeps_its_digits_beside_a_large_mean(tmp_path):
    far_away = numbers(1, 8, 7, 7) + 100
    assert compile_and_compare(nn.GroupNorm(2, 8), (far_away,), ARM, tmp_path)[0] <= 1e-4


def test_a_pool_that_cannot_be_written_out_is_refused(tmp_path):
    pool = Function(lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True, divisor_override=4))
    with pytest.raises(UnsupportedModelError, match="divisor_override and ceil_mode"):
        compile_and_compare(pool, IMAGE, ARM, tmp_path)
