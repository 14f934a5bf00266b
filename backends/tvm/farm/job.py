"""What a farm has to do, and who is to blame when it fails."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from cospipe.backends.tvm.farm.board_session import Work
from cospipe.ir.errors import RemoteError, several

_MOST_FAILURES = 2
"""A job that fails on two boards is at fault itself: a candidate that crashes, a network that computes nonsense."""


class NoBoardLeftError(RemoteError):
    """A job that was not done because there was no board for it; the message says what happened to each."""


@dataclass(frozen=True)
class Done:
    """The result of a job.

    Parameters
    ----------
    value : object
        What its function returned.
    board : str
        Where.
    """

    value: Any
    board: str


@dataclass(eq=False)
class Job:
    """A function that any board may run.

    Parameters
    ----------
    name : str
        What errors call it.
    timeout_s : float
        How long it may take, in seconds.
    work : callable
        The function.
    arguments : tuple
        What it takes beside a session and its clock.
    cpu_ids : tuple of int
        Cores that its kernels share; the board's when empty.
    failures : list of tuple of str
        Boards that it failed on, and how.
    """

    name: str
    timeout_s: float
    work: Work
    arguments: tuple[Any, ...]
    cpu_ids: tuple[int, ...] = ()
    failures: list[tuple[str, str]] = field(default_factory=list)
    future: Future[Done] = field(default_factory=Future)

    def failed_on(self, board: str) -> bool:
        """Return whether it failed on a board already."""
        return any(address == board for address, _ in self.failures)

    def finish(self, done: Done) -> None:
        """Hand over the result, unless nobody wants it any more."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(done)

    def fail(self, error: RemoteError) -> None:
        """Give up, unless nobody wants it any more."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class JobQueue:
    """Jobs that wait for a board, the oldest first; callers hold a lock."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether some job waits."""
        return bool(self._waiting)

    def add(self, job: Job) -> None:
        """Append a job."""
        self._waiting.append(job)

    def take(self, board: str, is_alone: bool) -> Job | None:
        """Return the next job for a board: one that failed there goes elsewhere, unless the board is alone."""
        for job in self._waiting:
            if is_alone or not job.failed_on(board):
                self._waiting.remove(job)
                return job
        return None

    def put_back(self, job: Job, board: str, problem: str) -> bool:
        """Note a failure; let the job wait for another board, or fail for good. Return whether it is at fault."""
        job.failures.append((board, problem))
        if len(job.failures) < _MOST_FAILURES:
            self._waiting.appendleft(job)
            return False
        reasons = [f"{address}: {failure}" for address, failure in job.failures]
        job.fail(RemoteError(several(f"{job.name} failed on every board that tried it", reasons)))
        return True

    def fail_all(self, why: str) -> None:
        """Give up all jobs that wait."""
        while self._waiting:
            job = self._waiting.popleft()
            job.fail(NoBoardLeftError(f"{job.name} was not done: {why}"))
