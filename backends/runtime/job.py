"""A frame on its way through the stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

from cospipe.backends.runtime.statistics import RunStatistics


class Receiver(Protocol):
    """What a frame belongs to: it is told when the last stage has finished it."""

    statistics: RunStatistics

    def receive(self, job: Job) -> None:
        """Take a finished frame."""


@dataclass
class Job:
    """One frame: its number in its run, its weights, the tensors later stages still need, and its times so far."""

    run: Receiver
    number: int
    values: dict[str, Any]
    generation: int = 0
    accepted_s: float = field(default=inf)
    started_s: float = 0.0
    finished_s: float = 0.0

    @property
    def entered_s(self) -> float:
        """When the pipeline took it."""
        return min(self.accepted_s, self.started_s)  # the first stage may be quicker than the thread that hands over
