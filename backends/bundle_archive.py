"""Bundles as one .zip or .tar file: unpacked no further than the manifest says, packed with modes."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from cospipe.backends.tar_archive import check_members, copy_tar, is_tar, member_names, read_start, unpack_members
from cospipe.ir.errors import BundleError
from cospipe.ir.manifest import (
    MANIFEST_NAME,
    MOST_FILES,
    MOST_MANIFEST_BYTES,
    PACKAGE_METADATA_NAME,
    SIGNATURE_NAME,
    Manifest,
)

_BLOCK_BYTES = 1 << 20
_SIGNATURE_BYTES = 64
# one byte more than there may be, so that whoever checks the length notices
_FIRST_FILES = {MANIFEST_NAME: MOST_MANIFEST_BYTES + 1, SIGNATURE_NAME: _SIGNATURE_BYTES + 1}


def unpack_manifest(archive: Path) -> tempfile.TemporaryDirectory[str]:
    """Unpack a bundle's manifest and its signature, and nothing else, into a new temporary directory.

    Raises
    ------
    BundleError
        When the file is neither a .zip nor a .tar, is damaged, or holds absurdly much.
    """
    folder = tempfile.TemporaryDirectory(prefix="cospipe-")
    unpack = _unpack_tar_manifest if is_tar(archive) else _unpack_zip_manifest
    try:
        unpack(archive, Path(folder.name))
    except BundleError:
        folder.cleanup()
        raise
    except Exception as error:  # a damaged archive raises almost anything: zlib.error, EOFError, NotImplementedError
        folder.cleanup()
        raise _unreadable(archive, error) from error
    return folder


def _unpack_zip_manifest(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as members:
        if len(members.infolist()) > 2 * MOST_FILES:  # its files, and the directories they lie in
            raise BundleError(f"{archive} has more than {2 * MOST_FILES} members; no bundle has so many.")
        for name, most_bytes in _FIRST_FILES.items():
            _unpack_member(members, name, folder, most_bytes)


def _unpack_tar_manifest(archive: Path, folder: Path) -> None:
    names = member_names(archive)
    if PACKAGE_METADATA_NAME in names and MANIFEST_NAME not in names:
        raise BundleError(f"{archive} is a package of one library, no bundle; run it with: tvmc run {archive}")
    for name in names.intersection(_FIRST_FILES):
        (folder / name).write_bytes(read_start(archive, name, _FIRST_FILES[name]))


def unpack_files(archive: Path, manifest: Manifest, folder: Path) -> None:
    """Unpack what a manifest names, of each file one byte more than the manifest says at most.

    Raises
    ------
    BundleError
        When the archive is damaged or the disk has no room for it.
    """
    total_bytes = sum(record.bytes for record in manifest.files.values())
    free_bytes = shutil.disk_usage(folder).free
    if total_bytes > free_bytes:
        raise BundleError(f"{archive} unpacks to {total_bytes} bytes, but {folder.parent} has {free_bytes} left.")
    if is_tar(archive):
        check_members(archive, {MANIFEST_NAME, SIGNATURE_NAME, *manifest.files})
        unpack_members(archive, manifest.files, folder)
    else:
        _unpack_zip_files(archive, manifest, folder)
    if manifest.runner and (folder / manifest.runner.program).is_file():
        (folder / manifest.runner.program).chmod(0o755)


def _unpack_zip_files(archive: Path, manifest: Manifest, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as members:
            for name, record in manifest.files.items():
                _unpack_member(members, name, folder, record.bytes + 1)
    except Exception as error:
        raise _unreadable(archive, error) from error


def _unreadable(archive: Path, error: Exception) -> BundleError:
    return BundleError(f"{archive} is neither a bundle directory nor a .zip or .tar of one: {error}.")


def _unpack_member(members: zipfile.ZipFile, name: str, folder: Path, most_bytes: int) -> None:
    """Unpack one member, if there is one; always as a plain file, whatever the archive says that it is."""
    try:
        source = members.open(name)
    except KeyError:
        return
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with source, (folder / name).open("xb") as target:
        _copy(source, target, most_bytes)


def _copy(source: IO[bytes], target: IO[bytes], most_bytes: int) -> None:
    while most_bytes > 0 and (block := source.read(min(_BLOCK_BYTES, most_bytes))):
        target.write(block)
        most_bytes -= len(block)


def pack_directory(folder: Path, archive: Path) -> None:
    """Write a .zip of a directory; the programs in it stay executable."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        for file in sorted(folder.rglob("*")):
            members.write(file, file.relative_to(folder))


def put_signature(archive: Path, names: Iterable[str], signature: bytes) -> None:
    """Give the bundle in a .zip or .tar a signature, in the place of any it has; the file is replaced as a whole.

    ``names`` are the bundle's own files, which stay; others do not.
    """
    with tempfile.TemporaryDirectory(prefix=f".{archive.name}.", dir=archive.parent) as scratch:
        new = Path(scratch) / archive.name
        if is_tar(archive):
            copy_tar(archive, new, {MANIFEST_NAME, *names}, {SIGNATURE_NAME: signature})
        else:
            _copy_zip(archive, new, (MANIFEST_NAME, *names), signature)
        shutil.copymode(archive, new)
        os.replace(new, archive)


def _copy_zip(archive: Path, copy: Path, names: Iterable[str], signature: bytes) -> None:
    with zipfile.ZipFile(archive) as old_members, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as members:
        for name in names:
            member = old_members.getinfo(name)
            with old_members.open(member) as source, members.open(member, "w") as target:
                shutil.copyfileobj(source, target, _BLOCK_BYTES)
        members.writestr(SIGNATURE_NAME, signature)
