"""Directories and files that are written beside their place and then moved into it, as a whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cospipe.ir.errors import UsageError


def check_writable(output: Path) -> None:
    """Check that something may be made at a path, before hours of work go into it.

    Raises
    ------
    UsageError
        When the nearest directory on the way there that exists is none, or may not be written.
    """
    above = next(way for way in Path(os.path.abspath(output)).parents if way.exists())
    if not above.is_dir():
        raise UsageError(f"{output} cannot be written: {above} is no directory.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"{output} cannot be written: {above} is read-only, or not yours; choose another output.")


@contextmanager
def scratch_beside(output: Path) -> Iterator[Path]:
    """Yield a directory on the same file system, removed in any case."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def move_into_place(new: Path, output: Path, scratch: Path) -> None:
    """Put what is new where the old is; the old comes back if that fails. ``scratch`` is on the same file system."""
    old = scratch / "old"
    try:
        if output.is_dir():
            output.rename(old)
        os.replace(new, output)
    except BaseException:
        if old.exists() and not output.exists():
            old.rename(output)
        raise
