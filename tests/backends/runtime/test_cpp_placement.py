"""The C++ runner places replicas as the Python runner does, and gives the same reasons."""

import json
import os
import tempfile
from pathlib import Path

from cpp_frames import act, write_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.backends.runtime.placement import place, placement_warnings
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, StagePlan

cores = st.integers(0, 9)
core_lists = st.lists(cores, min_size=1, max_size=4, unique=True)
stage_lists = st.lists(st.lists(core_lists, min_size=1, max_size=3), min_size=1, max_size=3)


def pipeline_plan(stages):
    planned = tuple(
        StagePlan(
            name=f"stage{i}",
            replicas=tuple(
                Replica(cores=(CoreConfiguration("big", len(ids)),), cpu_ids=tuple(ids), compute_us=1)
                for ids in replicas
            ),
            nodes=("node",),
            hand_over_us=0,
            hand_over_bytes=0,
        )
        for i, replicas in enumerate(stages)
    )
    return PipelinePlan(soc="chip", objective="throughput", stages=planned)


def fake_sys(folder, online):
    file = folder / "devices" / "system" / "cpu" / "online"
    file.parent.mkdir(parents=True)
    file.write_text(online)
    return folder


@settings(max_examples=40, deadline=None)
@given(stage_lists, st.booleans(), st.sets(cores, min_size=1), st.sets(cores, min_size=1))
def test_as_in_python(stages, fits, cpus, online):
    cpus, plan = tuple(sorted(cpus)), pipeline_plan(stages)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sys = fake_sys(folder / "sys", ",".join(map(str, sorted(online))))
        found = act("place", write_plan(folder, stages=stages, fits=fits), json.dumps(cpus), sys)
    expected = place(plan, fits, cpus)
    placed = [[[list(replica.cpu_ids), replica.threads, replica.kind] for replica in stage] for stage in expected]
    warnings = placement_warnings(plan, fits, expected, cpus, frozenset(online))
    assert found == {"placed": placed, "warnings": warnings}


def test_cores_that_are_offline_are_not_available(tmp_path):
    allowed = sorted(os.sched_getaffinity(0))
    assert act("available", tmp_path) == allowed
    assert act("available", fake_sys(tmp_path / "one", f"{allowed[0]},4000-4002\n")) == allowed[:1]
    assert act("available", fake_sys(tmp_path / "all", "0-65000\n")) == allowed
    assert act("available", fake_sys(tmp_path / "nonsense", "everything, -1-x\n")) == allowed
