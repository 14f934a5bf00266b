"""Traces of runs: every slice where the statistics say, frames within their ways, arrows from stage to stage."""

import json
from collections import defaultdict
from itertools import pairwise

import pytest
from running import frames_for
from typer.testing import CliRunner

from cospipe.backends.runtime.placement import ReplicaPlacement
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.runtime.statistics import ReplicaTimes, RunStatistics, StageTimes, Work
from cospipe.backends.runtime.trace import check_trace_file, trace, write_trace
from cospipe.cli import app
from cospipe.ir.errors import CospipeError, UsageError

FRAMES = 20


def replica(cpu, *work):
    times = ReplicaTimes(f"big:{cpu}", ReplicaPlacement((cpu,), 1, "plan"), 1.0, keeps_trace=True)
    for each in work:
        times.record(Work(*each))
    return times


@pytest.fixture
def made_up():
    """Frame 0 on the second replica, frames 1 and 2 on the first, then all on a second stage."""
    first = [replica(0, (1, 10.000, 10.002), (2, 10.002, 10.004)), replica(1, (0, 10.000, 10.005))]
    second = [replica(2, (1, 10.003, 10.004), (2, 10.004, 10.005), (0, 10.006, 10.007))]
    stages = [StageTimes("stage0", "", 1, 1, first), StageTimes("stage1", "", 1, 1, second)]
    statistics = RunStatistics(stages, keeps_trace=True)
    for entered_s in (10.000, 10.000, 10.001):
        statistics.record(entered_s, 10.007)
    return statistics


def events(written, phase, process=None):
    return [e for e in written["traceEvents"] if e["ph"] == phase and process in (None, e["pid"])]


def names(written):
    found = {e["pid"]: e["args"]["name"] for e in events(written, "M") if e["name"] == "process_name"}
    return {name: process for process, name in found.items()}


def test_slices_lie_where_the_work_was(made_up):
    written = trace(made_up, {"model": "made up"})
    stages = names(written)["stages"]
    tracks = {e["tid"]: e["args"]["name"] for e in events(written, "M", stages) if e["name"] == "thread_name"}
    found = {(tracks[e["tid"]], e["args"]["frame"]): (e["ts"], e["dur"]) for e in events(written, "X", stages)}
    assert found == {
        ("stage0 replica 0 on big:0 (cpu 0)", 1): (pytest.approx(0), pytest.approx(2000)),
        ("stage0 replica 0 on big:0 (cpu 0)", 2): (pytest.approx(2000), pytest.approx(2000)),
        ("stage0 replica 1 on big:1 (cpu 1)", 0): (pytest.approx(0), pytest.approx(5000)),
        ("stage1 on big:2 (cpu 2)", 1): (pytest.approx(3000), pytest.approx(1000)),
        ("stage1 on big:2 (cpu 2)", 2): (pytest.approx(4000), pytest.approx(1000)),
        ("stage1 on big:2 (cpu 2)", 0): (pytest.approx(6000), pytest.approx(1000)),
    }
    assert written["otherData"] == {"model": "made up"}


def check_against(written, statistics):
    """Check order, nesting, arrows and totals of a trace."""
    process = names(written)
    ways = {e["args"]["frame"]: e for e in events(written, "X", process["frames"])}
    assert sorted(ways) == list(range(len(statistics.finished_s)))
    by_track = defaultdict(list)
    for event in events(written, "X"):
        by_track[event["pid"], event["tid"]].append(event)
    for track in by_track.values():
        assert all(a["ts"] + a["dur"] <= b["ts"] + 0.01 for a, b in pairwise(track))
    work = defaultdict(list)
    for event in events(written, "X", process["stages"]):
        way = ways[event["args"]["frame"]]
        assert way["ts"] - 0.01 <= event["ts"]
        assert event["ts"] + event["dur"] <= way["ts"] + way["dur"] + 0.01
        work[event["args"]["frame"]].append(event)
    starts, ends = events(written, "s"), events(written, "f")
    arrows = {e["id"]: e for e in starts}
    assert len(arrows) == len(starts) == len(ends) == len(ways) * (len(statistics.stages) - 1)
    for end in ends:
        start = arrows[end["id"]]
        source, target = (
            [e for e in by_track[x["pid"], x["tid"]] if e["ts"] <= x["ts"] <= e["ts"] + e["dur"] + 0.01]
            for x in (start, end)
        )
        assert target[-1]["ts"] == end["ts"]
        assert source[0]["args"]["frame"] == target[-1]["args"]["frame"] == int(end["id"].split(".")[0])
        assert source[0]["ts"] + source[0]["dur"] <= target[-1]["ts"] + 0.01
    busy_us = sum(each.busy_us for stage in statistics.stages for each in stage.work)
    assert sum(e["dur"] for es in work.values() for e in es) == pytest.approx(busy_us, rel=1e-4)


def test_a_made_up_run_is_whole(made_up):
    check_against(trace(made_up, {}), made_up)


def test_a_real_run_is_whole_and_written_as_json(compiled, tmp_path):
    with PipelineRunner(compiled.bundle, queue_depth=2, keep_trace=True) as runner:
        list(runner.run(frames_for(compiled.bundle, FRAMES)))
    write_trace(tmp_path / "run.json", runner.statistics, {"model": "small"})
    check_against(json.loads((tmp_path / "run.json").read_text()), runner.statistics)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_the_command_writes_one(compiled, tmp_path):
    file = tmp_path / "run.json"
    done = CliRunner().invoke(app, ["run", str(compiled.bundle.path), "--frames", "7", "--trace", str(file), "--json"])
    assert done.exit_code == 0, done.output
    written = json.loads(file.read_text())
    assert len(events(written, "X", names(written)["frames"])) == json.loads(done.stdout)["frames"] == 7
    assert written["otherData"]["model"] == "SmallNetwork"


def test_a_run_without_frames_is_an_empty_trace(made_up):
    made_up.stages.clear()
    assert events(trace(RunStatistics([]), {}), "X") == []


def test_a_trace_that_cannot_be_written_gets_a_sentence(made_up, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        check_trace_file(tmp_path / "nowhere" / "run.json")
    with pytest.raises(UsageError, match="is a directory"):
        check_trace_file(tmp_path)
    with pytest.raises(CospipeError, match="could not be written"):
        write_trace(tmp_path / "nowhere" / "run.json", made_up, {})


def test_a_run_that_kept_no_trace_has_none(compiled, tmp_path):
    with PipelineRunner(compiled.bundle) as runner:
        list(runner.run(frames_for(compiled.bundle, FRAMES)))
    assert runner.statistics.frames == FRAMES
    assert not runner.statistics.finished_s
    assert not any(stage.work for stage in runner.statistics.stages)
    with pytest.raises(UsageError, match="keep_trace"):
        write_trace(tmp_path / "run.json", runner.statistics, {})
    assert not list(tmp_path.iterdir())
