"""The pipeline runner: order, numbers, back-pressure, times, cores, and how little it imports."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from running import close, eager, frames_for

from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.ir.plan import CoreConfiguration, Replica


def test_the_pipeline_has_stages_and_values_that_skip_one(compiled):
    first, middle, last = compiled.bundle.manifest.stages
    skips_first = {spec.name for spec in last.inputs} & {spec.name for spec in compiled.bundle.manifest.inputs}
    skips_middle = {spec.name for spec in last.inputs} & {spec.name for spec in first.outputs}
    assert skips_first
    assert skips_middle
    assert {spec.name for spec in middle.outputs} <= {spec.name for spec in last.inputs}


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


def test_statistics_are_those_of_the_latest_run(compiled):
    with PipelineRunner(compiled.bundle) as runner:
        list(runner.run(frames_for(compiled.bundle, 9)))
        first = runner.statistics
        time.sleep(0.3)
        list(runner.run(frames_for(compiled.bundle, 5)))
        second = runner.statistics.summary()
    assert first.summary()["frames"] == 9
    assert second["frames"] == 5
    assert second["period_us"] < 300e3  # the pause between the runs is nobody's period


def test_latency_is_never_shorter_than_the_work(compiled):
    with PipelineRunner(compiled.bundle, queue_depth=3, keep_trace=True) as runner:
        list(runner.run(frames_for(compiled.bundle, 200)))
    busy = list(zip(*(stage.work for stage in runner.statistics.stages), strict=True))
    times = zip(runner.statistics.entered_s, runner.statistics.finished_s, strict=True)
    assert [[each.frame for each in work] for work in busy] == [[number] * 3 for number in range(200)]
    for (start, end), work in zip(times, busy, strict=True):
        assert (end - start) * 1e6 >= sum(each.busy_us for each in work) * 0.999


def test_no_frames_give_no_results(compiled):
    with PipelineRunner(compiled.bundle) as runner:
        assert list(runner.run([])) == []
        assert runner.statistics.summary()["frames"] == 0


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


def any_cores(cpu_ids):
    return CoreConfiguration("any", len(cpu_ids))


def with_cores(bundle, *cpu_ids):
    """Return a bundle whose plan gives its stages other cores."""
    stages = tuple(
        stage.model_copy(update={"replicas": (Replica(cores=(any_cores(ids),), cpu_ids=ids, compute_us=1),)})
        for stage, ids in zip(bundle.manifest.plan.stages, cpu_ids, strict=True)
    )
    plan = bundle.manifest.plan.model_copy(update={"stages": stages})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"plan": plan}))


def threads_of_this_process():
    return {int(thread) for thread in os.listdir("/proc/self/task")}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_every_thread_of_a_stage_is_pinned_to_a_core_of_its_own(compiled, small_network):
    first, second = sorted(os.sched_getaffinity(0))[:2]
    frames = frames_for(compiled.bundle, 3)
    with PipelineRunner(with_cores(compiled.bundle, (first,), (first, second), (second,))) as runner:
        names = {thread.native_id: thread.name.split()[0] for thread in threading.enumerate()}
        stages = {name: os.sched_getaffinity(native) for native, name in names.items() if name.startswith("stage")}
        assert stages == {"stage0": {first}, "stage1": {first}, "stage2": {second}}
        workers = [os.sched_getaffinity(native) for native in threads_of_this_process() - names.keys()]
        assert {second} in workers  # the second thread of stage1
        results = list(runner.run(frames))
    assert all(close(r, eager(small_network, f)) for r, f in zip(results, frames, strict=True))
    assert os.sched_getaffinity(0) >= {first, second}


def test_stages_share_the_cores_where_the_plan_has_more(compiled, small_network):
    missing = tuple(range(1000, 1000 + len(os.sched_getaffinity(0))))
    frames = frames_for(compiled.bundle, 4)
    with PipelineRunner(with_cores(compiled.bundle, missing, missing, missing)) as runner:
        results = list(runner.run(frames))
    assert {stage["placement"] for stage in runner.statistics.summary()["stages"]} == {"shared"}
    assert all(close(r, eager(small_network, f)) for r, f in zip(results, frames, strict=True))


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
