"""cospipe-run with TVM's own libraries: the numbers of the Python runner, bit for bit, and the same statistics."""

import os
import platform
import shutil
import subprocess
from itertools import pairwise

import numpy as np
import pytest
import torch
from compiled_plans import compile_replicas, on_cores
from cpp_runner import real_runner
from running import close, eager, frames_for
from torch import nn
from two_kinds import spread, two_kinds

from cospipe.backends.bundle import open_bundle, write_bundle
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.ir.manifest import RunnerFiles

SOC = two_kinds()
BIG, LITTLE = (cluster.cpu_ids for cluster in SOC.clusters)
ROOM = "insert-adapters{n=20,selection=low},merge-adapters{at=load}"
FRAMES = 12


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return real_runner(tmp_path_factory.mktemp("tvm"))


@pytest.fixture(scope="module")
def alike(small_network, small_inputs, tmp_path_factory):
    """Stages with room for adapters, over two cores and with replicas that run the same library: the same bits."""
    replicas = [(spread(SOC),), (on_cores("big", BIG), on_cores("big", LITTLE)), (spread(SOC), spread(SOC))]
    output = tmp_path_factory.mktemp("alike") / "bundle"
    return compile_replicas(small_network, small_inputs, SOC, replicas, output, ROOM).bundle


@pytest.fixture(scope="module")
def mixture(small_network, small_inputs, tmp_path_factory):
    """Stages with room for adapters on cores of two types: over both at once, a replica on each, and a mixture."""
    replicas = [(spread(SOC),), (on_cores("big", BIG), on_cores("little", LITTLE)), (spread(SOC), on_cores("big", BIG))]
    output = tmp_path_factory.mktemp("mixture") / "bundle"
    return compile_replicas(small_network, small_inputs, SOC, replicas, output, ROOM).bundle


