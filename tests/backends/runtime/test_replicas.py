"""Stages with replicas on cores of one type, of two types, and kernels spread over both; compiled and run here."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from adapted_network import adapted
from compiled_plans import compile_replicas, on_cores
from running import close, eager, frames_for
from torch import nn
from two_kinds import OTHER_TYPE, spread, two_kinds

from cospipe.backends.bundle import open_bundle
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.runtime.stage import StageExecutable
from cospipe.backends.verify import verify_bundle
from cospipe.ir.errors import StageError, UsageError
from cospipe.ir.plan import CoreConfiguration, Replica
from cospipe.ir.soc import load_soc

SOC = two_kinds()
BIG, LITTLE = (cluster.cpu_ids for cluster in SOC.clusters)


@pytest.fixture(scope="module")
def alike(small_network, small_inputs, tmp_path_factory):
    """Three stages with room for adapters; the first and the last have two replicas on cores of one type."""
    two = (on_cores("big", BIG), on_cores("big", LITTLE))
    replicas = [two, (on_cores("big", BIG),), two]
    output = tmp_path_factory.mktemp("alike") / "bundle"
    passes = "insert-adapters{n=20,selection=low},merge-adapters{at=load}"
    return compile_replicas(small_network, small_inputs, SOC, replicas, output, passes).bundle


@pytest.fixture(scope="module")
def copies(small_network, small_inputs, tmp_path_factory):
    """The whole network once on each type of core."""
    replicas = [(on_cores("big", BIG, 1), on_cores("little", LITTLE, 4))]
    output = tmp_path_factory.mktemp("copies") / "bundle"
    return compile_replicas(small_network, small_inputs, SOC, replicas, output).bundle


@pytest.fixture(scope="module")
def mixture(small_network, small_inputs, tmp_path_factory):
    """A stage over both types of cores, one with a replica on each, one with two threads beside one thread."""
    replicas = [(spread(SOC),), (on_cores("big", BIG), on_cores("little", LITTLE)), (spread(SOC), on_cores("big", BIG))]
    output = tmp_path_factory.mktemp("mixture") / "bundle"
    return compile_replicas(small_network, small_inputs, SOC, replicas, output).bundle


def test_replicas_on_cores_of_one_type_share_a_library(alike):
    for stage in alike.manifest.stages:
        assert stage.further_builds == ()
    assert [stage.replica_builds for stage in alike.manifest.stages] == [(0, 0), (0,), (0, 0)]


def test_each_type_of_core_has_a_library_and_the_weights_are_stored_once(copies):
    (stage,) = copies.manifest.stages
    first, second = stage.builds
    assert stage.replica_builds == (0, 1)
    assert first.library != second.library
    assert [build.core_type for build in (first, second)] == [SOC.clusters[0].core_type, OTHER_TYPE]
    assert [name for name in copies.manifest.files if name.endswith(".safetensors")] == [
        "reference.safetensors",
        stage.weights,
    ]


def test_kernels_over_both_types_are_compiled_for_the_slower_one(mixture):
    first, _, last = mixture.manifest.stages
    assert (first.core_type, first.threads) == (OTHER_TYPE, 2)
    assert [(build.core_type, build.threads) for build in last.builds] == [
        (OTHER_TYPE, 2),
        (SOC.clusters[0].core_type, 1),
    ]


@pytest.mark.parametrize("name", ["alike", "copies", "mixture"])
def test_results_come_in_order_and_equal_eager(name, request, small_network):
    bundle = request.getfixturevalue(name)
    frames = frames_for(bundle, 60)
    with PipelineRunner(bundle, keep_trace=True) as runner:
        results = list(runner.run(frames))
    assert len(results) == len(frames)
    assert all(close(r, eager(small_network, f)) for r, f in zip(results, frames, strict=True))
    for stage in runner.statistics.stages:
        assert [work.frame for work in stage.work] == list(range(60))
        for replica in stage.replicas:
            ends = [0.0, *(work.finished_s for work in replica.work)]
            assert all(work.started_s >= end for work, end in zip(replica.work, ends, strict=False))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_each_replica_runs_on_its_own_core_with_its_own_library(copies, monkeypatch):
    seen = set()
    call = StageExecutable.call

    def noted(self, values, weights=None):
        seen.add((threading.current_thread().name, self.files.core_type, *os.sched_getaffinity(0)))
        return call(self, values, weights)

    with PipelineRunner(copies) as runner:
        monkeypatch.setattr(StageExecutable, "call", noted)
        list(runner.run(frames_for(copies, 300)))
    assert seen == {
        ("stage0 replica 0 (big:1)", SOC.clusters[0].core_type, *BIG),
        ("stage0 replica 1 (little:1)", OTHER_TYPE, *LITTLE),
    }


def test_the_first_free_replica_takes_the_next_frame(copies, monkeypatch):
    call = StageExecutable.call

    def slow(self, values, weights=None):
        time.sleep(0.1 if self.files.core_type == OTHER_TYPE else 0.01)  # long beside what a busy machine adds
        return call(self, values, weights)

    frames = frames_for(copies, 150)
    with PipelineRunner(copies) as runner:
        monkeypatch.setattr(StageExecutable, "call", slow)
        list(runner.run(frames))
    fast, other = runner.statistics.stages[0].replicas
    assert fast.frames + other.frames == 150
    assert fast.frames > 2.5 * other.frames
    assert min(fast.summary()["busy_share"], other.summary()["busy_share"]) > 0.8


def test_replicas_of_one_library_share_its_weights(alike):
    with PipelineRunner(alike) as runner:
        assert len(runner._builds) == 3
        executables = [build.executable() for build in runner._builds for _ in range(2)]
    for one, other in zip(executables[::2], executables[1::2], strict=True):
        assert one is not other
        assert all(a is b for a, b in zip(one.weights, other.weights, strict=True))


def test_every_build_is_verified(mixture):
    result = verify_bundle(mixture)
    result.raise_if_failed()
    big, little = SOC.clusters[0].core_type, OTHER_TYPE
    parts = {check.part for check in result.checks}
    assert parts == {"stage0", "stage1", f"stage1 for 1 {little}", "stage2", f"stage2 for 1 {big}", "whole"}


def test_a_failing_replica_ends_the_run_with_its_name(copies, monkeypatch):
    call = StageExecutable.call

    def failing(self, values, weights=None):
        if self.files.core_type == OTHER_TYPE and weights is not None:
            raise ValueError("the roof fell in")
        return call(self, values, weights)

    monkeypatch.setattr(StageExecutable, "call", failing)
    with PipelineRunner(copies) as runner:
        for _ in range(2):
            with pytest.raises(
                StageError, match=r"stage0 replica 1 \(little:1\) failed at frame \d+: the roof fell in"
            ):
                list(runner.run(frames_for(copies, 400)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stage")]


def test_swaps_while_replicas_overtake_each_other_lose_and_mix_no_frame(alike, small_network, adapters):
    networks = {name: adapted(small_network, file) for name, file in {"base": None, **adapters}.items()}
    frames = frames_for(alike, 6) * 60
    stop, swaps = threading.Event(), []

    def swap(runner):
        names = ["conv", "whole", None]
        while not stop.is_set():
            name = names[len(swaps) % 3]
            swaps.append((runner.swap_adapter(adapters[name] if name else None), name or "base"))
            time.sleep(0.002)

    with PipelineRunner(alike, queue_depth=2) as runner:
        run = runner.run(frames)
        results = [next(run)]
        thread = threading.Thread(target=swap, args=(runner,))
        thread.start()
        results += list(run)
        stop.set()
        thread.join()
        assert len(runner._generations) == 1
    assert len(swaps) > 3
    assert len(results) == len(frames)
    for position in range(0, len(frames), 5):
        expected = next((name for first, name in reversed(swaps) if first <= position), "base")
        assert close(results[position], eager(networks[expected], frames[position])), position


def test_a_plan_that_cannot_run_is_refused_before_anything_is_compiled(small_network, small_inputs, tmp_path):
    on_gpu = Replica(cores=(CoreConfiguration("gpu", 1),), compute_us=1)
    with pytest.raises(UsageError, match=r"not compiled and run(.|\n)*stage0 on gpu:1: .*not for the GPU"):
        compile_replicas(small_network, small_inputs, SOC, [(on_gpu,)], tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


class Products(nn.Module):
    """Two matrix products and a convolution, large enough for several threads."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(8, 64, 3, 1, 1)
        self.weights = nn.ParameterList([torch.randn(64, 64, generator=generator) / 8 for _ in range(2)])

    def forward(self, x):
        y = self.conv(x).flatten(2).transpose(1, 2)
        for weight in self.weights:
            y = (y @ weight).relu()
        return (y,)


