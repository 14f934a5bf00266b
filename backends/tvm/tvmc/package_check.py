"""Checks of an unpacked package of one library: its files are what the metadata says, and its weights fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cospipe.backends.bundle import sha256
from cospipe.backends.tvm.tvmc.package_metadata import PackageMetadata
from cospipe.ir.errors import BundleError, several
from cospipe.ir.manifest import FileRecord
from cospipe.ir.tensor_file import read_entries


def check_unpacked(package: Path, folder: Path, metadata: PackageMetadata) -> None:
    """Check the files of a package in a directory against its metadata.

    Parameters
    ----------
    package : Path
        The .tar file, for errors.
    folder : Path
        Where its files are.
    metadata : PackageMetadata
        What they should be.

    Raises
    ------
    BundleError
        When files are missing, truncated or altered, or the weights are not those that the library takes; all of them
        are listed.
    """
    if problems := [text for name, record in metadata.files.items() if (text := _problem(folder / name, record))]:
        raise BundleError(several(f"{package} was damaged or altered and will not be run", problems))
    if problems := list(_weight_problems(folder, metadata)):
        raise BundleError(several(f"{package} contradicts itself and will not be run", problems))


def _problem(file: Path, record: FileRecord) -> str | None:
    if not file.is_file():
        return f"{file.name} is missing or has another size than {record.bytes} bytes"
    return None if sha256(file) == record.sha256 else f"{file.name} was altered (its SHA-256 differs)"


def _weight_problems(folder: Path, metadata: PackageMetadata) -> Iterator[str]:
    """Yield the weights that are missing, or have another shape than the library takes."""
    stored = {(name, e.shape, e.dtype) for name, e in read_entries(folder / metadata.weights).items()}
    taken_as_stored = [argument.tensor for argument in metadata.weight_arguments if argument.function is None]
    for weight in dict.fromkeys([*metadata.stored_weights, *taken_as_stored]):
        if (weight.name, weight.shape, weight.dtype) not in stored:
            yield f"{metadata.weights} does not hold {weight}"
