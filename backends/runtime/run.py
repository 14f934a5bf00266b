"""One run of frames through a pipeline: a thread that brings them, and their results in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

from cospipe.backends.runtime.frame import Frame
from cospipe.backends.runtime.job import Job
from cospipe.backends.runtime.link import Link
from cospipe.backends.runtime.ordering import InOrder
from cospipe.backends.runtime.statistics import RunStatistics
from cospipe.ir.errors import CospipeError

Accept = Callable[["Run", int, Frame], bool]
"""Brings the frame of a number to the first stage, when that has room; False when none will come in any more."""

_NO_FRAME: Any = object()


@dataclass(frozen=True)
class _End:
    """No more frames come: how many there were, and what the source raised."""

    frames: float
    error: BaseException | None = None


class Run:
    """Frames on their way in, and results on their way out.

    A thread of its own takes the frames from their source, so that a result is handed out as soon as it is there,
    however long the next frame takes to come.

    Parameters
    ----------
    frames : iterable of dict
        Arrays by input name.
    accept : callable
        Brings a frame to the first stage.
    window : int
        Frames that may be inside: accepted, and not handed out yet. Nothing more is taken from the source meanwhile.
    statistics : RunStatistics
        Where times are recorded.
    tell : callable, optional
        Is called by other threads whenever :meth:`take` may have something new.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        accept: Accept,
        window: int,
        statistics: RunStatistics,
        tell: Callable[[], object] = lambda: None,
    ) -> None:
        self.statistics = statistics
        self._frames = frames
        self._accept = accept
        self._tell = tell
        self._inside: Link[None] = Link(window)
        self._arrived: Link[Job | _End] = Link(inf)
        self._reason: CospipeError | None = None
        self._bringing = threading.Lock()
        self._brought = 0
        self._was_started = False
        self._is_draining = False
        self._order = InOrder()
        self._handed_out = 0
        self._end = _End(inf)

    def receive(self, job: Job) -> None:
        """Take a frame from the last stage."""
        self._arrive(job)

    def end(self, reason: CospipeError) -> None:
        """Hand out nothing more and raise this instead; the first reason counts."""
        self._reason = self._reason or reason
        self.close()

    def drain(self) -> None:
        """Bring no more frames; those that were brought are finished and handed out."""
        with self._bringing:
            self._is_draining = True
            self._arrive(_End(self._brought))

    def results(self) -> Iterator[dict[str, Any]]:
        """Start the run, and yield the tensors of each frame in order; once.

        Raises
        ------
        CospipeError
            When the run is ended before all results are out.
        """
        self.start()
        try:
            while not self.is_over():
                yield from self.take()
        finally:
            self.close()

    def start(self) -> None:
        """Begin to bring frames."""
        self._was_started = True
        threading.Thread(target=self._feed, name="frames", daemon=True).start()

    @property
    def is_going_on(self) -> bool:
        """Whether it has begun, and its results are not out."""
        return self._was_started and not self._arrived.is_closed

    def is_over(self) -> bool:
        """Tell whether all results are out.

        Raises
        ------
        BaseException
            When they are, and the source has raised something behind the last frame.
        """
        if self._handed_out < self._end.frames:
            return False
        if self._end.error is not None:
            raise self._end.error
        return True

    @property
    def has_arrivals(self) -> bool:
        """Whether :meth:`take` does not wait."""
        return len(self._arrived) > 0 or self._arrived.is_closed

    def take(self) -> Iterator[dict[str, Any]]:
        """Wait for the next frame to leave the last stage; yield the tensors of those whose turn it is then."""
        item = self._arrived.get()
        if item is None:
            raise self._reason or CospipeError("The results of a run are handed out once.")
        if isinstance(item, _End):
            self._end = min(self._end, item, key=lambda end: end.frames)
            return
        for job in self._order.pass_on(item):
            self._handed_out += 1
            self.statistics.record(job.entered_s, job.finished_s)
            self._inside.get()
            yield job.values

    def close(self) -> None:
        """Bring no more frames, and let go of those that are inside."""
        self._inside.close()
        self._arrived.close()
        self._tell()

    def _arrive(self, item: Job | _End) -> None:
        self._arrived.put(item)
        self._tell()

    def _feed(self) -> None:
        """Body of the thread that brings the frames."""
        error = None
        try:
            frames = iter(self._frames)
            while self._inside.put(None) and not self._is_draining:
                frame = next(frames, _NO_FRAME)
                if frame is _NO_FRAME or not self._bring(frame):
                    break
        except BaseException as raised:  # whatever the source raises, its caller shall see
            error = raised
        self._arrive(_End(self._brought, error))

    def _bring(self, frame: Frame) -> bool:
        with self._bringing:
            if self._is_draining:  # while the source had us wait
                return False
            number, self._brought = self._brought, self._brought + 1
        try:
            return self._accept(self, number, frame)
        except BaseException:
            self._brought = number
            raise
