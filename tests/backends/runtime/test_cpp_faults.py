"""What goes wrong in cospipe-run, under sanitizers: stages that fail, stall or lie, signals, memory, disks, readers.

The stages are those of the fake runtime, which is instrumented like the program; real ones are in test_cpp_runner.py.
"""

import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cpp_runner import fake_runner, wait_until
from fake_stages import FakePipeline, FakeReplica, FakeStage, Output, adapter_for, chain, tensor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STREAM = ("--raw", "-", "--raw-output", "-")
DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


@pytest.fixture(scope="module")
def runner():
    """Built with AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer."""
    return fake_runner("address")


@pytest.fixture(scope="module", params=["address", "thread"])
def any_runner(request):
    """The same, and again with ThreadSanitizer: for what happens between threads."""
    return fake_runner(request.param)


@pytest.fixture(scope="module")
def plain():
    """Without sanitizers, which need memory themselves."""
    return fake_runner("plain")


def failing(fault, stage=1, count=3):
    """Return three stages in a row; in one of them something is wrong."""
    lines = [(fault,) if i == stage else () for i in range(count)]
    return chain(count, lines=lines)


def skipping():
    """Return a network with everything: inputs and outputs of all types, skips, no elements, scalars, replicas."""
    x, y, scalar, empty = (
        tensor("x"),
        tensor("y", (5,), "int64"),
        tensor("scalar", (), "float64"),
        tensor("empty", (0, 3)),
    )
    early = tensor("early", (4, 2), "float16")
    late = [tensor(f"late_{dtype}", (3,), dtype) for dtype in DTYPES]
    none = tensor("none", (2, 0, 4), "int32")
    first = FakeStage(
        (x, scalar), (Output(early, "x", 2.0), Output(none, "scalar")), weights={"w": np.ones(3, np.float32)}
    )
    middle = FakeStage(
        (empty, early),
        tuple(Output(spec, "early", 0.5, 1.0) for spec in late),
        replicas=(FakeReplica(), FakeReplica(lines=("sleep_us 300",))),
        adapted="middle",
    )
    last = FakeStage(
        (late[1], x, y, none), (Output(tensor("sum", (), "float32"), "y", 3.0), Output(tensor("z", (7,)), "x"))
    )
    return FakePipeline(
        (x, y, scalar, empty), (first, middle, last), ("z", "sum", "early", "none", *(s.name for s in late))
    )


def test_every_type_shape_and_way_through_the_stages(any_runner, tmp_path):
    pipeline = skipping()
    ended = any_runner.run(pipeline.write(tmp_path / "bundle"), *STREAM, stdin=pipeline.raw(30))
    assert ended.status == 0, ended.errors
    assert ended.output == pipeline.raw_results(30)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_of_every_type(runner, tmp_path, dtype):
    pipeline = chain(1, spec=tensor("value0", (3, 5), dtype))
    ended = runner.run(pipeline.write(tmp_path / "bundle"), *STREAM, stdin=pipeline.raw(3))
    assert (ended.status, ended.output) == (0, pipeline.raw_results(3)), ended.errors


@st.composite
def pipelines(draw):
    """Stages with replicas that take different times, and skips."""
    count = draw(st.integers(1, 4))
    specs = [tensor("value0", (3,))]
    stages = []
    for i in range(count):
        of = draw(st.sampled_from(specs))
        again = draw(st.sampled_from(specs))
        made = tensor(f"value{i + 1}", (3,))
        aside = tensor(f"aside{i + 1}", (2,), draw(st.sampled_from(["int32", "float32"])))
        replicas = st.builds(lambda time_us: FakeReplica(lines=(f"sleep_us {time_us}",)), st.integers(0, 400))
        stages.append(
            FakeStage(
                inputs=tuple(dict.fromkeys((of, again))),
                outputs=(Output(made, of.name, 1.0, draw(st.integers(0, 3))), Output(aside, again.name, 2.0)),
                replicas=tuple(draw(st.lists(replicas, min_size=1, max_size=3))),
                adapted=draw(st.sampled_from([None, f"weight{i}"])),
                shares_by_speed=draw(st.booleans()),
            )
        )
        specs += [made, aside]
    outputs = draw(st.lists(st.sampled_from([spec.name for spec in specs]), min_size=1, unique=True))
    return FakePipeline((specs[0],), tuple(stages), tuple(outputs))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pipeline=pipelines(), frames=st.integers(0, 40), depth=st.integers(1, 4), data=st.data())
