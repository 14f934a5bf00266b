"""Pipelines for builds that are driven from outside: an ONNX file a stage, and the tvmc commands that compile them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.bundle import sha256
from cospipe.backends.onnx.export import check_can_export, check_packages, export_stage
from cospipe.backends.replacement import check_writable, move_into_place, scratch_beside
from cospipe.backends.tvm.pack import RELATIVE_TOLERANCE, reference_values
from cospipe.backends.tvm.pack_request import PackRequest, StagePart, stage_parts, tensor_specs, value_names
from cospipe.backends.tvm.replica_target import ReplicaTarget, replica_target
from cospipe.backends.tvm.stage_build import builds_of_replicas, described_nodes
from cospipe.backends.tvm.tvmc.build_script import JOINED, build_script, read_me
from cospipe.backends.tvm.tvmc.cores import NamedCores
from cospipe.backends.tvm.tvmc.pipeline_file import (
    PIPELINE_FORMAT,
    PIPELINE_NAME,
    PIPELINE_VERSION,
    PipelineFile,
    PipelineStage,
    StagePackage,
    read_pipeline_file,
)
from cospipe.ir.annotations import plan_of
from cospipe.ir.errors import BundleError, CospipeError, UsageError, first_line, several
from cospipe.ir.manifest import FileRecord
from cospipe.ir.plan import Replica, StagePlan
from cospipe.ir.plan_support import cannot_run
from cospipe.ir.tensor_file import Array, write_tensors

_REFERENCE, _SCRIPT, _READ_ME, _SOC_FILE = "reference.safetensors", "build.sh", "README.txt", "soc.toml"


def emit_pipeline(
    request: PackRequest, soc: str, output: str | Path, progress: Callable[[str], None] = lambda _: None
) -> PipelineFile:
    """Write a planned pipeline as ONNX files and a script of tvmc commands; nothing is compiled.

    Parameters
    ----------
    request : PackRequest
        The split graph with its plan, as for :func:`cospipe.backends.tvm.pack.pack`.
    soc : str
        The planned chip as the user named it: ``"hikey970"``, ``"host"``, or a TOML file, which is copied.
    output : str or Path
        The directory to write. An earlier one of this kind there is replaced.
    progress : callable
        Is told in a few words what is done next.

    Returns
    -------
    PipelineFile
        What ``pipeline.json`` says.

    Raises
    ------
    UsageError
        When the plan cannot be run, the pipeline folds adapters when it is loaded or is to bring its own runner, or
        something else lies at ``output``.
    LoweringError
        When a stage cannot be written as ONNX.
    BundleError
        When the directory cannot be written; then nothing is left behind.
    """
    output = Path(os.path.abspath(output))
    parts = stage_parts(request.pipeline)
    check_can_emit(output, request.runner)
    _check_request(request, parts)
    values = reference_values(request.pipeline, request.example_inputs, request.expected)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(output) as scratch:
            folder = scratch / "pipeline"
            folder.mkdir()
            pipeline = _write_files(request, parts, values, soc, folder, progress)
            move_into_place(folder, output, scratch)
    except OSError as error:
        raise BundleError(f"{output} could not be written ({first_line(error)}); nothing was changed.") from error
    return pipeline


def check_can_emit(output: Path, runner: RunnerOptions | None = None) -> None:
    """Check what can be known before a pipeline is planned.

    Parameters
    ----------
    output : Path
        The directory to write.
    runner : RunnerOptions, optional
        What a bundle was to bring along; not given.

    Raises
    ------
    UsageError
        When something other than an earlier pipeline, with the packages made of it, or an empty directory lies at
        ``output``, packages are missing, or a runner is wanted.
    """
    if runner:
        raise UsageError("--runner is for bundles that cospipe compiles itself; leave it out with --emit tvmc.")
    check_packages()
    _check_output(output)


def _check_output(output: Path) -> None:
    check_writable(output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        pipeline = read_pipeline_file(output / PIPELINE_NAME)
    except CospipeError as error:
        raise UsageError(
            f"{output} exists and is no pipeline of ONNX files; choose another output, it will not be overwritten."
        ) from error
    packages = {package.package for stage in pipeline.stages for package in stage.packages}
    own = {PIPELINE_NAME, _SCRIPT, _READ_ME, JOINED, *pipeline.files, *packages}
    if foreign := sorted({file.name for file in output.iterdir()} - own):
        raise UsageError(
            f"{output} holds files that are not the pipeline's ({', '.join(foreign[:5])}); move them or choose another"
            " output, they will not be overwritten."
        )


def _check_request(request: PackRequest, parts: list[StagePart]) -> None:
    if reasons := cannot_run(plan_of(request.pipeline)):
        raise UsageError(several("This plan can be explored, but not compiled and run", reasons))
    for part in parts:
        check_can_export(part.module)


def _write_files(
    request: PackRequest,
    parts: list[StagePart],
    values: dict[str, Array],
    soc: str,
    folder: Path,
    progress: Callable[[str], None],
) -> PipelineFile:
    named_soc = _keep_description(soc, folder)
    stages = []
    for part, planned in zip(parts, plan_of(request.pipeline).stages, strict=True):
        progress(f"Writing {part.name}.onnx")
        example = tuple(torch.from_numpy(values[name].copy()) for name in part.inputs)
        export_stage(part.module, example, folder / f"{part.name}.onnx", part.inputs, part.outputs)
        stages.append(_stage(part, planned, values, request, named_soc))
    write_tensors(folder / _REFERENCE, values)
    files = {f.name: FileRecord(bytes=f.stat().st_size, sha256=sha256(f)) for f in sorted(folder.iterdir())}
    pipeline = _pipeline_file(request, tuple(stages), values, files)
    (folder / PIPELINE_NAME).write_text(pipeline.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / _SCRIPT).write_text(build_script(pipeline), encoding="utf-8")
    (folder / _SCRIPT).chmod(0o755)
    (folder / _READ_ME).write_text(read_me(pipeline), encoding="utf-8")
    return pipeline


def _keep_description(soc: str, folder: Path) -> str:
    """Return what the script calls the chip; the file that describes it goes with the script."""
    if not Path(soc).is_file():
        return soc
    shutil.copyfile(soc, folder / _SOC_FILE)
    return _SOC_FILE


def _stage(
    part: StagePart, planned: StagePlan, values: dict[str, Array], request: PackRequest, soc: str
) -> PipelineStage:
    targets = [replica_target(replica, request.soc, request.machine) for replica in planned.replicas]
    replica_builds = builds_of_replicas(targets)
    first = [replica_builds.index(build) for build in sorted(set(replica_builds))]
    packages = [
        _package(part, planned.replicas[replica], targets[replica], soc, _package_name(part.name, build))
        for build, replica in enumerate(first)
    ]
    return PipelineStage(
        name=part.name,
        onnx=f"{part.name}.onnx",
        inputs=tensor_specs(part.inputs, values),
        outputs=tensor_specs(part.outputs, values),
        packages=tuple(packages),
        replica_builds=replica_builds,
    )


def _package_name(stage: str, build: int) -> str:
    return f"{stage}-{build}.tar" if build else f"{stage}.tar"


def _package(part: StagePart, replica: Replica, target: ReplicaTarget, soc: str, name: str) -> StagePackage:
    return StagePackage(
        package=name,
        cores=str(NamedCores.of(soc, replica)),
        core_type=target.core_type,
        threads=target.threads,
        shares_by_speed=target.shares_by_speed,
        target=_target_values(target),
        nodes=tuple(described_nodes(part.module, replica)),
    )


def _target_values(target: ReplicaTarget) -> dict[str, Any]:
    """Return what LLVM is told, as plain values."""
    said = target.target.attrs
    return {
        "kind": "llvm",
        "mtriple": str(said["mtriple"]),
        "mcpu": str(said["mcpu"]),
        "mattr": [str(feature) for feature in said["mattr"]],
        "num-cores": int(said["num-cores"]),
    }


def _pipeline_file(
    request: PackRequest, stages: tuple[PipelineStage, ...], values: dict[str, Array], files: dict[str, FileRecord]
) -> PipelineFile:
    inputs, outputs = value_names(request.pipeline)
    return PipelineFile(
        format=PIPELINE_FORMAT,
        version=PIPELINE_VERSION,
        cospipe_version=version("cospipe"),
        model=request.model,
        architecture=request.machine.architecture,  # type: ignore[arg-type]
        soc_architecture=request.soc.architecture,
        for_this_machine=request.machine.name == "host",
        passes=request.passes,
        winograd=request.allows_winograd,
        plan=plan_of(request.pipeline),
        inputs=tensor_specs(inputs, values),
        outputs=tensor_specs(tuple(dict.fromkeys(outputs)), values),
        stages=stages,
        reference=_REFERENCE,
        relative_tolerance=RELATIVE_TOLERANCE,
        files=files,
    )
