"""The benchmark with one slow core: kernels there do their work again, and like is compared with like."""

import os
import platform
import time

import pytest
import torch
from compiled_plans import compile_replicas, on_cores
from pipeline_host import SPEED, measure_network, summary
from slow_core import SlowCore
from slow_core_plans import one_slow_core
from torch import nn

from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.ir.plan import CoreConfiguration, Replica

CPUS = tuple(sorted(os.sched_getaffinity(0))[:2])
needs_two_cores = pytest.mark.skipif(len(CPUS) < 2, reason="needs two cores")


class Products(nn.Module):
    """Some products of matrices, each large enough for two threads."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(256, 256) for _ in range(8)))

    def forward(self, x):
        return (self.layers(x),)


@pytest.fixture(scope="module")
def core():
    return SlowCore(CPUS[-1], SPEED, platform.machine())


def bundle_of(replica, folder):
    inputs = (torch.randn(256, 256, generator=torch.Generator().manual_seed(0)),)
    return compile_replicas(Products().eval(), inputs, one_slow_core(*CPUS), [(replica,)], folder).bundle


def computing_s(runner, frame, frames=40):
    """Return how long all threads of this process computed for some frames."""
    started_s = time.process_time()
    list(runner.run([frame] * frames))
    return time.process_time() - started_s


@needs_two_cores
@pytest.mark.parametrize(
    ("replica", "times_as_long"),
    [
        (on_cores("big", CPUS[:1]), 1.0),
        (on_cores("little", CPUS[1:]), 2.5),
    ],
    ids=["fast", "slow"],
)
def test_kernels_on_the_slow_core_take_as_many_times_as_long_as_asked_for(core, replica, times_as_long, tmp_path):
    bundle = bundle_of(replica, tmp_path / "bundle")
    frame = {spec.name: bundle.reference()[spec.name] for spec in bundle.manifest.inputs}
    with core.prepares_stages(), PipelineRunner(bundle) as runner:
        computing_s(runner, frame)
        usual = min(computing_s(runner, frame) for _ in range(3))
        with core.repeats_work():
            slowed = min(computing_s(runner, frame) for _ in range(3))
    assert slowed / usual == pytest.approx(times_as_long, rel=0.25)


@needs_two_cores
@pytest.mark.parametrize("sharing", ["equal", "by-speed"])
def test_threads_on_the_slow_core_compute_the_same_numbers(core, sharing, tmp_path):
    cores = (CoreConfiguration("big", 1), CoreConfiguration("little", 1))
    bundle = bundle_of(Replica(cores=cores, cpu_ids=CPUS, compute_us=1, sharing=sharing), tmp_path / "bundle")
    reference = bundle.reference()
    frame = {spec.name: reference[spec.name] for spec in bundle.manifest.inputs}
    with core.prepares_stages(), PipelineRunner(bundle) as runner, core.repeats_work():
        results = list(runner.run([frame] * 5))
    for result in results:
        for name, array in result.items():
            assert torch.allclose(torch.from_numpy(array), torch.from_numpy(reference[name]), rtol=1e-4, atol=1e-5)


def row(plan, rate, chosen=False, slowed_by="repeated work", lost=None):
    return {
        "model": "a",
        "plan": plan,
        "chosen": chosen,
        "frames_per_s": rate,
        "slowed_by": slowed_by,
        "frames_per_s_time_lost": lost,
        "frames_per_s_quota": None,
    }


def test_onnx_runtime_is_compared_where_all_lose_time():
    rows = [
        row("fast-core", 100, lost=90),
        row("copies", 138, chosen=True, lost=120),
        row("all-cores", 140, lost=80),
        row("onnxruntime", 150, slowed_by="time lost", lost=150),
    ]
    assert summary(rows) == {
        "networks": 1,
        "within_3_percent_of_best": 1,
        "least_share_of_best": round(138 / 140, 4),
        "median_of_fast_core": 1.38,
        "least_of_fast_core": 1.38,
        "within_3_percent_of_best_time_lost": 0,
        "least_share_of_best_time_lost": 0.8,
        "median_of_fast_core_time_lost": round(120 / 90, 4),
        "least_of_fast_core_time_lost": round(120 / 90, 4),
    }


def tiny_network():
    """Return a network that is compiled quickly."""
    layers = (nn.Conv2d(3, 16, 3, 4), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@needs_two_cores
@pytest.mark.slow
def test_every_way_is_measured_and_one_plan_is_chosen(core):
    rows = measure_network("test_pipeline_host:tiny_network", core, CPUS, rounds=1, seconds=0.1)
    assert {"fast-core", "copies", "all-cores", "onnxruntime"} <= {found["plan"] for found in rows}
    assert sum(found["chosen"] for found in rows) == 1
    for found in rows:
        assert (found["predicted_period_us"] is None) == (found["plan"] == "onnxruntime")
        if found["slowed_by"] == "repeated work" or found["frames_per_s_time_lost"]:
            assert found["frames_per_s"] > 0
            assert found["latency_p50_ms"] > 0
