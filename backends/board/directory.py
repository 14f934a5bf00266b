"""Making a bundle's directory complete: the program and the libraries a bare board needs, checked against it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from cospipe.backends.board.build import PROGRAM, build_runner
from cospipe.backends.board.elf_needs import (
    ElfNeeds,
    Version,
    parse_version,
    provided_versions,
    read_needs,
    version_text,
)
from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.board.runtime_libraries import RUNTIME_LIBRARIES, runtime_libraries
from cospipe.backends.board.sysroot import find_library
from cospipe.ir.errors import BoardError, several
from cospipe.ir.manifest import RunnerFiles

_LIBRARY_FOLDER = "lib"
_SYSTEM_LIBRARIES = (
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "ld-linux-aarch64.so.1",
    "ld-linux-x86-64.so.2",
)
"""What every Linux with glibc and the C++ library has."""


def put_runner(
    folder: Path, architecture: str, options: RunnerOptions, progress: Callable[[str], None] = lambda _: None
) -> RunnerFiles:
    """Put ``cospipe-run`` and TVM's runtime into a directory; afterwards :func:`check_runs_on_board` checks all.

    Parameters
    ----------
    folder : Path
        A bundle's directory before its manifest is written.
    architecture : str
        ``aarch64`` or ``x86_64``.
    options : RunnerOptions
        How the program is made.
    progress : callable
        Is told in a few words what is done next.

    Returns
    -------
    RunnerFiles
        What the manifest says of it.

    Raises
    ------
    UsageError
        When there is no such compiler.
    BoardError
        When the program cannot be built, or the libraries cannot be downloaded or do not suit the board.
    """
    progress(f"Taking TVM's runtime for {architecture}")
    libraries = runtime_libraries(architecture)
    (folder / _LIBRARY_FOLDER).mkdir()
    for name in RUNTIME_LIBRARIES:
        shutil.copyfile(libraries / name, folder / _LIBRARY_FOLDER / name)
    check_runs_on_board(folder, architecture, options)  # at once: building the program takes minutes
    shutil.copyfile(build_runner(architecture, options, progress), folder / PROGRAM)
    (folder / PROGRAM).chmod(0o755)
    names = tuple(f"{_LIBRARY_FOLDER}/{name}" for name in RUNTIME_LIBRARIES)
    return RunnerFiles(program=PROGRAM, libraries=names, glibc=options.glibc)


def check_runs_on_board(folder: Path, architecture: str, options: RunnerOptions) -> None:
    """Check that everything in a directory that is run or loaded suits the board.

    Raises
    ------
    BoardError
        When something is for another architecture, needs a newer C library than ``glibc``, or a library that is
        neither in the directory nor, where one is given, in the sysroot; everything is listed.
    """
    needs = directory_needs(folder)
    problems = [problem for name, need in needs.items() for problem in _problems(name, need, architecture, options)]
    own = {Path(name).name for name in needs}
    problems += _missing_libraries(needs, own)
    if options.sysroot is not None:
        problems += _lacking_in_sysroot(needs, own, Path(options.sysroot), architecture)
    if problems:
        raise BoardError(several("This directory would not run on the board", problems))


def directory_needs(folder: Path) -> dict[str, ElfNeeds]:
    """Return what the program and the libraries of a directory need, by their paths in it."""
    files = [*sorted(folder.rglob("*.so")), *sorted(folder.glob(PROGRAM))]
    return {file.relative_to(folder).as_posix(): read_needs(file) for file in files}


def newest_needs(needs: Iterable[ElfNeeds]) -> dict[str, Version]:
    """Return the newest versions that any of some files needs, by what is versioned: ``GLIBC``, ``GLIBCXX``."""
    newest: dict[str, Version] = {}
    for need in needs:
        for (_, what), version in need.versions.items():
            newest[what] = max(newest.get(what, ()), version)
    return newest


def _problems(name: str, need: ElfNeeds, architecture: str, options: RunnerOptions) -> Iterator[str]:
    if need.architecture != architecture:
        yield f"{name} is for {need.architecture}, the board is {architecture}"
    newest = newest_needs([need]).get("GLIBC", ())
    if newest > parse_version(options.glibc):
        hint = f"; {options.cross_compiler} links with its own C library, zig with any" if name == PROGRAM else ""
        yield f"{name} needs glibc {version_text(newest)}, newer than {options.glibc} (--glibc){hint}"


def _missing_libraries(needs: Mapping[str, ElfNeeds], own: set[str]) -> list[str]:
    return [
        f"{name} needs {library}, which is neither in the directory nor part of every Linux"
        for name, need in needs.items()
        for library in need.libraries
        if library not in own and library not in _SYSTEM_LIBRARIES
    ]


def _lacking_in_sysroot(needs: Mapping[str, ElfNeeds], own: set[str], sysroot: Path, architecture: str) -> list[str]:
    wanted = dict.fromkeys(library for need in needs.values() for library in need.libraries if library not in own)
    problems, provided = [], {}
    for library in wanted:
        file = find_library(sysroot, library, architecture)
        if file is None:
            problems.append(f"{library} is missing in {sysroot}")
        else:
            provided[library] = provided_versions(file)
    for name, need in needs.items():
        for (library, what), version in need.versions.items():
            if library in provided and version > provided[library].get(what, ()):
                found = version_text(provided[library].get(what, ())) or "none"
                problems.append(f"{name} needs {what}_{version_text(version)} of {library}, {sysroot} has {found}")
    return problems
