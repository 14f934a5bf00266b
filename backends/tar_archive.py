"""Packages and bundles as one .tar file: the same for the same content, read no further than they say themselves."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cospipe.ir.errors import BundleError, first_line, several
from cospipe.ir.manifest import FileRecord

_BLOCK_BYTES = 1 << 20
_PLAIN_MODE, _PROGRAM_MODE = 0o644, 0o755
_MOST_TOLD = 8


def pack_tar(folder: Path, archive: Path) -> None:
    """Write a .tar of a directory's files; who made it and when is not in it."""
    with tarfile.open(archive, "w") as members:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(file.relative_to(folder).as_posix())
            member.size = file.stat().st_size
            member.mode = _PROGRAM_MODE if file.stat().st_mode & 0o100 else _PLAIN_MODE
            with file.open("rb") as content:
                members.addfile(member, content)


def copy_tar(archive: Path, copy: Path, names: Collection[str], further: Mapping[str, bytes]) -> None:
    """Write the files of a .tar file that have some names into another, and further ones behind them."""
    with _members(archive) as (opened, members), tarfile.open(copy, "w") as target:
        for member in members:
            if _plain_name(member.name) in names:
                target.addfile(member, opened.extractfile(member))
        for name, content in further.items():
            added = tarfile.TarInfo(name)
            added.size = len(content)
            target.addfile(added, io.BytesIO(content))


def is_tar(file: Path) -> bool:
    """Tell whether a file begins as a .tar file that is not compressed."""
    try:
        with tarfile.open(file, "r:"):
            return True
    except Exception:  # a hostile archive raises almost anything
        return False


def member_names(archive: Path) -> set[str]:
    """Return the names in a .tar file.

    Raises
    ------
    BundleError
        When it cannot be read.
    """
    with _members(archive) as (_, members):
        return {_plain_name(member.name) for member in members}


def check_members(archive: Path, files: Collection[str]) -> None:
    """Check that a .tar file holds nothing but some plain files, none of them twice, and perhaps directories.

    Raises
    ------
    BundleError
        When it holds links, devices or files of other names, or cannot be read.
    """
    with _members(archive) as (_, members):
        found = [(_plain_name(member.name), member) for member in members]
    problems = [_problem(name, member, files) for name, member in found]
    counts = Counter(name for name, member in found if not member.isdir())
    problems += [f"{name} is in it {count} times" for name, count in counts.items() if count > 1]
    if told := list(filter(None, problems)):
        told[_MOST_TOLD:] = [f"and {len(told) - _MOST_TOLD} more"] if len(told) > _MOST_TOLD else []
        raise BundleError(several(f"{archive} was damaged or altered and will not be run", told))


def _problem(name: str, member: tarfile.TarInfo, files: Collection[str]) -> str:
    if name in files:
        return "" if _is_plain(member) else f"{name} is no plain file"
    return "" if member.isdir() else f"{name!r} is no file of it"


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Tell whether a member is a file that takes as many bytes in the archive as it says: sparse ones do not."""
    return member.isreg() and not member.issparse()


def read_member(archive: Path, name: str, most_bytes: int) -> bytes:
    """Return the content of one plain file in a .tar file that is known to have it.

    Raises
    ------
    BundleError
        When it is a link or the like, larger than it may be, or the archive is damaged.
    """
    content = read_start(archive, name, most_bytes + 1)
    if len(content) > most_bytes:
        raise BundleError(f"{archive} will not be used: {name} is larger than {most_bytes >> 20} MiB.")
    return content


def read_start(archive: Path, name: str, most_bytes: int) -> bytes:
    """Return at most so many bytes of one plain file in a .tar file that is known to have it.

    Raises
    ------
    BundleError
        When it is a link or the like, or the archive is damaged.
    """
    with _members(archive) as (opened, members):
        for member in members:
            if _plain_name(member.name) == name and _is_plain(member):
                source = opened.extractfile(member)
                assert source is not None
                return source.read(most_bytes)
    raise BundleError(f"{archive} will not be used: {name} in it is no plain file.")


def unpack_members(archive: Path, files: Mapping[str, FileRecord], folder: Path) -> None:
    """Unpack the plain files of the given names and sizes into a directory, and nothing else.

    Whether all of them were there is for the caller to check.

    Raises
    ------
    BundleError
        When the archive is damaged, or the disk is full.
    """
    with _members(archive) as (opened, members):
        for member in members:
            record = files.get(_plain_name(member.name))
            if record is not None and _is_plain(member) and member.size == record.bytes:
                _unpack(opened, member, folder / _plain_name(member.name))


def unpack_plain_files(archive: Path, folder: Path) -> list[Path]:
    """Unpack all plain files of a .tar file under names of our own, in their order.

    Raises
    ------
    BundleError
        When the archive is damaged, or the disk is full.
    """
    files: list[Path] = []
    with _members(archive) as (opened, members):
        for member in filter(_is_plain, members):
            files.append(folder / f"{len(files)}{Path(member.name).suffix}")
            _unpack(opened, member, files[-1])
    return files


@contextmanager
def _members(archive: Path) -> Iterator[tuple[tarfile.TarFile, Iterator[tarfile.TarInfo]]]:
    """Open a .tar file and yield it with its members; whatever is wrong with it is told in a sentence.

    A compressed one is refused: it could unpack to any size.
    """
    try:
        with tarfile.open(archive, "r:") as opened:
            yield opened, _in_order(opened)
    except BundleError:
        raise
    except Exception as error:  # a hostile archive raises almost anything: OverflowError, RecursionError, MemoryError
        raise unreadable(archive, error) from error


def _in_order(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield members as long as each lies behind the one before: negative sizes would lead back to it, for ever."""
    least_bytes = 0
    for member in opened:
        if member.offset < least_bytes:
            raise tarfile.ReadError("its members lie over each other")
        least_bytes = member.offset_data
        yield member


def unreadable(archive: Path, error: Exception) -> BundleError:
    """Return that an archive cannot be read, and why."""
    if isinstance(error, OSError) and not isinstance(error, tarfile.TarError):
        return BundleError(f"{archive} cannot be unpacked: {error.strerror or error}.")
    return BundleError(f"{archive} is no package: it is no plain .tar file, or it is damaged ({first_line(error)}).")


def _plain_name(name: str) -> str:
    return name.removeprefix("./")


def _unpack(members: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> None:
    source = members.extractfile(member)
    assert source is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    with source, file.open("wb") as target:
        while block := source.read(_BLOCK_BYTES):
            target.write(block)
    file.chmod(_PROGRAM_MODE if member.mode & 0o100 else _PLAIN_MODE)
