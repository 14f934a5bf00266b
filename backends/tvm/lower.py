"""Lowering: a stage graph becomes a shared library for the cores it will run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tvm
from torch import fx
from tvm import relax
from tvm.ir.transform import Pass as TvmPass
from tvm.relax.backend.cpu_generic import pipeline as cpu_pipeline
from tvm.target import Target

from cospipe.backends.tvm.elementary import use_vector_functions
from cospipe.backends.tvm.generic_kernels import generic_nodes, note_generic_kernels
from cospipe.backends.tvm.importer import ImportedStage, import_stage
from cospipe.backends.tvm.kernel_calls import KernelCall, fuse_operators, kernel_calls, note_kernel_calls
from cospipe.backends.tvm.kernel_descriptions import KernelDescription, describe_kernels, note_reductions
from cospipe.backends.tvm.layout import LayoutRewriter
from cospipe.backends.tvm.layout_rules import RULES
from cospipe.backends.tvm.link import link_shared_library
from cospipe.backends.tvm.op_patterns import correct_op_patterns
from cospipe.backends.tvm.schedule import TunedKernels, schedule_module
from cospipe.backends.tvm.tiling import Core
from cospipe.backends.tvm.weight_preparation import lift_weight_preparation, weight_arguments
from cospipe.ir.errors import CospipeError, LoweringError, first_line
from cospipe.ir.manifest import WeightArgument

_SHARE_BY_SPEED = str(Path(__file__).with_name("share_by_speed.c"))


@dataclass(frozen=True)
class LoweredStage:
    """A compiled stage.

    Parameters
    ----------
    weight_names : tuple of str
        The weights that are stored.
    weight_arguments : tuple of WeightArgument
        What its ``main`` wants of them, in order.
    generic_nodes : tuple of str
        Nodes without a kernel of their own: the generic schedule computes them, and that is slow.
    kernels : tuple of KernelDescription
        What each kernel of the library is.
    calls : tuple of KernelCall
        The kernels that every run calls, in order, and the nodes they compute.
    """

    weight_names: tuple[str, ...]
    weight_arguments: tuple[WeightArgument, ...]
    generic_nodes: tuple[str, ...]
    kernels: tuple[KernelDescription, ...]
    calls: tuple[KernelCall, ...]


def lowering_passes(
    target: Target, core: Core, allows_winograd: bool = True, records: TunedKernels | None = None
) -> list[TvmPass]:
    """Return every Relax pass from the imported stage to what the virtual machine runs, in order.

    ``records`` gives the kernels that tuning found to be faster than ours.
    """
    return [
        *fusing_passes(core, allows_winograd),
        # Phase 2: loops that use the vector registers and the cores
        note_reductions,
        _scheduling_pass(core, records),
        _vector_functions_pass(core),
        # Phase 3: what the virtual machine needs
        *cpu_pipeline.library_dispatch_passes(target),
        *cpu_pipeline.dataflow_lower_passes(target),
        note_kernel_calls,
        *cpu_pipeline.finalize_passes(target),
    ]


def fusing_passes(core: Core, allows_winograd: bool = True) -> list[TvmPass]:
    """Return the passes behind which every kernel is there, but none has a schedule."""
    return [
        # Phase 1: few, large kernels
        relax.transform.CanonicalizeBindings(),
        _layout_pass(core, allows_winograd),
        relax.transform.DecomposeOpsForInference(),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        correct_op_patterns,
        relax.transform.FoldConstant(),
        lift_weight_preparation,
        note_generic_kernels,
        fuse_operators,
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        relax.transform.RewriteDataflowReshape(),
    ]


def _layout_pass(core: Core, allows_winograd: bool) -> TvmPass:
    @tvm.transform.module_pass(opt_level=0, name="RewriteLayout")  # type: ignore[untyped-decorator]
    def rewrite(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        return LayoutRewriter(core, RULES, allows_winograd).rewrite(module)

    return rewrite


def _vector_functions_pass(core: Core) -> TvmPass:
    @tvm.transform.module_pass(opt_level=0, name="UseVectorFunctions")  # type: ignore[untyped-decorator]
    def replace(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        return use_vector_functions(module, core)

    return replace


def _scheduling_pass(core: Core, records: TunedKernels | None) -> TvmPass:
    @tvm.transform.module_pass(opt_level=0, name="ScheduleKernels")  # type: ignore[untyped-decorator]
    def schedule(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        return schedule_module(module, core, records)

    return schedule


def lower_stage(
    stage: fx.GraphModule,
    example_inputs: tuple[torch.Tensor, ...],
    target: Target,
    core: Core,
    library: Path,
    *,
    allows_winograd: bool = True,
    shares_by_speed: bool = False,
    records: TunedKernels | None = None,
) -> LoweredStage:
    """Compile one stage into a shared library.

    Parameters
    ----------
    stage : fx.GraphModule
        One submodule of a split graph.
    example_inputs : tuple of Tensor
        Tensors of the stage's input shapes and dtypes.
    target : Target
        The cores it will run on.
    core : Core
        What kernels must know of them.
    library : Path
        File to write.
    allows_winograd : bool
        Whether 3x3 convolutions may be computed by Winograd's method, see :func:`cospipe.optimize`.
    shares_by_speed : bool
        Whether the threads of a kernel take parts of it as they can instead of equal ones, once the library's function
        ``share_by_speed`` has been called.
    records : callable, optional
        Gives the kernels that tuning found to be faster than ours.

    Returns
    -------
    LoweredStage
        The stage's weights, what the library's ``main`` takes behind the inputs, and what will be slow.

    Raises
    ------
    LoweringError
        When TVM or the linker fails.
    """
    try:
        imported = import_stage(stage, example_inputs)
    except CospipeError:
        raise
    except Exception as error:
        raise _not_compiled(library, error) from error
    passes = lowering_passes(target, core, allows_winograd, records)
    return lower_imported(imported, target, passes, library, shares_by_speed=shares_by_speed)


def lower_imported(
    imported: ImportedStage, target: Target, passes: Sequence[TvmPass], library: Path, *, shares_by_speed: bool = False
) -> LoweredStage:
    """Compile a stage that is Relax already into a shared library.

    Parameters
    ----------
    imported : ImportedStage
        The stage.
    target : Target
        The cores it will run on.
    passes : sequence of Pass
        From :func:`lowering_passes`.
    library : Path
        File to write.
    shares_by_speed : bool
        As in :func:`lower_stage`.

    Raises
    ------
    LoweringError
        When TVM or the linker fails.
    """
    try:
        with target:
            module = tvm.transform.Sequential(list(passes))(imported.module)
            executable = tvm.compile(module, target=target, relax_pipeline=tvm.transform.Sequential([]))
        linker = _linker(str(target.attrs["mtriple"]).split("-")[0], [_SHARE_BY_SPEED] if shares_by_speed else [])
        executable.export_library(str(library), fcompile=linker)
    except CospipeError:
        raise
    except Exception as error:
        raise _not_compiled(library, error) from error
    arguments = weight_arguments(module, imported.weight_names)
    return LoweredStage(
        imported.weight_names, arguments, generic_nodes(module), describe_kernels(module), kernel_calls(module)
    )


def _not_compiled(library: Path, error: Exception) -> LoweringError:
    return LoweringError(f"TVM could not compile {library.stem} ({type(error).__name__}): {first_line(error)}.")


def _linker(architecture: str, sources: list[str]) -> Callable[..., None]:
    def link(output: str, objects: list[str], *_: Any, **__: Any) -> None:
        link_shared_library([*objects, *sources], Path(output), architecture)

    return link
