"""Small networks in files, and tvmc's command line in this process."""

import contextlib
import io

import torch
from torch import nn

from cospipe.tvmc.main import _main


class ThreeKinds(nn.Module):
    """A convolution with batch norm, a depthwise one, a fully connected layer."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16, padding=1)
        self.last = nn.Linear(16, 10)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.first[1].running_var.uniform_(0.5, 2, generator=generator)

    def forward(self, image):
        features = torch.relu(self.depthwise(self.first(image)))
        return torch.softmax(self.last(features.mean((2, 3))), -1)


def example_image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def write_onnx(network, inputs, path, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(network, inputs, str(path), dynamo=True, external_data=False, verbose=False, **options)
    return path


def tvmc(*arguments):
    """Run tvmc; return its exit code also where argparse ends it."""
    try:
        return _main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return ended.code