def test_no_frame_is_lost_doubled_or_overtaken(any_runner, tmp_path_factory, pipeline, frames, depth, data):
    folder = tmp_path_factory.mktemp("random")
    bundle = pipeline.write(folder / "bundle")
    adapters = {name: adapter_for(pipeline, ord(name), folder / name) for name in "ab"} | {"none": None}
    room = any(stage.adapted for stage in pipeline.stages)
    swaps = data.draw(st.dictionaries(st.integers(0, 45), st.sampled_from([*adapters]), max_size=3 if room else 0))
    options = [f"--swap-adapter={n}={folder / name if name != 'none' else name}" for n, name in swaps.items()]
    ended = any_runner.run(bundle, *STREAM, f"--queue-depth={depth}", *options, stdin=pipeline.raw(frames))
    assert ended.status == 0, ended.errors
    assert ended.output == pipeline.raw_results(frames, [_current(swaps, adapters, n) for n in range(frames)])


def _current(swaps, adapters, frame):
    """Return the adapter that a frame must meet."""
    before = [number for number in swaps if number <= frame]
    return adapters[swaps[max(before)]] if before else None


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stage_that_throws_is_named_with_its_frame(any_runner, tmp_path, stage):
    pipeline = failing("when call 4 throw the roof fell in", stage)
    ended = any_runner.run(pipeline.write(tmp_path / "bundle"), *STREAM, stdin=pipeline.raw(50))
    assert ended.status == 1
    assert f"stage{stage} (big:1) failed at frame 4" in ended.errors
    assert "the roof fell in" in ended.errors
    assert "second line" not in ended.errors
    assert pipeline.raw_results(4).startswith(ended.output)


def test_a_replica_that_throws_is_named(any_runner, tmp_path):
    replicas = (FakeReplica(), FakeReplica(lines=("when call 3 throw the roof fell in",)))
    pipeline = chain(1, replicas=replicas)
    ended = any_runner.run(pipeline.write(tmp_path / "bundle"), "--frames", "0")
    assert ended.status == 1
    assert "stage0 replica 1 (big:1) failed at frame" in ended.errors


def test_a_run_that_failed_says_so_in_json(runner, tmp_path):
    pipeline = failing("when call 4 throw the roof fell in")
    ended = runner.run(pipeline.write(tmp_path / "bundle"), "--json")
    assert ended.status == 1
    assert "the roof fell in" in ended.statistics["error"]["message"]


def test_a_stage_without_memory_is_named(any_runner, tmp_path):
    ended = any_runner.run(failing("when call 2 bad_alloc").write(tmp_path / "bundle"))
    assert ended.status == 1
    assert "stage1 (big:1) failed at frame 2: there is no memory left" in ended.errors


@pytest.mark.parametrize("fault", ["shape", "type", "count"])
def test_tensors_of_another_form_are_no_result(runner, tmp_path, fault):
    ended = runner.run(failing(f"when call 2 {fault}").write(tmp_path / "bundle"))
    assert ended.status == 1
    assert "stage1 (big:1) failed at frame 2: it returned other tensors" in ended.errors


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_is_an_error_when_asked_for(runner, tmp_path, dtype):
    spec = tensor("value0", (2, 3), dtype)
    pipeline = chain(3, spec=spec, lines=[(), ("when call 5 nan",), ()])
    bundle = pipeline.write(tmp_path / "bundle")
    ended = runner.run(bundle, *STREAM, "--fail-on-nan", stdin=pipeline.raw(20))
    assert ended.status == 1
    assert f"stage1 (big:1) put out NaN in value2 (2x3 {dtype}) at frame 5" in ended.errors
    ended = runner.run(bundle, *STREAM, stdin=pipeline.raw(20))
    assert ended.status == 0
    results = np.frombuffer(ended.output, dtype).reshape(20, 2, 3)
    assert [bool(np.isnan(result).any()) for result in results] == [n == 5 for n in range(20)]


