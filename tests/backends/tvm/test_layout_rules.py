"""Operations between convolutions stay on channel blocks, and compute what eager PyTorch does."""

import pytest
import torch
import tvm
from compiling import Function, SideBySide, compile_and_compare_all_widths
from torch import nn
from torch.nn import functional as F
from tvm import relax

from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.layout import LayoutRewriter
from cospipe.backends.tvm.layout_rules import RULES
from cospipe.backends.tvm.tiling import Core
from cospipe.ir.capture import capture

TOLERANCE = 1e-5


class Between(nn.Module):
    """A module between two convolutions."""

    def __init__(self, middle, channels=20, after=None):
        super().__init__()
        self.before, self.middle = nn.Conv2d(3, channels, 1), middle
        self.after = nn.Conv2d(after or channels, 8, 1)

    def forward(self, image):
        return self.after(self.middle(self.before(image)))


class Unit(nn.Module):
    """A unit of a ShuffleNet: half of the channels pass by, then both halves are shuffled."""

    def __init__(self, channels):
        super().__init__()
        self.branch = nn.Conv2d(channels // 2, channels // 2, 1)

    def forward(self, image):
        passing, worked = image.chunk(2, 1)
        return F.channel_shuffle(torch.cat([passing, self.branch(worked)], 1), 2)


def resized(**options):
    return Function(lambda x: F.interpolate(x, **options))


def parts(image):
    first, second = image.split([16, 16], 1)
    return first * second[:, :, 1:2, 1:2]


MIDDLES = {
    "zero padding": Between(nn.ZeroPad2d((1, 0, 2, 3))),
    "padding with a number": Between(nn.ConstantPad2d(2, -0.5)),
    "reflection": Between(nn.ReflectionPad2d((1, 2, 0, 3))),
    "repeated edge": Between(nn.ReplicationPad2d((1, 2, 0, 3))),
    "nearest pixel": Between(resized(scale_factor=2)),
    "bilinear": Between(resized(scale_factor=2, mode="bilinear")),
    "bilinear to a size": Between(resized(size=(13, 10), mode="bilinear", align_corners=True)),
    "batch norm": Between(nn.Sequential(nn.BatchNorm2d(20), nn.ReLU())),
    "pooling": Between(nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(1))),
    "whole blocks joined": Between(Function(lambda x: torch.cat([x, x.relu()], 1)), 32, 64),
    "channels joined": Between(Function(lambda x: torch.cat([x, x[:, 3:9]], 1)), 20, 26),
    "rows joined": Between(Function(lambda x: torch.cat([x, x.relu()], 2))),
    "channels cut": Between(Function(lambda x: x.split([7, 13], 1)[1].relu()), 20, 13),
    "units with a shuffle": Between(nn.Sequential(Unit(20), Unit(20), Unit(20))),
}
ON_PLAIN_TENSORS = {
    "batch norm of vectors": (nn.BatchNorm1d(20), (torch.randn(3, 20),)),
    "batch norm of sequences": (nn.BatchNorm1d(20), (torch.randn(3, 20, 7),)),
    "batch norm of an image": (nn.BatchNorm2d(5), (torch.randn(2, 5, 4, 7),)),
    "padding of an image": (nn.ZeroPad2d((1, 0, 2, 3)), (torch.randn(2, 20, 4, 7),)),
    "parts": (parts, (torch.randn(2, 32, 4, 7),)),
    "a tuple of blocks": (
        nn.Sequential(nn.Conv2d(3, 32, 1), Function(lambda x: x.relu().chunk(2, 1))),
        (torch.randn(1, 3, 5, 5),),
    ),
}


def test_numbers_equal_eager(tmp_path):
    cases = {name: (middle, (torch.randn(2, 3, 7, 9),)) for name, middle in MIDDLES.items()}
    errors = compile_and_compare_all_widths({**cases, **ON_PLAIN_TENSORS}, tmp_path)
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


def kernels_on_inputs(main):
    """Return the names of the kernels that depend on an input, in order; weights are prepared at load time."""
    reached, names = set(main.params[: int(main.attrs["num_input"])]), []
    for binding in main.body.blocks[0].bindings:
        if reached.isdisjoint(relax.analysis.free_vars(binding.value)):
            continue
        reached.add(binding.var)
        if getattr(binding.value, "op", None) == tvm.ir.Op.get("relax.call_tir"):
            names.append(binding.value.args[0].name_hint.rstrip("0123456789"))
    return names


@pytest.mark.parametrize("core", [Core("aarch64", 16, 32), Core("x86_64", 64, 32)], ids=["neon", "avx512"])
def test_nothing_leaves_the_blocks(core):
    inputs = tuple(torch.randn(2, 3, 7, 9) for _ in MIDDLES)
    model = SideBySide(list(MIDDLES.values()), [1] * len(MIDDLES)).eval()
    imported = import_stage(capture(model, inputs), inputs)
    module = LayoutRewriter(core, RULES).rewrite(relax.transform.CanonicalizeBindings()(imported.module))
    kernels = kernels_on_inputs(relax.transform.DeadCodeElimination()(module)["main"])
    assert "to_blocks" not in kernels
    assert kernels.count("from_blocks") == len(MIDDLES) - 1  # of one pixel they are only seen differently
