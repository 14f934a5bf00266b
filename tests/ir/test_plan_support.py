"""Which plans can run: every reason why one cannot is named with its stage and cores."""

import pytest

from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, StagePlan
from cospipe.ir.plan_support import cannot_run


def replica(*cores, sharing="equal"):
    parts = tuple(map(CoreConfiguration.parse, cores))
    return Replica(cores=parts, compute_us=1, sharing=sharing)


def plan(*stages):
    planned = tuple(
        StagePlan(name=f"stage{i}", replicas=replicas, nodes=("a",), hand_over_us=0, hand_over_bytes=0)
        for i, replicas in enumerate(stages)
    )
    return PipelinePlan(soc="board", objective="throughput", stages=planned)


@pytest.mark.parametrize(
    "stages",
    [
        [(replica("big:4"),)],
        [(replica("big:2"),), (replica("little:4"),)],
        [(replica("big:1"), replica("little:1"))],
        [(replica("big:4", "little:4"),)],
        [(replica("big:1", "little:1"), replica("big:1")), (replica("big:1", "little:1", sharing="by-speed"),)],
    ],
)
def test_plans_on_cpu_cores_run(stages):
    assert cannot_run(plan(*stages)) == []


def test_every_reason_is_named_once():
    npu = replica("npu:1")
    reasons = cannot_run(plan((replica("gpu:1"),), (npu, npu, replica("big:4"))))
    assert [reason.split(":")[0] for reason in reasons] == ["stage0 on gpu", "stage1 on npu"]
    assert "not for the GPU" in reasons[0]
    assert "not for the NPU" in reasons[1]
