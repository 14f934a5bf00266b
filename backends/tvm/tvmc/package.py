"""Packages: what ``tvmc compile`` writes and ``tvmc run`` runs, one .tar file. Written atomically, checked before use.

There are two kinds. A package of one library holds that, its weights and ``metadata.json``; a package of a pipeline is
a bundle (:mod:`cospipe.backends.bundle`) in a .tar file. Neither torch nor TVM's compiler is needed to open one.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cospipe.backends.bundle import Bundle, open_bundle, sha256
from cospipe.backends.replacement import check_writable
from cospipe.backends.tar_archive import (
    check_members,
    member_names,
    pack_tar,
    read_member,
    unpack_members,
    unpack_plain_files,
    unreadable,
)
from cospipe.backends.tvm.link import link_shared_library
from cospipe.backends.tvm.tvmc.package_check import check_unpacked
from cospipe.backends.tvm.tvmc.package_metadata import METADATA_NAME, PackageMetadata, parse_metadata
from cospipe.ir.errors import BundleError, UsageError, first_line
from cospipe.ir.manifest import (
    MANIFEST_NAME,
    MOST_MANIFEST_BYTES,
    FileRecord,
    StageFiles,
)

SHARED_LIBRARY: Final = "lib.so"
OBJECT_FILES: Final = "lib.tar"
WEIGHTS = "weights.safetensors"
_OF_MODELS = (".onnx", ".pt2", ".pt", ".pth")
_OF_OLD_TVMC = ({"mod.json", "mod.params"}, {"mod.so"}, {"mod.tar"}, {"mod.params"})


@dataclass(frozen=True)
class LibraryPackage:
    """An opened package of one library, all its files there and unaltered.

    Parameters
    ----------
    path : Path
        The .tar file.
    folder : Path
        Temporary directory with its files.
    metadata : PackageMetadata
        What they are.
    """

    path: Path
    folder: Path
    metadata: PackageMetadata
    _extracted: tempfile.TemporaryDirectory[str] = field(repr=False)

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.folder / self.metadata.weights

    def shared_library(self) -> Path:
        """Return its library; object files are linked into one first, once.

        Raises
        ------
        LoweringError
            When they cannot be linked.
        """
        library = self.folder / self.metadata.library
        if self.metadata.library != OBJECT_FILES:
            return library
        linked = self.folder / SHARED_LIBRARY
        if not linked.exists():
            link_shared_library(_object_files(library), linked, self.metadata.architecture)
        return linked

    def stage_files(self) -> StageFiles:
        """Return what a bundle says of this network as one stage.

        Raises
        ------
        BundleError
            When a size is known only when it runs, which no bundle can have.
        """
        if self.metadata.is_dynamic:
            unknown = [str(t) for t in (*self.metadata.inputs, *self.metadata.outputs) if t.is_dynamic]
            raise BundleError(f"{self.path} has sizes that are not known before it runs: {', '.join(unknown)}.")
        return StageFiles(
            name=self.metadata.model,
            library=SHARED_LIBRARY,
            core_type=self.metadata.core_type,
            threads=self.metadata.threads,
            shares_by_speed=self.metadata.shares_by_speed,
            weight_arguments=self.metadata.weight_arguments,
            weights=self.metadata.weights,
            inputs=tuple(tensor.as_spec() for tensor in self.metadata.inputs),
            outputs=tuple(tensor.as_spec() for tensor in self.metadata.outputs),
            weight_names=self.metadata.weight_names,
        )


Package = LibraryPackage | Bundle


def _object_files(archive: Path) -> list[str]:
    """Unpack the object files of a library beside it."""
    folder = archive.parent / "objects"
    folder.mkdir(exist_ok=True)
    return [str(file) for file in unpack_plain_files(archive, folder)]


def open_package(path: str | Path) -> Package:
    """Open a package and check every file against its SHA-256.

    Parameters
    ----------
    path : str or Path
        A .tar file that ``tvmc compile`` wrote, or a bundle: a directory, a .zip file or a .tar file.

    Returns
    -------
    LibraryPackage or Bundle
        The latter for a pipeline.

    Raises
    ------
    UsageError
        When there is no such path.
    BundleError
        When it is no package, or files are missing, truncated or altered; all of them are listed.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no package at {str(path)!r}.")
    if path.is_dir():
        return open_bundle(path)
    if not path.is_file():  # a pipe would be waited for
        raise UsageError(f"{path} is no package: it is no plain file.")
    if path.suffix in _OF_MODELS:
        raise BundleError(f"{path} is a model, no package; compile it first: tvmc compile {path}")
    if zipfile.is_zipfile(path):
        return open_bundle(path)
    names = member_names(path)
    if MANIFEST_NAME in names:
        return open_bundle(path)
    if METADATA_NAME in names:
        return _open_library(path)
    if any(old <= names for old in _OF_OLD_TVMC):
        raise BundleError(f"{path} was made by the tvmc of TVM 0.19 or older; compile the model again.")
    raise BundleError(f"{path} is no package: it has neither a {METADATA_NAME} nor a {MANIFEST_NAME}.")


