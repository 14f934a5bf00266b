"""Frames and results as raw bytes: the tensors of each one behind the other, in the order of the manifest."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from cospipe.backends.runtime.frame import Frame
from cospipe.ir.errors import CospipeError, UsageError, first_line
from cospipe.ir.manifest import Manifest
from cospipe.ir.tensor_file import Array

STANDARD_STREAM = Path("-")
"""Stands for standard input or standard output."""


def raw_frames(manifest: Manifest, file: Path) -> Iterator[Frame]:
    """Open a file of raw frames and return an iterator over them, to the end of the file.

    Raises
    ------
    UsageError
        When the file cannot be opened, or a frame has no bytes; while iterating, when the last frame is cut off.
    """
    empty = {spec.name: np.empty(spec.shape, spec.dtype) for spec in manifest.inputs}
    if not sum(array.nbytes for array in empty.values()):
        raise UsageError("A frame of this network has no bytes, so raw frames cannot be told apart.")
    try:
        # no buffer: its lock could not be taken when Python ends while a thread still waits for bytes
        source = io.FileIO(0 if file == STANDARD_STREAM else file, closefd=file != STANDARD_STREAM)
    except OSError as error:
        raise UsageError(f"The raw frames in {file} cannot be read: {first_line(error)}.") from error
    return _frames(source, empty)


def _frames(source: io.FileIO, empty: Frame) -> Iterator[Frame]:
    number = 0
    with source:
        while True:
            frame = {name: np.empty_like(array) for name, array in empty.items()}
            found = sum(_fill(source, array) for array in frame.values())
            if not found:
                return
            wanted = sum(array.nbytes for array in frame.values())
            if found < wanted:
                raise UsageError(f"Raw frame {number} is cut off: {found} of {wanted} bytes are there.")
            yield frame
            number += 1


def _fill(source: io.FileIO, array: Array) -> int:
    """Read an array's bytes; return how many came before the end of the file."""
    room = array.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < len(room) and (found := source.readinto(room[filled:])):
        filled += found
    return filled


class RawWriter:
    """Writes the outputs of each result as raw bytes, as they come.

    Parameters
    ----------
    path : Path or None
        A file, which is replaced, or ``-`` for standard output; None writes nothing.

    Raises
    ------
    CospipeError
        When it cannot be opened or written, or its reader went away.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: io.FileIO | None = None

    def add(self, result: Frame) -> None:
        """Write the outputs of one frame."""
        if self._file is None:
            return
        try:
            for array in result.values():
                self._write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise self._failure(error) from error

    def _write(self, data: memoryview) -> None:
        assert self._file is not None
        while data:
            data = data[self._file.write(data) :]

    def _failure(self, error: OSError) -> CospipeError:
        return CospipeError(f"The raw results could not be written to {self._path}: {error.strerror or error}.")

    def __enter__(self) -> RawWriter:
        if self._path is None:
            return self
        try:
            is_standard = self._path == STANDARD_STREAM
            self._file = io.FileIO(1 if is_standard else self._path, "w", closefd=not is_standard)
        except OSError as error:
            raise self._failure(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