class Products(nn.Module):
    """One input; products of matrices, large enough for two threads."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterList([torch.randn(64, 64, generator=generator) / 8 for _ in range(2)])

    def forward(self, x):
        for weight in self.weights:
            x = (x @ weight).relu()
        return (x,)


@pytest.fixture(scope="module")
def by_speed(tmp_path_factory):
    """One stage whose kernels both types of cores share by their speed."""
    inputs = (torch.randn(128, 64, generator=torch.Generator().manual_seed(1)),)
    output = tmp_path_factory.mktemp("by_speed") / "bundle"
    return compile_replicas(Products().eval(), inputs, SOC, [(spread(SOC, "by-speed"),)], output).bundle


@pytest.fixture
def bundle(request):
    """The bundle that a test is parametrized with."""
    found = request.getfixturevalue(request.param)
    return getattr(found, "bundle", found)


every_bundle = pytest.mark.parametrize(
    "bundle", ["compiled", "adaptable", "alike", "mixture", "by_speed"], indirect=True
)
bit_for_bit = pytest.mark.parametrize("bundle", ["compiled", "adaptable", "alike", "by_speed"], indirect=True)


def python_results(bundle, frames, adapter=None):
    with PipelineRunner(bundle, adapter=adapter) as runner:
        return [{name: np.array(value) for name, value in result.items()} for result in runner.run(frames)]


def saved(frames, folder):
    """Write each frame as .npz; return the command line that names them."""
    options = []
    for number, frame in enumerate(frames):
        np.savez(folder / f"{number:03}.npz", **frame)
        options += ["-i", folder / f"{number:03}.npz"]
    return options


def stacked(results):
    return {name: np.stack([result[name] for result in results]) for name in results[0]}


def equal(file, expected):
    with np.load(file) as found:
        names = sorted(found.files) == sorted(expected)
        return names and all(np.array_equal(found[name], expected[name]) for name in expected)


@bit_for_bit
def test_results_are_those_of_the_python_runner_bit_for_bit(runner, bundle, tmp_path):
    frames = frames_for(bundle, FRAMES)
    expected = stacked(python_results(bundle, frames))
    ended = runner.run(bundle, *saved(frames, tmp_path), "-o", tmp_path / "results.npz")
    assert ended.status == 0, ended.errors
    assert equal(tmp_path / "results.npz", expected)


@bit_for_bit
def test_raw_frames_become_raw_results(runner, bundle):
    frames = frames_for(bundle, FRAMES)
    expected = b"".join(value.tobytes() for result in python_results(bundle, frames) for value in result.values())
    raw = b"".join(array.tobytes() for frame in frames for array in frame.values())
    ended = runner.run(bundle, "--raw", "-", "--raw-output", "-", stdin=raw)
    assert (ended.status, ended.output == expected) == (0, True), ended.errors


@pytest.mark.parametrize("bundle", ["compiled", "mixture"], indirect=True)
def test_results_equal_eager_pytorch(runner, bundle, small_network, tmp_path):
    frames = frames_for(bundle, FRAMES)
    ended = runner.run(bundle, *saved(frames, tmp_path), "-o", tmp_path / "results.npz")
    assert ended.status == 0, ended.errors
    with np.load(tmp_path / "results.npz") as found:
        for number, frame in enumerate(frames):
            assert close({name: found[name][number] for name in found.files}, eager(small_network, frame))


def test_an_npy_file_is_a_frame_of_a_network_with_one_input(runner, by_speed, compiled, tmp_path):
    frames = frames_for(by_speed, 3)
    options = []
    for number, frame in enumerate(frames):
        (array,) = frame.values()
        np.save(tmp_path / f"{number}.npy", array)
        options += ["-i", tmp_path / f"{number}.npy"]
    ended = runner.run(by_speed, *options, "--repeat", "2", "-o", tmp_path / "results.npz")
    assert ended.status == 0, ended.errors
    assert equal(tmp_path / "results.npz", stacked(python_results(by_speed, frames * 2)))
    refused = runner.run(compiled.bundle, *options)
    assert refused.status == 2
    assert all(f"{number}.npy" in refused.errors for number in range(3))


@pytest.mark.parametrize("bundle", ["adaptable", "alike"], indirect=True)
@pytest.mark.parametrize("name", ["conv", "whole"])
def test_adapters_are_folded_in_at_load(runner, bundle, adapters, name, tmp_path):
    frames = frames_for(bundle, 4)
    expected = stacked(python_results(bundle, frames, adapters[name]))
    assert not equal_to(expected, stacked(python_results(bundle, frames)))
    options = ["-o", tmp_path / "results.npz", "--adapter", adapters[name]]
    ended = runner.run(bundle, *saved(frames, tmp_path), *options)
    assert ended.status == 0, ended.errors
    assert equal(tmp_path / "results.npz", expected)


def equal_to(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("bundle", ["adaptable", "alike"], indirect=True)
@pytest.mark.parametrize("loaded", [None, "whole"])
def test_swaps_are_exact_to_the_frame(runner, bundle, adapters, loaded, tmp_path):
    frames = frames_for(bundle, 40)
    changes = {0: loaded, 7: "conv", 8: "whole", 23: None, 31: "conv"}
    expected = []
    for (first, name), (end, _) in pairwise([*changes.items(), (40, None)]):
        expected += python_results(bundle, frames[first:end], adapters[name] if name else None)
    options = ["--adapter", adapters[loaded]] if loaded else []
    for first, name in list(changes.items())[1:]:
        options += ["--swap-adapter", f"{first}={adapters[name] if name else 'none'}"]
    ended = runner.run(bundle, *saved(frames, tmp_path), *options, "-o", tmp_path / "results.npz")
    assert ended.status == 0, ended.errors
    assert equal(tmp_path / "results.npz", stacked(expected))


def test_an_adapter_that_does_not_fit_is_refused(runner, compiled, adaptable, adapters, tmp_path):
    ended = runner.run(compiled.bundle, "--adapter", adapters["conv"])
    assert ended.status == 1
    assert "no room for an adapter" in ended.errors
    (tmp_path / "broken.safetensors").write_bytes(adapters["conv"].read_bytes()[:200])
    ended = runner.run(adaptable.bundle, "--adapter", tmp_path / "broken.safetensors")
    assert ended.status == 1
    assert "cut off" in ended.errors
    ended = runner.run(adaptable.bundle, "--adapter", tmp_path / "nobody")
    assert ended.status == 2
    assert "nobody" in ended.errors


@every_bundle
def test_every_build_and_the_whole_are_verified(runner, bundle):
    ended = runner.run(bundle, "--verify", "--json")
    assert ended.status == 0, ended.errors
    parts = {check["part"] for check in ended.statistics["checks"]}
    builds = sum(len(stage.builds) for stage in bundle.manifest.stages)
    assert len(parts) == builds + 1
    assert "whole" in parts


def keys(value):
    """Return the tree of keys of JSON, without the values; of the members of a list the first."""
    if isinstance(value, dict):
        return {key: keys(item) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [keys(value[0])]
    return None


@every_bundle
def test_statistics_have_the_keys_of_the_python_runner(runner, bundle):
    with PipelineRunner(bundle) as python:
        list(python.run(frames_for(bundle, 20)))
    expected = python.statistics.summary()
    ended = runner.run(bundle, "--frames", "20", "--json")
    found = ended.statistics
    assert found.pop("bundle") == str(bundle.path)
    assert found.pop("model") == bundle.manifest.model
    assert found.pop("adapter") is None
    assert keys({**found, "clocks_mhz": None}) == keys({**expected, "clocks_mhz": None})
    assert found["clocks_mhz"].keys() == expected["clocks_mhz"].keys()
    assert found["frames"] == 20
    for stage, other in zip(found["stages"], expected["stages"], strict=True):
        same = ("name", "configuration", "cpu_ids", "threads", "placement", "predicted_us", "predicted_period_us")
        assert [stage[key] for key in same] == [other[key] for key in same]
        assert sum(replica["frames"] for replica in stage["replicas"]) == 20
        for replica, one in zip(stage["replicas"], other["replicas"], strict=True):
            same = ("configuration", "cpu_ids", "threads", "placement", "predicted_us")
            assert [replica[key] for key in same] == [one[key] for key in same]


def test_a_directory_that_was_copied_elsewhere_needs_nothing_else(runner, adaptable, adapters, tmp_path):
    def fill(folder):
        for name in adaptable.bundle.manifest.files:
            shutil.copyfile(adaptable.bundle.file(name), folder / name)
        shutil.copy(runner.program, folder / "cospipe-run")
        shutil.copytree(runner.runtime, folder / "lib")
        files = RunnerFiles(
            program="cospipe-run", libraries=("lib/libtvm_ffi.so", "lib/libtvm_runtime.so"), glibc="2.28"
        )
        return lambda records: adaptable.bundle.manifest.model_copy(update={"files": records, "runner": files})

    made = write_bundle(tmp_path / "made", fill)
    there = shutil.copytree(made.folder, tmp_path / "a board" / "net")
    shutil.rmtree(made.folder)
    frames = frames_for(adaptable.bundle, 3)
    options = [*saved(frames, tmp_path), "-o", "results.npz", "--adapter", adapters["conv"]]
    command = [str(there / "cospipe-run"), *map(str, options)]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert equal(tmp_path / "results.npz", stacked(python_results(adaptable.bundle, frames, adapters["conv"])))
    assert open_bundle(there).manifest == made.manifest  # nothing was written into it


def test_a_bundle_for_another_architecture_is_refused(runner, board):
    if platform.machine() == "aarch64":
        pytest.skip("the board's bundle is for this architecture")
    ended = runner.run(board.bundle)
    assert ended.status == 1
    assert "aarch64" in ended.errors


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_fewer_cores_than_planned_give_the_same_results(runner, alike, tmp_path):
    frames = frames_for(alike, FRAMES)
    expected = stacked(python_results(alike, frames))
    options = [*saved(frames, tmp_path), "-o", tmp_path / "results.npz"]
    ended = runner.run(alike, *options, preexec_fn=lambda: os.sched_setaffinity(0, {BIG[0]}))
    assert ended.status == 0
    assert ended.errors != ""
    assert equal(tmp_path / "results.npz", expected)
