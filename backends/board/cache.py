"""What is built or downloaded once is kept in the user's cache, with sums that are checked on every use."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from cospipe.backends.bundle import sha256
from cospipe.ir.errors import BoardError, first_line

_CHECKSUMS = "sha256.json"


def cache_folder() -> Path:
    """Return where the cache is: ``$COSPIPE_CACHE`` or ``~/.cache/cospipe``."""
    base = os.environ.get("COSPIPE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "cospipe"
    )
    return Path(base)


def kept(name: str, fill: Callable[[Path], None]) -> Path:
    """Return a directory of the cache; it is filled when it is not there, or was damaged.

    Parameters
    ----------
    name : str
        Its path in the cache. Whatever the content depends on must be part of it.
    fill : callable
        Writes the files into the empty directory it is given; when it raises nothing is left.

    Raises
    ------
    BoardError
        When the cache cannot be written.
    """
    folder = cache_folder() / name
    if _is_intact(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="new-", dir=folder.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            fill(new)
            (new / _CHECKSUMS).write_text(json.dumps(_checksums(new)), encoding="utf-8")
            _move_into_place(new, folder)
    except OSError as error:
        raise BoardError(f"{name} cannot be kept in {cache_folder()}: {first_line(error)}.") from error
    return folder


def _move_into_place(new: Path, folder: Path) -> None:
    if _is_intact(folder):  # another process was quicker, and somebody may be reading it
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        new.rename(folder)
    except OSError:
        if not _is_intact(folder):  # else another process was faster
            raise


def _checksums(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != _CHECKSUMS}


def _is_intact(folder: Path) -> bool:
    try:
        expected = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        return bool(expected) and _checksums(folder) == expected
    except (OSError, ValueError):
        return False
