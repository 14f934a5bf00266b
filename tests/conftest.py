"""What several test files share: a small network with skips, compiled once for this machine."""

import os

import pytest
import torch
from torch import nn

import cospipe


class SmallNetwork(nn.Module):
    """Two inputs, two outputs, a branch that skips over the middle, batch norm with real statistics."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU())
        self.last = nn.Linear(8, 5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.first[1].running_mean.normal_(0, 0.1, generator=generator)
        self.first[1].running_var.uniform_(0.5, 2, generator=generator)

    def forward(self, image, offset):
        early = self.first(image)
        late = self.middle(early) + early
        return self.last(late.mean((2, 3))) + offset, early.mean((2, 3))


@pytest.fixture(scope="session")
def small_network():
    return SmallNetwork().eval()


@pytest.fixture(scope="session")
def small_inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, 16, 16, generator=generator), torch.randn(1, 5, generator=generator)


@pytest.fixture(scope="session")
def compiled(small_network, small_inputs, tmp_path_factory):
    """The small network as a bundle for this machine, two stages where there are two cores."""
    output = tmp_path_factory.mktemp("compiled") / "bundle"
    return cospipe.optimize(small_network, small_inputs, soc="host", output=output)


@pytest.fixture(scope="session")
def emulator():
    """QEMU with all it needs; a machine without it skips, but CI must not."""
    from cospipe.backends.emulator.qemu import find_emulator
    from cospipe.ir.errors import EmulatorError

    try:
        return find_emulator()
    except EmulatorError as error:
        if os.environ.get("COSPIPE_REQUIRE_EMULATOR"):
            raise
        pytest.skip(str(error))