@pytest.fixture(scope="module")
def by_speed(tmp_path_factory):
    """A network whose kernels both types of cores share by their speed."""
    network, inputs = Products().eval(), (torch.randn(1, 8, 32, 32, generator=torch.Generator().manual_seed(1)),)
    output = tmp_path_factory.mktemp("by_speed") / "bundle"
    return network, compile_replicas(network, inputs, SOC, [(spread(SOC, "by-speed"),)], output).bundle


def test_threads_that_share_kernels_by_speed_compute_what_eager_does(by_speed):
    network, bundle = by_speed
    assert bundle.manifest.stages[0].shares_by_speed
    frames = frames_for(bundle, 20)
    with PipelineRunner(bundle) as runner:
        results = list(runner.run(frames))
    assert all(close(r, eager(network, f)) for r, f in zip(results, frames, strict=True))
    assert runner.statistics.summary()["stages"][0]["configuration"] == "big:1+little:1 by-speed"


def test_loading_a_library_that_shares_by_speed_puts_its_own_launch_in_place(by_speed):
    """See test_share_by_speed.py for what it does."""
    _, bundle = by_speed
    stage = bundle.manifest.stages[0]
    library = ctypes.CDLL(str(bundle.file(stage.library)))
    pointer = ctypes.c_void_p.in_dll(library, "__TVMBackendParallelLaunch")
    executable = StageExecutable(stage, bundle.file(stage.library), bundle.file(stage.weights))
    changed = pointer.value
    runtime = ctypes.CDLL(None)
    assert changed != ctypes.cast(runtime.TVMBackendParallelLaunch, ctypes.c_void_p).value
    executable.warm_up()
    assert pointer.value == changed


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.argv = ["cospipe", "run", sys.argv[1], "--frames", "100000000"]
from cospipe.cli import main
print("running", flush=True)
main()
"""


def test_interrupting_a_run_of_copies_ends_it_at_once(copies):
    command = [sys.executable, "-c", INTERRUPTED, str(copies.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "running\n"
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode in (130, -signal.SIGINT, 1)
    assert "Traceback" not in errors


def test_a_bundle_with_replicas_survives_being_opened_again(copies):
    assert open_bundle(copies.path).manifest == copies.manifest


@pytest.mark.emulated
@pytest.mark.slow
def test_every_build_for_a_board_computes_what_eager_does(small_network, small_inputs, tmp_path, emulator):
    board = load_soc("hikey970")
    over_both = Replica(
        cores=(CoreConfiguration("big", 1), CoreConfiguration("little", 1)),
        cpu_ids=(5, 1),
        compute_us=1,
        sharing="by-speed",
    )
    replicas = [(on_cores("big", (4,)), on_cores("little", (0,))), (over_both,), (on_cores("big", (6, 7)),)]
    bundle = compile_replicas(small_network, small_inputs, board, replicas, tmp_path / "bundle").bundle
    result = verify_bundle(bundle, emulate=True)
    result.raise_if_failed()
    parts = {"stage0", "stage0 for 1 cortex-a53", "stage1", "stage2", "whole", "stream"}
    assert {check.part for check in result.checks} == parts
