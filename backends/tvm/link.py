"""Linking of stage libraries with the zig C compiler, which comes from PyPI and links for any architecture."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cospipe.ir.errors import LoweringError, said_by

GLIBC_FLOOR = "2.28"
"""Oldest C library the result runs with; the TVM wheels need the same."""


def zig_target(architecture: str, glibc: str = GLIBC_FLOOR) -> str:
    """Return zig's name of an architecture, Linux and the oldest C library: ``aarch64-linux-gnu.2.28``."""
    return f"{architecture}-linux-gnu.{glibc}"


def zig(*arguments: str) -> list[str]:
    """Return the command that calls zig; the first argument is what it shall do."""
    return [sys.executable, "-m", "ziglang", *arguments]


def zig_compile(arguments: Sequence[str], output: Path, architecture: str) -> None:
    """Run ``zig cc`` for an architecture.

    Parameters
    ----------
    arguments : sequence of str
        Sources, objects and options.
    output : Path
        File to write.
    architecture : str
        ``aarch64`` or ``x86_64``.

    Raises
    ------
    LoweringError
        With the compiler's own words when it fails.
    """
    command = zig("cc", "-target", zig_target(architecture), "-O2", "-o", str(output), *arguments)
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise LoweringError(f"{output.name} could not be linked for {architecture}: {said_by(finished)}")


def link_shared_library(objects: Sequence[str], output: Path, architecture: str) -> None:
    """Link object files into a shared library."""
    zig_compile(["-shared", "-s", *objects], output, architecture)