def test_a_stage_that_stalls_is_named(any_runner, tmp_path):
    pipeline = failing(f"when call 3 stall_until {tmp_path / 'never'}")
    ended = any_runner.run(pipeline.write(tmp_path / "bundle"), "--frames", "0", "--stall-timeout", "0.5")
    assert ended.status == 1
    assert "stage1 (big:1) has been at frame 3 for more than 0.5 s" in ended.errors


def test_a_stage_may_take_as_long_as_it_likes(runner, tmp_path):
    pipeline = failing("when call 3 stall_us 700000")
    bundle = pipeline.write(tmp_path / "bundle")
    assert runner.run(bundle, "--frames", "6", "--stall-timeout", "0").status == 0
    assert runner.run(bundle, "--frames", "6", "--stall-timeout", "0.3").status == 1


def test_a_process_that_was_stopped_has_not_stalled(any_runner, tmp_path):
    gate = tmp_path / "gate"
    log = tmp_path / "log"
    pipeline = chain(1, lines=(f"log {log}", f"when call 3 stall_until {gate}"))
    bundle = pipeline.write(tmp_path / "bundle")
    with any_runner.started(bundle, "--frames", "6", "--stall-timeout", "2") as started:
        wait_until(lambda: _lines(log) == 4, "the fourth call")
        started.signal(signal.SIGSTOP)
        time.sleep(2.5)
        started.signal(signal.SIGCONT)
        gate.touch()
        ended = started.ended()
    assert ended.status == 0, ended.errors


def _lines(file):
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_waiting_for_input_is_no_stall(any_runner, tmp_path):
    pipeline = chain(2)
    bundle = pipeline.write(tmp_path / "bundle")
    with any_runner.started(bundle, *STREAM, "--stall-timeout", "1.5") as started:
        size = len(pipeline.raw_results(1))
        started.feed(pipeline.raw(1))
        first = started.read(size)  # it is there though the next frame is not
        time.sleep(2.5)
        ended = started.ended(pipeline.raw(2)[len(pipeline.raw(1)) :])
    assert ended.status == 0, ended.errors
    assert first + ended.output == pipeline.raw_results(2)


def test_waiting_for_whoever_takes_results_is_no_stall(any_runner, tmp_path):
    pipeline = chain(2, spec=tensor("value0", (64, 1024)))
    bundle = pipeline.write(tmp_path / "bundle")
    frames = tmp_path / "frames"
    frames.write_bytes(pipeline.raw(8))
    with any_runner.started(bundle, "--raw", frames, "--raw-output", "-", "--stall-timeout", "1.5") as started:
        first = started.read(1)
        time.sleep(2.5)
        ended = started.ended()
    assert ended.status == 0, ended.errors
    assert first + ended.output == pipeline.raw_results(8)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_frames_inside_finish(any_runner, tmp_path, number):
    log, results = tmp_path / "log", tmp_path / "results"
    replicas = [(FakeReplica(),), (FakeReplica(), FakeReplica(lines=("sleep_us 900",))), (FakeReplica(),)]
    pipeline = chain(3, replicas=replicas, lines=[(f"log {log}",), (), ("sleep_us 100",)])
    bundle = pipeline.write(tmp_path / "bundle")
    frames = tmp_path / "frames"
    frames.write_bytes(pipeline.raw(30000))
    with any_runner.started(bundle, "--raw", frames, "--raw-output", results, "--json") as started:
        wait_until(lambda: _lines(log) > 20, "twenty frames")
        started.signal(number)
        ended = started.ended()
    assert ended.status == 128 + number
    statistics = ended.statistics
    assert statistics["interrupted_by"] == number.name
    assert 0 < statistics["frames"] < 30000
    assert statistics["frames"] == _lines(log) == statistics["stages"][2]["replicas"][0]["frames"]
    assert results.read_bytes() == pipeline.raw_results(statistics["frames"])


