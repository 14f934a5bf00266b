"""What a program or library needs of the system it runs on: architecture, libraries, and their symbols' versions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from cospipe.ir.errors import BoardError

Version = tuple[int, ...]

_ARCHITECTURES = {"EM_AARCH64": "aarch64", "EM_X86_64": "x86_64"}
_VERSIONED = re.compile(r"([A-Z]+)_([0-9]+(?:\.[0-9]+)*)")  # GLIBC_2.28, but not GLIBC_PRIVATE or CXXABI_TM_1


@dataclass(frozen=True)
class ElfNeeds:
    """What one file needs.

    Parameters
    ----------
    architecture : str
        ``aarch64``, ``x86_64``, or ELF's own name of another.
    libraries : tuple of str
        The libraries it is linked with, by the names they are looked for.
    versions : mapping of (str, str) to tuple of int
        The newest version it needs, by library and what is versioned: ``("libc.so.6", "GLIBC")`` to ``(2, 28)``.
    """

    architecture: str
    libraries: tuple[str, ...]
    versions: Mapping[tuple[str, str], Version]


def read_needs(file: Path) -> ElfNeeds:
    """Read what a program or library needs.

    Raises
    ------
    BoardError
        When it is no ELF file.
    """
    with file.open("rb") as stream:
        elf = _opened(stream, file)
        machine = str(elf["e_machine"])
        dynamic = elf.get_section_by_name(".dynamic")
        tags = dynamic.iter_tags("DT_NEEDED") if dynamic else ()
        needed = elf.get_section_by_name(".gnu.version_r")
        found = (
            (str(library.name), newest_versions(symbol.name for symbol in symbols))
            for library, symbols in (needed.iter_versions() if needed else ())
        )
        versions = {(library, what): version for library, all_of in found for what, version in all_of.items()}
        return ElfNeeds(_ARCHITECTURES.get(machine, machine), tuple(str(tag.needed) for tag in tags), versions)


def provided_versions(file: Path) -> dict[str, Version]:
    """Return the newest versions that a library defines: ``GLIBC`` to ``(2, 36)``.

    Raises
    ------
    BoardError
        When it is no ELF file.
    """
    with file.open("rb") as stream:
        defined = _opened(stream, file).get_section_by_name(".gnu.version_d")
        names = [next(symbols).name for _, symbols in (defined.iter_versions() if defined else ())]
    return newest_versions(names)


def newest_versions(names: Iterable[str]) -> dict[str, Version]:
    """Return the newest version among names such as ``GLIBC_2.17`` and ``GLIBC_2.28``, by what is versioned."""
    newest: dict[str, Version] = {}
    for match in filter(None, map(_VERSIONED.fullmatch, names)):
        newest[match[1]] = max(newest.get(match[1], ()), parse_version(match[2]))
    return newest


def parse_version(text: str) -> Version:
    """Return ``(2, 28)`` for ``"2.28"``."""
    return tuple(int(part) for part in text.split("."))


def version_text(version: Version) -> str:
    """Return ``"2.28"`` for ``(2, 28)``."""
    return ".".join(map(str, version))


def _opened(stream: Any, file: Path) -> Any:
    try:
        return ELFFile(stream)
    except (ELFError, UnicodeDecodeError) as error:
        raise BoardError(f"{file} is neither a program nor a library: {error}.") from error
