"""The pipeline runner: order, numbers, back-pressure, failures, pinning, and how little it imports."""

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from cospipe.backends.bundle import open_bundle
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.runtime.stage import StageExecutable
from cospipe.ir.errors import BundleError, StageError, UsageError


def frames_for(bundle, count, seed=0):
    generator = np.random.default_rng(seed)
    return [
        {spec.name: generator.standard_normal(spec.shape).astype(spec.dtype) for spec in bundle.manifest.inputs}
        for _ in range(count)
    ]


def eager(network, frame):
    with torch.no_grad():
        return [output.numpy() for output in network(*(torch.from_numpy(array) for array in frame.values()))]


def close(result, expected):
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(result.values(), expected, strict=True))


def test_results_come_in_order_and_equal_eager(compiled, small_network):
    frames = frames_for(compiled.bundle, 12)
    with PipelineRunner(compiled.bundle) as runner:
        results = list(runner.run(frames))
    assert len(results) == len(frames)
    assert all(close(r, eager(small_network, f)) for r, f in zip(results, frames, strict=True))


def test_results_stay_valid_and_buffers_may_be_reused(compiled, small_network):
    frames = frames_for(compiled.bundle, 8)
    buffer = {name: array.copy() for name, array in frames[0].items()}

    def reusing():
        for frame in frames:
            for name, array in frame.items():
                buffer[name][...] = array
            yield buffer

    with PipelineRunner(compiled.bundle) as runner:
        results = list(runner.run(reusing()))
    del runner
    gc.collect()
    assert all(close(r, eager(small_network, f)) for r, f in zip(results, frames, strict=True))


def test_frames_are_taken_only_as_fast_as_they_are_accepted(compiled):
    taken = []

    def counted():
        for number, frame in enumerate(frames_for(compiled.bundle, 50)):
            taken.append(number)
            yield frame

    with PipelineRunner(compiled.bundle) as runner:
        stages = len(compiled.bundle.manifest.stages)
        results = runner.run(counted())
        next(results)
        time.sleep(0.2)
        assert len(taken) <= 2 * stages + 2
        assert len(list(results)) == 49


def test_statistics_count_every_frame(compiled):
    with PipelineRunner(compiled.bundle) as runner:
        list(runner.run(frames_for(compiled.bundle, 10)))
        summary = runner.statistics.summary()
    assert summary["frames"] == 10
    assert summary["period_us"] > 0
    assert summary["latency_p99_us"] >= summary["latency_median_us"] >= max(s["median_us"] for s in summary["stages"])


def test_a_failing_stage_reaches_the_caller_with_its_name(compiled, monkeypatch):
    last = compiled.bundle.manifest.stages[-1].name
    call, calls = StageExecutable.call, []

    def failing(self, values):
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


def test_closing_twice_is_fine(compiled):
    runner = PipelineRunner(compiled.bundle)
    with runner:
        pass
    runner.close()
    with pytest.raises(UsageError, match="not started"):
        next(runner.run(frames_for(compiled.bundle, 1)))


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
    bundle = type(compiled.bundle)(compiled.bundle.path, compiled.bundle.folder, manifest)
    with pytest.raises(BundleError, match=rf"{other}(.|\n)*0\.26\.1"):
        PipelineRunner(bundle)


def test_stage_threads_run_on_their_own_cores(compiled):
    with PipelineRunner(compiled.bundle) as runner:
        seen = {
            thread.name: os.sched_getaffinity(thread.native_id)
            for thread in threading.enumerate()
            if thread.name.startswith("stage")
        }
        wanted = [set(stage["cpu_ids"]) for stage in runner.statistics.summary()["stages"]]
    assert len(seen) == len(wanted)
    for cores in wanted:
        assert any(affinity <= cores for affinity in seen.values())


@pytest.mark.parametrize("how", ["api", "command"])
def test_running_needs_neither_torch_nor_networkx_nor_the_compiler(compiled, how):
    path = str(compiled.bundle.path)
    calls = {
        "api": f"""
from cospipe import PipelineRunner, open_bundle
with PipelineRunner(open_bundle({path!r})):
    pass
""",
        "command": f"""
sys.argv = ['cospipe', 'run', {path!r}, '--frames', '3']
from cospipe.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
""",
    }
    found = "print(json.dumps([m for m in ('torch', 'networkx', 'tvm') if m in sys.modules]))"
    script = f"import json, sys\n{calls[how]}\n{found}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
