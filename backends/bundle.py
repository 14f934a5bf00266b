"""Bundles: a directory (or one .zip or .tar) that holds a compiled pipeline. Written atomically, checked before use."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from cospipe.backends.bundle_archive import pack_directory, unpack_files, unpack_manifest
from cospipe.backends.public_key import check_signature
from cospipe.backends.replacement import check_writable, move_into_place, scratch_beside
from cospipe.ir.errors import BundleError, UsageError, first_line, several
from cospipe.ir.json_text import parse_json
from cospipe.ir.manifest import (
    FORMAT,
    MANIFEST_NAME,
    MOST_MANIFEST_BYTES,
    SIGNATURE_NAME,
    FileRecord,
    Manifest,
    parse_manifest,
)
from cospipe.ir.tensor_file import Array, map_tensors, read_entries, write_tensors


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files are all there and unaltered.

    Parameters
    ----------
    path : Path
        What the user named: a directory, a .zip file or a .tar file.
    folder : Path
        Directory with the files; a temporary one for a .zip or .tar.
    manifest : Manifest
        What the files are.
    """

    path: Path
    folder: Path
    manifest: Manifest
    _extracted: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def file(self, name: str) -> Path:
        """Return the absolute path of a file of the bundle."""
        return (self.folder / name).resolve()

    def reference(self) -> dict[str, Array]:
        """Return the reference tensors by value name, as eager PyTorch computed them."""
        return map_tensors(self.file(self.manifest.reference))

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(record.bytes for record in self.manifest.files.values())


def open_bundle(path: str | Path, public_key: str | Path | None = None) -> Bundle:
    """Open a bundle and check every file against its SHA-256.

    Parameters
    ----------
    path : str or Path
        A directory, a .zip file or a .tar file.
    public_key : str or Path, optional
        File of the key that the bundle must be signed with, see :func:`cospipe.backends.signature.sign_bundle`. The
        signature is checked before anything else of the bundle is looked at.

    Raises
    ------
    UsageError
        When there is no such path, or the key cannot be read.
    BundleError
        When it is no bundle, is not signed with the key, or files are missing, truncated or altered; all of them are
        listed.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no bundle at {str(path)!r}.")
    if not (path.is_dir() or path.is_file()):  # a pipe would be waited for
        raise UsageError(f"{path} is no bundle: it is no plain file.")
    extracted = None if path.is_dir() else unpack_manifest(path)
    folder = Path(extracted.name) if extracted else path
    content = _manifest_bytes(folder, path)
    if public_key is not None:
        check_signature(content, folder / SIGNATURE_NAME, Path(public_key), str(path))
    manifest = parse_manifest(_text(content, path), f"{path}/{MANIFEST_NAME}")
    if extracted:
        unpack_files(path, manifest, folder)
    problems = [problem for name, record in manifest.files.items() if (problem := _problem(folder, name, record))]
    if problems:
        raise BundleError(several(f"{path} was damaged or altered and will not be run", problems))
    if contradictions := _contradictions(folder, manifest):
        raise BundleError(several(f"{path} contradicts itself and will not be run", contradictions))
    return Bundle(path, folder, manifest, extracted)


def _manifest_bytes(folder: Path, bundle: Path) -> bytes:
    """Read the manifest once: what is checked and what is parsed are the same bytes."""
    file = folder / MANIFEST_NAME
    if file.is_symlink() or not file.is_file():
        raise BundleError(f"{bundle} is not a bundle: it has no {MANIFEST_NAME}.")
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{bundle} cannot be read: {first_line(error)}.") from error
    if len(content) > MOST_MANIFEST_BYTES:
        raise BundleError(f"{bundle} will not be run: {MANIFEST_NAME} is larger than {MOST_MANIFEST_BYTES >> 20} MiB.")
    return content


def _text(content: bytes, bundle: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{bundle} was damaged: {MANIFEST_NAME} is not text.") from error


def _problem(folder: Path, name: str, record: FileRecord) -> str | None:
    file = folder / name
    if links := [way for way in (file, *file.parents) if folder in way.parents and way.is_symlink()]:
        return f"{name} is missing: {links[-1].relative_to(folder)} is a link, which may point anywhere"
    if not file.is_file():
        return f"{name} is missing"
    if file.stat().st_size != record.bytes:
        return f"{name} has {file.stat().st_size} bytes instead of {record.bytes}"
    try:
        return None if sha256(file) == record.sha256 else f"{name} was altered (its SHA-256 differs)"
    except OSError as error:
        return f"{name} cannot be read: {first_line(error)}"


def _contradictions(folder: Path, manifest: Manifest) -> list[str]:
    """Return what the manifest says of tensors that its files do not hold."""
    reference = read_entries(folder / manifest.reference)
    borders = [manifest.inputs, manifest.outputs, *(s.inputs + s.outputs for s in manifest.stages)]
    held = {(name, entry.shape, entry.dtype) for name, entry in reference.items()}
    problems = [
        f"{manifest.reference} does not hold {spec}"
        for spec in dict.fromkeys(chain(*borders))
        if (spec.name, spec.shape, spec.dtype) not in held
    ]
    for stage in manifest.stages:
        stored = read_entries(folder / stage.weights)
        missing = sorted(set(stage.weight_names) - stored.keys())
        problems += [f"{stage.weights} does not hold {name}" for name in missing]
        shapes = {(name, entry.shape, entry.dtype) for name, entry in stored.items()}
        arguments = chain(*(build.weight_arguments for build in stage.builds))
        taken_as_stored = dict.fromkeys(argument.tensor for argument in arguments if argument.function is None)
        problems += [
            f"{stage.weights} does not hold {tensor}"
            for tensor in taken_as_stored
            if tensor.name not in missing and (tensor.name, tensor.shape, tensor.dtype) not in shapes
        ]
    return problems


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal text."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_bundle(
    output: str | Path,
    fill: Callable[[Path], Callable[[dict[str, FileRecord]], Manifest]],
    check: Callable[[Bundle], None] = lambda _: None,
) -> Bundle:
    """Write a bundle so that ``output`` is either the old one or the whole new one, whatever happens.

    Parameters
    ----------
    output : str or Path
        Directory, or a file name ending in .zip. An earlier bundle there is replaced.
    fill : callable
        Writes the files into the directory it is given; what it returns makes the manifest from their records.
    check : callable
        Is given the new bundle before it takes the place of the old one, which stays when this raises.

    Raises
    ------
    BundleError
        When ``output`` exists and is not a bundle, or the disk is full.
    """
    output = Path(os.path.abspath(output))  # so that "." has a name and a parent
    check_output(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(output) as scratch:
            folder = scratch / "bundle"
            folder.mkdir()
            make_manifest = fill(folder)
            manifest = make_manifest(_records(folder))
            (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            check(open_bundle(folder))
            new = folder
            if output.suffix == ".zip":
                new = scratch / "bundle.zip"
                pack_directory(folder, new)
            move_into_place(new, output, scratch)
    except OSError as error:
        raise BundleError(
            f"The bundle {output} could not be written ({first_line(error)}); nothing was changed."
        ) from error
    return open_bundle(output)


def check_output(output: Path) -> None:
    """Check that a bundle may be written to a path.

    Raises
    ------
    UsageError
        When something other than a bundle or an empty directory lies there, or nothing may be written there.
    """
    if output.suffix == ".tar":
        raise UsageError(f"{output} would be a directory: bundles are written as directories or as .zip files.")
    check_writable(output)
    if not output.exists():
        return
    is_empty = output.is_dir() and not any(output.iterdir())
    if not (is_empty or _is_bundle(output)) or (output.suffix == ".zip") == output.is_dir():
        raise UsageError(f"{output} exists and is not a bundle; choose another output, it will not be overwritten.")
    if foreign := _foreign_files(output):
        raise UsageError(
            f"{output} holds files that are not the bundle's ({', '.join(foreign[:5])}); move them or choose another"
            " output, they will not be overwritten."
        )


def _foreign_files(folder: Path) -> list[str]:
    """Return what somebody put into a bundle's directory: replacing the bundle would delete it."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return []
    try:
        own = {MANIFEST_NAME, SIGNATURE_NAME, *parse_json((folder / MANIFEST_NAME).read_bytes())["files"]}
    except (ValueError, KeyError, TypeError):
        own = {MANIFEST_NAME, SIGNATURE_NAME}  # a manifest nobody can read vouches for nothing
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())
    return sorted(set(files) - own)


