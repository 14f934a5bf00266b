"""Linking of what TVM compiled: zig by default, a cross compiler where one is named, or no linking yet."""

from __future__ import annotations

import logging
import shlex
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cospipe.backends.tvm.link import link_shared_library
from cospipe.ir.errors import LoweringError, UsageError, said_by

Linker = Callable[..., None]
"""As TVM's ``export_library`` calls it: with the file to write and the object files."""

log = logging.getLogger("cospipe")


def linker(
    architecture: str, output_format: str, cross_compiler: str, cross_options: str, sources: Sequence[str]
) -> Linker:
    """Return what makes a library of object files.

    Parameters
    ----------
    architecture : str
        ``aarch64`` or ``x86_64``.
    output_format : str
        ``so`` for a shared library, ``tar`` for an archive of the object files.
    cross_compiler, cross_options : str
        Command that links, ``aarch64-linux-gnu-gcc``, and options for it; zig's C compiler when it is empty.
    sources : sequence of str
        C files that belong to the library.

    Raises
    ------
    UsageError
        When options contradict each other.
    """
    if cross_options and not cross_compiler:
        raise UsageError("--cross-compiler-options are options of a --cross-compiler; name that, too.")
    if output_format == "tar":
        if cross_compiler or sources:
            raise UsageError(
                "Object files (-f tar) are not linked; leave --cross-compiler and --cores out, or use -f so."
            )
        return _archive
    if cross_compiler:
        return _cross_linker(_words(cross_compiler, "--cross-compiler"), _words(cross_options, "its options"), sources)
    log.info("Linking for %s with zig; --cross-compiler names another linker.", architecture)
    return _zig_linker(architecture, sources)


def _words(text: str, what: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{what} cannot be read as a command, {text!r}: {error}.") from error


def _zig_linker(architecture: str, sources: Sequence[str]) -> Linker:
    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        link_shared_library([*objects, *sources], Path(output), architecture)

    return link


def _cross_linker(command: Sequence[str], options: Sequence[str], sources: Sequence[str]) -> Linker:
    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        full = [*command, "-shared", "-fPIC", "-o", output, *objects, *sources, *options]
        try:
            finished = subprocess.run(full, capture_output=True, text=True, check=False)
        except OSError as error:
            raise LoweringError(
                f"The cross compiler {command[0]} cannot be started ({error.strerror}); install it, or leave"
                " --cross-compiler out to link with zig."
            ) from error
        if finished.returncode != 0:
            raise LoweringError(f"The cross compiler {command[0]} failed: {said_by(finished)}")

    return link


def _archive(output: str, objects: Sequence[str], **_: Any) -> None:
    with tarfile.open(output, "w") as members:
        for file in objects:
            members.add(file, Path(file).name)
