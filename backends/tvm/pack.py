"""Packing: a split graph becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from cospipe.backends.bundle import Bundle, sha256, write_bundle
from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.backends.verify import verify_bundle
from cospipe.ir.adapters import fold_nodes
from cospipe.ir.annotations import LATENCY, plan_of
from cospipe.ir.errors import LoweringError, UsageError
from cospipe.ir.graph import module_path
from cospipe.ir.load_time_fold import LoadTimeFold
from cospipe.ir.manifest import AdapterSlot, FileRecord, GenericNode, Manifest, StageFiles, TensorSpec
from cospipe.ir.plan import CoreConfiguration, PipelinePlan
from cospipe.ir.soc import Cluster, Soc
from cospipe.ir.tensor_file import Array, write_tensors

RELATIVE_TOLERANCE = 1e-4
"""Largest difference from eager PyTorch that FP32 may have, relative to the largest value of the tensor.

It holds with Winograd's method too: with all 3x3 convolutions of VGG-19 or ResNet-34 by F(6x6, 3x3), which loses most
digits, and batch norms of variances from 0.007 to 7, the output was off by 8e-6 at most, without it by 4e-6.
"""
_REFERENCE = "reference.safetensors"

Progress = Callable[[str], None]
"""Is told in a few words what is done next."""


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


@dataclass(frozen=True)
class StagePart:
    """A stage's submodule and the values at its borders."""

    name: str
    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def pack(request: PackRequest, output: str | Path, progress: Progress) -> Bundle:
    """Compile every stage and write the bundle.

    Raises
    ------
    LoweringError
        When a stage cannot be compiled.
    VerificationError
        When a pipeline for this machine computes other numbers than eager PyTorch.
    BundleError
        When the bundle cannot be written; then nothing is left behind.
    """
    parts = stage_parts(request.pipeline)
    names = value_names(request.pipeline)
    values = reference_values(request.pipeline, request.example_inputs, request.expected)

    def fill(folder: Path) -> Callable[[dict[str, FileRecord]], Manifest]:
        plan = plan_of(request.pipeline)
        stages = []
        for part, planned in zip(parts, plan.stages, strict=True):
            progress(f"Compiling {part.name} for {planned.configuration}")
            stages.append(_compile(part, values, request, planned.configuration, folder))
        progress("Writing the bundle")
        write_tensors(folder / _REFERENCE, values)
        return lambda files: _manifest(request, plan, names, values, tuple(stages), files)

    def check(bundle: Bundle) -> None:
        if request.machine.name == "host":  # only here is it sure that the libraries run on this machine
            progress("Comparing the pipeline with eager PyTorch")
            verify_bundle(bundle).raise_if_failed()

    return write_bundle(output, fill, check)


def _cluster_to_compile_for(request: PackRequest, planned: str) -> Cluster:
    if request.machine.name == request.soc.name:
        return request.soc.cluster(planned)
    return request.machine.clusters[0]


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


@torch.no_grad()
def reference_values(
    pipeline: fx.GraphModule, example_inputs: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]
) -> dict[str, Array]:
    """Run one frame through the stages in eager PyTorch.

    Parameters
    ----------
    pipeline : fx.GraphModule
        A split graph.
    example_inputs, expected : tuple of Tensor
        The frame, and what the unchanged model returns for it; these become the final outputs.

    Returns
    -------
    dict
        Every input, handed-over tensor and output by value name.

    Raises
    ------
    LoweringError
        When the passes changed the model's output beyond the tolerance, or it is not a number.
    """
    inputs, outputs = value_names(pipeline)
    values: dict[str, Any] = dict(zip(inputs, example_inputs, strict=True))
    for part in stage_parts(pipeline):
        values.update(zip(part.outputs, part.module(*(values[name] for name in part.inputs)), strict=True))
    for name, tensor in zip(outputs, expected, strict=True):
        if tensor.isnan().any():
            raise LoweringError(
                f"The model itself returns NaN as {name} for the example inputs, so nothing can be compared with it;"
                " give inputs it has numbers for."
            )
        error = relative_error(_array(values[name]), _array(tensor))
        if not error <= RELATIVE_TOLERANCE:
            raise LoweringError(f"The passes changed the output {name} by {error:.1e} of its scale.")
        values[name] = tensor
    return {name: _array(value) for name, value in values.items()}


