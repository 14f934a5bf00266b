"""Putting frames back in order behind stages whose replicas finish them as they can."""

from __future__ import annotations

from collections.abc import Iterator

from cospipe.backends.runtime.job import Job


class InOrder:
    """Lets frames pass in the order of their numbers, from 0; those that come early wait for the ones before."""

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, Job] = {}
        self._latest_s = 0.0

    def pass_on(self, job: Job) -> Iterator[Job]:
        """Take a frame, yield every one whose turn it now is; a frame is finished when those before it are, too."""
        self._early[job.number] = job
        while (ready := self._early.pop(self._next, None)) is not None:
            self._next += 1
            ready.finished_s = self._latest_s = max(ready.finished_s, self._latest_s)
            yield ready
