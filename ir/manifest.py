"""The manifest of a bundle: what the files are, and what they were made for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cospipe.ir.errors import BundleError, several
from cospipe.ir.json_text import parse_json
from cospipe.ir.plan import MOST_CORES, Count, PipelinePlan, StagePlan
from cospipe.ir.plan_support import cannot_run
from cospipe.ir.tensor_file import is_holdable

MANIFEST_NAME = "manifest.json"
PACKAGE_METADATA_NAME = "metadata.json"
"""What a package of one library has instead of a manifest, see :mod:`cospipe.backends.tvm.tvmc.package`."""
SIGNATURE_NAME = "manifest.sig"
"""Ed25519 signature of the manifest's bytes, beside it: 64 raw bytes."""
FORMAT: Final = "cospipe-bundle"
FORMAT_VERSION: Final = 4
MOST_MANIFEST_BYTES = 64 << 20
MOST_FILES = 65536
MOST_THREADS = MOST_CORES
"""Of one library, and of all replicas together."""
_MOST_DIMENSIONS = 16
_MOST_NAME_BYTES = 4096


def _plain_relative(name: str) -> str:
    path = PurePosixPath(name)
    is_plain = name not in ("", ".") and str(path) == name and not path.is_absolute() and ".." not in path.parts
    if not is_plain or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a path inside the bundle")
    if len(name.encode()) > _MOST_NAME_BYTES:
        raise ValueError(f"a file's name has more than {_MOST_NAME_BYTES} bytes")
    if name in (MANIFEST_NAME, SIGNATURE_NAME):
        raise ValueError(f"{name} cannot vouch for itself")
    return name


FileName = Annotated[str, AfterValidator(_plain_relative)]
Extent = Annotated[int, Field(ge=0, le=2**31)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Part):
    """Name, shape and element type of a tensor that enters or leaves a stage."""

    name: str
    shape: tuple[Extent, ...] = Field(max_length=_MOST_DIMENSIONS)
    dtype: Literal["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]

    @model_validator(mode="after")
    def _fits_into_memory(self) -> TensorSpec:
        if not is_holdable(self.shape, self.dtype):
            raise ValueError(f"no memory could hold a tensor of the shape {'x'.join(map(str, self.shape))}")
        return self

    def __str__(self) -> str:
        return f"{self.name} ({'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype})"


class WeightArgument(_Part):
    """A tensor that a stage's ``main`` takes: a stored weight as it is, or what the library prepares from some.

    ``function`` is the library's function that prepares it from ``weights``, once, when the stage is loaded; None for
    a weight as it is stored.
    """

    tensor: TensorSpec
    function: Annotated[str, Field(pattern=r"^prepare_[0-9]+$")] | None
    weights: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_the_weight_it_names(self) -> WeightArgument:
        if self.function is None and self.weights != (self.tensor.name,):
            raise ValueError(f"{self.tensor} is made from {', '.join(self.weights)}, but no function is named")
        return self


class GenericNode(_Part):
    """A node without a kernel of its own: TVM's routines or the generic schedule compute it, slowly.

    ``module`` is the path of the module it comes from, ``predicted_us`` its time on the cores of its stage.
    """

    name: str
    module: str
    predicted_us: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    def __str__(self) -> str:
        return f"{self.name} ({self.module})" if self.module else self.name


class AdapterSlot(_Part):
    """Room for an adapter on a weight: the stored weights that hold its coefficients and their places.

    A place is row * columns + column in the spectrum of the weight seen as a matrix. There is room for as many
    coefficients as ``coefficients`` has elements; those that an adapter does not use are zero.
    """

    weight: str
    coefficients: str
    places: str


class StageBuild(_Part):
    """A stage compiled for one type of core and number of threads: ``main`` takes its inputs, then weight arguments.

    ``weight_arguments`` are what is made of the stored weights when the stage is loaded. Where ``shares_by_speed`` is
    set the library's ``share_by_speed`` must be called first; then threads take parts of a kernel as they can.
    """

    library: FileName
    core_type: str
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    shares_by_speed: bool = False
    weight_arguments: tuple[WeightArgument, ...]
    generic_nodes: tuple[GenericNode, ...] = ()


class StageFiles(StageBuild):
    """One compiled stage: its first build, and what all its builds share.

    ``weight_names`` are the stored weights. ``adapter_slots`` tells where adapters can be folded in when the stage is
    loaded, ``replaceable`` which weights are stored just as the model has them, so that an adapter may bring its own.
    ``further_builds`` are for other cores; ``replica_builds`` names the build that each replica of the plan runs, 0
    for the first.
    """

    name: str
    weights: FileName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weight_names: tuple[str, ...]
    adapter_slots: tuple[AdapterSlot, ...] = ()
    replaceable: tuple[str, ...] = ()
    further_builds: tuple[StageBuild, ...] = ()
    replica_builds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)

    @property
    def builds(self) -> tuple[StageFiles, ...]:
        """The stage as if each build were its only one."""
        alone = self.model_copy(update={"further_builds": (), "replica_builds": (0,)})
        return (alone, *(alone.model_copy(update=dict(build)) for build in self.further_builds))

    @model_validator(mode="after")
    def _fits_together(self) -> StageFiles:
        wanted = {name for build in (self, *self.further_builds) for a in build.weight_arguments for name in a.weights}
        wanted |= {name for slot in self.adapter_slots for name in (slot.weight, slot.coefficients, slot.places)}
        wanted |= set(self.replaceable)
        if unknown := sorted(wanted - set(self.weight_names)):
            raise ValueError(f"{self.name} prepares or replaces {', '.join(unknown)}, which is none of its weights")
        if set(self.replica_builds) != set(range(1 + len(self.further_builds))):
            raise ValueError(f"{self.name} has {1 + len(self.further_builds)} builds, its replicas run others")
        return self


