"""What a run measured: period, latency, and how busy each stage and each of its replicas was.

Memory does not grow with the number of frames, unless a trace is to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from cospipe.backends.runtime.histogram import Histogram, merged
from cospipe.backends.runtime.machine_monitor import MachineMonitor
from cospipe.backends.runtime.placement import ReplicaPlacement
from cospipe.ir.plan import StagePlan


class Work(NamedTuple):
    """One frame at one replica; seconds of a common clock."""

    frame: int
    started_s: float
    finished_s: float

    @property
    def busy_us(self) -> float:
        """How long it took."""
        return (self.finished_s - self.started_s) * 1e6


@dataclass
class ReplicaTimes:
    """What one replica of a stage did, beside what was predicted; only its thread records.

    Parameters
    ----------
    configuration : str
        The plan's cores, ``big:2``.
    placement : ReplicaPlacement
        The cores it really had.
    predicted_us : float
        Predicted time of a frame.
    keeps_trace : bool
        Whether every piece of work is kept, too.
    """

    configuration: str
    placement: ReplicaPlacement
    predicted_us: float
    keeps_trace: bool = False
    work: list[Work] = field(default_factory=list)
    busy: Histogram = field(default_factory=Histogram)
    frames: int = 0
    waiting: int = 0
    most_waiting: int = 0
    first_started_s: float = 0.0
    last_finished_s: float = 0.0

    def record(self, work: Work, waiting: int = 0) -> None:
        """Record a frame, and how many others waited in front of the stage when it was taken."""
        if not self.frames:
            self.first_started_s = work.started_s
        self.frames += 1
        self.last_finished_s = work.finished_s
        self.busy.add(work.busy_us)
        self.waiting += waiting
        self.most_waiting = max(self.most_waiting, waiting)
        if self.keeps_trace:
            self.work.append(work)

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain numbers and strings."""
        return {
            "configuration": self.configuration,
            "cpu_ids": list(self.placement.cpu_ids),
            "threads": self.placement.threads,
            "placement": self.placement.kind,
            "frames": self.frames,
            "predicted_us": round(self.predicted_us, 1),
            "busy_us": round(self.busy.total_us, 1),
            "busy_share": self._busy_share(),
            **_percentiles(self.busy),
        }

    def _busy_share(self) -> float | None:
        """Return the share of the time from its first frame to its last in which it computed."""
        whole_us = (self.last_finished_s - self.first_started_s) * 1e6
        return round(self.busy.total_us / whole_us, 4) if whole_us else None


@dataclass
class StageTimes:
    """What all replicas of a stage did."""

    name: str
    configuration: str
    predicted_us: float
    predicted_period_us: float
    replicas: list[ReplicaTimes]

    @property
    def work(self) -> list[Work]:
        """Everything its replicas did, by frame; empty unless a trace is kept."""
        return sorted(chain(*(replica.work for replica in self.replicas)))

    def summary(self) -> dict[str, Any]:
        """Return the figures of this stage as plain numbers and strings; ``threads`` are those of all replicas."""
        placements = [replica.placement for replica in self.replicas]
        busy = merged(replica.busy for replica in self.replicas)
        frames = sum(replica.frames for replica in self.replicas)
        waiting = sum(replica.waiting for replica in self.replicas)
        return {
            "name": self.name,
            "configuration": self.configuration,
            "cpu_ids": sorted({cpu for placement in placements for cpu in placement.cpu_ids}),
            "threads": sum(placement.threads for placement in placements),
            "placement": placements[0].kind,
            "predicted_us": round(self.predicted_us, 1),
            "predicted_period_us": round(self.predicted_period_us, 1),
            **_percentiles(busy),
            "busy_us": round(busy.total_us, 1),
            "queue_depth_mean": round(waiting / frames, 3) if frames else 0.0,
            "queue_depth_max": max(replica.most_waiting for replica in self.replicas),
            "replicas": [replica.summary() for replica in self.replicas],
        }


def stage_times(planned: StagePlan, placements: tuple[ReplicaPlacement, ...], keeps_trace: bool = False) -> StageTimes:
    """Return the empty record of a stage."""
    replicas = [
        ReplicaTimes(replica.text, placement, replica.compute_us + planned.hand_over_us, keeps_trace)
        for replica, placement in zip(planned.replicas, placements, strict=True)
    ]
    return StageTimes(planned.name, planned.text, planned.time_us, planned.period_us, replicas)


@dataclass
class RunStatistics:
    """Times of all frames that have left the pipeline.

    Parameters
    ----------
    stages : list of StageTimes
        What the stages did.
    keeps_trace : bool
        Whether the times of every frame are kept, in ``entered_s`` and ``finished_s``; else these stay empty.
    placement_warnings : sequence of str
        Why stages do not run on the plan's cores.
    machine : MachineMonitor, optional
        What happened to the cores meanwhile.
    """

    stages: list[StageTimes]
    keeps_trace: bool = False
    placement_warnings: Sequence[str] = ()
    machine: MachineMonitor | None = None
    entered_s: list[float] = field(default_factory=list)
    finished_s: list[float] = field(default_factory=list)
    frames: int = 0
    latency: Histogram = field(default_factory=Histogram)
    interrupted_by: str | None = None
    """The signal that ended the run before its source did, ``SIGINT`` or ``SIGTERM``."""
    _first_finished_s: float = 0.0
    _last_finished_s: float = 0.0

    def record(self, entered_s: float, finished_s: float) -> None:
        """Record one frame's times, seconds of a common clock; it is finished when those before it are, too."""
        if not self.frames:
            self._first_finished_s = finished_s
        self._last_finished_s = finished_s
        self.frames += 1
        self.latency.add((finished_s - entered_s) * 1e6)
        if self.keeps_trace:
            self.entered_s.append(entered_s)
            self.finished_s.append(finished_s)

    @property
    def period_us(self) -> float | None:
        """Mean time between two results, from the first to the last; None unless two ended at different times.

        Frames that overtook the one before them end at the same time as that one.
        """
        if self._last_finished_s <= self._first_finished_s:
            return None
        return (self._last_finished_s - self._first_finished_s) / (self.frames - 1) * 1e6

    @property
    def warnings(self) -> list[str]:
        """What kept the machine from running the plan as it is meant, as sentences."""
        return [*self.placement_warnings, *(self.machine.warnings() if self.machine else ())]

    def summary(self) -> dict[str, Any]:
        """Return all figures as plain numbers, ready for JSON; times are in microseconds."""
        period = self.period_us
        return {
            "frames": self.frames,
            "period_us": _rounded(period),
            "frames_per_second": None if period is None else round(1e6 / period, 2),
            "latency_median_us": _rounded(self.latency.percentile(50)),
            "latency_p99_us": _rounded(self.latency.percentile(99)),
            "interrupted_by": self.interrupted_by,
            "warnings": self.warnings,
            "clocks_mhz": self.machine.clocks() if self.machine else {},
            "stages": [stage.summary() for stage in self.stages],
        }


def _percentiles(times: Histogram) -> dict[str, float | None]:
    return {"median_us": _rounded(times.percentile(50)), "p99_us": _rounded(times.percentile(99))}


def _rounded(time_us: float | None) -> float | None:
    return None if time_us is None else round(time_us, 1)
