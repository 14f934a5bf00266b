"""Which function of an AArch64 library an instruction belongs to, also where the library's names were stripped.

Exported functions are in the table of dynamic symbols. Where all the others begin is in the table that exception
handling searches (``.eh_frame_hdr``). TVM's kernels are exported functions that check their arguments and call inner
ones, directly or as the body of a parallel loop: those count as part of the kernel.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_KERNEL = "__tvm_ffi_"
_FUNCTION = 2
_LOADED, _EXCEPTION_FRAMES = 1, 0x6474E550
_SORTED_PAIRS_OF_INT32 = 0x3B


class _Segment(NamedTuple):
    kind: int
    offset_bytes: int
    address: int
    size_bytes: int


class ElfFunctions:
    """The functions of one 64-bit little-endian ELF file.

    Parameters
    ----------
    file : Path
        An AArch64 shared library or program.
    """

    def __init__(self, file: Path) -> None:
        self._name = file.name.partition(".")[0]
        self._data = file.read_bytes()

    def at(self, offset_bytes: int) -> str:
        """Return the function that holds the byte at an offset in the file; the file's name when none does."""
        address = self.address(offset_bytes)
        return self.name(self.start(address)) if address >= 0 else self._name

    def name(self, start: int) -> str:
        """Return the function that starts at an address, and of TVM's inner functions the kernel they are part of."""
        if start < 0:
            return self._name
        name = self._kernels.get(start) or self._symbols.get(start) or f"{self._name}+{start:#x}"
        return name.removeprefix(_KERNEL)

    def start(self, address: int) -> int:
        """Return where the function starts that holds an address; -1 when none does."""
        index = bisect_right(self._starts, address) - 1
        return self._starts[index] if index >= 0 else -1

    def address(self, offset_bytes: int) -> int:
        """Return the address of the byte at an offset in the file; -1 when it is not loaded."""
        for segment in self._segments:
            if segment.kind == _LOADED and 0 <= offset_bytes - segment.offset_bytes < segment.size_bytes:
                return offset_bytes - segment.offset_bytes + segment.address
        return -1

    @cached_property
    def _segments(self) -> list[_Segment]:
        (table,) = struct.unpack_from("<Q", self._data, 32)
        size, count = struct.unpack_from("<HH", self._data, 54)
        headers = [struct.unpack_from("<IIQQQQ", self._data, table + index * size) for index in range(count)]
        return [_Segment(kind, offset, address, length) for kind, _, offset, address, _, length in headers]

    @cached_property
    def _symbols(self) -> dict[int, str]:
        """Names by address, of the dynamic symbols and of all others when they were not stripped."""
        (table,) = struct.unpack_from("<Q", self._data, 40)
        size, count = struct.unpack_from("<HH", self._data, 58)
        sections = [struct.unpack_from("<IIQQQQIIQQ", self._data, table + index * size) for index in range(count)]
        names = {}
        for _, kind, _, _, offset, length, link, _, _, _ in sections:
            if kind in (2, 11):  # SHT_SYMTAB, SHT_DYNSYM
                names.update(self._symbol_table(offset, length, sections[link][4]))
        return names

    def _symbol_table(self, offset: int, length: int, strings: int) -> dict[int, str]:
        names = {}
        for at in range(offset, offset + length, 24):
            name, info, _, section, address, _ = struct.unpack_from("<IBBHQQ", self._data, at)
            if section and info & 0xF == _FUNCTION:
                end = self._data.index(b"\0", strings + name)
                names[address] = self._data[strings + name : end].decode()
        return names

    @cached_property
    def _starts(self) -> list[int]:
        return sorted({*self._symbols, *self._frames})

    @cached_property
    def _frames(self) -> list[int]:
        """Where functions start, from the header of the exception frames: a sorted table of pairs of offsets to it."""
        frames = next((segment for segment in self._segments if segment.kind == _EXCEPTION_FRAMES), None)
        if frames is None or self._data[frames.offset_bytes + 3] != _SORTED_PAIRS_OF_INT32:
            return []
        (count,) = struct.unpack_from("<I", self._data, frames.offset_bytes + 8)
        pairs = np.frombuffer(self._data, "<i4", 2 * count, frames.offset_bytes + 12).astype(np.int64)
        return [int(start) for start in pairs[::2] + frames.address]

    @cached_property
    def _kernels(self) -> dict[int, str]:
        """Name TVM's inner functions after the kernel that calls or mentions them, or mentions one that does."""
        kernels = {start: name for start, name in self._symbols.items() if name.startswith(_KERNEL)}
        links = sorted(self._links())
        while reached := {target: kernels[user] for user, target in links if user in kernels and target not in kernels}:
            kernels |= reached
        return kernels

    def _links(self) -> set[tuple[int, int]]:
        """Return pairs of functions, neither the same nor named, of which the first names the second."""
        starts, links = set(self._starts), set()
        for segment in self._segments:
            if segment.kind == _LOADED:
                for place, target in _references(self._words(segment), segment.address):
                    if target in starts and target not in self._symbols:
                        links.add((self._starts[bisect_right(self._starts, place) - 1], target))
        return links

    def _words(self, segment: _Segment) -> npt.NDArray[np.uint32]:
        return np.frombuffer(self._data, "<u4", segment.size_bytes // 4, segment.offset_bytes)


def _references(words: npt.NDArray[np.uint32], start: int) -> list[tuple[int, int]]:
    """Return where instructions lie that name a place, and that place: ``b``, ``bl``, the pair ``adrp`` and ``add``."""
    places = start + 4 * np.arange(len(words), dtype=np.int64)
    wide = words.astype(np.int64)
    jumps = np.flatnonzero((words & 0x7C000000) == 0x14000000)
    jumped = places[jumps] + 4 * _signed(wide[jumps] & 0x3FFFFFF, 26)
    is_page = (words[:-1] & 0x9F000000) == 0x90000000
    is_offset = (words[1:] & 0xFFC00000) == 0x91000000
    pairs = np.flatnonzero(is_page & is_offset & ((words[:-1] & 31) == (words[1:] >> 5 & 31)))
    pages = _signed((wide[pairs] >> 5 & 0x7FFFF) << 2 | wide[pairs] >> 29 & 3, 21)
    mentioned = (places[pairs] & ~0xFFF) + (pages << 12) + (wide[pairs + 1] >> 10 & 0xFFF)
    found = np.stack([np.concatenate([places[jumps], places[pairs]]), np.concatenate([jumped, mentioned])], axis=1)
    return [(int(place), int(target)) for place, target in found]


def _signed(values: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int64]:
    return np.where(values >> (bits - 1), values - (1 << bits), values)
