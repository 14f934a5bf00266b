"""What a run measured: period, latency, and how busy each stage and each of its replicas was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

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
    """What one replica of a stage did, beside what was predicted."""

    configuration: str
    placement: ReplicaPlacement
    predicted_us: float
    work: list[Work] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain numbers and strings."""
        return {
            "configuration": self.configuration,
            "cpu_ids": list(self.placement.cpu_ids),
            "threads": self.placement.threads,
            "placement": self.placement.kind,
            "frames": len(self.work),
            "predicted_us": round(self.predicted_us, 1),
            "busy_share": _busy_share(self.work),
            **_times(iter(self.work)),
        }


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
        """Everything its replicas did, by frame."""
        return sorted(chain(*(replica.work for replica in self.replicas)))

    def summary(self) -> dict[str, Any]:
        """Return the figures of this stage as plain numbers and strings; ``threads`` are those of all replicas."""
        placements = [replica.placement for replica in self.replicas]
        return {
            "name": self.name,
            "configuration": self.configuration,
            "cpu_ids": sorted({cpu for placement in placements for cpu in placement.cpu_ids}),
            "threads": sum(placement.threads for placement in placements),
            "placement": placements[0].kind,
            "predicted_us": round(self.predicted_us, 1),
            "predicted_period_us": round(self.predicted_period_us, 1),
            **_times(iter(self.work)),
            "replicas": [replica.summary() for replica in self.replicas],
        }


def stage_times(planned: StagePlan, placements: tuple[ReplicaPlacement, ...]) -> StageTimes:
    """Return the empty record of a stage."""
    replicas = [
        ReplicaTimes(replica.text, placement, replica.compute_us + planned.hand_over_us)
        for replica, placement in zip(planned.replicas, placements, strict=True)
    ]
    return StageTimes(planned.name, planned.text, planned.time_us, planned.period_us, replicas)


@dataclass
class RunStatistics:
    """Times of all frames that have left the pipeline, in their order."""

    stages: list[StageTimes]
    entered_s: list[float] = field(default_factory=list)
    finished_s: list[float] = field(default_factory=list)

    def record(self, entered_s: float, finished_s: float) -> None:
        """Record one frame's times, seconds of a common clock; it is finished when those before it are, too."""
        self.entered_s.append(entered_s)
        self.finished_s.append(finished_s)

    @property
    def period_us(self) -> float | None:
        """Mean time between two results, from the first to the last; None for fewer than two frames."""
        if len(self.finished_s) < 2:
            return None
        return (self.finished_s[-1] - self.finished_s[0]) / (len(self.finished_s) - 1) * 1e6

    def summary(self) -> dict[str, Any]:
        """Return all figures as plain numbers, ready for JSON; times are in microseconds."""
        latency = [(end - start) * 1e6 for start, end in zip(self.entered_s, self.finished_s, strict=True)]
        period = self.period_us
        return {
            "frames": len(latency),
            "period_us": None if period is None else round(period, 1),
            "frames_per_second": None if not period else round(1e6 / period, 2),
            "latency_median_us": _percentile(latency, 50),
            "latency_p99_us": _percentile(latency, 99),
            "stages": [stage.summary() for stage in self.stages],
        }


def _times(work: Iterator[Work]) -> dict[str, float | None]:
    busy_us = [each.busy_us for each in work]
    return {"median_us": _percentile(busy_us, 50), "p99_us": _percentile(busy_us, 99)}


def _busy_share(work: list[Work]) -> float | None:
    """Return the share of the time from a replica's first frame to its last in which it computed."""
    if not work:
        return None
    busy_s = sum(each.finished_s - each.started_s for each in work)
    return round(busy_s / (work[-1].finished_s - work[0].started_s), 4)


def _percentile(values: list[float], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 1) if values else None
