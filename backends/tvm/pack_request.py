"""What is packed: a split graph with its plan, and the values at the borders of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from cospipe.backends.board.options import RunnerOptions
from cospipe.ir.manifest import TensorSpec
from cospipe.ir.soc import Soc
from cospipe.ir.tensor_file import Array


@dataclass(frozen=True)
class PackRequest:
    """What to pack.

    Parameters
    ----------
    pipeline : fx.GraphModule
        A split graph with its plan.
    soc : Soc
        The chip of the plan.
    machine : Soc
        The chip to compile for: the same, or this host.
    model : str
        Name of the model for people.
    passes : str
        Text form of the passes that made the pipeline.
    example_inputs : tuple of Tensor
        One frame.
    expected : tuple of Tensor
        What eager PyTorch returns for it.
    originals : mapping of str to Tensor
        The parameters of the captured model, before any pass.
    allows_winograd : bool
        Whether 3x3 convolutions may be computed by Winograd's method.
    runner : RunnerOptions, optional
        Puts the program and the libraries into the bundle that run it on a bare board.
    tuning_records : Path, optional
        Directory of records; their kernels are used where they are faster than ours.
    """

    pipeline: fx.GraphModule
    soc: Soc
    machine: Soc
    model: str
    passes: str
    example_inputs: tuple[torch.Tensor, ...]
    expected: tuple[torch.Tensor, ...]
    originals: Mapping[str, torch.Tensor]
    allows_winograd: bool = True
    runner: RunnerOptions | None = None
    tuning_records: Path | None = None


@dataclass(frozen=True)
class StagePart:
    """A stage's submodule and the values at its borders."""

    name: str
    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def stage_parts(pipeline: fx.GraphModule) -> list[StagePart]:
    """Return the stages of a split graph in order."""
    parts = []
    for name, module in pipeline.named_children():
        if name.startswith("stage") and isinstance(module, fx.GraphModule):
            inputs = tuple(node.name for node in module.graph.find_nodes(op="placeholder"))
            outputs = tuple(node.name for node in tree_leaves(module.graph.output_node().args))
            parts.append(StagePart(name, module, inputs, outputs))
    return sorted(parts, key=lambda part: int(part.name.removeprefix("stage")))


def value_names(pipeline: fx.GraphModule) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the graph's inputs and outputs; a value that is returned twice is named twice."""
    inputs = tuple(node.name for node in pipeline.graph.find_nodes(op="placeholder"))
    return inputs, tuple(node.name for node in tree_leaves(pipeline.graph.output_node().args))


def as_array(tensor: torch.Tensor) -> Array:
    """Return a tensor as a contiguous array."""
    return np.asarray(tensor.detach().cpu().numpy(), order="C")


def tensor_specs(names: Sequence[str], values: dict[str, Array]) -> tuple[TensorSpec, ...]:
    """Return what a manifest says of some values."""
    return tuple(TensorSpec(name=n, shape=values[n].shape, dtype=str(values[n].dtype)) for n in names)  # type: ignore[arg-type]
