"""Period, latency and busy times, in microseconds, from times in seconds."""

import json

import pytest

from cospipe.backends.runtime.placement import StagePlacement
from cospipe.backends.runtime.statistics import RunStatistics, StageTimes


def stage(busy_us):
    return StageTimes("stage0", "big:2", StagePlacement((4, 5), 2, "plan"), 123.45, busy_us)


def test_a_run():
    statistics = RunStatistics([stage([10.0, 30.0, 20.0])])
    for entered_s, finished_s in ((0.0, 0.010), (0.001, 0.014), (0.004, 0.018)):
        statistics.record(entered_s, finished_s)
    summary = statistics.summary()
    assert summary["frames"] == 3
    assert summary["period_us"] == pytest.approx(4000)  # (18 - 10) ms over two intervals
    assert summary["frames_per_second"] == pytest.approx(250)
    assert summary["latency_median_us"] == pytest.approx(13000)
    assert summary["latency_p99_us"] == pytest.approx(14000, rel=0.01)
    assert summary["stages"] == [
        {
            "name": "stage0",
            "configuration": "big:2",
            "cpu_ids": [4, 5],
            "threads": 2,
            "placement": "plan",
            "predicted_us": pytest.approx(123.5, abs=0.06),
            "median_us": 20.0,
            "p99_us": pytest.approx(29.8),
        }
    ]
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("frames", [0, 1])
def test_too_few_frames_have_no_period(frames):
    statistics = RunStatistics([stage([])])
    for _ in range(frames):
        statistics.record(0.0, 0.5)
    summary = statistics.summary()
    assert (summary["period_us"], summary["frames_per_second"]) == (None, None)
    assert summary["latency_median_us"] == (500000.0 if frames else None)
    assert summary["stages"][0]["median_us"] is None
