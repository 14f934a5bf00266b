"""``predict``: what each layer of a model is expected to cost on every core configuration of a chip."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from cospipe.ir.annotations import LATENCY, LAYER
from cospipe.ir.capture import capture, module_path
from cospipe.ir.latency import CPU_KERNELS
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.merged_copy import merged_copy
from cospipe.ir.soc import load_soc
from cospipe.passes.annotate_latency import AnnotateLatency
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.pipeline import PassManager

log = logging.getLogger("cospipe")


@dataclass(frozen=True)
class LayerPrediction:
    """One layer: its node and module, its size, and microseconds by core configuration (``big:4``)."""

    node: str
    module: str
    layer: LayerDescriptor
    latency_us: dict[str, float]

    def row(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        size = {**asdict(self.layer), "kind": self.layer.kind.value}
        return {"node": self.node, "module": self.module, **size, "latency_us": self.latency_us}


@dataclass(frozen=True)
class Prediction:
    """All layers of a model on one chip."""

    soc: str
    source: str
    """Where the figures come from: the latency model and the kernels it was made for."""
    layers: tuple[LayerPrediction, ...]

    def total_us(self) -> dict[str, float]:
        """Return the time of all layers, one after the other, on each core configuration."""
        configurations = self.layers[0].latency_us if self.layers else {}
        return {c: sum(layer.latency_us[c] for layer in self.layers) for c in configurations}


def predict(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    soc: str | Path = "host",
    progress: Callable[[str], None] = log.info,
) -> Prediction:
    """Predict the time of every layer on every core configuration of a chip; nothing is compiled.

    Parameters
    ----------
    model : nn.Module or ExportedProgram
        The model. Adapters on it are merged.
    example_inputs : tuple of Tensor
        One tensor for each input.
    soc : str or Path
        Name of an SoC, ``"host"``, or a TOML file.
    progress : callable
        Is told in a few words what is done next.

    Raises
    ------
    UsageError, SocError
        When the SoC does not exist, or its file has mistakes.
    CaptureError
        When the model cannot be captured.
    """
    chip = load_soc(soc)
    progress("Capturing the model")
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    graph_module = capture(merged_copy(model) if isinstance(model, nn.Module) else model, inputs)
    passes = (FoldBatchNorm(), AnnotateLayers(), AnnotateLatency(soc=str(soc)))
    manager = PassManager(passes, progress=lambda step: progress(f"Running {step}"))
    graph_module = manager(graph_module).graph_module
    layers = tuple(
        LayerPrediction(
            node.name,
            module_path(node),
            LAYER.require(node),
            {str(configuration): round(time_us, 3) for configuration, time_us in LATENCY.require(node).items()},
        )
        for node in graph_module.graph.nodes
        if LATENCY.get(node) is not None
    )
    return Prediction(chip.name, f"analytic, for {CPU_KERNELS}", layers)
