"""What the simulator's benchmark makes of a measured run."""

import pytest
from simulator import compare, with_measured_times

from cospipe.backends.runtime.statistics import ReplicaTimes, RunStatistics, StageTimes, Work
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, StagePlan
from cospipe.ir.simulator import Conditions


def run_of(*services_us):
    """A run of one stage whose replicas took these times."""
    replicas = [ReplicaTimes("big:1", None, 1.0, keeps_trace=True) for _ in services_us]
    for replica, times in zip(replicas, services_us, strict=True):
        for i, time_us in enumerate(times):
            replica.record(Work(i, 10.0 * i, 10.0 * i + time_us / 1e6))
    return RunStatistics([StageTimes("stage0", "big:1", 1.0, 1.0, replicas)], keeps_trace=True)


def plan_of(*times_us):
    replicas = tuple(Replica(cores=(CoreConfiguration("big", 1),), compute_us=time_us) for time_us in times_us)
    stage = StagePlan(name="stage0", replicas=replicas, nodes=("a",), hand_over_us=7, hand_over_bytes=0)
    return PipelinePlan(soc="test", objective="throughput", stages=(stage,), contention=1.5)


def test_measured_times_take_the_place_of_predictions():
    plan, jitter = with_measured_times(plan_of(1, 1), run_of([90, 110], [200, 200, 200]))
    assert [replica.compute_us for replica in plan.stages[0].replicas] == pytest.approx([100, 200], rel=1e-6)
    # what was measured has hand-over and contention in it
    assert (plan.stages[0].hand_over_us, plan.contention) == (0, 1)
    assert jitter == pytest.approx((200**0.5 / 100 + 0) / 2, rel=1e-6)


def test_a_replica_that_did_nothing_keeps_its_prediction():
    plan, jitter = with_measured_times(plan_of(50, 60), run_of([], [70]))
    assert [replica.compute_us for replica in plan.stages[0].replicas] == pytest.approx([50, 70])
    assert jitter == 0


def test_errors_are_relative_to_the_measurement():
    measured = {"period_us": 120.0, "latency_median_us": 240.0}
    row = compare(
        "models:small", "measured", plan_of(93).model_copy(update={"contention": 1.0}), Conditions(50), measured
    )
    assert row["closed_form_error"] == pytest.approx(100 / 120 - 1, abs=1e-4)
    assert row["simulated_error"] == pytest.approx(100 / 120 - 1, abs=1e-4)
    assert row["simulated_latency_p50_us"] == pytest.approx(200)  # one frame waits while one is computed
    assert compare("small", "predicted", plan_of(93), Conditions(50), None)["simulated_error"] is None