def test_a_signal_ends_waiting_for_input(any_runner, tmp_path):
    pipeline = chain(2)
    bundle = pipeline.write(tmp_path / "bundle")
    with any_runner.started(bundle, *STREAM) as started:
        started.feed(pipeline.raw(1))
        first = started.read(len(pipeline.raw_results(1)))
        started.signal(signal.SIGTERM)
        started.popen.wait(timeout=60)  # though its standard input is still open
        ended = started.ended()
    assert ended.status == 143
    assert first + ended.output == pipeline.raw_results(1)


def test_a_second_signal_ends_at_once(any_runner, tmp_path):
    log = tmp_path / "log"
    pipeline = chain(1, lines=(f"log {log}", f"when call 3 stall_until {tmp_path / 'never'}"))
    with any_runner.started(pipeline.write(tmp_path / "bundle"), "--frames", "0") as started:
        wait_until(lambda: _lines(log) == 4, "the fourth call")
        started.signal(signal.SIGINT)
        time.sleep(0.3)
        assert started.popen.poll() is None
        started.signal(signal.SIGINT)
        assert started.ended().status == 130


def test_a_signal_while_libraries_are_loaded_ends_the_program(runner, tmp_path):
    """The fifo stands for a slow disk: nobody writes to it."""
    pipeline = chain(1)
    bundle = pipeline.write(tmp_path / "bundle")
    os.mkfifo(tmp_path / "frames")
    with runner.started(bundle, "--raw", tmp_path / "frames") as started:
        time.sleep(0.5)
        started.signal(signal.SIGTERM)
        assert started.ended().status == 143


def test_hanging_up_reads_the_adapter_again(any_runner, tmp_path):
    pipeline = chain(2, adapted=True, replicas=(FakeReplica(), FakeReplica(lines=("sleep_us 100",))))
    bundle = pipeline.write(tmp_path / "bundle")
    file = tmp_path / "adapter.safetensors"
    adapters = [adapter_for(pipeline, 1, file)]
    size = len(pipeline.raw_results(1))
    with any_runner.started(bundle, *STREAM, "--adapter", file) as started:
        sent = pipeline.raw(60)
        each = len(sent) // 60
        seen = b""
        for number in range(60):
            if number in (20, 40):
                adapters.append(adapter_for(pipeline, number, file))
                started.signal(signal.SIGHUP)
            started.feed(sent[number * each : (number + 1) * each])
            seen += started.read(size)
            time.sleep(0.02)
        ended = started.ended()
    assert ended.status == 0, ended.errors
    used = [_which(pipeline, adapters, n, seen[n * size : (n + 1) * size]) for n in range(60)]
    assert used == sorted(used)
    assert set(used) == {0, 1, 2}


def test_weights_of_replaced_adapters_are_not_kept(any_runner, tmp_path):
    counts = tmp_path / "counts"
    marks, swaps = [*range(3, 9), *range(13, 19), *range(23, 29), *range(33, 39)], {10: "b", 20: "a", 30: "b"}
    lines = [tuple(f"when call {mark} live_objects {counts}" for mark in marks), ()]
    pipeline = chain(2, adapted=True, lines=lines)
    for seed, name in enumerate("ab"):
        adapter_for(pipeline, seed, tmp_path / name)
    options = ["--adapter", tmp_path / "a", *(f"--swap-adapter={at}={tmp_path / name}" for at, name in swaps.items())]
    size = len(pipeline.raw_results(1))
    sent = pipeline.raw(40)
    each = len(sent) // 40
    with any_runner.started(pipeline.write(tmp_path / "bundle"), *STREAM, *options) as started:
        for number in range(40):  # one frame is inside at a time
            started.feed(sent[number * each : (number + 1) * each])
            started.read(size)
        assert started.ended().status == 0
    objects = [int(line) for line in counts.read_text().split()]
    assert len(objects) == len(marks)
    # a result may still be on its way out when the next frame comes in; weights that are kept stay
    fewest = {min(objects[first : first + 6]) for first in range(0, len(marks), 6)}
    assert len(fewest) == 1, objects


def _which(pipeline, adapters, number, result):
    """Return the position of the adapter that a frame met; exactly one fits."""
    frame = pipeline.frame(number + 1)
    possible = [b"".join(v.tobytes() for v in pipeline.expected(frame, adapter).values()) for adapter in adapters]
    return possible.index(result)


