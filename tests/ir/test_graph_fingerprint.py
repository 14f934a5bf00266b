"""The fingerprint of a graph: the same for the same computation, another for any other."""

import pytest
import torch
from torch import nn

from cospipe.ir.capture import capture
from cospipe.ir.graph_fingerprint import graph_fingerprint
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.pipeline import PassManager, parse_pipeline

IMAGE = torch.zeros(1, 3, 8, 8)


class Net(nn.Module):
    def __init__(self, stride=1, channels=4, reads_early=True):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, channels, 3, stride), nn.BatchNorm2d(channels)
        self.two, self.reads_early = nn.Conv2d(channels, channels, 1), reads_early

    def forward(self, image):
        early = torch.relu(self.norm(self.one(image)))
        late = torch.tanh(self.two(early))
        return (early if self.reads_early else late) * late


def fingerprint(network, image=IMAGE, passes=""):
    graph_module = capture(network.eval(), (image,))
    manager = PassManager((*parse_pipeline(passes), FoldBatchNorm()))
    return graph_fingerprint(manager(graph_module).graph_module.graph)


@pytest.fixture(scope="module")
def usual():
    return fingerprint(Net())


def test_it_is_a_sha_256(usual):
    assert len(bytes.fromhex(usual)) == 32


def test_weights_do_not_count(usual):
    torch.manual_seed(5)
    assert fingerprint(Net()) == usual


def test_names_of_modules_do_not_count(usual):
    class Renamed(nn.Module):
        def __init__(self):
            super().__init__()
            self.wrapped = Net()

        def forward(self, picture):
            return self.wrapped(picture)

    assert fingerprint(Renamed()) == usual


@pytest.mark.parametrize(
    ("network", "image"),
    [
        (Net(stride=2), IMAGE),
        (Net(channels=8), IMAGE),
        (Net(reads_early=False), IMAGE),
        (Net(), torch.zeros(1, 3, 9, 8)),
        (Net().double(), IMAGE.double()),
    ],
    ids=["option", "channels", "edge", "input", "type"],
)
def test_everything_else_counts(usual, network, image):
    assert fingerprint(network, image) != usual


def test_room_for_adapters_does_not_count(usual):
    assert fingerprint(Net(), passes="insert-adapters{n=10},merge-adapters{at=load}") == usual