class FileRecord(_Part):
    """Size and SHA-256 of one file."""

    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RunnerFiles(_Part):
    """What a board directory brings along, so that it runs where nothing else is installed.

    ``program`` is cospipe-run, ``libraries`` are those that it loads, in this order. All of them run with a C library
    of version ``glibc`` or newer.
    """

    program: FileName
    libraries: tuple[FileName, ...] = Field(min_length=1)
    glibc: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$")]


class Manifest(_Part):
    """Everything a runner must know about a bundle."""

    format: Literal["cospipe-bundle"]
    version: Literal[4]
    cospipe_version: str
    tvm_version: str
    model: str
    architecture: Literal["aarch64", "x86_64"]
    """What the libraries are compiled for."""
    soc_architecture: str
    """What the planned chip is; when it is another, its core ids mean nothing where the bundle runs."""
    passes: str
    """Text form of the pass pipeline that made the stages."""
    winograd: bool
    """Whether 3x3 convolutions may be computed by Winograd's method."""
    plan: PipelinePlan
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    stages: tuple[StageFiles, ...] = Field(min_length=1)
    reference: FileName
    """Input, every tensor handed over and output of one frame, computed by eager PyTorch."""
    relative_tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    runner: RunnerFiles | None = None
    files: dict[FileName, FileRecord] = Field(max_length=MOST_FILES)

    @property
    def generic_nodes(self) -> tuple[GenericNode, ...]:
        """The nodes of all stages without a kernel of their own, as their first builds have them."""
        return tuple(node for stage in self.stages for node in stage.generic_nodes)

    @property
    def generic_share(self) -> float:
        """Their share of the predicted computing time of all stages on their first replicas, 0 to 1."""
        computing_us = sum(stage.replicas[0].compute_us for stage in self.plan.stages)
        return sum(node.predicted_us for node in self.generic_nodes) / computing_us if computing_us else 0.0

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if problems := [*_missing_records(self), *_plan_problems(self), *_value_problems(self)]:
            raise ValueError("; ".join(problems))
        return self


def _missing_records(manifest: Manifest) -> Iterator[str]:
    """Yield that files are named whose SHA-256 is not."""
    libraries = (build.library for stage in manifest.stages for build in (stage, *stage.further_builds))
    named = {manifest.reference, *libraries, *(stage.weights for stage in manifest.stages)}
    if manifest.runner:
        named |= {manifest.runner.program, *manifest.runner.libraries}
    if missing := sorted(named - manifest.files.keys()):
        yield f"no SHA-256 is given for {', '.join(missing)}"


def _plan_problems(manifest: Manifest) -> Iterator[str]:
    """Yield what keeps the stages from running as planned."""
    names = [stage.name for stage in manifest.stages]
    planned = manifest.plan.stages
    if names != [stage.name for stage in planned]:
        yield "the stages of the plan and of the files differ"
        return
    yield from (f"two stages have the name {name}" for name, count in Counter(names).items() if count > 1)
    yield from cannot_run(manifest.plan)
    threads = sum(part.cores for stage in planned for replica in stage.replicas for part in replica.cores)
    if threads > MOST_THREADS:
        yield f"all replicas together have {threads} threads, more than {MOST_THREADS}"
        return
    for pair in zip(manifest.stages, planned, strict=True):
        yield from _misfits(*pair)


def _misfits(stage: StageFiles, planned: StagePlan) -> Iterator[str]:
    """Yield what does not fit about the replicas of a stage."""
    if len(stage.replica_builds) != len(planned.replicas):
        yield f"{stage.name} has {len(planned.replicas)} replicas, builds are named for {len(stage.replica_builds)}"
        return
    builds = (stage, *stage.further_builds)
    for replica, build in zip(planned.replicas, stage.replica_builds, strict=True):
        cores = sum(part.cores for part in replica.cores)
        if len(replica.cpu_ids) != cores:
            yield f"{stage.name} has {len(replica.cpu_ids)} cpu ids for {replica.text}"
        if builds[build].threads != cores:
            yield f"{stage.name} runs a library for {builds[build].threads} threads on {replica.text}"


def _value_problems(manifest: Manifest) -> Iterator[str]:
    """Yield what is read before it is written."""
    known = {spec.name for spec in manifest.inputs}
    for stage in manifest.stages:
        if unknown := [spec.name for spec in stage.inputs if spec.name not in known]:
            yield f"{stage.name} reads {', '.join(unknown)}, which nothing before it writes"
        known |= {spec.name for spec in stage.outputs}
    if unknown := [spec.name for spec in manifest.outputs if spec.name not in known]:
        yield f"no stage writes the output {', '.join(unknown)}"


def parse_manifest(text: str, origin: str) -> Manifest:
    """Read a manifest; ``origin`` names it in errors.

    Nothing is converted: a number that is written as text is a mistake.

    Raises
    ------
    BundleError
        When it is not JSON of the expected form; every mistake is listed.
    """
    try:
        _check_version(parse_json(text), origin)
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        mistakes = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise BundleError(several(f"{origin} is not a bundle manifest this version reads", mistakes)) from error
    except ValueError as error:
        raise BundleError(f"{origin} is not a bundle manifest: {error}.") from error


def _check_version(document: object, origin: str) -> None:
    """Say first that a manifest is of another version: what else is wrong with it follows from that."""
    if not isinstance(document, dict) or "version" not in document:
        return
    version = document["version"]
    if type(version) is int and version == FORMAT_VERSION:  # 4.0 is equal, but no version
        return
    raise BundleError(
        f"{origin} is of format version {json.dumps(version)[:40]}, this version of cospipe reads {FORMAT_VERSION};"
        " compile the model again."
    )