def test_a_broken_adapter_changes_nothing_while_running(any_runner, tmp_path):
    pipeline = chain(2, adapted=True)
    bundle = pipeline.write(tmp_path / "bundle")
    file = tmp_path / "adapter.safetensors"
    adapter = adapter_for(pipeline, 1, file)
    with any_runner.started(bundle, *STREAM, "--adapter", file) as started:
        started.feed(pipeline.raw(1))
        first = started.read(len(pipeline.raw_results(1)))
        file.write_bytes(file.read_bytes()[:100])
        started.signal(signal.SIGHUP)
        time.sleep(0.5)
        ended = started.ended(pipeline.raw(2)[len(pipeline.raw(1)) :])
    assert ended.status == 0
    assert "goes on with the adapter it had" in ended.errors
    assert first + ended.output == pipeline.raw_results(2, [adapter, adapter])


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_the_end_of_threads_is_not_waited_for(any_runner, tmp_path, is_interrupted):
    pipeline = chain(2, adapted=True)
    adapter = adapter_for(pipeline, 1, tmp_path / "adapter")
    options = (*STREAM, "--adapter", tmp_path / "adapter", f"--swap-adapter=1={tmp_path / 'adapter'}")
    never = replace(any_runner, environment={"FAKE_THREADS_NEVER_END": "1"})
    with never.started(pipeline.write(tmp_path / "bundle"), *options) as started:
        started.feed(pipeline.raw(2))
        output = started.read(len(pipeline.raw_results(2)))
        if is_interrupted:
            started.signal(signal.SIGTERM)
        ended = started.ended()
    assert ended.status == (128 + signal.SIGTERM if is_interrupted else 0), ended.errors
    assert output == pipeline.raw_results(2, [adapter, adapter])


def test_hanging_up_without_an_adapter_does_nothing(runner, tmp_path):
    pipeline = chain(1)
    with runner.started(pipeline.write(tmp_path / "bundle"), *STREAM) as started:
        started.feed(pipeline.raw(1))
        started.read(len(pipeline.raw_results(1)))
        started.signal(signal.SIGHUP)
        assert started.ended().status == 0


def test_weights_that_were_trained_whole_take_the_place_of_stored_ones(runner, tmp_path):
    pipeline = chain(2, weights=[{"first": np.ones(3, np.float32)}, {"second": np.ones((2, 2), np.float32)}])
    bundle = pipeline.write(tmp_path / "bundle")
    adapter = adapter_for(pipeline, 1, tmp_path / "a", {"second": np.arange(4, dtype=np.float32).reshape(2, 2)})
    ended = runner.run(bundle, *STREAM, f"--swap-adapter=7={tmp_path / 'a'}", stdin=pipeline.raw(10))
    assert ended.status == 0, ended.errors
    assert ended.output == pipeline.raw_results(10, [None] * 7 + [adapter] * 3)


def test_fast_replicas_take_more_frames_and_results_keep_their_order(any_runner, tmp_path):
    replicas = (FakeReplica(lines=("sleep_us 20000",), compute_us=20), FakeReplica(lines=("sleep_us 500",)))
    pipeline = chain(1, replicas=replicas)
    results = tmp_path / "results"
    frames = tmp_path / "frames"
    frames.write_bytes(pipeline.raw(200))
    bundle = pipeline.write(tmp_path / "bundle")
    ended = any_runner.run(bundle, "--raw", frames, "--raw-output", results, "--json")
    assert results.read_bytes() == pipeline.raw_results(200)
    slow, fast = (replica["frames"] for replica in ended.statistics["stages"][0]["replicas"])
    assert slow + fast == 200
    assert fast > 3 * slow > 0


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_frames_wait_than_the_queues_hold(any_runner, tmp_path, depth):
    gate, logs = tmp_path / "gate", [tmp_path / f"log{i}" for i in range(3)]
    faults = [(), (), (f"when call 0 stall_until {gate}",)]
    pipeline = chain(3, lines=[(f"log {log}", *fault) for log, fault in zip(logs, faults, strict=True)])
    bundle = pipeline.write(tmp_path / "bundle")
    options = ("--frames", "100", f"--queue-depth={depth}", "--json")
    most = [2 * depth + 3, depth + 2, 1]  # those behind a stage, those between, and the one it is at itself
    with any_runner.started(bundle, *options) as started:
        wait_until(lambda: [_lines(log) for log in logs] == most, "full queues")
        time.sleep(0.3)
        assert [_lines(log) for log in logs] == most
        gate.touch()
        ended = started.ended()
    assert ended.statistics["frames"] == 100
    waited = [stage["queue_depth_max"] for stage in ended.statistics["stages"]]
    assert max(waited) <= depth
    assert waited[2] >= depth - 1


