"""``pipeline.json``: a pipeline whose stages are ONNX files that ``tvmc compile`` makes packages of.

It says how the packages are joined to a bundle again: everything a bundle's manifest holds but what compiling adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cospipe.ir.errors import BundleError, first_line, several
from cospipe.ir.json_text import parse_json
from cospipe.ir.manifest import MOST_MANIFEST_BYTES, MOST_THREADS, FileName, FileRecord, GenericNode, TensorSpec
from cospipe.ir.plan import PipelinePlan

PIPELINE_NAME: Final = "pipeline.json"
PIPELINE_FORMAT: Final = "cospipe-pipeline"
PIPELINE_VERSION: Final = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StagePackage(_Part):
    """A package of a stage, for one type of core and number of threads.

    ``cores`` is what ``tvmc compile --cores`` takes, ``target`` what LLVM is told of these. ``nodes`` are those of the
    stage with their times on these cores, of which a bundle lists the ones without a kernel of their own.
    """

    package: FileName
    cores: str
    core_type: str
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)]
    shares_by_speed: bool
    target: dict[str, Any]
    nodes: tuple[GenericNode, ...]


class PipelineStage(_Part):
    """A stage: its ONNX file, its tensors, the packages to compile, and which of them each replica of the plan runs."""

    name: str
    onnx: FileName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    packages: tuple[StagePackage, ...] = Field(min_length=1)
    replica_builds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _runs_every_package(self) -> PipelineStage:
        if set(self.replica_builds) != set(range(len(self.packages))):
            raise ValueError(f"{self.name} has {len(self.packages)} packages, its replicas run others")
        return self


class PipelineFile(_Part):
    """Everything that joining the packages needs to know.

    ``for_this_machine`` tells whether the stages are compiled for the machine that compiles them, so that the joined
    bundle can be compared with the reference at once. The other fields are those of a bundle's manifest.
    """

    format: Literal["cospipe-pipeline"]
    version: Literal[1]
    cospipe_version: str
    model: str
    architecture: Literal["aarch64", "x86_64"]
    soc_architecture: str
    for_this_machine: bool
    passes: str
    winograd: bool
    plan: PipelinePlan
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    stages: tuple[PipelineStage, ...] = Field(min_length=1)
    reference: FileName
    relative_tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    files: dict[FileName, FileRecord]

    @model_validator(mode="after")
    def _complete(self) -> PipelineFile:
        if problems := list(_problems(self)):
            raise ValueError("; ".join(problems))
        return self


def _problems(pipeline: PipelineFile) -> Iterator[str]:
    if [stage.name for stage in pipeline.stages] != [stage.name for stage in pipeline.plan.stages]:
        yield "the stages of the plan and of the files differ"
    if pipeline.reference not in pipeline.files:
        yield f"no SHA-256 is given for {pipeline.reference}"


def is_pipeline_file(path: str | Path) -> bool:
    """Tell whether a file is a description of a pipeline, of any version, whole or damaged."""
    path = Path(path)
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open("rb") as stream:
        return f'"{PIPELINE_FORMAT}"'.encode() in stream.read(1 << 10)


def read_pipeline_file(path: str | Path) -> PipelineFile:
    """Read a description of a pipeline.

    Raises
    ------
    BundleError
        When it cannot be read or is not of the expected form; every mistake is listed.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_MANIFEST_BYTES)
        _check_version(parse_json(content), path)
        return PipelineFile.model_validate_json(content, strict=True)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {first_line(error)}.") from error
    except ValidationError as error:
        mistakes = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise BundleError(several(f"{path} is not a pipeline this version reads", mistakes)) from error
    except ValueError as error:
        raise BundleError(f"{path} is not a pipeline: {error}.") from error


def _check_version(document: object, path: Path) -> None:
    if isinstance(document, dict) and document.get("version", PIPELINE_VERSION) != PIPELINE_VERSION:
        raise BundleError(
            f"{path} is a pipeline of version {str(document['version'])[:40]}, this version of cospipe reads"
            f" {PIPELINE_VERSION}; write it again with cospipe optimize --emit tvmc."
        )