def stage_weights(pipeline: fx.GraphModule, names: Sequence[Sequence[str]]) -> dict[str, Array]:
    """Return the weights that the stages of a split graph take, by name; ``names`` lists those of each stage.

    Raises
    ------
    UsageError
        When the graph has no weight of a name.
    """
    weights = {}
    for part, wanted in zip(stage_parts(pipeline), names, strict=True):
        parameters = dict(part.module.named_parameters(remove_duplicate=False))
        if missing := [name for name in wanted if name not in parameters]:
            raise UsageError(f"The model lacks the weights {', '.join(missing)} of {part.name}.")
        weights.update({name: _array(parameters[name]) for name in wanted})
    return weights


def _array(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.detach().cpu().numpy(), order="C")


def _compile(
    part: StagePart, values: dict[str, Array], request: PackRequest, planned: CoreConfiguration, folder: Path
) -> StageFiles:
    example = tuple(torch.from_numpy(values[name].copy()) for name in part.inputs)
    weights = f"{part.name}.safetensors"
    cluster = _cluster_to_compile_for(request, planned.cluster)
    cores = cluster, planned.cores, request.machine.architecture
    built = folder / f"{part.name}.so"
    lowered = lower_stage(
        part.module, example, core_target(*cores), kernel_core(*cores), built, allows_winograd=request.allows_winograd
    )
    # The name holds the content: a process that has loaded an earlier library from this path would get that one again.
    library = f"{part.name}-{sha256(built)[:12]}.so"
    built.rename(folder / library)
    parameters = dict(part.module.named_parameters(remove_duplicate=False))
    write_tensors(folder / weights, {name: _array(parameters[name]) for name in lowered.weight_names})
    return StageFiles(
        name=part.name,
        library=library,
        weights=weights,
        core_type=cluster.core_type,
        inputs=_specs(part.inputs, values),
        outputs=_specs(part.outputs, values),
        weight_names=lowered.weight_names,
        weight_arguments=lowered.weight_arguments,
        generic_nodes=tuple(_generic_nodes(part.module, lowered.generic_nodes, planned)),
        adapter_slots=tuple(_adapter_slots(part.module)),
        replaceable=tuple(_replaceable(parameters, lowered.weight_names, request.originals)),
    )


def _adapter_slots(stage: fx.GraphModule) -> Iterator[AdapterSlot]:
    for name in dict.fromkeys(str(node.target) for node in fold_nodes(stage)):
        fold = stage.get_submodule(name)
        assert isinstance(fold, LoadTimeFold)
        yield AdapterSlot(weight=fold.weight_name, coefficients=f"{name}.coefficients", places=f"{name}.places")


def _replaceable(
    parameters: Mapping[str, torch.Tensor], stored: Sequence[str], originals: Mapping[str, torch.Tensor]
) -> Iterator[str]:
    """Yield the stored weights that no pass has changed."""
    for name in stored:
        if name in originals and torch.equal(parameters[name], originals[name]):
            yield name


def _generic_nodes(
    stage: fx.GraphModule, names: Sequence[str], configuration: CoreConfiguration
) -> Iterator[GenericNode]:
    for node in stage.graph.nodes:
        if node.name in names:
            times_us = LATENCY.get(node) or {}
            yield GenericNode(name=node.name, module=module_path(node), predicted_us=times_us.get(configuration, 0.0))


def _specs(names: Sequence[str], values: dict[str, Array]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=n, shape=values[n].shape, dtype=str(values[n].dtype)) for n in names)  # type: ignore[arg-type]


def _manifest(
    request: PackRequest,
    plan: PipelinePlan,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    values: dict[str, Array],
    stages: tuple[StageFiles, ...],
    files: dict[str, FileRecord],
) -> Manifest:
    return Manifest(
        cospipe_version=version("cospipe"),
        tvm_version=version("apache-tvm"),
        model=request.model,
        architecture=request.machine.architecture,  # type: ignore[arg-type]
        soc_architecture=request.soc.architecture,
        passes=request.passes,
        winograd=request.allows_winograd,
        plan=plan,
        inputs=_specs(names[0], values),
        outputs=_specs(tuple(dict.fromkeys(names[1])), values),
        stages=stages,
        reference=_REFERENCE,
        relative_tolerance=RELATIVE_TOLERANCE,
        files=files,
    )
