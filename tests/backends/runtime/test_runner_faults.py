"""NaN, stalls, the end of memory, lost cores, draining: what a run says, and that it ends."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from running import close, eager, frames_for

from cospipe.backends.runtime import machine_monitor
from cospipe.backends.runtime.reasons import reason
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.runtime.stage import StageExecutable, as_tensor
from cospipe.ir.errors import BundleError, CospipeError, StageError, UsageError
from cospipe.ir.plan import CoreConfiguration, Replica


@pytest.fixture
def on_call(monkeypatch):
    """Return a function that puts something in the place of the calls of one stage, warm-up left out."""
    call = StageExecutable.call

    def put(stage, instead):
        def changed(self, values, weights=None):
            if weights is None or self.files.name != stage:
                return call(self, values, weights)
            return instead(lambda: call(self, values, weights))

        monkeypatch.setattr(StageExecutable, "call", changed)

    return put


def third_time(action):
    """Do something else than calling the stage at the third frame."""
    count = []

    def instead(call):
        count.append(None)
        return action(call) if len(count) == 3 else call()

    return instead


def with_cores(bundle, cpu_ids):
    """Return a bundle whose plan has all stages on these cores."""
    cores = CoreConfiguration("any", len(cpu_ids))
    stages = tuple(
        stage.model_copy(update={"replicas": (Replica(cores=(cores,), cpu_ids=cpu_ids, compute_us=1),)})
        for stage in bundle.manifest.plan.stages
    )
    plan = bundle.manifest.plan.model_copy(update={"stages": stages})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"plan": plan}))


def stage_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("stage")]


def test_a_failing_stage_names_the_frame(compiled, on_call):
    def fail(call):
        raise ValueError("the roof fell in\nin line 3")

    on_call("stage1", third_time(fail))
    with PipelineRunner(compiled.bundle) as runner, pytest.raises(StageError) as failure:
        list(runner.run(frames_for(compiled.bundle, 9)))
    assert str(failure.value).startswith("stage1 (")
    assert str(failure.value).endswith(") failed at frame 2: the roof fell in")


def put_nan(call):
    outputs = call()
    for name, tensor in outputs.items():
        array = np.array(np.from_dlpack(tensor))
        array.flat[-1] = np.nan
        return outputs | {name: as_tensor(array)}


def test_nan_is_found_when_that_is_wanted(compiled, on_call):
    on_call("stage1", third_time(put_nan))
    results = []
    with PipelineRunner(compiled.bundle, fail_on_nan=True) as runner, pytest.raises(StageError) as failure:
        results.extend(runner.run(frames_for(compiled.bundle, 9)))
    tensors = [spec.name for spec in compiled.bundle.manifest.stages[1].outputs]
    assert any(str(failure.value).endswith(f" put out NaN in {name} at frame 2.") for name in tensors)
    assert len(results) <= 2


def test_nan_goes_through_otherwise_and_numbers_do_when_it_is_not_to(compiled, on_call, small_network):
    frames = frames_for(compiled.bundle, 5)
    with PipelineRunner(compiled.bundle, fail_on_nan=True) as runner:
        results = list(runner.run(frames))
    assert all(close(r, eager(small_network, f)) for r, f in zip(results, frames, strict=True))
    on_call("stage2", third_time(put_nan))
    with PipelineRunner(compiled.bundle) as runner:
        has_nan = [any(np.isnan(array).any() for array in result.values()) for result in runner.run(frames)]
    assert has_nan == [False, False, True, False, False]


def test_a_stuck_stage_ends_the_run_and_nobody_waits_for_it(compiled, on_call):
    may_go_on = threading.Event()

    def hang(call):
        may_go_on.wait()
        return call()

    on_call("stage1", third_time(hang))
    try:
        with PipelineRunner(compiled.bundle, stall_timeout_s=0.2) as runner:
            with pytest.raises(StageError, match=r"stage1 \(.*\) has been at frame 2 for more than 0.2 s"):
                list(runner.run(frames_for(compiled.bundle, 9)))
            assert runner.has_stuck_thread
        (left,) = stage_threads()  # close() came back although this one still hangs
        assert left.name.startswith("stage1")
    finally:
        may_go_on.set()
    left.join(10)
    assert not left.is_alive()


def test_a_slow_source_and_a_slow_taker_are_no_stalls(compiled):
    frame, wait = frames_for(compiled.bundle, 1)[0], threading.Event()

    def camera():
        yield frame
        wait.wait(0.25)
        yield frame

    with PipelineRunner(compiled.bundle, stall_timeout_s=0.2) as runner:
        for _ in runner.run(camera()):
            wait.wait(0.25)
        assert runner.statistics.frames == 2


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_the_end_of_memory_is_a_sentence(compiled, on_call, error):
    def fail(call):
        raise error

    on_call("stage2", third_time(fail))
    with PipelineRunner(compiled.bundle) as runner, pytest.raises(StageError, match="there is not enough memory"):
        list(runner.run(frames_for(compiled.bundle, 9)))


def test_the_end_of_memory_while_loading_is_a_sentence(compiled, monkeypatch):
    def prepare(self, overrides, arguments):
        raise MemoryError

    monkeypatch.setattr(StageExecutable, "_prepare", prepare)
    with pytest.raises(StageError, match="could not be started: there is not enough memory"):
        PipelineRunner(compiled.bundle).__enter__()
    assert not stage_threads()


def test_other_reasons_are_told_in_one_line():
    assert reason(ValueError("one\ntwo")) == "one"
    assert reason(KeyError()) == "KeyError"
    assert reason(MemoryError("no 3 GB")) == "there is not enough memory (no 3 GB)"


def test_other_cores_than_planned_are_a_warning_or_refused(compiled):
    bundle = with_cores(compiled.bundle, (4096,))
    with PipelineRunner(bundle) as runner:
        list(runner.run(frames_for(bundle, 3)))
    (warning,) = runner.statistics.summary()["warnings"]
    assert "cpu 4096 of the plan" in warning
    with pytest.raises(BundleError, match=r"is to be strict(.|\n)*cpu 4096 of the plan"):
        PipelineRunner(bundle, strict=True)


def test_a_core_that_is_lost_while_frames_run_ends_a_strict_run(compiled, monkeypatch):
    online, may_end = [None], threading.Event()
    monkeypatch.setattr(machine_monitor, "online_cpus", lambda read: online[0])

    def camera():
        yield from frames_for(compiled.bundle, 2)
        online[0] = frozenset({4096})
        may_end.wait()

    with PipelineRunner(compiled.bundle, strict=True) as runner:
        results = runner.run(camera())
        with pytest.raises(CospipeError, match=r"because it is strict(.|\n)*went offline while the pipeline ran"):
            list(results)
    may_end.set()


def test_draining_hands_out_what_is_inside_and_nothing_else(compiled, small_network):
    frames, taken, may_end = frames_for(compiled.bundle, 4), [], threading.Event()

    def camera():
        for frame in frames[:3]:
            taken.append(frame)
            yield frame
        runner.drain()  # as another thread would, while the source has the pipeline wait
        assert may_end.wait(10)
        yield frames[3]

    with PipelineRunner(compiled.bundle) as runner:
        results = list(runner.run(camera()))
        may_end.set()
        assert all(close(r, eager(small_network, f)) for r, f in zip(results, frames[:3], strict=True))
        assert runner.statistics.frames == 3
        again = list(runner.run(frames))
    assert all(close(r, eager(small_network, f)) for r, f in zip(again, frames, strict=True))


def test_draining_before_the_first_frame_takes_none(compiled):
    taken = []

    def source():
        taken.append(None)
        yield from frames_for(compiled.bundle, 3)

    with PipelineRunner(compiled.bundle) as runner:
        runner.drain()  # nothing runs yet
        results = runner.run(source())
        runner.drain()
        assert list(results) == []
    assert not taken


def test_draining_while_all_are_busy_loses_no_frame(compiled, small_network):
    frames, results = frames_for(compiled.bundle, 5) * 100, []
    with PipelineRunner(compiled.bundle, queue_depth=2) as runner:
        for number, result in enumerate(runner.run(frames)):
            results.append(result)
            if number == 20:
                runner.drain()
    assert 21 <= len(results) <= 21 + runner._window + 1
    assert runner.statistics.frames == len(results)
    assert all(close(r, eager(small_network, f)) for r, f in zip(results, frames, strict=False))


def test_an_error_of_the_source_behind_the_last_frame_wins_over_draining_too_late(compiled):
    def source():
        yield from frames_for(compiled.bundle, 2)
        raise ZeroDivisionError

    with PipelineRunner(compiled.bundle) as runner:
        results = runner.run(source())
        next(results)
        with pytest.raises(ZeroDivisionError):
            list(results)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_senseless_stall_timeouts_are_refused(compiled, seconds):
    with pytest.raises(UsageError, match="stall timeout"):
        PipelineRunner(compiled.bundle, stall_timeout_s=seconds)


def test_the_watchdog_ends_with_its_runner(compiled):
    with PipelineRunner(compiled.bundle):
        assert "watchdog" in [thread.name for thread in threading.enumerate()]
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]
