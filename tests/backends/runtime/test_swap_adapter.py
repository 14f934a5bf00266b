"""A pipeline with adapters: folded when it is loaded, exchanged while it runs, no frame lost or mixed."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from adapted_network import adapted
from running import close, eager, frames_for

from cospipe.backends.bundle import open_bundle
from cospipe.backends.runtime.adapter_weights import adapter_overrides
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.ir.errors import AdapterError, UsageError
from cospipe.ir.tensor_file import map_tensors


@pytest.fixture(scope="module")
def networks(small_network, adapters):
    """The base and the adapted networks in eager PyTorch, by adapter."""
    return {name: adapted(small_network, file) for name, file in {"base": None, **adapters}.items()}


def which(result, frame, networks):
    """The networks that give this result for a frame."""
    return [name for name, network in networks.items() if close(result, eager(network, frame))]


@pytest.mark.parametrize("name", ["conv", "whole"])
def test_an_adapter_is_folded_in_at_load(adaptable, adapters, networks, name):
    frames = frames_for(adaptable.bundle, 3)
    with PipelineRunner(adaptable.bundle, adapter=adapters[name]) as runner:
        results = list(runner.run(frames))
    assert [which(result, frame, networks) for result, frame in zip(results, frames, strict=True)] == [[name]] * 3


def test_swaps_between_frames_take_effect_at_once_and_mix_nothing(adaptable, adapters, networks):
    frames, order = frames_for(adaptable.bundle, 24), []
    wanted = {5: "conv", 6: "whole", 12: None, 13: "conv", 20: "whole"}

    def feed(runner):
        for position, frame in enumerate(frames):
            if position in wanted:
                name = wanted[position]
                assert runner.swap_adapter(adapters[name] if name else None) == position
            order.append(wanted.get(position, order[-1] if order else None))
            yield frame

    with PipelineRunner(adaptable.bundle, queue_depth=3) as runner:
        results = list(runner.run(feed(runner)))
    found = [which(result, frame, networks) for result, frame in zip(results, frames, strict=True)]
    assert found == [[name or "base"] for name in order]


def test_swaps_from_another_thread_lose_and_mix_no_frame(adaptable, adapters, networks):
    frames = frames_for(adaptable.bundle, 8) * 100
    stop, swaps = threading.Event(), []

    def swap(runner):
        names = ["conv", "whole", None]
        while not stop.is_set():
            name = names[len(swaps) % 3]
            swaps.append((runner.swap_adapter(adapters[name] if name else None), name or "base"))
            time.sleep(0.002)

    with PipelineRunner(adaptable.bundle) as runner:
        run = runner.run(frames)
        results = [next(run)]
        thread = threading.Thread(target=swap, args=(runner,))
        thread.start()
        results += list(run)
        stop.set()
        thread.join()
    assert len(swaps) > 3
    assert len(results) == len(frames)
    expected = "base"
    for position in range(len(frames)):
        expected = next((name for first, name in reversed(swaps) if first <= position), "base")
        if position % 7 == 0:
            assert which(results[position], frames[position], networks) == [expected], position


def test_a_swap_outlives_the_run_it_was_made_in(adaptable, adapters, networks):
    frames = frames_for(adaptable.bundle, 2)
    with PipelineRunner(adaptable.bundle) as runner:
        list(runner.run(frames))
        assert runner.swap_adapter(adapters["conv"]) == 2
        (result,) = runner.run(frames[:1])
    assert which(result, frames[0], networks) == ["conv"]


def test_older_weights_are_let_go(adaptable, adapters):
    frames = frames_for(adaptable.bundle, 1)
    with PipelineRunner(adaptable.bundle) as runner:
        for _ in range(3):
            runner.swap_adapter(adapters["conv"])
        list(runner.run(frames))
        assert len(runner._generations) == 1


@pytest.mark.parametrize(("loaded", "swapped"), [(None, "conv"), ("whole", "conv"), ("whole", None), ("conv", "conv")])
def test_what_the_adapter_does_not_change_is_shared(adaptable, adapters, loaded, swapped):
    overrides = [adapter_overrides(adaptable.bundle, adapters[name] if name else None) for name in (loaded, swapped)]
    with PipelineRunner(adaptable.bundle, adapter=adapters[loaded] if loaded else None) as runner:
        runner.swap_adapter(adapters[swapped] if swapped else None)
        for number, files in enumerate(adaptable.bundle.manifest.stages):
            stored = map_tensors(adaptable.bundle.file(files.weights))
            before, after = ({**stored, **each[files.name]} for each in overrides)
            changed = {name for name in stored if not np.array_equal(before[name], after[name])}
            made = runner._builds[number].first.weights, runner._generations.get(1, number)
            for argument, old, new in zip(files.weight_arguments, *made, strict=True):
                assert (old is new) == (not changed.intersection(argument.weights))


def test_an_adapter_that_does_not_fit_changes_nothing(adaptable, compiled, adapters, networks, tmp_path):
    frames = frames_for(adaptable.bundle, 1)
    (tmp_path / "broken.safetensors").write_bytes(adapters["conv"].read_bytes()[:200])
    with PipelineRunner(adaptable.bundle) as runner:
        with pytest.raises(AdapterError, match="cut off"):
            runner.swap_adapter(tmp_path / "broken.safetensors")
        (result,) = runner.run(frames)
    assert which(result, frames[0], networks) == ["base"]
    with PipelineRunner(compiled.bundle) as runner, pytest.raises(AdapterError, match="no room for an adapter"):
        runner.swap_adapter(adapters["conv"])
    with pytest.raises(AdapterError, match="no room for an adapter"):
        PipelineRunner(compiled.bundle, adapter=adapters["conv"])


def test_a_runner_that_is_not_started_is_not_given_an_adapter(adaptable, adapters):
    runner = PipelineRunner(open_bundle(adaptable.bundle.path))
    with pytest.raises(UsageError, match="not started"):
        runner.swap_adapter(adapters["conv"])
    with runner:
        pass
    with pytest.raises(UsageError, match="not started"):
        runner.swap_adapter(adapters["conv"])


def test_swapping_does_not_pin_the_callers_thread(adaptable, adapters):
    import os

    before = os.sched_getaffinity(0)
    with PipelineRunner(adaptable.bundle) as runner:
        runner.swap_adapter(adapters["conv"])
    assert os.sched_getaffinity(0) == before


def test_swaps_without_a_frame_keep_no_weights_and_no_threads(adaptable, adapters):
    with PipelineRunner(adaptable.bundle) as runner:
        runner.swap_adapter(adapters["conv"])
        threads = _threads()
        for name in ("whole", "conv", "whole"):
            runner.swap_adapter(adapters[name])
            assert len(runner._generations) == 1
        assert _threads() == threads


def _threads():
    """How many threads this process has, TVM's own as well."""
    return len(list(Path("/proc/self/task").iterdir()))
