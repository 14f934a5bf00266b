"""What a run measured: period, latency, and how busy each stage was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cospipe.backends.runtime.placement import StagePlacement


@dataclass
class StageTimes:
    """Busy times of one stage, a frame each, beside what was predicted."""

    name: str
    configuration: str
    placement: StagePlacement
    predicted_us: float
    busy_us: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the figures of this stage as plain numbers and strings."""
        return {
            "name": self.name,
            "configuration": self.configuration,
            "cpu_ids": list(self.placement.cpu_ids),
            "threads": self.placement.threads,
            "placement": self.placement.kind,
            "predicted_us": round(self.predicted_us, 1),
            "median_us": _median(self.busy_us),
            "p99_us": _percentile(self.busy_us, 99),
        }


@dataclass
class RunStatistics:
    """Times of all frames that have left the pipeline."""

    stages: list[StageTimes]
    entered_s: list[float] = field(default_factory=list)
    finished_s: list[float] = field(default_factory=list)

    def record(self, entered_s: float, finished_s: float) -> None:
        """Record one frame's times, seconds of a common clock."""
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
            "frames_per_second": None if period is None else round(1e6 / period, 2),
            "latency_median_us": _median(latency),
            "latency_p99_us": _percentile(latency, 99),
            "stages": [stage.summary() for stage in self.stages],
        }


def _median(values: list[float]) -> float | None:
    return _percentile(values, 50)


def _percentile(values: list[float], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 1) if values else None
