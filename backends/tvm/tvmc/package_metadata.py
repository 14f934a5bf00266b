"""What a package of one library says of itself: ``metadata.json``."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cospipe.ir.errors import BundleError, several
from cospipe.ir.json_text import parse_json
from cospipe.ir.manifest import MOST_THREADS, PACKAGE_METADATA_NAME, FileName, FileRecord, TensorSpec, WeightArgument
from cospipe.ir.tensor_file import is_holdable

METADATA_NAME: Final = PACKAGE_METADATA_NAME
PACKAGE_FORMAT: Final = "cospipe-tvmc"
PACKAGE_VERSION: Final = 1
DYNAMIC: Final = -1
"""Stands for a size that is known only when the network runs."""
_MOST_DIMENSIONS = 16


def _plain(name: str) -> str:
    if "/" in name or name == METADATA_NAME:
        raise ValueError(f"{name!r} is no name of a file of a package")
    return name


LibraryName = Literal["lib.so", "lib.tar"]
PackagedFile = Annotated[FileName, AfterValidator(_plain)]
Size = Annotated[int, Field(ge=DYNAMIC, le=2**31)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackagedTensor(_Part):
    """Name, shape and element type of an input or output; a size that is known only when it runs is -1.

    ``shape`` is None where not even the number of dimensions is known.
    """

    name: str
    shape: Annotated[tuple[Size, ...], Field(max_length=_MOST_DIMENSIONS)] | None
    dtype: Literal["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]

    @model_validator(mode="after")
    def _fits_into_memory(self) -> PackagedTensor:
        if not is_holdable([abs(size) for size in self.shape or ()], self.dtype):
            raise ValueError(f"no memory could hold the tensor {self}")
        return self

    @property
    def is_dynamic(self) -> bool:
        """Whether some size is known only when the network runs."""
        return self.shape is None or DYNAMIC in self.shape

    def as_spec(self) -> TensorSpec:
        """Return what a bundle's manifest says of this tensor; its sizes must be known."""
        assert self.shape is not None
        return TensorSpec(name=self.name, shape=self.shape, dtype=self.dtype)

    def __str__(self) -> str:
        sizes = ["?" if size == DYNAMIC else str(size) for size in self.shape or ()]
        shape = "of unknown shape" if self.shape is None else "x".join(sizes) or "scalar"
        return f"{self.name} ({shape} {self.dtype})"


class PackagedKernel(_Part):
    """One call of a kernel; they stand in the order in which a run calls them.

    ``name`` is what the virtual machine calls, ``kind`` the name of a kernel of our own or "generic ...", ``nodes`` are
    the nodes of the network that it computes.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]


class PackagedNode(_Part):
    """A node of the network, and the path of the module it comes from."""

    name: str
    module: str


class PackageMetadata(_Part):
    """Everything that running a package needs to know.

    Its ``main`` takes the inputs, then ``weight_arguments``: each is one of the ``stored_weights``, or what a function
    of the library prepares from some, once, when it is loaded. ``threads`` is the number of cores that the library is
    made for. ``imported_by`` tells whose front end read the network, ``kernels_by`` whose kernels it has: ours, or
    those of TVM's generic pipeline, which are slow. ``generic_nodes`` are the nodes without a kernel of their own, slow
    as well.
    """

    format: Literal["cospipe-tvmc"]
    version: Literal[1]
    cospipe_version: str
    tvm_version: str
    model: str
    module_name: str
    imported_by: Literal["cospipe", "tvm"]
    kernels_by: Literal["cospipe", "tvm"] = "cospipe"
    target: dict[str, Any]
    """The TVM target as a dictionary."""
    architecture: Literal["aarch64", "x86_64"]
    core_type: str
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)]
    shares_by_speed: bool = False
    library: LibraryName
    """``lib.so``, or ``lib.tar`` with object files that are linked when it is loaded."""
    weights: PackagedFile
    inputs: tuple[PackagedTensor, ...]
    outputs: tuple[PackagedTensor, ...]
    stored_weights: tuple[TensorSpec, ...]
    weight_arguments: tuple[WeightArgument, ...]
    generic_nodes: tuple[PackagedNode, ...] = ()
    kernels: tuple[PackagedKernel, ...] = ()
    files: dict[PackagedFile, FileRecord]

    @property
    def is_dynamic(self) -> bool:
        """Whether some size of an input or output is known only when the network runs."""
        return any(tensor.is_dynamic for tensor in (*self.inputs, *self.outputs))

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Names of the stored weights."""
        return tuple(weight.name for weight in self.stored_weights)

    @model_validator(mode="after")
    def _complete(self) -> PackageMetadata:
        if missing := sorted({self.library, self.weights} - self.files.keys()):
            raise ValueError(f"no SHA-256 is given for {', '.join(missing)}")
        counts = Counter(tensor.name for tensor in self.inputs)
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"two inputs have the name {', '.join(repeated)}")
        wanted = {name for argument in self.weight_arguments for name in argument.weights}
        if unknown := sorted(wanted - set(self.weight_names)):
            raise ValueError(f"main takes {', '.join(unknown)}, which is none of its weights")
        return self


def parse_metadata(content: bytes, origin: str) -> PackageMetadata:
    """Read the metadata of a package; ``origin`` names it in errors.

    Raises
    ------
    BundleError
        When it is not JSON of the expected form; every mistake is listed.
    """
    try:
        _check_version(parse_json(content), origin)
        return PackageMetadata.model_validate_json(content, strict=True)
    except ValidationError as error:
        mistakes = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise BundleError(several(f"{origin} is no package that this version reads", mistakes)) from error
    except ValueError as error:
        raise BundleError(f"{origin} is no package: its {METADATA_NAME} cannot be read, {error}.") from error


def _check_version(document: object, origin: str) -> None:
    """Say first that a package is of another kind or version: what else is wrong with it follows from that."""
    if not isinstance(document, dict) or document.get("format") != PACKAGE_FORMAT:
        raise BundleError(f"{origin} was not made by this tvmc; compile the model again.")
    version = document.get("version")
    if type(version) is not int or version != PACKAGE_VERSION:
        raise BundleError(
            f"{origin} is of format version {json.dumps(version)[:40]}, this version of cospipe reads"
            f" {PACKAGE_VERSION}; compile the model again."
        )