def test_memory_stays_flat_without_an_end(plain, tmp_path):
    counts = tmp_path / "counts"
    marks = [2000, 20000, 40000]
    lines = [tuple(f"when call {mark} live_objects {counts}" for mark in marks), ()]
    replicas = [(FakeReplica(),), (FakeReplica(), FakeReplica(lines=("sleep_us 1",)))]
    pipeline = chain(2, spec=tensor("value0", (100, 100)), lines=lines, replicas=replicas)
    resident = []
    with plain.started(pipeline.write(tmp_path / "bundle"), "--frames", "0", "--json") as started:
        for position in range(len(marks)):
            wait_until(lambda: _lines(counts) > position, f"frame {marks[position]}")  # noqa: B023
            resident.append(_resident_bytes(started.popen.pid))
        started.signal(signal.SIGTERM)
        ended = started.ended()
    assert ended.statistics["frames"] >= marks[-1]
    objects = [int(line) for line in counts.read_text().split()]
    assert max(objects) < 200
    assert resident[2] - resident[1] < 16 * (marks[2] - marks[1])  # a frame's times alone would be 24 bytes


def _resident_bytes(process):
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _allowed():
    return sorted(os.sched_getaffinity(0))


def test_cores_that_do_not_exist_are_replaced_with_a_warning(runner, tmp_path):
    log = tmp_path / "log"
    replicas = [(FakeReplica((_allowed()[0],)),), (FakeReplica((4000,)),)]
    pipeline = chain(2, replicas=replicas, lines=[(), (f"log {log}",)])
    bundle = pipeline.write(tmp_path / "bundle")
    ended = runner.run(bundle, "--json", "--frames", "5")
    assert ended.status == 0
    assert "4000" in ended.errors
    assert any("4000" in warning for warning in ended.statistics["warnings"])
    assert {int(c) for line in log.read_text().splitlines() for c in line.split()[1].split(",")} <= set(_allowed())
    refused = runner.run(bundle, "--strict")
    assert refused.status == 1
    assert "4000" in refused.errors


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_cpuset_that_forbids_cores(runner, tmp_path):
    first, second = _allowed()[:2]
    log = tmp_path / "log"
    pipeline = chain(2, replicas=[(FakeReplica((first,)),), (FakeReplica((second,)),)], lines=(f"log {log}",))
    bundle = pipeline.write(tmp_path / "bundle")
    confined = {"preexec_fn": lambda: os.sched_setaffinity(0, {first})}
    ended = runner.run(bundle, *STREAM, stdin=pipeline.raw(5), **confined)
    assert (ended.status, ended.output) == (0, pipeline.raw_results(5)), ended.errors
    assert f"{second}" in ended.errors
    assert {line.split()[1] for line in log.read_text().splitlines()} == {str(first)}
    refused = runner.run(bundle, "--strict", **confined)
    assert refused.status == 1
    assert f"{second}" in refused.errors
    assert runner.run(bundle, "--strict").status == 0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_stage_on_two_cores_raises_no_warning(runner, tmp_path):
    bundle = chain(2, replicas=(FakeReplica(tuple(_allowed()[:2])),), lines=("sleep_us 30000",)).write(tmp_path / "b")
    ended = runner.run(bundle, "--frames", "80", "--strict", "--json")  # long enough for a look at the cores
    assert (ended.status, ended.errors) == (0, "")
    assert ended.statistics["warnings"] == []


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("strict", [False, True])
def test_a_thread_that_is_moved_away_from_its_cores(any_runner, tmp_path, strict):
    first, second = _allowed()[:2]
    counts = tmp_path / "counts"
    lines = ("sleep_us 1000", f"when call 3 live_objects {counts}")
    pipeline = chain(1, replicas=(FakeReplica((first,)),), lines=lines)
    bundle = pipeline.write(tmp_path / "bundle")
    options = ["--strict"] if strict else []
    with any_runner.started(bundle, "--frames", "0", "--json", *options) as started:
        wait_until(counts.exists, "some frames")
        time.sleep(0.2)
        for thread in os.listdir(f"/proc/{started.popen.pid}/task"):
            os.sched_setaffinity(int(thread), {second})
        if not strict:
            time.sleep(2.5)
            started.signal(signal.SIGTERM)
        ended = started.ended()
    assert ended.status == (1 if strict else 143)
    assert "stage0 (big:1)" in ended.errors


