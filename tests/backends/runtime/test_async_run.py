"""Runs from an event loop: the same results, a loop that goes on meanwhile, and no thread left by a cancellation."""

import asyncio
import gc
import threading

import pytest
from running import close, eager, frames_for

from cospipe.backends.runtime.async_frames import to_its_end
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.runtime.stage import StageExecutable
from cospipe.ir.errors import CospipeError, StageError, UsageError


def run(work):
    return asyncio.run(asyncio.wait_for(work, 30))


def our_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("stage") or t.name in ("frames", "watchdog")]


def no_thread_is_left():
    for thread in threading.enumerate():
        if thread.name == "frames":
            thread.join(10)
    return our_threads() == []


async def as_camera(frames):
    for frame in frames:
        await asyncio.sleep(0)
        yield frame


@pytest.mark.parametrize("source", [list, as_camera], ids=["plain", "asynchronous"])
def test_results_come_in_order_and_equal_eager(compiled, small_network, source):
    frames = frames_for(compiled.bundle, 30)

    async def work():
        async with PipelineRunner(compiled.bundle, queue_depth=2) as runner:
            results = [result async for result in runner.arun(source(frames))]
            assert runner.statistics.summary()["frames"] == 30
            return results, [result async for result in runner.arun(source(frames[:2]))]

    results, again = run(work())
    assert (len(results), len(again)) == (30, 2)
    for found in (results, again):
        assert all(close(r, eager(small_network, f)) for r, f in zip(found, frames, strict=False))
    assert no_thread_is_left()


def test_the_loop_goes_on_while_stages_work(compiled, monkeypatch):
    """A stage that waits for a task of the loop would wait for ever if the loop were blocked."""
    call, has_ticked, is_at_work = StageExecutable.call, threading.Event(), threading.Event()

    def slow(self, values, weights=None):
        is_at_work.set()
        assert weights is None or has_ticked.wait(10)
        return call(self, values, weights)

    monkeypatch.setattr(StageExecutable, "call", slow)

    async def tick():
        while not is_at_work.is_set():
            await asyncio.sleep(0.001)
        has_ticked.set()

    async def work():
        async with PipelineRunner(compiled.bundle) as runner:
            ticking = asyncio.create_task(tick())
            results = [result async for result in runner.arun(frames_for(compiled.bundle, 3))]
            await ticking
            return results

    assert len(run(work())) == 3


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
def test_a_cancellation_while_waiting_for_frames_leaves_no_thread(compiled, kind):
    frame, may_end, was_cancelled = frames_for(compiled.bundle, 1)[0], threading.Event(), []

    def plain():
        yield frame
        may_end.wait(20)

    async def asynchronous():
        yield frame
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.append(True)
            raise

    async def use(first):
        async with PipelineRunner(compiled.bundle) as runner:
            async for _ in runner.arun(plain() if kind == "plain" else asynchronous()):
                first.set()

    async def work():
        first = asyncio.Event()
        task = asyncio.create_task(use(first))
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())
    assert was_cancelled == ([True] if kind == "asynchronous" else [])
    may_end.set()
    assert no_thread_is_left()


def test_a_cancellation_while_stages_are_loaded_leaves_no_thread(compiled, monkeypatch):
    warm_up, may_go_on, has_begun = StageExecutable.warm_up, threading.Event(), threading.Event()

    def slow(self):
        has_begun.set()
        assert may_go_on.wait(10)
        warm_up(self)

    monkeypatch.setattr(StageExecutable, "warm_up", slow)

    async def use():
        async with PipelineRunner(compiled.bundle):
            pytest.fail("it was cancelled before")

    async def work():
        task = asyncio.create_task(use())
        while not has_begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())
    assert no_thread_is_left()


def test_breaking_off_leaves_the_runner_usable(compiled, small_network):
    frames = frames_for(compiled.bundle, 8)

    async def work():
        async with PipelineRunner(compiled.bundle) as runner:
            async for _ in runner.arun(as_camera(frames)):
                break
            gc.collect()
            return [result async for result in runner.arun(frames)]

    results = run(work())
    assert all(close(r, eager(small_network, f)) for r, f in zip(results, frames, strict=True))
    assert no_thread_is_left()


def test_errors_reach_the_task(compiled, monkeypatch):
    async def broken():
        for frame in frames_for(compiled.bundle, 3):
            yield frame
        raise ZeroDivisionError

    async def all_of(runner, frames):
        return [result async for result in runner.arun(frames)]

    async def work():
        async with PipelineRunner(compiled.bundle) as runner:
            with pytest.raises(ZeroDivisionError):
                await all_of(runner, broken())
            with pytest.raises(UsageError, match="does not fit"):
                await all_of(runner, as_camera([{}]))
            monkeypatch.setattr(StageExecutable, "call", lambda *_: 1 / 0)
            with pytest.raises(StageError, match="failed at frame 0: division by zero"):
                await all_of(runner, frames_for(compiled.bundle, 3))
        with pytest.raises(UsageError, match="not started"):
            runner.arun([])

    run(work())
    assert no_thread_is_left()


def test_draining_from_a_task_ends_the_run_though_the_source_does_not(compiled):
    async def camera():
        for frame in frames_for(compiled.bundle, 4):
            yield frame
        runner.drain()
        await asyncio.Event().wait()

    async def work():
        nonlocal runner
        async with PipelineRunner(compiled.bundle) as runner:
            return [result async for result in runner.arun(camera())]

    runner = None
    assert len(run(work())) == 4
    assert no_thread_is_left()


def test_without_a_loop_there_is_no_asynchronous_run(compiled):
    with PipelineRunner(compiled.bundle) as runner, pytest.raises(RuntimeError, match="no running event loop"):
        runner.arun([])


def test_what_must_end_is_waited_for_though_it_fails_and_the_wait_is_cancelled():
    ended = []

    async def must_end():
        await asyncio.sleep(0.01)
        ended.append(True)
        raise CospipeError("too bad")

    async def work():
        with pytest.raises(CospipeError, match="too bad"):
            await to_its_end(must_end())
        task = asyncio.create_task(to_its_end(must_end()))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())
    assert ended == [True, True]
