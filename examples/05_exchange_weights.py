"""Give a compiled pipeline other weights without compiling it again.

Two networks of one architecture: the first is compiled, then its bundle gets the weights of the second.

Example: python examples/05_exchange_weights.py --model resnet18
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torchvision.models import get_model

import cospipe


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    first = get_model(arguments.model, weights=None).eval()
    second = get_model(arguments.model, weights=None).eval()
    image = torch.randn(1, 3, arguments.size, arguments.size)

    started = perf_counter()
    compiled = cospipe.optimize(first, (image,), soc="host", output=arguments.output / "first").bundle
    print(f"compiled in {perf_counter() - started:.1f} s")
    started = perf_counter()
    exchanged = cospipe.exchange_weights(compiled, second, arguments.output / "second")
    print(f"weights exchanged in {perf_counter() - started:.1f} s")

    for name, bundle in (("first", compiled), ("second", exchanged)):
        result = run_once(bundle, image)
        print(f"{name} bundle: {distance(result, first, image)} from the first network,", end=" ")
        print(f"{distance(result, second, image)} from the second")
    cospipe.verify_bundle(exchanged).raise_if_failed()


def run_once(bundle: cospipe.Bundle, image: torch.Tensor) -> np.ndarray:
    source, target = bundle.manifest.inputs[0].name, bundle.manifest.outputs[0].name
    with cospipe.PipelineRunner(bundle) as runner:
        (result,) = runner.run([{source: image.numpy()}])
    return result[target]


@torch.no_grad()
def distance(result: np.ndarray, model: torch.nn.Module, image: torch.Tensor) -> str:
    """Largest difference from a network in eager PyTorch, relative to the largest output."""
    expected = model(image).numpy()
    return f"{np.abs(result - expected).max() / np.abs(expected).max():.0e}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="squeezenet1_1", help="a torchvision classifier (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build/exchange"), help="a folder (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
