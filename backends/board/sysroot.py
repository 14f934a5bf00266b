"""Finding libraries in a copy of a board's root file system."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDERS = ("lib", "lib64", "usr/lib", "usr/lib64", "lib/{}-linux-gnu", "usr/lib/{}-linux-gnu")
_MOST_LINKS = 16


def find_library(sysroot: Path, name: str, architecture: str) -> Path | None:
    """Return a library of a sysroot, None when it is not there. Absolute links are those of the board."""
    for folder in _FOLDERS:
        found = _follow(sysroot, sysroot / folder.format(architecture) / name)
        if found is not None:
            return found
    return None


def _follow(sysroot: Path, file: Path) -> Path | None:
    for _ in range(_MOST_LINKS):
        if not file.is_symlink():
            return file if file.is_file() else None
        target = os.readlink(file)
        file = sysroot / target.lstrip("/") if target.startswith("/") else file.parent / target
    return None
