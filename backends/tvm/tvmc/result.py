"""What a run of a package gives: outputs, times, and a profile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cospipe.backends.replacement import scratch_beside
from cospipe.backends.runtime.results import write_npz
from cospipe.backends.tvm.tvmc.timing import ExecutionTimes
from cospipe.ir.errors import CospipeError, UsageError
from cospipe.ir.tensor_file import Array

_FIRST_OUTPUT = "output_0"


@dataclass(frozen=True)
class TVMCResult:
    """The result of a run.

    Parameters
    ----------
    outputs : mapping of str to array
        ``output_0``, ``output_1``, ... in the order of the network's outputs.
    times : ExecutionTimes, optional
        Its execution times, if they were asked for.
    profile : str, optional
        The table of its kernels, or of the stages of a pipeline, if it was asked for.
    """

    outputs: Mapping[str, Array]
    times: ExecutionTimes | None = None
    profile: str | None = None

    def format_times(self) -> str:
        """Return a table of the execution times in milliseconds.

        Raises
        ------
        UsageError
            When none were measured.
        """
        if self.times is None:
            raise UsageError("No times were measured; run the package with benchmark=True.")
        return str(self.times)

    def get_output(self, name: str) -> Array:
        """Return an output by its name, ``output_0``.

        Raises
        ------
        UsageError
            When there is none of this name.
        """
        if name not in self.outputs:
            raise UsageError(f"There is no output {name!r}; there are {', '.join(self.outputs)}.")
        return self.outputs[name]

    def get_top_results(self, max_results: int) -> Array:
        """Return the largest numbers of the first output, for the first element of a batch.

        Parameters
        ----------
        max_results : int
            How many.

        Returns
        -------
        array of shape (2, n)
            Indices and values, the largest first. Of an output with more than two dimensions the first element is
            taken as one row, and indices count its numbers.

        Raises
        ------
        UsageError
            When none are wanted.
        """
        if max_results < 1:
            raise UsageError(f"--print-top takes a number of results, at least 1, not {max_results}.")
        output = self.get_output(_FIRST_OUTPUT)
        row = (output[0] if output.ndim > 1 and len(output) else output).reshape(-1)
        order = row.argsort()[-max_results:][::-1]
        return np.array([order, row[order]])

    def save(self, output_path: str | Path) -> None:
        """Write the outputs as an .npz file; like numpy, add the suffix where it is missing.

        An earlier file stays as it is until the new one is complete.

        Raises
        ------
        CospipeError
            When the file cannot be written.
        """
        path = results_path(output_path)
        try:
            with scratch_beside(path) as scratch:  # of its own: another run may write the same file
                write_npz(scratch / path.name, self.outputs)
                os.replace(scratch / path.name, path)
        except OSError as error:
            raise CospipeError(f"The outputs could not be written to {path}: {error.strerror or error}.") from error


def results_path(output_path: str | Path) -> Path:
    """Return where outputs go: the path itself, with the suffix .npz."""
    path = Path(output_path)
    return path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")


def check_results_path(output_path: str | Path) -> None:
    """Check that outputs can be written to a path, before anything runs.

    Raises
    ------
    UsageError
        When it is a directory, its directory does not exist, or there can be no such name.
    """
    if not Path(output_path).name:
        raise UsageError(f"{str(output_path)!r} is no name for a file of outputs.")
    path = results_path(output_path)
    try:
        is_directory = path.is_dir()
    except OSError as error:  # a name that is too long
        raise UsageError(f"Outputs cannot be written to {path}: {error.strerror}.") from error
    if is_directory:
        raise UsageError(f"Outputs are written as an .npz file; {path} is a directory.")
    if not path.parent.is_dir():
        raise UsageError(f"The directory {path.parent} for the outputs does not exist.")
