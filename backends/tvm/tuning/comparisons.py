"""``cospipe_kernels.json``: which tuned kernels were measured against ours, and how both did."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError

from cospipe.backends.tvm.tuning.target_match import TargetText
from cospipe.ir.errors import UsageError

FILE = "cospipe_kernels.json"
_FASTER = 0.97
"""A tuned kernel is kept only when it takes less than this share of the time of ours; less is noise."""


class KernelComparison(BaseModel):
    """Medians of our kernel and a tuned one, run by turns inside the network they belong to.

    Parameters
    ----------
    workload : str
        MetaSchedule's hash of what both compute.
    trace : str
        Digest of the tuned kernel's trace.
    target : str
        What both were compiled for, as :func:`~cospipe.backends.tvm.tuning.target_match.target_text` writes it.
    nodes : tuple of str
        Nodes of the network that the kernel computes.
    ours_us, tuned_us : float
        Microseconds of all its calls in one frame.
    machine : str
        Where they ran.
    measured_at : str
        When, in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workload: str
    trace: str
    target: TargetText
    nodes: tuple[str, ...]
    ours_us: PositiveFloat
    tuned_us: PositiveFloat
    machine: str
    measured_at: str

    @property
    def is_tuned_faster(self) -> bool:
        """Whether the tuned kernel takes the place of ours."""
        return self.tuned_us < _FASTER * self.ours_us


class KernelComparisons(BaseModel):
    """The file: one comparison for each workload and target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["cospipe-kernels"] = "cospipe-kernels"
    version: Literal[1] = 1
    comparisons: tuple[KernelComparison, ...] = ()

    def replaced(self, measured: Iterable[KernelComparison]) -> KernelComparisons:
        """Return all comparisons, new ones in the place of old ones of the same workload and target."""
        by_key = {(one.workload, one.target): one for one in (*self.comparisons, *measured)}
        return KernelComparisons(comparisons=tuple(by_key.values()))


def read_comparisons(directory: Path) -> KernelComparisons:
    """Return the comparisons in a directory of records; none where plain MetaSchedule made it.

    Raises
    ------
    UsageError
        When the file is damaged.
    """
    file = directory / FILE
    if not file.exists():
        return KernelComparisons()
    try:
        return KernelComparisons.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UsageError(
            f"{file} is damaged ({problem}); delete it, then compare the records again with tvmc tune --trials 0."
        ) from error


def write_comparisons(directory: Path, comparisons: KernelComparisons) -> None:
    """Write the file as a whole or not at all."""
    scratch = directory / f"{FILE}.new"
    scratch.write_text(comparisons.model_dump_json(indent=2) + "\n", encoding="utf-8")
    scratch.replace(directory / FILE)