def test_the_program_says_that_there_is_no_memory_whatever_the_limit(plain, tmp_path):
    pipeline = chain(2, spec=tensor("value0", (2000, 2000)), adapted=True)
    bundle = pipeline.write(tmp_path / "bundle")
    statuses = []
    for megabytes in (8, 16, 24, 32, 40, 56, 80, 120, 160, 240, 320, 400, 500, 700, 4000):
        limit = megabytes << 20
        ended = plain.run(
            bundle,
            "--frames",
            "3",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),  # noqa: B023
        )
        statuses.append(ended.status)
        assert ended.status == 0 or ended.errors, megabytes
        assert ended.status in (0, 1, 127), (megabytes, ended)  # 127: the system cannot even load it
        assert "terminate called" not in ended.errors
    assert statuses[-1] == 0
    assert 1 in statuses


def test_a_reader_that_went_away_is_an_error(any_runner, tmp_path):
    pipeline = chain(2, spec=tensor("value0", (64, 1024)))
    bundle = pipeline.write(tmp_path / "bundle")
    with any_runner.started(bundle, "--frames", "0", "--raw-output", "-") as started:
        started.read(1000)
        started.popen.stdout.close()
        started.popen.stdout = None
        ended = started.ended()
    assert ended.status == 1
    assert "standard output" in ended.errors.lower()


@pytest.mark.parametrize("options", [("--raw-output", "-"), ("--json",), ()])
def test_a_full_disk_behind_standard_output(runner, tmp_path, options):
    bundle = chain(2).write(tmp_path / "bundle")
    with open("/dev/full", "wb") as full:
        ended = runner.run(bundle, *options, stdout=full)
    assert ended.status == 1
    assert "standard output" in ended.errors.lower()


def test_a_full_disk_behind_raw_results(any_runner, tmp_path):
    bundle = chain(2).write(tmp_path / "bundle")
    ended = any_runner.run(bundle, "--raw-output", "/dev/full")
    assert ended.status == 1
    assert "/dev/full" in ended.errors


