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
    """The source is at its end: how many frames there were, and what it raised."""

    frames: int
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
    """

    def __init__(self, frames: Iterable[Frame], accept: Accept, window: int, statistics: RunStatistics) -> None:
        self.statistics = statistics
        self._frames = frames
        self._accept = accept
        self._inside: Link[None] = Link(window)
        self._arrived: Link[Job | _End] = Link(inf)
        self._reason: CospipeError | None = None

    def receive(self, job: Job) -> None:
        """Take a frame from the last stage."""
        self._arrived.put(job)

    def end(self, reason: CospipeError) -> None:
        """Hand out nothing more and raise this instead; the first reason counts."""
        self._reason = self._reason or reason
        self._close()

    def results(self) -> Iterator[dict[str, Any]]:
        """Start the run, and yield the tensors of each frame in order; once.

        Raises
        ------
        CospipeError
            When the run is ended before all results are out.
        """
        threading.Thread(target=self._feed, name="frames", daemon=True).start()
        order, handed_out, end = InOrder(), 0, _End(-1)
        try:
            while handed_out != end.frames:
                item = self._next()
                if isinstance(item, _End):
                    end = item
                    continue
                for job in order.pass_on(item):
                    handed_out += 1
                    yield self._hand_out(job)
            if end.error is not None:
                raise end.error
        finally:
            self._close()

    def _next(self) -> Job | _End:
        item = self._arrived.get()
        if item is None:
            raise self._reason or CospipeError("The results of a run are handed out once.")
        return item

    def _hand_out(self, job: Job) -> dict[str, Any]:
        self.statistics.record(job.entered_s, job.finished_s)
        self._inside.get()
        return job.values

    def _feed(self) -> None:
        """Body of the thread that brings the frames."""
        brought = 0
        try:
            frames = iter(self._frames)
            while self._inside.put(None) and (frame := next(frames, _NO_FRAME)) is not _NO_FRAME:
                if not self._accept(self, brought, frame):
                    return
                brought += 1
        except BaseException as error:  # whatever the source raises, its caller shall see
            self._arrived.put(_End(brought, error))
        else:
            self._arrived.put(_End(brought))

    def _close(self) -> None:
        self._inside.close()
        self._arrived.close()
