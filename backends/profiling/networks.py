"""A network that is ready to be compiled and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from cospipe.backends.tvm.importer import check_supported
from cospipe.backends.tvm.lower import LoweredStage, lower_stage
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.ir.capture import capture
from cospipe.ir.graph_fingerprint import graph_fingerprint
from cospipe.ir.merged_copy import merged_copy
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Soc
from cospipe.passes.fold_batch_norm import FoldBatchNorm


@dataclass(frozen=True)
class PreparedNetwork:
    """A captured network.

    Parameters
    ----------
    name : str
        What it is called in profiles.
    graph_module : fx.GraphModule
        Captured, batch norms folded.
    inputs : tuple of Tensor
        One frame.
    expected : tuple of array
        What eager PyTorch computes of it.
    fingerprint : str
        Of its graph.
    """

    name: str
    graph_module: fx.GraphModule
    inputs: tuple[torch.Tensor, ...]
    expected: tuple[NDArray[Any], ...]
    fingerprint: str


def prepare_network(
    name: str, model: nn.Module | ExportedProgram, example_inputs: Sequence[torch.Tensor]
) -> PreparedNetwork:
    """Capture a network as every compilation does.

    Raises
    ------
    CaptureError, UnsupportedModelError
        When the model cannot be captured, or holds operations that cannot be compiled (all are listed).
    """
    inputs = tuple(example_inputs)
    captured = capture(merged_copy(model) if isinstance(model, nn.Module) else model, inputs)
    check_supported(captured)
    graph_module = FoldBatchNorm()(captured).graph_module
    with torch.inference_mode():
        expected = tuple(value.numpy() for value in tree_leaves(graph_module(*inputs)))
    return PreparedNetwork(name, graph_module, inputs, expected, graph_fingerprint(graph_module.graph))


def compile_whole(network: PreparedNetwork, soc: Soc, configuration: CoreConfiguration, library: Path) -> LoweredStage:
    """Compile a network as its bundle's only stage would be, for some cores of a chip.

    Raises
    ------
    LoweringError
        When TVM or the linker fails.
    """
    cluster = soc.cluster(configuration.cluster)
    target = core_target(cluster, configuration.cores, soc.architecture)
    core = kernel_core(cluster, configuration.cores, soc.architecture)
    return lower_stage(network.graph_module, network.inputs, target, core, library)
