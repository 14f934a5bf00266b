"""Stages get the plan's cores, as many others, or share what there is."""

import os

import pytest

from cospipe.backends.runtime.placement import StagePlacement, available_cpus, place
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, StagePlan


def plan(*cpu_ids):
    stages = tuple(
        StagePlan(
            name=f"stage{i}",
            configuration=CoreConfiguration("big", len(ids)),
            cpu_ids=ids,
            nodes=("node",),
            compute_us=1,
            hand_over_us=0,
            hand_over_bytes=0,
        )
        for i, ids in enumerate(cpu_ids)
    )
    return PipelinePlan(soc="board", objective="throughput", stages=stages)


BOARD = plan((4, 5), (0, 1, 2))


def test_a_plan_runs_on_its_own_cores_where_they_are():
    placements = place(BOARD, True, tuple(range(8)))
    assert placements == (StagePlacement((4, 5), 2, "plan"), StagePlacement((0, 1, 2), 3, "plan"))


@pytest.mark.parametrize(
    ("matches", "cpus"),
    [(True, (0, 1, 2, 3, 4)), (False, tuple(range(8)))],
    ids=["a core is missing", "core ids of another chip"],
)
def test_otherwise_on_as_many_other_cores(matches, cpus):
    placements = place(BOARD, matches, cpus)
    assert [p.kind for p in placements] == ["substitute", "substitute"]
    assert [(p.cpu_ids, p.threads) for p in placements] == [((0, 1), 2), ((2, 3, 4), 3)]


def test_stages_share_too_few_cores():
    placements = place(BOARD, True, (0, 3))
    assert placements == (StagePlacement((0, 3), 2, "shared"), StagePlacement((0, 3), 2, "shared"))
    assert place(BOARD, True, (7,))[1] == StagePlacement((7,), 1, "shared")


def test_the_cores_of_this_process_are_known():
    assert set(available_cpus()) == os.sched_getaffinity(0)
    assert list(available_cpus()) == sorted(available_cpus())
