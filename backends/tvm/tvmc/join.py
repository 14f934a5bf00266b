"""Joining of the packages of stages to the bundle of a pipeline. Needs neither torch nor TVM's compiler."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cospipe.backends.bundle import Bundle, sha256, write_bundle
from cospipe.backends.onnx.exported_names import graph_node_name
from cospipe.backends.tvm.tvmc.package import LibraryPackage, check_package_output, open_package, write_archive
from cospipe.backends.tvm.tvmc.pipeline_file import (
    PIPELINE_NAME,
    PipelineFile,
    PipelineStage,
    StagePackage,
    read_pipeline_file,
)
from cospipe.backends.verify import verify_bundle
from cospipe.ir.errors import BundleError, CospipeError, several
from cospipe.ir.manifest import FORMAT, FORMAT_VERSION, FileRecord, GenericNode, Manifest, StageBuild, StageFiles
from cospipe.ir.tensor_file import Array, map_tensors, write_tensors

_SAID_TO_LLVM = ("mtriple", "mcpu", "mattr", "num-cores")


@dataclass(frozen=True)
class _CompiledStage:
    """A stage and its opened packages, in the order of the stage's own list."""

    stage: PipelineStage
    packages: tuple[LibraryPackage, ...]


def join_packages(
    pipeline_file: str | Path, output: str | Path, progress: Callable[[str], None] = lambda _: None
) -> Path:
    """Join the packages of a pipeline's stages to one package, a bundle in a .tar file.

    Parameters
    ----------
    pipeline_file : str or Path
        ``pipeline.json`` as ``cospipe optimize --emit tvmc`` wrote it; the packages lie beside it.
    output : str or Path
        The .tar file to write; an earlier one there is replaced.
    progress : callable
        Is told in a few words what is done next.

    Raises
    ------
    BundleError
        When packages are missing or damaged, or were compiled for other cores, from other stages or with different
        versions of TVM; all of them are listed. Nothing is written then.
    VerificationError
        When a pipeline for this machine computes other numbers than eager PyTorch did.
    """
    path = Path(pipeline_file)
    check_package_output(output)
    pipeline = read_pipeline_file(path)
    progress("Checking the packages")
    stages = _opened(pipeline, path.parent)
    reference = path.parent / pipeline.reference

    def fill(folder: Path) -> Callable[[dict[str, FileRecord]], Manifest]:
        files = tuple(_stage_files(compiled, folder) for compiled in stages)
        shutil.copyfile(reference, folder / pipeline.reference)
        return lambda records: _manifest(pipeline, files, stages[0].packages[0].metadata.tvm_version, records)

    def check(bundle: Bundle) -> None:
        if pipeline.for_this_machine:
            progress("Comparing the pipeline with eager PyTorch")
            verify_bundle(bundle).raise_if_failed()

    progress("Joining the packages")
    write_archive(output, lambda folder: _ignore(write_bundle(folder, fill, check)))
    return Path(output)


def _ignore(_bundle: Bundle) -> None:
    """Take what a function returns, where nothing is to be returned."""


def _opened(pipeline: PipelineFile, folder: Path) -> tuple[_CompiledStage, ...]:
    """Open the packages of all stages, and check that they fit."""
    problems = list(_reference_problems(pipeline, folder))
    stages = []
    for stage in pipeline.stages:
        packages = [_open(folder, wanted.package, problems) for wanted in stage.packages]
        present = tuple(package for package in packages if package is not None)
        for wanted, package in zip(stage.packages, packages, strict=True):
            problems += [] if package is None else _misfits(pipeline, stage, wanted, package)
        problems += _differing_weights(present)
        stages.append(_CompiledStage(stage, present))
    problems += _differing_versions([package for compiled in stages for package in compiled.packages])
    if problems:
        raise BundleError(several("These packages cannot be joined", problems))
    return tuple(stages)


def _reference_problems(pipeline: PipelineFile, folder: Path) -> Iterator[str]:
    file = folder / pipeline.reference
    if not file.is_file():
        yield f"{pipeline.reference} is missing"
    elif sha256(file) != pipeline.files[pipeline.reference].sha256:
        yield f"{pipeline.reference} was altered (its SHA-256 differs)"


def _open(folder: Path, name: str, problems: list[str]) -> LibraryPackage | None:
    if not (folder / name).exists():
        problems.append(f"{name} is missing; build.sh compiles it")
        return None
    try:
        package = open_package(folder / name)
    except CospipeError as error:
        problems.append(str(error).rstrip("."))
        return None
    if isinstance(package, LibraryPackage):
        return package
    problems.append(f"{name} holds a whole pipeline instead of a stage")
    return None