def _is_bundle(path: Path) -> bool:
    """Tell whether a path holds a bundle of any version, whole or damaged: others have a manifest.json as well."""
    try:
        if path.is_dir():
            text = (path / MANIFEST_NAME).read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(MANIFEST_NAME)
    except (OSError, KeyError, zipfile.BadZipFile):
        return False
    return FORMAT.encode() in text


def _records(folder: Path) -> dict[str, FileRecord]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): FileRecord(bytes=file.stat().st_size, sha256=sha256(file))
        for file in files
    }


def replace_weights(
    bundle: Bundle, weights: Mapping[str, Array], reference: Mapping[str, Array], output: str | Path
) -> Bundle:
    """Write a bundle with the same libraries and other weights; nothing is compiled.

    A signature is not taken along: whoever signed the bundle did not sign these weights.

    Parameters
    ----------
    bundle : Bundle
        The compiled pipeline.
    weights : mapping of str to array
        New values by parameter name; every name of the bundle, or some of them.
    reference : mapping of str to array
        The tensors of one frame computed with these weights, by value name; every one of the bundle's reference.
    output : str or Path
        Where the new bundle goes.

    Raises
    ------
    UsageError
        When a name is unknown or a shape or dtype differs; all of them are listed.
    """
    stages = {stage.weights: map_tensors(bundle.file(stage.weights)) for stage in bundle.manifest.stages}
    known_weights = {name: value for tensors in stages.values() for name, value in tensors.items()}
    known_values = bundle.reference()
    problems = _misfits(weights, known_weights, "no weight of this bundle")
    problems += _misfits(reference, known_values, "no value of this bundle's reference")
    problems += [f"{name} is missing in the reference" for name in known_values if name not in reference]
    if problems:
        raise UsageError(several("These weights do not fit the bundle", problems))

    def fill(folder: Path) -> Callable[[dict[str, FileRecord]], Manifest]:
        for name in bundle.manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(bundle.file(name), folder / name)  # with its mode: cospipe-run stays a program
        for file, tensors in stages.items():
            write_tensors(folder / file, {name: weights.get(name, value) for name, value in tensors.items()})
        write_tensors(folder / bundle.manifest.reference, reference)
        return lambda files: bundle.manifest.model_copy(update={"files": files})

    return write_bundle(output, fill)


def _misfits(given: Mapping[str, Array], known: Mapping[str, Array], complaint: str) -> list[str]:
    problems = [f"{name} is {complaint}" for name in given if name not in known]
    return problems + [
        f"{name} is {value.shape} {value.dtype}, expected {known[name].shape} {known[name].dtype}"
        for name, value in given.items()
        if name in known and (value.shape, value.dtype) != (known[name].shape, known[name].dtype)
    ]
