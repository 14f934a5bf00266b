"""From a PyTorch model to a running pipeline on this machine: how long it takes, how right and fast the result is.

Each network gets the best pipeline for this machine and, as its rival, the best plan of one stage. Both run
alternately on the same frames; times are medians of the rounds. Batch-norm statistics are randomised, so that
random-weight networks put out values of a sensible scale.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from environment import JsonFile, Row, print_rows, write_rows
from torch import nn

import cospipe
from cospipe.backends.runtime.frames import synthetic_frames
from cospipe.ir.capture import load_model

NETWORKS = ["squeezenet1_1", "mobilenet_v2", "resnet18", "googlenet", "efficientnet_b0"]


def main(
    json: JsonFile = "",
    models: Annotated[list[str] | None, typer.Option("--model", help="package.module:factory; repeatable")] = None,
    rounds: Annotated[int, typer.Option(help="rounds of each network")] = 5,
    frames: Annotated[int, typer.Option(help="frames of a round")] = 20,
) -> None:
    """Measure the whole way on this machine.

    Example: python benchmarks/first_light.py --model torchvision.models:resnet18 --json -
    """
    chosen = models or [f"torchvision.models:{name}" for name in NETWORKS]
    rows = [measure(model, rounds, frames) for model in chosen]
    if json:
        write_rows(rows, json)
    else:
        print_rows("First light on this machine", rows)


def measure(model: str, rounds: int, frames: int) -> Row:
    network, inputs = load_model(model)
    if isinstance(network, nn.Module):
        randomise_statistics(network)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        pipeline = cospipe.optimize(network, inputs, soc="host", output=Path(folder) / "pipeline")
        optimize_s = time.perf_counter() - started
        single = cospipe.optimize(network, inputs, soc="host", output=Path(folder) / "single", max_stages=1)
        error = max(check.relative_error for check in cospipe.verify_bundle(pipeline.bundle).checks)
        periods = alternate({"pipeline": pipeline, "single": single}, rounds, frames)
        return {
            "model": model.rpartition(":")[2],
            "stages": len(pipeline.plan.stages),
            "optimize_s": round(optimize_s, 2),
            "bundle_mb": round(pipeline.bundle.total_bytes / 1e6, 2),
            "relative_error": error,
            "predicted_period_ms": round(pipeline.plan.period_us / 1e3, 3),
            "period_ms": round(periods["pipeline"], 3),
            "single_stage_period_ms": round(periods["single"], 3),
            "pipeline_speedup": round(periods["single"] / periods["pipeline"], 3),
        }


def randomise_statistics(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)


def alternate(results: dict[str, Any], rounds: int, frames: int) -> dict[str, float]:
    """Run both in turn and return the median period of each in milliseconds."""
    periods: dict[str, list[float]] = {name: [] for name in results}
    for _ in range(rounds):
        for name, result in results.items():
            statistics = result.run(synthetic_frames(result.bundle.manifest, frames)).statistics
            periods[name].append(statistics["period_us"] / 1e3)
    return {name: median(values) for name, values in periods.items()}


if __name__ == "__main__":
    typer.run(main)
