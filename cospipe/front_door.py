"""``optimize``: the whole way from a PyTorch model to a bundle, once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.bundle import Bundle, check_output, open_bundle, replace_weights
from cospipe.backends.runtime.frame import Frame
from cospipe.backends.runtime.frames import synthetic_frames
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.tvm.pack import pack, reference_values, stage_weights
from cospipe.backends.tvm.tuning.database import check_is_records
from cospipe.ir.annotations import plan_of
from cospipe.ir.capture import capture
from cospipe.ir.eager_adapters import load_adapter
from cospipe.ir.exploration import Limits
from cospipe.ir.manifest import Manifest
from cospipe.ir.merged_copy import merged_copy
from cospipe.ir.plan import PipelinePlan
from cospipe.ir.tensor_file import Array
from cospipe.passes.partition import Partition, tag_stages
from cospipe.passes.pipeline import parse_pipeline
from cospipe.passes.split import Split
from cospipe.planning import Model, Progress, eager_outputs, plan_pipeline

log = logging.getLogger("cospipe")


@dataclass(frozen=True)
class RunResult:
    """Outputs of a run in the order of its frames, and what was measured (times in microseconds)."""

    outputs: list[Frame]
    statistics: dict[str, Any]


@dataclass(frozen=True)
class Optimized:
    """A model compiled into a pipeline."""

    plan: PipelinePlan
    bundle: Bundle

    def summary(self) -> str:
        """Return the plan as text: what runs where, what that is predicted to cost, and what has no fast kernel."""
        from cospipe.pictures import generic_text, plan_text

        return plan_text(self.plan) + generic_text(self.bundle.manifest)

    def run(self, frames: Iterable[Frame] | int = 50, queue_depth: int = 1) -> RunResult:
        """Run frames through the pipeline on this machine.

        Parameters
        ----------
        frames : iterable of dict, or int
            Arrays by input name; a number stands for that many synthetic frames.
        queue_depth : int
            Frames that may wait before each stage.

        Raises
        ------
        BundleError
            When the pipeline was compiled for another architecture.
        StageError
            When a stage fails.
        """
        wanted = synthetic_frames(self.bundle.manifest, frames) if isinstance(frames, int) else frames
        with PipelineRunner(self.bundle, queue_depth) as runner:
            outputs = list(runner.run(wanted))
        return RunResult(outputs, runner.statistics.summary())


def optimize(
    model: Model,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    soc: str | Path = "host",
    objective: str = "throughput",
    output: str | Path = "build",
    *,
    target: str = "auto",
    passes: str = "",
    cores: str = "",
    max_stages: int = 0,
    plans: str = "all",
    limits: Limits | None = None,
    source: str = "analytic",
    profile: str | Path = "",
    winograd: bool = True,
    runner: RunnerOptions | None = None,
    tuning_records: str | Path = "",
    name: str | None = None,
    progress: Progress = log.info,
) -> Optimized:
    """Compile a model into a pipeline over the clusters of a chip.

    Parameters
    ----------
    model : nn.Module or ExportedProgram
        The model; it is not changed. Adapters that :func:`cospipe.adapt` put on it are merged.
    example_inputs : tuple of Tensor
        One tensor for each input; the compiled network takes exactly these shapes and dtypes.
    soc : str or Path
        Name of an SoC (see ``cospipe socs``), ``"host"``, or a TOML file.
    objective : str
        ``"throughput"``, ``"latency"`` or ``"energy"``.
    output : str or Path
        Directory of the bundle, or a file name ending in ``.zip``; an earlier bundle there is replaced.
    target : str
        What to compile for: ``"auto"`` (the SoC), ``"host"`` (this machine, whatever the plan is for), ``"aarch64"``.
    passes : str
        Further passes to run on the captured graph first, in text form:
        ``"insert-adapters{n=1000},merge-adapters{at=load}"`` makes a pipeline that takes adapter files when it loads
        and while it runs. Adapters are merged into the weights in any case.
    cores : str
        Cores the plan may use, ``"big:4+little:2"``; empty for the whole chip.
    max_stages : int
        Most stages the plan may have; 0 for no limit but the cores.
    plans : str
        ``"all"`` kinds of plans that can run (pipelines, copies of stages or of the network, kernels over several
        clusters, and mixtures), or ``"pipeline"``: each stage once, on one cluster.
    limits : Limits, optional
        Longest latency, most power and memory of the plan.
    source : str
        What predicts the times: ``"analytic"``, ``"regression"``, ``"measured"`` or ``"emulated"``.
    profile : str or Path
        The profile that the last three need, see ``cospipe profile``.
    winograd : bool
        Whether 3x3 convolutions of stride 1 may be computed by Winograd's method where a cost formula finds it faster.
        F(2x2, 3x3) to F(6x6, 3x3) stay within 1e-3 of the output's scale of FP32 direct convolution; measured are up
        to 1e-5 for a layer and 8e-6 for a network (docs/architecture.md). Turn it off to compare numbers with another
        runtime digit by digit, or when single rounding errors matter, as in optimisation through the network.
    runner : RunnerOptions, optional
        Makes the bundle complete for a bare board: the program that runs it, built for the target, and TVM's runtime.
    tuning_records : str or Path
        Directory that ``tvmc tune`` has written; its kernels are used where they are faster than ours.
    name : str, optional
        What the model is called in the bundle; its class name by default.
    progress : callable
        Is told in a few words what is done next.

    Returns
    -------
    Optimized
        With ``plan``, ``bundle``, ``summary()`` and ``run()``.

    Raises
    ------
    UsageError
        When the SoC, objective, target, pass or cluster does not exist, or ``output`` or ``tuning_records`` is
        something else.
    CaptureError, UnsupportedModelError
        When the model cannot be captured, or holds operations that cannot be compiled (all are listed).
    LoweringError, BundleError
        When a stage cannot be compiled, or the bundle cannot be written.
    BoardError
        When ``runner`` is given and its program cannot be built, or the bundle would not run on the board.
    PlanError
        When no plan keeps to the limits; the message says which binds.
    VerificationError
        When a pipeline compiled for this machine computes other numbers than eager PyTorch.

    Examples
    --------
    >>> result = cospipe.optimize(model, (image,), soc="hikey970", output="build")     # doctest: +SKIP
    >>> print(result.summary())                                                        # doctest: +SKIP
    """
    check_output(Path(output))
    records = Path(tuning_records) if tuning_records else None
    if records:
        check_is_records(records)
    request = plan_pipeline(
        model,
        example_inputs,
        soc,
        objective,
        target=target,
        passes=passes,
        cores=cores,
        max_stages=max_stages,
        plans=plans,
        limits=limits,
        source=source,
        profile=profile,
        winograd=winograd,
        runner=runner,
        name=name,
        progress=progress,
    )
    bundle = pack(replace(request, tuning_records=records), output, progress)
    return Optimized(plan_of(request.pipeline), bundle)


def exchange_weights(bundle: Bundle | str | Path, model: Model, output: str | Path) -> Bundle:
    """Write a bundle with the same compiled stages and the weights of another model of the same architecture.

    Parameters
    ----------
    bundle : Bundle, str or Path
        The compiled pipeline.
    model : nn.Module or ExportedProgram
        The same network with other weights, fine-tuned ones for example. Adapters on it are merged.
    output : str or Path
        Where the new bundle goes.

    Raises
    ------
    UsageError
        When the model's weights have other names or shapes.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    inputs = _reference_inputs(opened)
    model = merged_copy(model) if isinstance(model, nn.Module) else model
    pipeline = _pipeline_like(opened.manifest, model, inputs)
    weights = stage_weights(pipeline, [stage.weight_names for stage in opened.manifest.stages])
    return replace_weights(opened, weights, reference_values(pipeline, inputs, eager_outputs(model, inputs)), output)


