"""A runner whose stages, sources, frames or callers fail: never a wrong result, never an endless wait."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
from running import close, eager, frames_for

from cospipe.backends.bundle import open_bundle
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.runtime.stage import StageExecutable
from cospipe.ir.errors import BundleError, StageError, UsageError


def test_a_failing_stage_reaches_the_caller_with_its_name(compiled, monkeypatch):
    last = compiled.bundle.manifest.stages[-1].name
    call, calls = StageExecutable.call, []

    def failing(self, values, weights=None):
        calls.append(self.files.name)
        if self.files.name == last and calls.count(last) == 4:  # the first was the warm-up
            raise ValueError("the roof fell in")
        return call(self, values)

    monkeypatch.setattr(StageExecutable, "call", failing)
    results = []
    with PipelineRunner(compiled.bundle) as runner, pytest.raises(StageError, match="the roof fell in") as failure:
        results.extend(runner.run(frames_for(compiled.bundle, 20)))
    assert last in failure.value.stage
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stage")]


def test_a_stage_that_does_not_load_is_reported_before_any_frame(compiled, tmp_path):
    broken = open_bundle(shutil.copytree(compiled.bundle.folder, tmp_path / "broken"))
    broken.file(broken.manifest.stages[0].library).write_bytes(b"no library")
    with pytest.raises(BundleError, match=r"stage0-.* cannot be loaded"), PipelineRunner(broken):
        pass


def test_a_failing_source_closes_cleanly(compiled):
    def source():
        yield from frames_for(compiled.bundle, 3)
        raise ZeroDivisionError

    with PipelineRunner(compiled.bundle) as runner, pytest.raises(ZeroDivisionError):
        list(runner.run(source()))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stage")]


def test_an_abandoned_run_leaves_nothing_for_the_next(compiled, small_network):
    first, second = frames_for(compiled.bundle, 10, seed=1), frames_for(compiled.bundle, 4, seed=2)
    with PipelineRunner(compiled.bundle) as runner:
        for _ in runner.run(first):
            break
        results = list(runner.run(second))
    assert len(results) == 4
    assert all(close(r, eager(small_network, f)) for r, f in zip(results, second, strict=True))


def test_a_run_that_another_replaced_ends_with_a_sentence(compiled, small_network):
    frames = frames_for(compiled.bundle, 6)
    with PipelineRunner(compiled.bundle) as runner:
        old = runner.run(frames)
        next(old)
        new = list(runner.run(frames[3:]))
        with pytest.raises(UsageError, match="Another run"):
            next(old)
    assert all(close(r, eager(small_network, f)) for r, f in zip(new, frames[3:], strict=True))


def test_a_run_outlives_its_runner_only_to_say_so(compiled):
    with PipelineRunner(compiled.bundle) as runner:
        results = runner.run(frames_for(compiled.bundle, 6))
        next(results)
    with pytest.raises(UsageError, match="closed before this run was over"):
        next(results)


def test_closing_from_another_thread_ends_the_wait_for_results(compiled):
    with PipelineRunner(compiled.bundle) as runner:
        closer = threading.Timer(0.3, runner.close)

        def until_closed():
            closer.start()
            while True:
                yield frames_for(compiled.bundle, 1)[0]

        with pytest.raises(UsageError, match="closed before this run was over"):
            for _ in runner.run(until_closed()):
                pass
        closer.join()


def test_a_failed_pipeline_fails_again_and_does_not_wait_for_ever(compiled, monkeypatch):
    call = StageExecutable.call

    def failing(self, values, weights=None):
        if hasattr(self, "called"):
            raise MemoryError("no memory left")
        self.called = True
        return call(self, values)

    monkeypatch.setattr(StageExecutable, "call", failing)
    with PipelineRunner(compiled.bundle) as runner:
        for _ in range(2):
            with pytest.raises(StageError, match="no memory left"):
                list(runner.run(frames_for(compiled.bundle, 5)))


def test_a_wrong_frame_in_the_middle_leaves_the_runner_usable(compiled, small_network):
    frames = frames_for(compiled.bundle, 4)
    with PipelineRunner(compiled.bundle) as runner:
        with pytest.raises(UsageError, match="does not fit"):
            list(runner.run([*frames, {}]))
        results = list(runner.run(frames))
    assert all(close(r, eager(small_network, f)) for r, f in zip(results, frames, strict=True))


def test_a_runner_is_started_once(compiled):
    runner = PipelineRunner(compiled.bundle)
    with runner, pytest.raises(UsageError, match="started once"):
        runner.__enter__()
    with pytest.raises(UsageError, match="started once"):
        runner.__enter__()


def test_closing_twice_is_fine(compiled):
    runner = PipelineRunner(compiled.bundle)
    with runner:
        pass
    runner.close()
    with pytest.raises(UsageError, match="not started"):
        runner.run(frames_for(compiled.bundle, 1))


def test_every_misfit_of_a_frame_is_named(compiled):
    (image, offset) = (spec.name for spec in compiled.bundle.manifest.inputs)
    wrong = {image: np.zeros((1, 3, 4, 4), np.float64), "nobody": np.zeros(1)}
    with PipelineRunner(compiled.bundle) as runner, pytest.raises(UsageError) as error:
        list(runner.run([wrong]))
    assert all(word in str(error.value) for word in ("nobody", f"{offset} (1x5", "1x3x4x4 float64"))


def test_senseless_queue_depth(compiled):
    with pytest.raises(UsageError, match="at least 1"):
        PipelineRunner(compiled.bundle, queue_depth=0)


def test_another_architecture_and_version_are_refused(compiled):
    other = "aarch64" if compiled.bundle.manifest.architecture == "x86_64" else "x86_64"
    manifest = compiled.bundle.manifest.model_copy(update={"architecture": other, "tvm_version": "0.26.1"})
    with pytest.raises(BundleError, match=rf"{other}(.|\n)*0\.26\.1"):
        PipelineRunner(replace(compiled.bundle, manifest=manifest))
