"""Replicas get the plan's cores, as many others, or share what there is."""

import os

import pytest

from cospipe.backends.runtime.placement import ReplicaPlacement, available_cpus, place, placement_warnings
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, StagePlan


def plan(*stages):
    """Return a plan whose stages have replicas on these cores."""
    planned = tuple(
        StagePlan(
            name=f"stage{i}",
            replicas=tuple(
                Replica(cores=(CoreConfiguration("big", len(ids)),), cpu_ids=ids, compute_us=1) for ids in replicas
            ),
            nodes=("node",),
            hand_over_us=0,
            hand_over_bytes=0,
        )
        for i, replicas in enumerate(stages)
    )
    return PipelinePlan(soc="board", objective="throughput", stages=planned)


BOARD = plan([(4, 5), (3,)], [(0, 1, 2)])


def placed(kind, *stages):
    return tuple(tuple(ReplicaPlacement(ids, len(ids), kind) for ids in replicas) for replicas in stages)


def test_a_plan_runs_on_its_own_cores_where_they_are():
    assert place(BOARD, True, tuple(range(8))) == placed("plan", [(4, 5), (3,)], [(0, 1, 2)])


@pytest.mark.parametrize(
    ("matches", "cpus"),
    [(True, (0, 1, 2, 3, 4, 6)), (False, (0, 1, 2, 3, 4, 6, 8, 9))],
    ids=["a core is missing", "core ids of another chip"],
)
def test_otherwise_on_as_many_other_cores(matches, cpus):
    assert place(BOARD, matches, cpus) == placed("substitute", [(0, 1), (2,)], [(3, 4, 6)])


def test_stages_share_too_few_cores():
    shared = place(BOARD, True, (0, 3))
    two, one = ReplicaPlacement((0, 3), 2, "shared"), ReplicaPlacement((0, 3), 1, "shared")
    assert shared == ((two, one), (two,))
    assert place(BOARD, True, (7,))[1] == (ReplicaPlacement((7,), 1, "shared"),)


def test_the_cores_of_this_process_are_known():
    assert set(available_cpus()) == os.sched_getaffinity(0)
    assert list(available_cpus()) == sorted(available_cpus())


def test_cores_that_are_offline_are_not_available():
    first = min(os.sched_getaffinity(0))
    files = {"/sys/devices/system/cpu/online": f"{first},4096-4100\n"}
    assert available_cpus(lambda file: files.get(file, "")) == (first,)
    assert set(available_cpus(lambda file: "")) == os.sched_getaffinity(0)


def test_the_plan_on_its_own_cores_needs_no_warning():
    cpus = tuple(range(8))
    assert placement_warnings(BOARD, True, place(BOARD, True, cpus), cpus, frozenset(cpus)) == []


@pytest.mark.parametrize(
    ("matches", "cpus", "online", "warnings"),
    [
        (
            True,
            (0, 1, 2, 3, 4, 6),
            {0, 1, 2, 3, 4, 6},
            ["cpu 5 of the plan is offline, or not there; its stages run on cpu 0, 1, 2, 3, 4, 6 instead."],
        ),
        (
            True,
            (0, 3),
            {0, 1, 2, 3, 4},
            [
                "cpu 5 of the plan is offline, or not there; all stages share cpu 0, 3 instead.",
                "cpu 1, 2, 4 of the plan may not be used by this process (cpuset or taskset);"
                " all stages share cpu 0, 3 instead.",
            ],
        ),
        (
            True,
            (0, 3),
            None,
            [
                "cpu 1, 2, 4, 5 of the plan may not be used by this process (cpuset or taskset);"
                " all stages share cpu 0, 3 instead."
            ],
        ),
        (
            False,
            (0, 3),
            {0, 3},
            ["The plan's cores are those of board, which this machine is not; all stages share cpu 0, 3 instead."],
        ),
    ],
    ids=["offline", "offline and forbidden", "nobody tells what is offline", "another chip"],
)
def test_why_stages_run_elsewhere_is_told(matches, cpus, online, warnings):
    placed = place(BOARD, matches, cpus)
    known = None if online is None else frozenset(online)
    assert placement_warnings(BOARD, matches, placed, cpus, known) == warnings
