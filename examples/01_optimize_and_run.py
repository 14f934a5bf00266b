"""Compile a torchvision network into a pipeline for this machine, run it, and compare with eager PyTorch.

Its weights are random: nothing is downloaded, and they do not change how long a layer takes.

Example: python examples/01_optimize_and_run.py --model squeezenet1_1 --frames 100
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.models import get_model

import cospipe
from cospipe.pictures import milliseconds


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    model = get_model(arguments.model, weights=None).eval()
    image = torch.randn(1, 3, arguments.size, arguments.size)

    result = cospipe.optimize(model, (image,), soc="host", output=arguments.output, progress=print)
    print(result.summary())

    source, target = result.bundle.manifest.inputs[0].name, result.bundle.manifest.outputs[0].name
    images = torch.randn(arguments.frames, *image.shape)
    run = result.run({source: frame.numpy()} for frame in images)
    with torch.no_grad():
        expected = model(images[-1]).numpy()
    difference = np.abs(run.outputs[-1][target] - expected).max() / np.abs(expected).max()
    print(f"last of {arguments.frames} frames: {difference:.1e} of its scale away from eager PyTorch")
    print_times(run.statistics)


def print_times(statistics: Mapping[str, Any]) -> None:
    for stage in statistics["stages"]:
        print(f"{stage['name']} on cpu {stage['cpu_ids']}: {milliseconds(stage['median_us'])} a frame")
    period, latency = milliseconds(statistics["period_us"]), milliseconds(statistics["latency_median_us"])
    print(f"a result every {period}, {latency} from input to result")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="name of a torchvision classifier (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=50, help="frames to run (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build/host"), help="the bundle (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.frames < 1:
        parser.error("--frames must be at least 1")
    return arguments


if __name__ == "__main__":
    main()
