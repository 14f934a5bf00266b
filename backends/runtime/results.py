"""Results of a run as one .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from cospipe.ir.errors import CospipeError, UsageError, first_line
from cospipe.ir.tensor_file import Array


def check_results_file(path: Path | None) -> None:
    """Check that results can be written to a path, before any frame runs.

    Raises
    ------
    UsageError
        When it is no .npz file name, or its directory does not exist.
    """
    if path is None:
        return
    if path.suffix != ".npz" or path.is_dir():
        raise UsageError(f"Results are written as .npz; {path} is not such a file name.")
    if not path.parent.is_dir():
        raise UsageError(f"The directory {path.parent} does not exist.")


class ResultWriter:
    """Collects results and writes them when the run is over: each output stacked over the frames.

    Nothing is written when the run fails, and nothing half-written is left behind.

    Parameters
    ----------
    path : Path or None
        File to write; None collects nothing.

    Raises
    ------
    CospipeError
        At the end, when the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._results: list[dict[str, Array]] = []

    def add(self, result: dict[str, Array]) -> None:
        """Keep the outputs of one frame."""
        if self._path is not None:
            self._results.append(result)

    def discard(self) -> None:
        """Remove what may be half-written at this moment, from any thread."""
        if self._path is not None:
            self._scratch(self._path).unlink(missing_ok=True)

    @staticmethod
    def _scratch(path: Path) -> Path:
        return path.with_name(f".{path.name}.new.npz")

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is None or kind is not None or not self._results:
            return
        stacked = {name: np.stack([result[name] for result in self._results]) for name in self._results[0]}
        scratch = self._scratch(self._path)
        try:
            write_npz(scratch, stacked)
            scratch.replace(self._path)
        except OSError as error:
            raise CospipeError(f"The results could not be written to {self._path}: {first_line(error)}.") from error
        finally:
            scratch.unlink(missing_ok=True)


def write_npz(file: Path, arrays: Mapping[str, Array]) -> None:
    """Do what ``numpy.savez`` does, with any names: an array may be called ``file``, like savez's own argument."""
    with zipfile.ZipFile(file, "w") as members:
        for name, array in arrays.items():
            with members.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
