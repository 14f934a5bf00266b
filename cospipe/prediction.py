"""``predict``: what each layer of a model is expected to cost on every core configuration of a chip."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from cospipe.ir.annotations import LATENCY, LAYER
from cospipe.ir.capture import capture, module_path
from cospipe.ir.latency import CPU_KERNELS, LatencyPrediction
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
    """One layer: its node and module, its size, and what is predicted by core configuration (``big:4``).

    ``reads`` names the layers whose results it reads.
    """

    node: str
    module: str
    layer: LayerDescriptor
    predicted: dict[str, LatencyPrediction]
    reads: tuple[str, ...] = ()

    @property
    def latency_us(self) -> dict[str, float]:
        """Microseconds by core configuration."""
        return {configuration: round(prediction.time_us, 3) for configuration, prediction in self.predicted.items()}

    @property
    def sources(self) -> dict[str, str]:
        """Where each figure comes from, by core configuration."""
        return {configuration: prediction.source.value for configuration, prediction in self.predicted.items()}

    @property
    def held_out_error(self) -> dict[str, float | None]:
        """Median relative error on layers the model had not seen, by core configuration; None where nobody checked."""
        return {configuration: prediction.held_out_error for configuration, prediction in self.predicted.items()}

    def row(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        size = {**asdict(self.layer), "kind": self.layer.kind.value}
        figures = {"latency_us": self.latency_us, "source": self.sources, "held_out_error": self.held_out_error}
        return {"node": self.node, "module": self.module, **size, **figures}


@dataclass(frozen=True)
class Prediction:
    """All layers of a model on one chip."""

    soc: str
    source: str
    """Where the figures come from: the latency models and the kernels they were made for."""
    layers: tuple[LayerPrediction, ...]

    def total_us(self) -> dict[str, float]:
        """Return the time of all layers, one after the other, on each core configuration."""
        configurations = self.layers[0].predicted if self.layers else {}
        return {c: sum(layer.latency_us[c] for layer in self.layers) for c in configurations}

    def held_out_error(self) -> dict[str, float]:
        """Return the median over the layers of their models' held-out error, by core configuration, where known."""
        errors: dict[str, list[float]] = {}
        for layer in self.layers:
            for configuration, error in layer.held_out_error.items():
                errors.setdefault(configuration, []).extend([] if error is None else [error])
        return {configuration: median(known) for configuration, known in errors.items() if known}


def predict(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    soc: str | Path = "host",
    source: str = "analytic",
    profile: str | Path = "",
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
    source, profile
        Where the times come from, see :func:`cospipe.ir.latency_models.latency_model`.
    progress : callable
        Is told in a few words what is done next.

    Raises
    ------
    UsageError, SocError
        When the SoC or the source does not exist, or its file has mistakes.
    CaptureError
        When the model cannot be captured.
    """
    return prediction_of(predicted_graph(model, example_inputs, soc, source, profile, progress), load_soc(soc).name)


def predicted_graph(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    soc: str | Path,
    source: str,
    profile: str | Path,
    progress: Callable[[str], None],
) -> fx.GraphModule:
    """Return the captured graph with its latencies annotated; parameters are those of :func:`predict`."""
    load_soc(soc)  # before the model is captured, which takes longer
    progress("Capturing the model")
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    graph_module = capture(merged_copy(model) if isinstance(model, nn.Module) else model, inputs)
    annotate = AnnotateLatency(soc=str(soc), source=source, profile=str(profile))
    manager = PassManager((FoldBatchNorm(), AnnotateLayers(), annotate), lambda step: progress(f"Running {step}"))
    result: fx.GraphModule = manager(graph_module).graph_module
    return result


def prediction_of(graph_module: fx.GraphModule, soc: str) -> Prediction:
    """Return the predictions that an annotated graph carries."""
    layers = tuple(
        LayerPrediction(
            node.name,
            module_path(node),
            LAYER.require(node),
            {str(configuration): prediction for configuration, prediction in LATENCY.require(node).items()},
            tuple(dict.fromkeys(_layers_read(node))),
        )
        for node in graph_module.graph.nodes
        if LATENCY.get(node) is not None
    )
    sources = sorted({source for layer in layers for source in layer.sources.values()})
    return Prediction(soc, f"{', '.join(sources)}, for {CPU_KERNELS}", layers)


def _layers_read(node: fx.Node) -> Iterator[str]:
    """Yield the layers a node reads, through nodes that are none."""
    for read in node.all_input_nodes:
        if LATENCY.get(read) is not None:
            yield read.name
        else:
            yield from _layers_read(read)