def _misfits(
    pipeline: PipelineFile, stage: PipelineStage, wanted: StagePackage, package: LibraryPackage
) -> Iterator[str]:
    """Yield what is wrong about a package of a stage."""
    metadata, name = package.metadata, wanted.package
    differing = _differing_for_llvm(wanted, package)
    if metadata.architecture != pipeline.architecture:
        yield (
            f"{name} is for {metadata.architecture} instead of {pipeline.architecture}; compile it as build.sh does, or"
            " write stages for this machine: cospipe optimize --target host --emit tvmc"
        )
    elif pipeline.for_this_machine and differing - {"num-cores"}:
        yield (
            f"{name} was compiled on a machine with other cores than the one that wrote {PIPELINE_NAME}; write that"
            " again on this machine"
        )
    elif differing or (metadata.threads, metadata.shares_by_speed) != (wanted.threads, wanted.shares_by_speed):
        yield f"{name} was compiled for other cores; compile it again with --cores '{wanted.cores}'"
    for kind, expected, found in (
        ("takes", stage.inputs, metadata.inputs),
        ("returns", stage.outputs, metadata.outputs),
    ):
        if sorted(map(str, expected)) != sorted(map(str, found)):
            tensors = ", ".join(map(str, found)) or "nothing"
            yield f"{name} {kind} {tensors} instead of {', '.join(map(str, expected))}"


def _differing_for_llvm(wanted: StagePackage, package: LibraryPackage) -> set[str]:
    """Return which options of the target differ."""
    found = package.metadata.target
    return {name for name in _SAID_TO_LLVM if str(found.get(name)) != str(wanted.target.get(name))}


def _differing_weights(packages: tuple[LibraryPackage, ...]) -> Iterator[str]:
    """Yield the packages of a stage whose weights are not those of the first."""
    if not packages:
        return
    first = map_tensors(packages[0].weights)
    for package in packages[1:]:
        differing = [
            n for n, value in map_tensors(package.weights).items() if n in first and not _equal(first[n], value)
        ]
        if differing:
            yield f"{package.path.name} has other values of {differing[0]} than {packages[0].path.name}"


def _equal(one: Array, other: Array) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)


def _differing_versions(packages: list[LibraryPackage]) -> Iterator[str]:
    versions = {package.metadata.tvm_version: package.path.name for package in packages}
    if len(versions) > 1:
        told = ", ".join(f"{name} with {version}" for version, name in versions.items())
        yield f"they were compiled with different versions of TVM: {told}"


def _stage_files(compiled: _CompiledStage, folder: Path) -> StageFiles:
    """Copy the libraries of a stage and its weights, and return what the manifest says of them."""
    name = compiled.stage.name
    builds = [
        _build(name, wanted, package, folder)
        for wanted, package in zip(compiled.stage.packages, compiled.packages, strict=True)
    ]
    first = compiled.packages[0].stage_files()
    stored: dict[str, Array] = {}
    for package in compiled.packages:
        stored |= map_tensors(package.weights)
    weights = f"{name}.safetensors"
    write_tensors(folder / weights, stored)
    return StageFiles(
        **dict(builds[0]),
        name=name,
        weights=weights,
        inputs=first.inputs,
        outputs=first.outputs,
        weight_names=tuple(stored),
        further_builds=tuple(builds[1:]),
        replica_builds=compiled.stage.replica_builds,
    )


def _build(stage: str, wanted: StagePackage, package: LibraryPackage, folder: Path) -> StageBuild:
    built = package.shared_library()
    library = f"{stage}-{sha256(built)[:12]}.so"
    shutil.copyfile(built, folder / library)
    return StageBuild(
        library=library,
        core_type=wanted.core_type,
        threads=wanted.threads,
        shares_by_speed=wanted.shares_by_speed,
        weight_arguments=package.metadata.weight_arguments,
        generic_nodes=_generic_nodes(wanted, package),
    )


def _generic_nodes(wanted: StagePackage, package: LibraryPackage) -> tuple[GenericNode, ...]:
    """Return the nodes without a kernel of their own as the plan knows them; one it does not know takes no time."""
    known = {node.name: node for node in wanted.nodes}
    found = {
        node: known.get(graph_node_name(node.module)) or GenericNode(name=node.name, module=node.module, predicted_us=0)
        for node in package.metadata.generic_nodes
    }
    return tuple(dict.fromkeys(found.values()))


def _manifest(
    pipeline: PipelineFile, stages: tuple[StageFiles, ...], tvm_version: str, files: dict[str, FileRecord]
) -> Manifest:
    return Manifest(
        format=FORMAT,
        version=FORMAT_VERSION,
        cospipe_version=pipeline.cospipe_version,
        tvm_version=tvm_version,
        model=pipeline.model,
        architecture=pipeline.architecture,
        soc_architecture=pipeline.soc_architecture,
        passes=pipeline.passes,
        winograd=pipeline.winograd,
        plan=pipeline.plan,
        inputs=pipeline.inputs,
        outputs=pipeline.outputs,
        stages=stages,
        reference=pipeline.reference,
        relative_tolerance=pipeline.relative_tolerance,
        files=files,
    )
