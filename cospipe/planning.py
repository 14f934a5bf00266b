"""From a model to the plan of its pipeline: everything ``optimize`` does before something is compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.tvm.importer import check_supported
from cospipe.backends.tvm.pack_request import PackRequest
from cospipe.backends.tvm.target import check_can_bundle
from cospipe.ir.capture import capture
from cospipe.ir.errors import UsageError, nearest
from cospipe.ir.exploration import Limits
from cospipe.ir.merged_copy import merged_copy
from cospipe.ir.plan import OBJECTIVES
from cospipe.ir.soc import Soc, load_soc
from cospipe.passes.annotate_latency import AnnotateLatency
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.base import Pass
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.merge_adapters import MergeAdapters
from cospipe.passes.partition import Partition
from cospipe.passes.pipeline import PassManager, parse_pipeline, pipeline_text
from cospipe.passes.split import Split

log = logging.getLogger("cospipe")

Model = nn.Module | ExportedProgram
Progress = Callable[[str], None]
TARGETS = ("auto", "host", "aarch64")


def plan_pipeline(
    model: Model,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    soc: str | Path = "host",
    objective: str = "throughput",
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
    name: str | None = None,
    progress: Progress = log.info,
) -> PackRequest:
    """Return a model cut into the stages of the best plan for a chip, and what packing needs to know besides.

    Parameters and errors are those of :func:`cospipe.optimize`, but nothing is compiled or written.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    chip, machine = _chip_and_machine(soc, objective, target)
    wanted = limits or Limits()
    chosen = Partition(
        soc=str(soc),
        objective=objective,
        max_stages=max_stages,
        cores=cores,
        plans=plans,
        max_latency_us=wanted.latency_us or 0.0,
        max_power_mw=wanted.power_mw or 0.0,
        max_memory_bytes=wanted.memory_bytes or 0,
    )
    steps = (
        *parse_pipeline(passes),
        MergeAdapters(),
        FoldBatchNorm(),
        AnnotateLayers(),
        AnnotateLatency(soc=str(soc), source=source, profile=str(profile)),
        chosen,
        Split(),
    )
    model = merged_copy(model) if isinstance(model, nn.Module) else model
    progress("Capturing the model")
    captured = capture(model, inputs)
    check_supported(captured)
    originals = dict(captured.named_parameters(remove_duplicate=False))
    pipeline = _run_passes(captured, steps, progress)
    return PackRequest(
        pipeline=pipeline,
        soc=chip,
        machine=machine,
        model=name or type(model).__name__,
        passes=pipeline_text(steps),
        example_inputs=inputs,
        expected=eager_outputs(model, inputs),
        originals=originals,
        allows_winograd=winograd,
        runner=runner,
    )


def _chip_and_machine(soc: str | Path, objective: str, target: str) -> tuple[Soc, Soc]:
    """Return the chip that is planned for and the one that is compiled for."""
    if objective not in OBJECTIVES:
        raise UsageError(f"There is no objective {objective!r}. {nearest(objective, OBJECTIVES)}")
    if target not in TARGETS:
        raise UsageError(f"There is no target {target!r}. {nearest(target, TARGETS)}")
    chip = load_soc(soc)
    machine = load_soc("host") if target == "host" else chip
    check_can_bundle(machine)
    if target == "aarch64" and chip.architecture != "aarch64":
        raise UsageError(
            f"{chip.name} is an {chip.architecture} machine; for target aarch64 name an AArch64 chip, for example "
            "--soc rk3588."
        )
    return chip, machine


def _run_passes(graph_module: fx.GraphModule, passes: tuple[Pass, ...], progress: Progress) -> fx.GraphModule:
    manager = PassManager(passes, progress=lambda step: progress(f"Running {step}"))
    result: fx.GraphModule = manager(graph_module).graph_module
    return result


@torch.no_grad()
def eager_outputs(model: Model, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Run the model as the user wrote it, in eval mode; its training flags are left as they were."""
    module = model.module() if isinstance(model, ExportedProgram) else model
    was_training = [part for part in module.modules() if part.training]
    if not isinstance(model, ExportedProgram):
        module.eval()
    try:
        return tuple(tree_leaves(module(*inputs)))
    finally:
        for part in was_training:
            part.training = True
