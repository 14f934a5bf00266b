"""Packing: a split graph becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import fx

from cospipe.backends.board.directory import check_runs_on_board, put_runner
from cospipe.backends.bundle import Bundle, write_bundle
from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.tvm.pack_request import PackRequest, as_array, stage_parts, tensor_specs, value_names
from cospipe.backends.tvm.stage_build import build_stage
from cospipe.backends.verify import verify_bundle
from cospipe.ir.annotations import plan_of
from cospipe.ir.errors import LoweringError, UsageError, several
from cospipe.ir.manifest import FORMAT, FORMAT_VERSION, FileRecord, Manifest, RunnerFiles, StageFiles
from cospipe.ir.plan import PipelinePlan
from cospipe.ir.plan_support import cannot_run
from cospipe.ir.tensor_file import Array, write_tensors

RELATIVE_TOLERANCE = 1e-4
"""Largest difference from eager PyTorch that FP32 may have, relative to the largest value of the tensor.

It holds with Winograd's method too: with all 3x3 convolutions of VGG-19 or ResNet-34 by F(6x6, 3x3), which loses most
digits, and batch norms of variances from 0.007 to 7, the output was off by 8e-6 at most, without it by 4e-6.
"""
_REFERENCE = "reference.safetensors"

Progress = Callable[[str], None]
"""Is told in a few words what is done next."""


def pack(request: PackRequest, output: str | Path, progress: Progress) -> Bundle:
    """Compile every stage and write the bundle.

    Raises
    ------
    UsageError
        When the runtime cannot run the plan; every reason is listed.
    LoweringError
        When a stage cannot be compiled.
    VerificationError
        When a pipeline for this machine computes other numbers than eager PyTorch.
    BoardError
        When the program for the board cannot be built, or the bundle would not run there.
    BundleError
        When the bundle cannot be written; then nothing is left behind.
    """
    if reasons := cannot_run(plan_of(request.pipeline)):
        raise UsageError(several("This plan can be explored, but not compiled and run", reasons))
    parts = stage_parts(request.pipeline)
    names = value_names(request.pipeline)
    values = reference_values(request.pipeline, request.example_inputs, request.expected)

    def fill(folder: Path) -> Callable[[dict[str, FileRecord]], Manifest]:
        plan = plan_of(request.pipeline)
        architecture = request.machine.architecture
        runner = put_runner(folder, architecture, request.runner, progress) if request.runner else None
        stages = []
        for part, planned in zip(parts, plan.stages, strict=True):
            progress(f"Compiling {part.name} for {planned.text}")
            stages.append(build_stage(part, planned, values, request, folder))
        progress("Writing the bundle")
        write_tensors(folder / _REFERENCE, values)
        if request.runner:
            check_runs_on_board(folder, architecture, request.runner)
        return lambda files: _manifest(request, plan, names, values, tuple(stages), runner, files)

    def check(bundle: Bundle) -> None:
        if request.machine.name == "host":  # only here is it sure that the libraries run on this machine
            progress("Comparing the pipeline with eager PyTorch")
            verify_bundle(bundle).raise_if_failed()

    return write_bundle(output, fill, check)


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
        error = relative_error(as_array(values[name]), as_array(tensor))
        if not error <= RELATIVE_TOLERANCE:
            raise LoweringError(f"The passes changed the output {name} by {error:.1e} of its scale.")
        values[name] = tensor
    return {name: as_array(value) for name, value in values.items()}


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
        weights.update({name: as_array(parameters[name]) for name in wanted})
    return weights


def _manifest(
    request: PackRequest,
    plan: PipelinePlan,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    values: dict[str, Array],
    stages: tuple[StageFiles, ...],
    runner: RunnerFiles | None,
    files: dict[str, FileRecord],
) -> Manifest:
    return Manifest(
        format=FORMAT,
        version=FORMAT_VERSION,
        cospipe_version=version("cospipe"),
        tvm_version=version("apache-tvm"),
        model=request.model,
        architecture=request.machine.architecture,  # type: ignore[arg-type]
        soc_architecture=request.soc.architecture,
        passes=request.passes,
        winograd=request.allows_winograd,
        plan=plan,
        inputs=tensor_specs(names[0], values),
        outputs=tensor_specs(tuple(dict.fromkeys(names[1])), values),
        stages=stages,
        reference=_REFERENCE,
        relative_tolerance=RELATIVE_TOLERANCE,
        runner=runner,
        files=files,
    )