def remove_unpacked(package: Package) -> None:
    """Remove what a package was unpacked to, for a process that ends while a thread still uses it."""
    if package._extracted is not None:
        package._extracted.cleanup()


def _open_library(path: Path) -> LibraryPackage:
    metadata = parse_metadata(read_member(path, METADATA_NAME, MOST_MANIFEST_BYTES), str(path))
    check_members(path, {METADATA_NAME, *metadata.files})
    extracted = tempfile.TemporaryDirectory(prefix="cospipe-tvmc-")
    folder = Path(extracted.name)
    unpack_members(path, metadata.files, folder)
    check_unpacked(path, folder, metadata)
    return LibraryPackage(path, folder, metadata, extracted)


def write_package(
    output: str | Path, fill: Callable[[Path], Callable[[dict[str, FileRecord]], PackageMetadata]]
) -> LibraryPackage:
    """Write a package of one library so that ``output`` is the old file or the whole new one, whatever happens.

    Parameters
    ----------
    output : str or Path
        The .tar file; an earlier one there is replaced.
    fill : callable
        Writes the files into the directory it is given; what it returns makes the metadata from their records.

    Raises
    ------
    UsageError
        When something other than a .tar file lies at ``output``.
    BundleError
        When the file cannot be written.
    """

    def fill_folder(folder: Path) -> None:
        make_metadata = fill(folder)
        records = {f.name: FileRecord(bytes=f.stat().st_size, sha256=sha256(f)) for f in sorted(folder.iterdir())}
        text = make_metadata(records).model_dump_json(indent=2) + "\n"
        (folder / METADATA_NAME).write_text(text, encoding="utf-8")

    write_archive(output, fill_folder)
    return _open_library(Path(output))


def write_bundle_archive(bundle: Bundle, output: str | Path) -> Bundle:
    """Write a bundle as one .tar file, a package of a pipeline; ``output`` is the old file or the whole new one.

    Raises
    ------
    UsageError
        When something other than a .tar file lies at ``output``.
    BundleError
        When the file cannot be written.
    """

    def fill_folder(folder: Path) -> None:
        for name in (MANIFEST_NAME, *bundle.manifest.files):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(bundle.file(name), folder / name)

    write_archive(output, fill_folder)
    return open_bundle(output)


def write_archive(output: str | Path, fill_folder: Callable[[Path], None]) -> None:
    """Write the files that ``fill_folder`` puts into the directory it is given as one .tar file.

    Raises
    ------
    UsageError
        When something other than a .tar file lies at ``output``.
    BundleError
        When the file cannot be written; then an earlier one is what it was.
    """
    output = Path(os.path.abspath(output))
    check_package_output(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
            folder = Path(scratch) / "package"
            folder.mkdir()
            fill_folder(folder)
            new = Path(scratch) / "package.tar"
            pack_tar(folder, new)
            os.replace(new, output)
    except OSError as error:
        raise BundleError(
            f"The package {output} could not be written ({first_line(error)}); nothing was changed."
        ) from error


def check_package_output(output: str | Path) -> None:
    """Check that a package may be written to a path.

    Raises
    ------
    UsageError
        When something other than a .tar file lies there, or nothing may be written there.
    """
    path = Path(output)
    check_writable(path)
    if not path.exists():
        return
    if not stat.S_ISREG(path.stat().st_mode) or not _is_replaceable(path):
        raise UsageError(f"{path} exists and is no package; choose another --output, it will not be overwritten.")


def _is_replaceable(path: Path) -> bool:
    try:
        return path.stat().st_size == 0 or tarfile.is_tarfile(path)
    except OSError as error:
        raise unreadable(path, error) from error
