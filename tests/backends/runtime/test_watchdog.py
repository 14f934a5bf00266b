"""The watchdog's ticks, given by hand: who is stuck, who only waits, and what a stopped process may not look like."""

from types import SimpleNamespace

import pytest

from cospipe.backends.runtime import watchdog as module
from cospipe.backends.runtime.machine_monitor import MachineMonitor
from cospipe.backends.runtime.watchdog import Watchdog
from cospipe.ir.errors import CospipeError, StageError


class Worker:
    """What the watchdog sees of a worker."""

    def __init__(self, name):
        self.name, self.frame, self.steps, self.is_stuck, self.incoming = name, 0, 0, False, []
        self.native_id, self.cpus = 2**22 + 1, (0,)

    @property
    def is_at_work(self):
        return self.steps % 2 == 1

    def begin(self, frame):
        self.frame, self.steps = frame, self.steps + 1

    def end(self):
        self.steps += 1


@pytest.fixture
def watched():
    workers, failures, inside = [Worker("stage0 (big:1)"), Worker("stage1 (little:1)")], [], [1]
    watchdog = Watchdog(workers, 1.0, False, lambda: inside[0], lambda: None, failures.append)
    return SimpleNamespace(watchdog=watchdog, workers=workers, failures=failures, inside=inside)


def test_a_replica_at_one_frame_for_too_long_is_stuck(watched):
    watched.workers[1].begin(17)
    for _ in range(4):
        watched.watchdog.look_for_stalls(0.25)
    assert not watched.failures
    watched.watchdog.look_for_stalls(0.25)
    (failure,) = watched.failures
    assert isinstance(failure, StageError)
    assert failure.stage == "stage1 (little:1)"
    assert "stage1 (little:1) has been at frame 17 for more than 1 s" in str(failure)
    assert [worker.is_stuck for worker in watched.workers] == [False, True]


def test_a_replica_that_takes_new_frames_is_not(watched):
    for frame in range(40):
        watched.workers[0].begin(frame)
        watched.watchdog.look_for_stalls(0.6)
        watched.workers[0].end()
    assert not watched.failures


def test_waiting_for_frames_or_for_whoever_takes_results_is_no_stall(watched):
    watched.inside[0] = 0
    for _ in range(100):
        watched.watchdog.look_for_stalls(0.25)
    assert not watched.failures


def test_frames_inside_that_nobody_works_on_are_a_stall(watched):
    watched.workers[1].incoming.append("frame")
    for _ in range(6):
        watched.watchdog.look_for_stalls(0.25)
    assert "1 frame(s) are inside, but no stage has been at work for more than 1 s" in str(watched.failures[0])
    assert watched.failures[0].stage == "stage1 (little:1)"


def test_frames_that_pass_between_two_ticks_are_progress(watched):
    for frame in range(20):
        watched.workers[0].begin(frame)
        watched.workers[0].end()
        watched.watchdog.look_for_stalls(0.6)
    assert not watched.failures


def test_without_a_timeout_nobody_is_ever_stuck(watched):
    watchdog = Watchdog(watched.workers, 0, False, lambda: 1, lambda: None, watched.failures.append)
    watched.workers[0].begin(0)
    for _ in range(10):
        watchdog.look_for_stalls(1e6)
    assert not watched.failures


def test_a_process_that_was_stopped_has_not_stalled(watched, monkeypatch):
    """The clock jumps by an hour between two ticks, as it does when a process is stopped and continued."""
    clock_s, ticks, passed = [0.0], iter(range(5)), []

    class Over:
        def wait(self, timeout):
            clock_s[0] += 3600 if next(ticks, None) == 1 else timeout
            return len(passed) == 4

    monkeypatch.setattr(module, "monotonic", lambda: clock_s[0])
    watched.watchdog._is_over = Over()
    monkeypatch.setattr(watched.watchdog, "look_for_stalls", passed.append)
    watched.watchdog._watch()
    assert passed == pytest.approx([0.1, 0.2, 0.1, 0.1])


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_lost_core_ends_a_strict_run_only(watched, is_strict):
    files = {"/sys/devices/system/cpu/online": "1-3"}
    machine = MachineMonitor([0, 1], lambda file: files.get(file, ""))
    watchdog = Watchdog(watched.workers, 1.0, is_strict, lambda: 0, lambda: machine, watched.failures.append)
    watchdog.look_at(machine)
    assert machine.warnings() == ["cpu 0 went offline while the pipeline ran."]
    assert len(watched.failures) == is_strict
    if is_strict:
        assert isinstance(watched.failures[0], CospipeError)
        assert "cpu 0 went offline" in str(watched.failures[0])
