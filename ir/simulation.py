"""What a simulated run of a pipeline was like: period, latency, how busy everything was, who worked when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Work:
    """One frame at one replica of a stage, hand-over and computing; both are numbered from 0."""

    stage: int
    replica: int
    frame: int
    start_us: float
    end_us: float


@dataclass(frozen=True)
class ReplicaUse:
    """Shares of the whole run, 0 to 1: at work, and holding a finished frame that the next queue had no room for."""

    busy: float
    blocked: float


@dataclass(frozen=True)
class StageUse:
    """A stage's replicas, and the frames in the queue before it, over the whole run."""

    name: str
    replicas: tuple[ReplicaUse, ...]
    mean_waiting: float
    most_waiting: int


@dataclass(frozen=True)
class Simulation:
    """One simulated run.

    Parameters
    ----------
    entered_us, left_us : tuple of float
        When each frame came in and its result went out, by frame; results leave in this order.
    stages : tuple of StageUse
        How busy each stage was.
    timeline : tuple of Work
        Who worked when on which frame, by start.
    """

    entered_us: tuple[float, ...]
    left_us: tuple[float, ...]
    stages: tuple[StageUse, ...]
    timeline: tuple[Work, ...]

    @property
    def frames(self) -> int:
        """Frames that went through."""
        return len(self.left_us)

    @property
    def period_us(self) -> float | None:
        """Mean time between two results, from the first to the last, as a run measures it; None for one frame."""
        return (self.left_us[-1] - self.left_us[0]) / (self.frames - 1) if self.frames > 1 else None

    @property
    def latencies_us(self) -> tuple[float, ...]:
        """Time of each frame from entering to leaving."""
        return tuple(left - entered for entered, left in zip(self.entered_us, self.left_us, strict=True))

    @property
    def mean_latency_us(self) -> float:
        """Mean time from entering to leaving."""
        return float(np.mean(self.latencies_us))

    def latency_us(self, percent: float) -> float:
        """Return a percentile of the latencies."""
        return float(np.percentile(self.latencies_us, percent))

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain numbers, ready for JSON; times in microseconds, shares from 0 to 1."""
        latencies = {f"latency_p{percent}_us": round(self.latency_us(percent), 3) for percent in PERCENTILES}
        period_us = self.period_us
        return {
            "frames": self.frames,
            "period_us": None if period_us is None else round(period_us, 3),
            "frames_per_second": round(1e6 / period_us, 3) if period_us else None,
            "latency_mean_us": round(self.mean_latency_us, 3),
            **latencies,
            "stages": [_stage_values(stage) for stage in self.stages],
        }


def _stage_values(stage: StageUse) -> dict[str, Any]:
    return {
        "name": stage.name,
        "busy": [round(replica.busy, 4) for replica in stage.replicas],
        "blocked": [round(replica.blocked, 4) for replica in stage.replicas],
        "mean_waiting": round(stage.mean_waiting, 4),
        "most_waiting": stage.most_waiting,
    }