@pytest.mark.parametrize("kind", ["--output", "--raw-output"])
def test_a_file_that_may_not_grow_is_an_error(runner, tmp_path, kind):
    bundle = chain(2, spec=tensor("value0", (64, 64))).write(tmp_path / "bundle")
    folder = tmp_path / "results"
    folder.mkdir()
    limit = 100_000
    ended = runner.run(
        bundle, kind, folder / "r.npz", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert ended.status == 1
    assert "r.npz" in ended.errors
    assert [file.name for file in folder.iterdir()] == (["r.npz"] if kind == "--raw-output" else [])


def test_results_without_a_folder_are_refused_before_anything_runs(runner, tmp_path):
    log = tmp_path / "log"
    bundle = chain(1, lines=(f"log {log}",)).write(tmp_path / "bundle")
    for option in ("--output", "--raw-output"):
        ended = runner.run(bundle, option, tmp_path / "nowhere" / "r.npz")
        assert ended.status in (1, 2)
        assert "nowhere" in ended.errors
    assert _lines(log) == 0


def test_input_that_is_cut_off_inside_a_frame(any_runner, tmp_path):
    pipeline = chain(2)
    ended = any_runner.run(pipeline.write(tmp_path / "bundle"), *STREAM, stdin=pipeline.raw(3)[:-1])
    assert ended.status == 1
    assert ended.output == pipeline.raw_results(2)
    assert ended.errors.startswith("cospipe-run: ")


def test_verifying_tells_which_build_computes_something_else(runner, tmp_path):
    wrong = ("output 0 1.0 5.0 float32 2 2 3",)  # a further result: the count differs
    good = chain(2, replicas=(FakeReplica(), FakeReplica(lines=("sleep_us 1",)))).write(tmp_path / "good")
    ended = runner.run(good, "--verify", "--json")
    assert ended.status == 0, ended.errors
    assert ended.statistics["passed"]
    parts = {check["part"] for check in ended.statistics["checks"]}
    assert parts == {"stage0", "stage0 for 1 generic", "stage1", "stage1 for 1 generic", "whole"}
    bad = chain(2, replicas=(FakeReplica(), FakeReplica(lines=wrong))).write(tmp_path / "bad")
    ended = runner.run(bad, "--verify")
    assert ended.status == 1
    assert "stage0 for 1 generic" in ended.errors


def test_verifying_finds_wrong_numbers(runner, tmp_path):
    pipeline = chain(2)
    bundle = pipeline.write(tmp_path / "bundle")
    values = pipeline.values(pipeline.frame(1))
    from cospipe.ir.tensor_file import write_tensors

    write_tensors(tmp_path / "other.safetensors", {**values, "value1": values["value1"] + 1})
    ended = runner.run(bundle, "--verify", "--json", "--reference", tmp_path / "other.safetensors")
    assert ended.status == 1
    failed = [check["part"] for check in ended.statistics["checks"] if not check["passed"]]
    assert failed == ["stage0", "stage1"]


def _spool(pipeline, folder, numbers):
    """Write frames into a spool."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        scratch = folder / f".{number:06}.npz"
        with scratch.open("wb") as file:
            np.savez(file, **pipeline.frame(number))
        scratch.rename(folder / f"{number:06}.npz")


def test_a_runner_that_is_killed_again_and_again_does_each_frame_once(any_runner, tmp_path):
    pipeline = chain(
        2, replicas=[(FakeReplica(), FakeReplica(lines=("sleep_us 900",))), (FakeReplica(),)], lines=("sleep_us 300",)
    )
    bundle = pipeline.write(tmp_path / "bundle")
    spool, results = tmp_path / "in", tmp_path / "out"
    results.mkdir()
    _spool(pipeline, spool, range(1, 201))
    options = ("--spool", spool, "--results", results)
    for share in (0.1, 0.35, 0.7):
        with any_runner.started(bundle, *options) as started:
            wait_until(lambda: _results(results) >= 200 * share, "results")  # noqa: B023
            started.popen.kill()
            started.popen.wait()
    before = {file.name: file.stat().st_mtime_ns for file in results.glob("[!.]*.npz")}
    ended = any_runner.run(bundle, *options)
    assert ended.status == 0, ended.errors
    assert sorted(file.name for file in results.iterdir()) == [f"{n:06}.npz" for n in range(1, 201)]
    assert {name: (results / name).stat().st_mtime_ns for name in before} == before
    for number in range(1, 201):
        with np.load(results / f"{number:06}.npz") as result:
            expected = pipeline.expected(pipeline.frame(number))
            assert all(np.array_equal(result[name], value) for name, value in expected.items())


def _results(folder):
    return sum(1 for file in folder.glob("[!.]*.npz"))


def test_a_spool_that_is_followed_ends_with_a_signal(any_runner, tmp_path):
    pipeline = chain(2)
    bundle = pipeline.write(tmp_path / "bundle")
    spool, results = tmp_path / "in", tmp_path / "out"
    results.mkdir()
    _spool(pipeline, spool, range(1, 4))
    with any_runner.started(bundle, "--spool", spool, "--results", results, "--follow", "--json") as started:
        wait_until(lambda: _results(results) == 3, "three results")
        _spool(pipeline, spool, range(4, 8))
        wait_until(lambda: _results(results) == 7, "seven results")
        started.signal(signal.SIGTERM)
        ended = started.ended()
    assert ended.status == 143
    assert ended.statistics["frames"] == 7
