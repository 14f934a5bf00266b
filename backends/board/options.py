"""What a user may choose about a board directory."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from cospipe.backends.tvm.link import GLIBC_FLOOR
from cospipe.ir.errors import UsageError


@dataclass(frozen=True)
class RunnerOptions:
    """How the program that runs a bundle on a board is made, and what the board has.

    Parameters
    ----------
    glibc : str
        Oldest C library that everything in the directory must run with, ``"2.28"``.
    sysroot : str or Path, optional
        A copy of the board's root file system, or Debian's ``/usr/aarch64-linux-gnu``: what the directory needs of the
        system is looked up there.
    cross_compiler : str
        A g++ to use instead of zig, ``"aarch64-linux-gnu-g++"``.

    Raises
    ------
    UsageError
        When the version is none, the sysroot no directory, or there is no such compiler.
    """

    glibc: str = GLIBC_FLOOR
    sysroot: str | Path | None = None
    cross_compiler: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"2\.[0-9]{1,3}", self.glibc):
            raise UsageError(f"{self.glibc!r} is no version of glibc; write it as 2.28.")
        if self.sysroot is not None and not Path(self.sysroot).is_dir():
            raise UsageError(f"The sysroot {self.sysroot} is no directory.")
        if self.cross_compiler and shutil.which(self.cross_compiler) is None:
            raise UsageError(
                f"There is no compiler {self.cross_compiler!r} on the path (Debian: g++-aarch64-linux-gnu)."
            )
