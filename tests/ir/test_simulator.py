"""The simulator against the closed form, recurrences and laws of queues, and cases counted by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.errors import UsageError
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, StagePlan
from cospipe.ir.simulator import Conditions, contention_of, simulate


def plan_of(*stages, hand_over_us=0.0, contention=1.0):
    """A plan whose stages are lists of (cluster, microseconds) of their replicas."""
    planned = [
        StagePlan(
            name=f"stage{i}",
            replicas=tuple(Replica(cores=(CoreConfiguration(name, 1),), compute_us=time) for name, time in replicas),
            nodes=(f"layer{i}",),
            hand_over_us=hand_over_us if i else 0,
            hand_over_bytes=0,
        )
        for i, replicas in enumerate(stages)
    ]
    return PipelinePlan(soc="test", objective="throughput", stages=tuple(planned), contention=contention)


def chain(*times_us, **options):
    return plan_of(*([(f"c{i}", time_us)] for i, time_us in enumerate(times_us)), **options)


def copies(*times_us, **options):
    return plan_of([("big", time_us) for time_us in times_us], **options)


TIMES = st.floats(min_value=0.5, max_value=1e4)
CHAINS = st.lists(TIMES, min_size=1, max_size=6)
STAGES = st.lists(
    st.lists(st.tuples(st.sampled_from(["big", "little", "gpu"]), TIMES), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def timeline_of(result):
    return [(w.stage, w.replica, w.frame, w.start_us, w.end_us) for w in result.timeline]


# By hand -------------------------------------------------------------------------------------------------------------


def test_two_stages_counted_by_hand():
    result = simulate(chain(2, 3), Conditions(frames=3))
    assert timeline_of(result) == [
        (0, 0, 0, 0, 2),
        (0, 0, 1, 2, 4),
        (1, 0, 0, 2, 5),
        (0, 0, 2, 4, 6),
        (1, 0, 1, 5, 8),
        (1, 0, 2, 8, 11),
    ]
    # frame 1 enters the queue at 0, frame 2 when stage 0 takes frame 1, at 2
    assert result.entered_us == (0, 0, 2)
    assert result.left_us == (5, 8, 11)
    assert result.period_us == 3
    # frame 1 waits from 4 to 5, frame 2 from 6 to 8
    assert result.stages[1].mean_waiting == pytest.approx(3 / 11)
    assert result.stages[0].replicas[0].busy == pytest.approx(6 / 11)
    assert result.stages[0].replicas[0].blocked == 0


def test_a_slow_last_stage_blocks_the_first_counted_by_hand():
    result = simulate(chain(1, 10), Conditions(frames=4))
    starts = {(work.stage, work.frame): work.start_us for work in result.timeline}
    # stage 0 finishes frame 2 at 3; the queue holds frame 1 until 11, so frame 3 starts at 11 and waits till 21
    assert [starts[0, frame] for frame in range(4)] == [0, 1, 2, 11]
    assert [starts[1, frame] for frame in range(4)] == [1, 11, 21, 31]
    assert result.stages[0].replicas[0].blocked == pytest.approx((8 + 9) / 41)
    assert result.left_us == (11, 21, 31, 41)


def test_replicas_take_the_next_frame_when_free_and_results_keep_their_order():
    result = simulate(copies(5, 2), Conditions(frames=4))
    assert timeline_of(result) == [(0, 0, 0, 0, 5), (0, 1, 1, 0, 2), (0, 1, 2, 2, 4), (0, 1, 3, 4, 6)]
    assert result.left_us == (5, 5, 5, 6)  # frames 1 and 2 wait for frame 0


def test_contention_depends_on_who_works_at_the_moment():
    # alone 10 us; from then on both work, each 1.5 times slower, until the last frame's second half runs alone
    result = simulate(chain(10, 10), Conditions(frames=2, contention=0.5))
    assert [end for _, _, _, _, end in timeline_of(result)] == pytest.approx([10, 25, 25, 35])


def test_replicas_of_one_cluster_do_not_slow_each_other():
    assert simulate(copies(10, 10), Conditions(frames=2, contention=0.5)).left_us == (10, 10)


def test_a_kernel_over_two_clusters_is_slowed_by_itself():
    cores = (CoreConfiguration("big", 2), CoreConfiguration("little", 2))
    replica = Replica(cores=cores, compute_us=100)
    stage = StagePlan(name="stage0", replicas=(replica,), nodes=("a",), hand_over_us=0, hand_over_bytes=0)
    plan = PipelinePlan(soc="test", objective="latency", stages=(stage,), contention=1.2)
    assert simulate(plan, Conditions(frames=1)).left_us == pytest.approx((120,))


def test_arrivals_at_a_rate():
    result = simulate(chain(2, 3), Conditions(frames=3, interval_us=10))
    assert result.entered_us == (0, 10, 20)
    assert result.left_us == (5, 15, 25)


def test_hand_over_is_work_of_the_stage_that_takes_over():
    result = simulate(chain(10, 10, hand_over_us=5), Conditions(frames=50))
    assert result.period_us == pytest.approx(15)
    assert result.left_us[0] == 25


def test_one_frame_has_no_period():
    assert simulate(chain(1), Conditions(frames=1)).period_us is None


def test_stages_that_take_no_time():
    summary = simulate(chain(0, 0), Conditions(frames=3)).summary()
    assert summary["period_us"] == 0
    assert summary["frames_per_second"] is None


# Closed form ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(CHAINS, st.integers(1, 3), st.floats(0, 100))
def test_period_of_single_replicas_is_the_closed_form(times_us, depth, hand_over_us):
    plan = chain(*times_us, hand_over_us=hand_over_us)
    result = simulate(plan, Conditions(frames=40, queue_depth=depth))
    assert result.period_us == pytest.approx(plan.period_us, rel=1e-9)


@settings(deadline=None)
@given(CHAINS, st.floats(0, 100), st.floats(1.0, 3.0))
def test_latency_of_frames_that_need_not_wait_is_the_closed_form(times_us, hand_over_us, slower):
    plan = chain(*times_us, hand_over_us=hand_over_us)
    result = simulate(plan, Conditions(frames=20, interval_us=plan.period_us * slower))
    assert result.latencies_us == pytest.approx([plan.latency_us] * 20, rel=1e-6)
    assert result.period_us == pytest.approx(plan.period_us * slower, rel=1e-9)


@settings(deadline=None)
@given(STAGES, st.integers(1, 3), SEEDS)
def test_replicas_are_never_faster_than_the_closed_form(stages, depth, seed):
    plan = plan_of(*stages)
    result = simulate(plan, Conditions(frames=60, queue_depth=depth, seed=seed))
    replicas = max(map(len, stages))
    # each replica of the bottleneck may have begun a frame that ends only after the last result
    assert 60 * plan.period_us <= (result.left_us[-1] + 1e-6) + replicas * plan.period_us
    assert result.left_us[-1] <= 60 * plan.latency_us * (1 + 1e-9)


@settings(deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=6))
def test_copies_finish_as_many_frames_as_they_have_time_for(times_us):
    result = simulate(copies(*times_us), Conditions(frames=50))
    last_start_us = max(work.start_us for work in result.timeline)
    for replica, time_us in enumerate(times_us):
        begun = sum(work.replica == replica for work in result.timeline)
        assert begun in (math.floor(last_start_us / time_us + 1e-9) + add for add in (0, 1))


def test_copies_of_unlike_speed_reach_the_sum_of_their_rates():
    plan = copies(10, 25, 70)
    assert simulate(plan, Conditions(frames=20_000)).period_us == pytest.approx(plan.period_us, rel=1e-3)


def test_mixed_replicas_of_several_stages_come_close_to_the_closed_form():
    plan = plan_of([("big", 20), ("big", 20)], [("little", 30), ("little", 60)], [("gpu", 12)])
    period_us = simulate(plan, Conditions(frames=4000)).period_us
    assert plan.period_us * 0.999 <= period_us <= plan.period_us * 1.1


@settings(deadline=None)
@given(CHAINS, st.floats(0, 0.5))
def test_contention_is_never_worse_than_everything_always_busy(times_us, share):
    alone, together = chain(*times_us), chain(*times_us, contention=1 + share * (len(times_us) - 1))
    assert contention_of(together) == pytest.approx(share if len(times_us) > 1 else 0)
    result = simulate(together, Conditions(frames=40))
    assert result.period_us <= together.period_us * (1 + 1e-9)
    assert result.period_us >= alone.period_us * (1 - 1e-9)


def test_contention_of_balanced_stages_is_the_closed_form():
    plan = chain(10, 10, 10, contention=1.3)
    result = simulate(plan, Conditions(frames=2000))
    assert result.period_us == pytest.approx(plan.period_us, rel=2e-3)


# Queues --------------------------------------------------------------------------------------------------------------


def blocked_chain(services_us, depth):
    """Start of each frame at each stage, from the recurrences of stations that block after service."""
    frames, stages = services_us.shape
    starts = np.zeros((frames, stages))
    gone = np.zeros((frames, stages))  # when the frame left the stage for the next queue
    for n in range(frames):
        for s in range(stages):
            came = gone[n, s - 1] if s else 0.0
            starts[n, s] = max(came, gone[n - 1, s] if n else 0.0)
            room = starts[n - depth, s + 1] if s + 1 < stages and n >= depth else 0.0
            gone[n, s] = max(starts[n, s] + services_us[n, s], room)
    return starts, gone


@settings(deadline=None)
@given(CHAINS, st.integers(1, 3), st.sampled_from([0.1, 0.5, 1.0, 2.0]), SEEDS)
def test_jittered_chains_follow_the_recurrences(times_us, depth, jitter, seed):
    result = simulate(chain(*times_us), Conditions(frames=25, queue_depth=depth, jitter=jitter, seed=seed))
    services, starts = np.zeros((25, len(times_us))), np.zeros((25, len(times_us)))
    for work in result.timeline:
        services[work.frame, work.stage] = work.end_us - work.start_us
        starts[work.frame, work.stage] = work.start_us
    expected_starts, expected_gone = blocked_chain(services, depth)
    np.testing.assert_allclose(starts, expected_starts, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(result.left_us, expected_gone[:, -1], rtol=1e-9, atol=1e-6)


CONDITIONS = st.builds(
    Conditions,
    frames=st.integers(1, 60),
    queue_depth=st.integers(1, 3),
    interval_us=st.one_of(st.none(), st.floats(1, 1e4)),
    arrival_jitter=st.sampled_from([0.0, 0.3, 1.0]),
    jitter=st.sampled_from([0.0, 0.2, 1.0]),
    contention=st.sampled_from([None, 0.0, 0.3]),
    seed=SEEDS,
)


@settings(deadline=None)
@given(STAGES, CONDITIONS)
def test_frames_are_conserved_and_keep_their_order(stages, conditions):
    result = simulate(plan_of(*stages), conditions)
    assert result.frames == conditions.frames
    seen = Counter((work.stage, work.frame) for work in result.timeline)
    assert seen == Counter({(s, f): 1 for s in range(len(stages)) for f in range(conditions.frames)})
    assert list(result.left_us) == sorted(result.left_us)
    ends = {work.frame: work.end_us for work in result.timeline if work.stage == len(stages) - 1}
    assert all(result.left_us[frame] >= end for frame, end in ends.items())


@settings(deadline=None)
@given(STAGES, CONDITIONS)
def test_a_replica_does_one_thing_at_a_time_and_stages_follow_each_other(stages, conditions):
    result = simulate(plan_of(*stages), conditions)
    free_from, ready_at = {}, dict(enumerate(result.entered_us))
    for work in result.timeline:
        assert work.start_us >= free_from.get((work.stage, work.replica), 0)
        free_from[work.stage, work.replica] = work.end_us
    for work in sorted(result.timeline, key=lambda work: work.stage):
        assert work.start_us >= ready_at[work.frame] - 1e-9
        ready_at[work.frame] = work.end_us


@settings(deadline=None)
@given(STAGES, CONDITIONS)
def test_no_more_frames_wait_than_the_queue_holds(stages, conditions):
    for stage in simulate(plan_of(*stages), conditions).stages:
        assert 0 <= stage.mean_waiting <= stage.most_waiting <= conditions.queue_depth


@settings(deadline=None)
@given(STAGES, CONDITIONS)
def test_utilisation_law(stages, conditions):
    # busy share = throughput x mean service time, for each stage's replicas together
    result = simulate(plan_of(*stages), conditions)
    total_us = max(max(work.end_us for work in result.timeline), result.left_us[-1])
    for index, stage in enumerate(result.stages):
        services = [work.end_us - work.start_us for work in result.timeline if work.stage == index]
        throughput = len(services) / total_us
        assert sum(use.busy for use in stage.replicas) == pytest.approx(throughput * np.mean(services), rel=1e-6)
        assert all(use.busy + use.blocked <= 1 + 1e-9 for use in stage.replicas)


def test_waiting_for_one_server_is_what_pollaczek_and_khinchine_say():
    # mean wait = load x service x (1 + variation^2) / (2 x (1 - load)), Poisson arrivals, no limit to the queue
    for jitter in (0.0, 1.0):
        conditions = Conditions(
            frames=60_000, queue_depth=10**6, interval_us=100 / 0.6, arrival_jitter=1, jitter=jitter, seed=3
        )
        wait_us = simulate(chain(100), conditions).mean_latency_us - 100
        assert wait_us == pytest.approx(0.6 * 100 * (1 + jitter**2) / (2 * 0.4), rel=0.05)


@pytest.mark.parametrize("stages", [[100, 100], [100, 60, 100], [30, 100, 90]])
def test_jitter_never_shortens_the_period_and_longer_queues_take_some_of_it_away(stages):
    steady = simulate(chain(*stages), Conditions(frames=4000)).period_us
    shaken = simulate(chain(*stages), Conditions(frames=4000, jitter=0.4)).period_us
    buffered = simulate(chain(*stages), Conditions(frames=4000, jitter=0.4, queue_depth=8)).period_us
    assert steady * 1.01 < buffered * 1.01 < shaken


def test_service_times_vary_as_told():
    times_us = (50, 100)
    result = simulate(chain(*times_us), Conditions(frames=3000, jitter=0.3))
    for index, time_us in enumerate(times_us):
        services = np.array([work.end_us - work.start_us for work in result.timeline if work.stage == index])
        assert services.mean() == pytest.approx(time_us, rel=0.03)
        assert services.std() / services.mean() == pytest.approx(0.3, rel=0.1)


def test_equal_seeds_give_equal_runs():
    first, again, other = (simulate(chain(3, 4), Conditions(frames=50, jitter=0.5, seed=s)) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_bad_conditions_are_all_named():
    with pytest.raises(UsageError) as error:
        Conditions(frames=0, queue_depth=0, interval_us=-1, jitter=math.nan, arrival_jitter=-1, contention=math.inf)
    for name in ("frames", "queue_depth", "interval_us", "jitter", "arrival_jitter", "contention"):
        assert f"{name} must be" in str(error.value)
