"""Period, latency and busy times, in microseconds, from times in seconds."""

import json
import pickle

import pytest

from cospipe.backends.runtime.machine_monitor import MachineMonitor
from cospipe.backends.runtime.placement import ReplicaPlacement
from cospipe.backends.runtime.statistics import ReplicaTimes, RunStatistics, StageTimes, Work, stage_times
from cospipe.ir.plan import CoreConfiguration, Replica, StagePlan

WITHIN_BUCKET = 0.0026


def replica(cluster, cpus, *work):
    times = ReplicaTimes(f"{cluster}:{len(cpus)}", ReplicaPlacement(cpus, len(cpus), "plan"), 123.45, keeps_trace=True)
    for frame, start_us, end_us, waiting in work:
        times.record(Work(frame, start_us / 1e6, end_us / 1e6), waiting)
    return times


def stage(*replicas):
    return StageTimes("stage0", "big:2, little:1", 123.45, 61.72, list(replicas))


def test_a_run():
    big = replica("big", (4, 5), (0, 0, 10, 3), (2, 20, 40, 1))
    little = replica("little", (0,), (1, 0, 30, 0))
    statistics = RunStatistics([stage(big, little)])
    for entered_s, finished_s in ((0.0, 0.010), (0.001, 0.014), (0.004, 0.018)):
        statistics.record(entered_s, finished_s)
    summary = statistics.summary()
    assert summary["frames"] == 3
    assert summary["period_us"] == pytest.approx(4000)  # (18 - 10) ms over two intervals
    assert summary["frames_per_second"] == pytest.approx(250)
    assert summary["latency_median_us"] == pytest.approx(13000, rel=WITHIN_BUCKET)
    assert summary["latency_p99_us"] == pytest.approx(14000, rel=WITHIN_BUCKET)
    assert (summary["interrupted_by"], summary["warnings"], summary["clocks_mhz"]) == (None, [], {})
    assert [work.frame for work in statistics.stages[0].work] == [0, 1, 2]
    (values,) = summary["stages"]
    replicas = values.pop("replicas")
    assert values == {
        "name": "stage0",
        "configuration": "big:2, little:1",
        "cpu_ids": [0, 4, 5],
        "threads": 3,
        "placement": "plan",
        "predicted_us": pytest.approx(123.5, abs=0.06),
        "predicted_period_us": pytest.approx(61.7),
        "median_us": pytest.approx(20, rel=WITHIN_BUCKET),
        "p99_us": pytest.approx(30, rel=WITHIN_BUCKET),
        "busy_us": pytest.approx(60),
        "queue_depth_mean": pytest.approx(4 / 3, abs=0.001),
        "queue_depth_max": 3,
    }
    assert replicas[0] == {
        "configuration": "big:2",
        "cpu_ids": [4, 5],
        "threads": 2,
        "placement": "plan",
        "frames": 2,
        "predicted_us": pytest.approx(123.5, abs=0.06),
        "busy_us": pytest.approx(30),
        "busy_share": pytest.approx(30 / 40),
        "median_us": pytest.approx(10, rel=WITHIN_BUCKET),
        "p99_us": pytest.approx(20, rel=WITHIN_BUCKET),
    }
    assert (replicas[1]["frames"], replicas[1]["busy_us"], replicas[1]["busy_share"]) == (1, 30.0, 1.0)
    assert json.loads(json.dumps(summary)) == summary


def test_the_record_of_a_stage_holds_what_was_planned_for_each_replica():
    cores = [CoreConfiguration("big", 2), CoreConfiguration("little", 1)]
    replicas = tuple(
        Replica(cores=(core,), compute_us=time_us) for core, time_us in zip(cores, (100, 300), strict=True)
    )
    planned = StagePlan(name="stage1", replicas=replicas, nodes=("a",), hand_over_us=20, hand_over_bytes=8)
    times = stage_times(planned, (ReplicaPlacement((4, 5), 2, "plan"), ReplicaPlacement((0,), 1, "plan")))
    assert (times.name, times.configuration) == ("stage1", "big:2, little:1")
    assert (times.predicted_us, times.predicted_period_us) == (320, pytest.approx(1 / (1 / 120 + 1 / 320)))
    assert [(each.configuration, each.predicted_us) for each in times.replicas] == [("big:2", 120), ("little:1", 320)]


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_frames_that_end_at_one_moment_have_no_period(frames):
    statistics = RunStatistics([stage(replica("big", (4,)))])
    for _ in range(frames):
        statistics.record(0.0, 0.5)
    summary = statistics.summary()
    assert (summary["period_us"], summary["frames_per_second"]) == (None, None)
    assert summary["latency_median_us"] == (pytest.approx(500000, rel=WITHIN_BUCKET) if frames else None)
    assert summary["stages"][0]["median_us"] is None
    assert summary["stages"][0]["replicas"][0]["busy_share"] is None


def test_memory_does_not_grow_with_the_frames_unless_a_trace_is_kept():
    times = ReplicaTimes("big:1", ReplicaPlacement((0,), 1, "plan"), 1.0)
    statistics = RunStatistics([StageTimes("stage0", "", 1, 1, [times])])

    def run(frames):
        for frame in range(frames):
            times.record(Work(frame, frame, frame + 0.001 * (1 + frame % 7)), frame % 3)
            statistics.record(frame, frame + 0.001 * (1 + frame % 5))
        return len(pickle.dumps(statistics))

    assert run(1000) == pytest.approx(run(20000), rel=0.02)
    assert statistics.summary()["frames"] == times.summary()["frames"] == 21000


def test_what_the_machine_did_is_told():
    files = {"/sys/devices/system/cpu/cpu4/cpufreq/scaling_cur_freq": "1500000\n"}
    machine = MachineMonitor([4], lambda file: files.get(file, ""))
    machine.sample([])
    statistics = RunStatistics([stage(replica("big", (4,)))], placement_warnings=["Other cores."], machine=machine)
    statistics.interrupted_by = "SIGINT"
    summary = statistics.summary()
    assert summary["warnings"] == ["Other cores."]
    assert summary["clocks_mhz"] == {"4": {"lowest": 1500, "median": 1500, "highest": 1500, "nominal": None}}
    assert summary["interrupted_by"] == "SIGINT"
