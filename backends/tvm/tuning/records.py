"""Tuning records: a directory with MetaSchedule's JSON database, and what was measured of its kernels beside ours.

``database_workload.json`` and ``database_tuning_record.json`` are MetaSchedule's own files, which any of its users can
read. ``cospipe_kernels.json`` tells which of their kernels were measured against ours. Reading a directory never
changes it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.target import Target

from cospipe.backends.tvm.kernels.fused import find_kernel
from cospipe.backends.tvm.tuning.comparisons import KernelComparison, KernelComparisons, read_comparisons
from cospipe.backends.tvm.tuning.database import check_can_store, check_is_records, read_database, workload_hash
from cospipe.backends.tvm.tuning.definitions import definition
from cospipe.backends.tvm.tuning.target_match import target_text
from cospipe.backends.tvm.tuning.tasks import workload_of

log = logging.getLogger("cospipe")

_LONGEST_SECONDS = 1e9
"""MetaSchedule writes 10 billion seconds for a kernel that failed."""


@dataclass(frozen=True)
class TunedRecord:
    """One kernel that MetaSchedule has measured.

    Parameters
    ----------
    record : ms.database.TuningRecord
        As it was stored.
    seconds : float
        Mean of its runs.
    trace : str
        Digest of its trace.
    """

    record: Any
    seconds: float
    trace: str


@dataclass
class TuningRecords:
    """The records of one directory that were made for one target; a ``TunedKernels`` that compiling asks.

    Parameters
    ----------
    directory : Path
        Where they come from.
    target : Target
        What is compiled for.
    by_workload : mapping of str to list of TunedRecord
        Fastest first.
    comparisons : KernelComparisons
        What was measured of them and of ours, for any target.
    """

    directory: Path
    target: Target
    by_workload: dict[str, list[TunedRecord]]
    comparisons: KernelComparisons
    _uses: dict[str, str] = field(default_factory=dict)

    def __call__(self, function: tirx.PrimFunc) -> tirx.PrimFunc | None:
        """Return a kernel as tuning scheduled it, or None where ours is to be used."""
        unscheduled = definition(function)
        if unscheduled is None:
            return None
        workload, module = workload_of(unscheduled)
        chosen = self._chosen(workload)
        if chosen is None:
            return None
        return apply_record(chosen, module, function)

    def best(self, workload: str) -> TunedRecord | None:
        """Return the fastest record of a workload by MetaSchedule's own measurement, which ours may still beat."""
        return next(iter(self.by_workload.get(workload, ())), None)

    def comparison(self, workload: str) -> KernelComparison | None:
        """Return what was measured of a workload on cores like these."""
        text = target_text(self.target)
        found = (c for c in self.comparisons.comparisons if c.workload == workload and c.target == text)
        return next(found, None)

    def _chosen(self, workload: str) -> TunedRecord | None:
        candidates = self.by_workload.get(workload, [])
        if not candidates:
            return None
        compared = self.comparison(workload)
        traces = {candidate.trace: candidate for candidate in candidates}
        if compared is None or compared.trace not in traces:
            self._uses[workload] = "uncompared"
            return None
        self._uses[workload] = "tuned" if compared.is_tuned_faster else "ours"
        return traces[compared.trace] if compared.is_tuned_faster else None

    def report(self) -> None:
        """Log what became of the records in the compilations so far; warns when none of them could be used."""
        uses = list(self._uses.values())
        tuned, ours, uncompared = (uses.count(use) for use in ("tuned", "ours", "uncompared"))
        if not uses:
            log.warning(
                "No record in %s is of a kernel of this model for %s; it is compiled with cospipe's own kernels.",
                self.directory,
                target_text(self.target),
            )
        if tuned or ours:
            log.info("Tuned kernels from %s: %d used; for %d more, cospipe's are as fast.", self.directory, tuned, ours)
        if uncompared:
            log.warning(
                "%d kernels of this model have records in %s that were never measured against cospipe's own, which are"
                " used therefore; measure them with: tvmc tune FILE --trials 0 --tuning-records %s -o DIR",
                uncompared,
                self.directory,
                self.directory,
            )


def apply_record(chosen: TunedRecord, module: tvm.IRModule, function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return a fused kernel with the loops of a record.

    Parameters
    ----------
    chosen : TunedRecord
        The record.
    module : tvm.IRModule
        What it computes, unscheduled.
    function : PrimFunc
        The kernel as our rules get it; its attributes are kept.
    """
    schedule = Schedule(module)
    chosen.record.trace.apply_to_schedule(schedule, remove_postproc=False)
    tuned = schedule.mod["main"].without_attr("global_symbol")
    kernel = find_kernel(function)
    return tuned.with_attr({**dict(function.attrs), **(kernel.attributes if kernel else {}), "s_tir": True})


def open_records(path: str | Path, target: Target) -> TuningRecords:
    """Read a directory of tuning records.

    Parameters
    ----------
    path : str or Path
        The directory that ``tvmc tune -o`` wrote, or one of plain MetaSchedule.
    target : Target
        What is compiled for; records for other cores are left out.

    Raises
    ------
    UsageError
        When there is no such directory, or it holds something else; when the log of an older tuner is named, too.
    """
    directory = Path(path)
    check_is_records(directory)
    check_can_store()
    by_workload: dict[str, list[TunedRecord]] = defaultdict(list)
    for record in read_database(directory):
        if is_for(record, target) and (found := _measured(record)):
            by_workload[workload_hash(record)].append(found)
    for candidates in by_workload.values():
        candidates.sort(key=lambda candidate: candidate.seconds)
    return TuningRecords(directory, target, dict(by_workload), read_comparisons(directory))


def trace_digest(trace: Any) -> str:
    """Return a short name for a trace of a schedule: equal traces have equal ones."""
    text = json.dumps(_plain(trace.as_json()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Return a value of TVM's as Python's lists, strings and numbers."""
    if isinstance(value, (str, bytes)) or value is None:
        return value if value is None else str(value)
    if isinstance(value, (bool, int, float)):
        return value
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    return str(value)


def _measured(record: Any) -> TunedRecord | None:
    """Return a record with its time; None for a kernel that failed."""
    times = [float(getattr(seconds, "value", seconds)) for seconds in record.run_secs or ()]
    if not times or max(times) >= _LONGEST_SECONDS:
        return None
    return TunedRecord(record, sum(times) / len(times), trace_digest(record.trace))


def is_for(record: Any, target: Target) -> bool:
    """Tell whether a record was measured on cores like those of a target."""
    return record.target is not None and target_text(record.target) == target_text(target)
