"""Replicas of several stages with made-up work: whatever each takes, every frame passes all stages once, in order."""

import time
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.backends.runtime.job import Job
from cospipe.backends.runtime.link import Link
from cospipe.backends.runtime.placement import ReplicaPlacement
from cospipe.backends.runtime.run import Run
from cospipe.backends.runtime.statistics import ReplicaTimes, RunStatistics, StageTimes
from cospipe.backends.runtime.worker import ReplicaWorker


class Executable:
    """Sleeps for as long as it is told and notes the stage in the frame."""

    def __init__(self, stage, delays_ms):
        self.stage, self.delays_ms = stage, delays_ms

    def call(self, values, weights):
        time.sleep(self.delays_ms[values["frame"] % len(self.delays_ms)] / 1e3)
        assert weights == ["weights", 0]
        return {"seen": [*values["seen"], self.stage]}

    def warm_up(self):
        pass


class Build:
    def __init__(self, executable):
        self.executable = lambda: executable


def pipeline(stages, queue_depth):
    """Start workers for stages of replicas of delays; return their links and what is told of failures."""
    links, failures = [Link(queue_depth) for _ in stages], []
    for number, replicas in enumerate(stages):
        for replica, delays_ms in enumerate(replicas):
            ReplicaWorker(
                name=f"stage{number} {replica}",
                stage=number,
                replica=replica,
                build=Build(Executable(number, delays_ms)),
                placement=ReplicaPlacement((0,), 1, "shared"),
                kept=frozenset({"frame", "seen"}),
                incoming=links[number],
                pass_on=(lambda job: job.run.receive(job)) if number == len(stages) - 1 else links[number + 1].put,
                weights_of=lambda generation: ["weights", generation],
                fail=failures.append,
            ).thread().start()
    return links, failures


DELAYS = st.lists(st.integers(0, 3), min_size=1, max_size=4)
STAGES = st.lists(st.lists(DELAYS, min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(stages=STAGES, queue_depth=st.integers(1, 3), window=st.integers(1, 12), count=st.integers(0, 25))
def test_every_frame_passes_every_stage_once_and_leaves_in_order(stages, queue_depth, window, count):
    links, failures = pipeline(stages, queue_depth)
    placement = ReplicaPlacement((0,), 1, "shared")
    statistics = RunStatistics(
        [
            StageTimes(f"stage{n}", "", 1, 1, [ReplicaTimes("", placement, 1, keeps_trace=True) for _ in s])
            for n, s in enumerate(stages)
        ],
        keeps_trace=True,
    )
    taken = []

    def accept(run, number, frame):
        taken.append(number)
        return links[0].put(Job(run, number, dict(frame)))

    run = Run(({"frame": number, "seen": []} for number in range(count)), accept, window, statistics)
    results = []
    for values in run.results():
        results.append(values)
        assert len(taken) - len(results) <= window
    for link in links:
        link.close()
    assert [values["frame"] for values in results] == list(range(count))
    assert all(values["seen"] == list(range(len(stages))) for values in results)
    for stage in statistics.stages:
        assert [work.frame for work in stage.work] == list(range(count))
        for replica in stage.replicas:
            assert all(a.finished_s <= b.started_s for a, b in pairwise(replica.work))
    assert all(a <= b for a, b in pairwise(statistics.finished_s))
    assert not failures
