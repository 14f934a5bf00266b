"""Runs for programs that use asyncio: nothing blocks the event loop, and a cancellation leaves no thread behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from cospipe.backends.runtime.frame import Frame
from cospipe.backends.runtime.run import Run
from cospipe.backends.runtime.stage import to_numpy

_Result = TypeVar("_Result")
_NO_FRAME: Any = object()


class FramesOfLoop:
    """The frames of an asynchronous iterable, for a thread outside of its event loop.

    Parameters
    ----------
    frames : async iterable of dict
        Arrays by input name.
    loop : AbstractEventLoop
        Where they are taken.
    """

    def __init__(self, frames: AsyncIterable[Frame], loop: asyncio.AbstractEventLoop) -> None:
        self._frames = aiter(frames)
        self._loop = loop
        self._lock = threading.Lock()
        self._is_closed = False
        self._taking: concurrent.futures.Future[Any] | None = None
        self._task: asyncio.Task[Any] | None = None

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames; the loop takes each from the iterable while the calling thread waits."""
        while (taking := self._begin_to_take()) is not None:
            if (frame := taking.result()) is _NO_FRAME:
                return
            yield frame

    def _begin_to_take(self) -> concurrent.futures.Future[Any] | None:
        with self._lock:  # what is begun before the end, close() waits for
            if self._is_closed:
                return None
            self._taking = asyncio.run_coroutine_threadsafe(self._take(), self._loop)
            return self._taking

    async def _take(self) -> Any:
        if self._is_closed:
            return _NO_FRAME
        self._task = asyncio.current_task()
        try:
            return await anext(self._frames, _NO_FRAME)
        except asyncio.CancelledError:
            return _NO_FRAME
        finally:
            self._task = None

    async def close(self) -> None:
        """Cancel what the iterable waits for, wait until it has ended, and let the thread go."""
        with self._lock:
            self._is_closed = True
        if self._task is not None:
            self._task.cancel()
        if self._taking is not None:
            await to_its_end(asyncio.wait([asyncio.wrap_future(self._taking)]))


class AsyncResults:
    """Hands the results of a run to a task of an event loop.

    Parameters
    ----------
    loop : AbstractEventLoop
        The loop of that task.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._has_news = asyncio.Event()

    def tell(self) -> None:
        """Wake the task, from any thread."""
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._has_news.set)

    async def of(self, run: Run, outputs: Sequence[str], source: FramesOfLoop | None = None) -> AsyncIterator[Frame]:
        """Start a run that tells this when there is something to take; yield the outputs of each frame in order."""
        run.start()
        try:
            while not run.is_over():
                while not run.has_arrivals:
                    await self._has_news.wait()
                    self._has_news.clear()
                for values in run.take():
                    yield to_numpy(values, outputs)
        finally:
            run.close()
            if source is not None:
                await source.close()


async def in_thread(work: Callable[[], _Result]) -> _Result:
    """Do something that blocks in another thread; a cancellation waits for its end."""
    return await to_its_end(asyncio.to_thread(work))


async def to_its_end(work: Awaitable[_Result]) -> _Result:
    """Wait for something to end; a cancellation does not reach it, and is raised when it has ended."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:  # noqa: PERF203 - each one is to be noted, and the wait to go on
            cancelled = error
    if cancelled is None:
        return task.result()
    task.exception()  # somebody has looked at it
    raise cancelled
