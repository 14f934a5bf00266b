"""Lowering: a stage graph becomes a shared library for the cores it will run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tvm
from torch import fx
from tvm import relax
from tvm.ir.transform import Pass as TvmPass
from tvm.relax.backend.cpu_generic import pipeline as cpu_pipeline
from tvm.target import Target

from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.link import link_shared_library
from cospipe.backends.tvm.schedule import schedule_module
from cospipe.backends.tvm.tiling import VectorUnit
from cospipe.ir.errors import CospipeError, LoweringError, first_line


def lowering_passes(target: Target, unit: VectorUnit) -> list[TvmPass]:
    """Return every Relax pass from the imported stage to what the virtual machine runs, in order."""
    return [
        # Phase 1: few, large kernels
        relax.transform.CanonicalizeBindings(),
        relax.transform.DecomposeOpsForInference(),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        # Phase 2: loops that use the vector registers and the cores
        _scheduling_pass(unit),
        # Phase 3: what the virtual machine needs
        *cpu_pipeline.library_dispatch_passes(target),
        *cpu_pipeline.dataflow_lower_passes(target),
        *cpu_pipeline.finalize_passes(target),
    ]


def _scheduling_pass(unit: VectorUnit) -> TvmPass:
    @tvm.transform.module_pass(opt_level=0, name="ScheduleKernels")  # type: ignore[untyped-decorator]
    def schedule(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        return schedule_module(module, unit)

    return schedule


def lower_stage(
    stage: fx.GraphModule, example_inputs: tuple[torch.Tensor, ...], target: Target, unit: VectorUnit, library: Path
) -> tuple[str, ...]:
    """Compile one stage into a shared library.

    Parameters
    ----------
    stage : fx.GraphModule
        One submodule of a split graph.
    example_inputs : tuple of Tensor
        Tensors of the stage's input shapes and dtypes.
    target : Target
        The cores it will run on.
    unit : VectorUnit
        Their vector registers.
    library : Path
        File to write.

    Returns
    -------
    tuple of str
        Names of the weights, in the order the library's ``main`` takes them behind the inputs.

    Raises
    ------
    LoweringError
        When TVM or the linker fails.
    """
    try:
        imported = import_stage(stage, example_inputs, unit.lanes)
        with target:
            module = tvm.transform.Sequential(lowering_passes(target, unit))(imported.module)
            executable = tvm.compile(module, target=target, relax_pipeline=tvm.transform.Sequential([]))
        executable.export_library(str(library), fcompile=_linker(str(target.attrs["mtriple"]).split("-")[0]))
    except CospipeError:
        raise
    except Exception as error:
        raise LoweringError(
            f"TVM could not compile {library.stem} ({type(error).__name__}): {first_line(error)}."
        ) from error
    return imported.weight_names


def _linker(architecture: str) -> Callable[..., None]:
    def link(output: str, objects: list[str], *_: Any, **__: Any) -> None:
        link_shared_library(objects, Path(output), architecture)

    return link
