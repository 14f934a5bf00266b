"""Weights as safetensors, laid out so that a mapped file can be handed to vectorised kernels as it is.

The safetensors format is written and read here because its own library chooses the order of the tensors and copies them
on reading; a stage wants every tensor at a 64-byte boundary of a shared, read-only mapping.
"""

from __future__ import annotations

import json
import mmap
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cospipe.ir.errors import BundleError
from cospipe.ir.json_text import parse_json

Array = npt.NDArray[Any]
ALIGNMENT_BYTES = 64

_MOST_DIMENSIONS = 16
_MOST_HEADER_BYTES = 100_000_000  # as the safetensors library has it

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_CODES = {name: code for code, name in _DTYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as a safetensors file whose data starts at a 64-byte boundary.

    Tensors whose size is a multiple of 64 bytes come first, so all of them are aligned in a mapping. An earlier file is
    replaced, not written to: tensors that are mapped from it stay what they are. ``metadata`` is text of any kind that
    travels in the file's header.
    """
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT_BYTES != 0, name))
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for name in order:
        array, end = tensors[name], offset + tensors[name].nbytes
        header[name] = {"dtype": _CODES[str(array.dtype)], "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT_BYTES)
    scratch = path.with_name(f"{path.name}.new")
    try:
        with scratch.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                file.write(np.ascontiguousarray(tensors[name]).data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies in a safetensors file; ``offset_bytes`` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int


def is_holdable(shape: Sequence[int], dtype: str) -> bool:
    """Tell whether memory could hold a tensor of a shape; extents must make sense even if there are no elements."""
    return prod(filter(None, shape)) * np.dtype(dtype).itemsize <= sys.maxsize


def read_entries(path: Path) -> dict[str, TensorEntry]:
    """Return where every tensor of a safetensors file lies.

    Raises
    ------
    BundleError
        When the header or an entry does not fit the file, or tensors overlap.
    """
    header, start = _read_header(path)
    size = path.stat().st_size
    try:
        entries = {name: _entry(name, entry, start, size) for name, entry in header.items() if name != _METADATA}
        _check_overlaps(entries)
    except ValueError as error:
        raise _invalid(path, error) from error
    return entries


def read_metadata(path: Path) -> dict[str, str]:
    """Return the text in the header of a safetensors file.

    Raises
    ------
    BundleError
        When the header cannot be read, or holds something else than text there.
    """
    metadata: dict[str, str] = _read_header(path)[0].get(_METADATA, {})
    return metadata


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and where the data behind it begins."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise BundleError(f"{path.name} is not a safetensors file, or is cut off inside its header.")
        if length > _MOST_HEADER_BYTES:
            raise _invalid(path, f"its header has {length} bytes")
        text = file.read(length)
    try:
        header = parse_json(text)
    except ValueError as error:
        raise _invalid(path, f"of its header, {error}") from error
    if not isinstance(header, dict):
        raise _invalid(path, "its header is no object")
    metadata = header.get(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _invalid(path, "its metadata is not text by name")
    return header, 8 + length


def _invalid(path: Path, reason: object) -> BundleError:
    return BundleError(f"{path.name} is not a valid safetensors file: {reason}.")


def _entry(name: str, fields: Any, start_bytes: int, file_bytes: int) -> TensorEntry:
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        raise ValueError(f"{name} must have the fields {', '.join(sorted(_FIELDS))} and no other")
    shape, offsets = (_whole_numbers(name, key, fields[key]) for key in ("shape", "data_offsets"))
    if not isinstance(fields["dtype"], str) or fields["dtype"] not in _DTYPES:
        raise ValueError(f"the element type {fields['dtype']!r} of {name} is not known here")
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{name} has {len(shape)} dimensions")
    if len(offsets) != 2:
        raise ValueError(f"the data_offsets of {name} must be two numbers")
    start, end = offsets
    found = TensorEntry(_DTYPES[fields["dtype"]], shape, start_bytes + start, end - start)
    if not is_holdable(shape, found.dtype):
        raise ValueError(f"{name} has the shape {shape}, which no memory could hold")
    expected = prod(shape) * np.dtype(found.dtype).itemsize
    if start_bytes + end > file_bytes or found.size_bytes != expected:
        raise ValueError(f"{name} of {shape} {found.dtype} does not fit bytes {start} to {end}")
    return found


def _whole_numbers(name: str, key: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or any(type(value) is not int or value < 0 for value in values):  # True is an int
        raise ValueError(f"the {key} of {name} must be a list of whole numbers from 0")
    return tuple(values)


def _check_overlaps(entries: Mapping[str, TensorEntry]) -> None:
    """Check that no byte belongs to two tensors."""
    order = sorted((entry.offset_bytes, entry.size_bytes, name) for name, entry in entries.items() if entry.size_bytes)
    for (offset, size, name), (next_offset, _, next_name) in pairwise(order):
        if offset + size > next_offset:
            raise ValueError(f"{next_name} lies over {name}")


class TensorFile:
    """A mapped safetensors file; a tensor's memory is filled when it is touched, and can be given back.

    Parameters
    ----------
    path : Path
        The file; one that replaces it later changes nothing here.

    Raises
    ------
    BundleError
        When the header or an entry does not fit the file.
    """

    def __init__(self, path: Path) -> None:
        self.entries = read_entries(path)
        with path.open("rb") as file:  # private: DLPack has no read-only memory, and the file never changes
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._data: Array = np.ndarray(len(self._mapping), np.uint8, self._mapping)

    def tensor(self, name: str) -> Array:
        """Return a tensor as a 64-byte aligned array: where it lies if it is aligned there, else a copy."""
        array = _array(self._data, self.entries[name])
        result = aligned(array)
        if result is not array:
            self.release(name)
        return result

    def release(self, name: str) -> None:
        """Give a tensor's memory back; whoever touches it again finds what the file holds."""
        entry = self.entries[name]
        start = -(-entry.offset_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (entry.offset_bytes + entry.size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            self._mapping.madvise(mmap.MADV_DONTNEED, start, end - start)


def map_tensors(path: Path) -> dict[str, Array]:
    """Return the tensors of a safetensors file as 64-byte aligned arrays, mapped where they lie aligned.

    Raises
    ------
    BundleError
        When the header or an entry does not fit the file.
    """
    file = TensorFile(path)
    return {name: file.tensor(name) for name in file.entries}


def _array(data: Array, entry: TensorEntry) -> Array:
    body = data[entry.offset_bytes : entry.offset_bytes + entry.size_bytes]
    return np.asarray(body).view(entry.dtype).reshape(entry.shape)


def aligned(array: Array) -> Array:
    """Return the array itself if it is contiguous and 64-byte aligned, else a copy that is."""
    if array.flags.c_contiguous and array.ctypes.data % ALIGNMENT_BYTES == 0:
        return array
    return aligned_copy(array)


def aligned_copy(array: Array) -> Array:
    """Return a contiguous and 64-byte aligned copy of an array."""
    room = np.empty(array.nbytes + ALIGNMENT_BYTES, np.uint8)
    start = -room.ctypes.data % ALIGNMENT_BYTES
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
