"""Execution times of a network, and their table as tvmc has always printed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cospipe.ir.errors import UsageError


@dataclass(frozen=True)
class Repetitions:
    """How often a network is run for its execution time: once to warm up, then ``repeat`` times ``number`` runs.

    Parameters
    ----------
    repeat : int
        How many times are measured.
    number : int
        Runs that one time is the mean of.
    end_to_end : bool
        Whether the times hold copying of the inputs into the network, and of its outputs.

    Raises
    ------
    UsageError
        When a number is less than one.
    """

    repeat: int = 1
    number: int = 1
    end_to_end: bool = False

    def __post_init__(self) -> None:
        for name, value in (("repeat", self.repeat), ("number", self.number)):
            if value < 1:
                raise UsageError(f"--{name} must be at least 1, not {value}.")


@dataclass(frozen=True)
class ExecutionTimes:
    """Measured execution times.

    Parameters
    ----------
    results : sequence of float
        Seconds, one for each repetition: the mean of its runs.
    """

    results: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean in seconds."""
        return float(np.mean(self.results))

    @property
    def median(self) -> float:
        """Median in seconds."""
        return float(np.median(self.results))

    @property
    def max(self) -> float:
        """Longest time in seconds."""
        return float(np.max(self.results))

    @property
    def min(self) -> float:
        """Shortest time in seconds."""
        return float(np.min(self.results))

    @property
    def std(self) -> float:
        """Standard deviation in seconds."""
        return float(np.std(self.results))

    def __str__(self) -> str:
        """Return the table of TVM's ``BenchmarkResult``; scripts read its columns."""
        titles = "".join(f"{f'{name} (ms)':^12} " for name in ("mean", "median", "max", "min", "std"))
        values = (self.mean, self.median, self.max, self.min, self.std)
        row = " ".join(f"{value * 1e3:^12.4f}" for value in values)
        return f"Execution time summary:\n{titles.removesuffix(' ')}\n{row}               "
