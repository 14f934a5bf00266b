"""From a network and a target to a package."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from cospipe.backends.tvm.generic_kernels import generic_nodes
from cospipe.backends.tvm.kernel_calls import kernel_calls
from cospipe.backends.tvm.kernel_descriptions import describe_kernels
from cospipe.backends.tvm.lower import lowering_passes
from cospipe.backends.tvm.replica_target import ReplicaTarget
from cospipe.backends.tvm.tvmc.dumps import FORMATS, dump_code
from cospipe.backends.tvm.tvmc.linking import linker
from cospipe.backends.tvm.tvmc.model import ForeignModel, LoadedModel, RelaxModel
from cospipe.backends.tvm.tvmc.options import WHOLE_OPTIMISATION, CompileOptions
from cospipe.backends.tvm.tvmc.package import (
    OBJECT_FILES,
    SHARED_LIBRARY,
    WEIGHTS,
    LibraryPackage,
    check_package_output,
    write_package,
)
from cospipe.backends.tvm.tvmc.package_metadata import (
    PACKAGE_FORMAT,
    PACKAGE_VERSION,
    LibraryName,
    PackagedKernel,
    PackageMetadata,
)
from cospipe.backends.tvm.tvmc.pass_context import PassContext, pass_names
from cospipe.backends.tvm.weight_preparation import weight_arguments
from cospipe.ir.errors import CospipeError, LoweringError, UsageError, first_line, nearest, several
from cospipe.ir.manifest import FileRecord, TensorSpec, WeightArgument
from cospipe.ir.tensor_file import write_tensors

_SHARE_BY_SPEED = Path(__file__).parents[1] / "share_by_speed.c"
_OWN_KERNELS, _FOLDED_BATCH_NORMS = 1, 2

log = logging.getLogger("cospipe")


@dataclass(frozen=True)
class _Compiled:
    """What TVM made of a network, and whose kernels it has."""

    model: RelaxModel
    lowered: tvm.IRModule
    executable: Any
    kernels_by: str
    arguments: tuple[WeightArgument, ...]


def compile_model(
    model: LoadedModel, target: ReplicaTarget, output: str | Path, options: CompileOptions | None = None
) -> LibraryPackage:
    """Compile a network into a package of one library.

    Where our own kernels cannot be had, TVM's generic ones are taken and a warning says why.

    Parameters
    ----------
    model : LoadedModel
        The network.
    target : ReplicaTarget
        The cores.
    output : str or Path
        The package's file; an earlier package there is replaced when everything went well.
    options : CompileOptions, optional
        How to compile.

    Raises
    ------
    UsageError
        When options contradict each other or something that is no package lies at ``output``.
    LoweringError
        When TVM or the linker fails.
    BundleError
        When the package cannot be written.
    """
    options = options or CompileOptions()
    _check_options(options)
    check_package_output(output)
    sources = [str(_SHARE_BY_SPEED)] if target.shares_by_speed else []
    link = linker(
        target.core.architecture, options.output_format, options.cross_compiler, options.cross_options, sources
    )
    with PassContext(options):
        compiled = _compiled(model, target, options)
    library: LibraryName = OBJECT_FILES if options.output_format == "tar" else SHARED_LIBRARY

    def fill(folder: Path) -> Callable[[dict[str, FileRecord]], PackageMetadata]:
        _guarded(model.name, lambda: compiled.executable.export_library(str(folder / library), fcompile=link))
        write_tensors(folder / WEIGHTS, compiled.model.weights)
        return lambda files: _metadata(model, compiled, target, options, library, files)

    package = write_package(output, fill)
    dump_code(Path(output), options.dump_formats, compiled.model.module, compiled.lowered, compiled.executable)
    return package


def _check_options(options: CompileOptions) -> None:
    passes = {*options.disabled_passes, *options.printed_before, *options.printed_after} - pass_names()
    problems = [f"there is no pass {name!r}; {nearest(name, pass_names())}" for name in sorted(passes)]
    problems += [f"nothing can be dumped as {name!r}" for name in options.dump_formats if name not in FORMATS]
    if options.output_format not in ("so", "tar"):
        problems.append(f"there is no output format {options.output_format!r}; choose so or tar")
    if options.optimisation_level not in range(WHOLE_OPTIMISATION + 1):
        problems.append(f"the optimisation level is {options.optimisation_level}, not 0 to {WHOLE_OPTIMISATION}")
    if problems:
        raise UsageError(several("The options of the compilation have mistakes", problems))


def _compiled(model: LoadedModel, target: ReplicaTarget, options: CompileOptions) -> _Compiled:
    imported = _guarded(model.name, lambda: model.relax(options.optimisation_level >= _FOLDED_BATCH_NORMS))
    if reasons := _reasons_against_ours(model, imported, options):
        log.warning("%s", several("TVM's generic kernels are used, which are slow", reasons))
        return _with_generic_kernels(model.name, imported, target, options)
    if not isinstance(model, ForeignModel):
        return _with_own_kernels(model.name, imported, target, options)
    try:
        compiled = _with_own_kernels(model.name, imported, target, options)
    except LoweringError as error:
        reasons = [*model.reasons, f"our kernels do not fit what TVM's front end made of it: {error}"]
        log.warning("%s", several("TVM's generic kernels are used, which are slow", reasons))
        return _with_generic_kernels(model.name, imported, target, options)
    if model.reasons:
        what = "TVM's own front end read the model; our kernels are used where they fit"
        log.warning("%s", several(what, model.reasons))
    return compiled


def _reasons_against_ours(model: LoadedModel, imported: RelaxModel, options: CompileOptions) -> list[str]:
    reasons = list(model.reasons) if isinstance(model, ForeignModel) and imported.is_dynamic else []
    if imported.is_dynamic:
        sizes = [str(t) for t in (*imported.inputs, *imported.outputs) if t.is_dynamic]
        reasons.append(f"sizes are known only when it runs: {', '.join(sizes)}; --input-shapes can fix them")
    if options.optimisation_level < _OWN_KERNELS:
        reasons.append("-O 0 asks for them")
    if options.layouts:
        reasons.append("--desired-layout asks for a layout that our kernels do not have")
    if options.mixed_precision:
        reasons.append("--mixed-precision asks for FP16, our kernels compute in FP32")
    if reasons and options.tuning_records:
        raise LoweringError(several("Tuning records are for our kernels, which cannot be used here", reasons))
    return reasons


def _with_own_kernels(name: str, model: RelaxModel, target: ReplicaTarget, options: CompileOptions) -> _Compiled:
    allows_winograd = options.optimisation_level >= WHOLE_OPTIMISATION
    records = _records(options, target)

    def build() -> _Compiled:
        with target.target:
            passes = lowering_passes(target.target, target.core, allows_winograd, records=records)
            lowered = tvm.transform.Sequential(passes)(model.module)
            executable = tvm.compile(lowered, target=target.target, relax_pipeline=tvm.transform.Sequential([]))
        return _Compiled(model, lowered, executable, "cospipe", weight_arguments(lowered, model.weight_names))

    compiled: _Compiled = _guarded(name, build)
    if records is not None:
        records.report()
    return compiled


def _records(options: CompileOptions, target: ReplicaTarget) -> Any:
    if options.tuning_records is None:
        return None
    from cospipe.backends.tvm.tuning.records import open_records

    return open_records(options.tuning_records, target.target)


def _with_generic_kernels(name: str, model: RelaxModel, target: ReplicaTarget, options: CompileOptions) -> _Compiled:
    def build() -> _Compiled:
        with target.target:
            module = tvm.transform.Sequential(_conversions(options))(model.module)
            lowered = relax.get_default_pipeline(target.target)(module)
            executable = tvm.compile(lowered, target=target.target, relax_pipeline=tvm.transform.Sequential([]))
        arguments = tuple(WeightArgument(tensor=w, function=None, weights=(w.name,)) for w in _stored(model))
        return _Compiled(model, lowered, executable, "tvm", arguments)

    compiled: _Compiled = _guarded(name, build)
    return compiled


def _conversions(options: CompileOptions) -> list[Any]:
    passes = [relax.transform.CanonicalizeBindings(), relax.transform.DecomposeOpsForInference()]
    if options.layouts:
        passes.append(relax.transform.ConvertLayout({name: list(value) for name, value in options.layouts.items()}))
    if options.mixed_precision:
        passes.append(relax.transform.ToMixedPrecision(out_dtype=options.mixed_precision))
    return passes


def _stored(model: RelaxModel) -> tuple[TensorSpec, ...]:
    weights = ((name, model.weights[name]) for name in model.weight_names)
    return tuple(TensorSpec(name=name, shape=value.shape, dtype=str(value.dtype)) for name, value in weights)  # type: ignore[arg-type]


def _guarded(name: str, work: Callable[[], Any]) -> Any:
    """Do something with TVM; what goes wrong is told in a sentence."""
    try:
        return work()
    except CospipeError:
        raise
    except Exception as error:
        raise LoweringError(f"TVM could not compile {name} ({type(error).__name__}): {first_line(error)}.") from error


def _metadata(
    model: LoadedModel,
    compiled: _Compiled,
    target: ReplicaTarget,
    options: CompileOptions,
    library: LibraryName,
    files: dict[str, FileRecord],
) -> PackageMetadata:
    is_own = compiled.kernels_by == "cospipe"
    return PackageMetadata(
        format=PACKAGE_FORMAT,
        version=PACKAGE_VERSION,
        cospipe_version=version("cospipe"),
        tvm_version=version("apache-tvm"),
        model=model.name,
        module_name=options.module_name,
        imported_by=compiled.model.imported_by,
        kernels_by=compiled.kernels_by,  # type: ignore[arg-type]
        target=_plain(target.target),
        architecture=target.core.architecture,  # type: ignore[arg-type]
        core_type=target.core_type,
        threads=target.threads,
        shares_by_speed=target.shares_by_speed,
        library=library,
        weights=WEIGHTS,
        inputs=compiled.model.inputs,
        outputs=compiled.model.outputs,
        stored_weights=_stored(compiled.model),
        weight_arguments=compiled.arguments,
        generic_nodes=compiled.model.nodes(generic_nodes(compiled.lowered)) if is_own else (),
        kernels=_kernels(compiled.lowered) if is_own else (),
        files=files,
    )


def _plain(target: tvm.target.Target) -> dict[str, Any]:
    """Return a target as JSON has it; features that TVM derives are left out."""
    said = {str(name): value for name, value in target.attrs.items() if not str(name).startswith("feature.")}
    return {"kind": str(target.kind.name), **{name: _plain_value(value) for name, value in said.items()}}


def _plain_value(value: Any) -> Any:
    if isinstance(value, (bool, int, float)):
        return value
    return str(value) if isinstance(value, str) else [_plain_value(part) for part in value]


def _kernels(lowered: tvm.IRModule) -> tuple[PackagedKernel, ...]:
    kinds = {kernel.name: kernel.kind for kernel in describe_kernels(lowered)}
    return tuple(
        PackagedKernel(name=call.kernel, kind=kinds.get(call.kernel, "generic"), nodes=call.nodes)
        for call in kernel_calls(lowered)
    )
