"""Concatenations, parts and shuffles of channels in any order, against eager PyTorch."""

import pytest
import torch
from compiling import ONE_LIST, compile_and_compare_all_widths, several
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

TOLERANCE = 1e-6


class Rearranged(nn.Module):
    """Two images on channel blocks, whose channels are rearranged step by step; something reads them at the end."""

    def __init__(self, channels, steps):
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(2, count, 1) for count in channels)
        self.steps = steps

    def forward(self, image):
        images = [stem(image) for stem in self.stems]
        for step, number in self.steps:
            images = getattr(self, step)(images, number)
        return tuple(torch.relu(one) for one in images)

    def join(self, images, number):
        return [torch.cat([images[number % len(images)], *images], 1)] if len(images) < 4 else images

    def cut(self, images, number):
        (first, *others), place = images, number % images[0].shape[1]
        return [*others, *torch.split(first, [place, first.shape[1] - place], 1)] if place else images

    def part(self, images, number):
        first, *others = images
        return [first[:, number % first.shape[1] :: 1 + number % 3], *others]

    def shuffle(self, images, number):
        first, *others = images
        groups = next(count for count in range(2 + number % 3, first.shape[1] + 2) if first.shape[1] % count == 0)
        return [nn.functional.channel_shuffle(first, groups), *others] if groups <= first.shape[1] else images


@st.composite
def rearrangements(draw):
    """Images of some channels, and what happens to them."""
    channels = draw(st.lists(st.integers(1, 36), min_size=1, max_size=3))
    names = st.sampled_from(["join", "cut", "part", "shuffle"])
    return Rearranged(channels, draw(st.lists(st.tuples(names, st.integers(0, 40)), min_size=1, max_size=5)))


@pytest.mark.slow
@ONE_LIST
@given(modules=several(rearrangements(), 12))
def test_random_rearrangements(tmp_path_factory, modules):
    cases = {f"{i} {m.stems} {m.steps}": (m, (torch.randn(2, 2, 3, 5),)) for i, m in enumerate(modules)}
    errors = compile_and_compare_all_widths(cases, tmp_path_factory.mktemp("gather"))
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}