def adapter_reference(bundle: Bundle | str | Path, model: nn.Module, adapter: str | Path) -> dict[str, Array]:
    """Return what an adapted model computes for a bundle's reference frame: what its stages must compute, too.

    Parameters
    ----------
    bundle : Bundle, str or Path
        A pipeline compiled with ``merge-adapters{at=load}``.
    model : nn.Module
        The base it was compiled from; it is not changed.
    adapter : str or Path
        The adapter's file.

    Returns
    -------
    dict of str to array
        The input, every tensor handed over and the outputs, by value name, from eager PyTorch.

    Raises
    ------
    AdapterError
        When the adapter was trained on another base.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    adapted = copy.deepcopy(model)
    adapters = load_adapter(adapted, adapter)
    adapters.merge()
    adapters.remove()
    inputs = _reference_inputs(opened)
    return reference_values(_pipeline_like(opened.manifest, adapted, inputs), inputs, eager_outputs(adapted, inputs))


def _reference_inputs(bundle: Bundle) -> tuple[torch.Tensor, ...]:
    reference = bundle.reference()
    return tuple(torch.from_numpy(reference[spec.name].copy()) for spec in bundle.manifest.inputs)


def _pipeline_like(manifest: Manifest, model: Model, inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """Cut a model as a bundle is cut, without searching again."""
    graph_module = capture(model, inputs)
    for step in parse_pipeline(manifest.passes):
        if isinstance(step, Partition):
            tag_stages(graph_module, manifest.plan)
        elif step.rewrites or isinstance(step, Split):
            graph_module = step(graph_module).graph_module
    return graph_module
