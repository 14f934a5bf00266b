"""When results are handed out: as soon as they are there, however long the source takes for the next frame."""

import threading
import time

import pytest
from running import frames_for

from cospipe.backends.runtime.runner import PipelineRunner


def test_a_result_does_not_wait_for_the_next_frame(compiled):
    frames, next_may_come = frames_for(compiled.bundle, 2), threading.Event()

    def camera():
        yield frames[0]
        assert next_may_come.wait(10)
        yield frames[1]

    with PipelineRunner(compiled.bundle) as runner:
        results = runner.run(camera())
        next(results)
        next_may_come.set()
        assert len(list(results)) == 1


def test_results_that_were_due_come_before_the_error_of_the_source(compiled):
    def source():
        yield from frames_for(compiled.bundle, 3)
        raise ZeroDivisionError

    results = []
    with PipelineRunner(compiled.bundle) as runner, pytest.raises(ZeroDivisionError):
        results.extend(runner.run(source()))
    assert len(results) == 3


def test_nobody_takes_frames_for_results_that_nobody_wants(compiled):
    taken = []

    def counted():
        for number, frame in enumerate(frames_for(compiled.bundle, 100)):
            taken.append(number)
            yield frame

    with PipelineRunner(compiled.bundle) as runner:
        results = runner.run(counted())
        for _ in range(5):
            next(results)
        time.sleep(0.3)
        assert len(taken) <= 5 + runner._window + 1
        results.close()
        time.sleep(0.3)
        assert len(taken) <= 5 + runner._window + 2
    assert not [thread for thread in threading.enumerate() if thread.name == "frames"]
