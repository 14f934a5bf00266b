"""A run as a trace that Perfetto and Chrome show: who worked on which frame when.

The format is Chrome's trace events in JSON (open it at ui.perfetto.dev or chrome://tracing): a process for the frames,
in which each frame is a slice from entering to leaving the pipeline, and one for the stages, with a track for each
replica. Arrows (flow events) lead a frame from stage to stage. Times are microseconds since the first frame came in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cospipe.backends.runtime.statistics import ReplicaTimes, RunStatistics, Work
from cospipe.ir.errors import CospipeError, UsageError, first_line

_FRAMES, _STAGES = 1, 2
_Event = dict[str, Any]


def check_trace_file(path: Path | None) -> None:
    """Check that a trace can be written to a path, before any frame runs.

    Raises
    ------
    UsageError
        When it is a directory, or its directory does not exist.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file for the trace, for example run.json.")
    if not path.parent.is_dir():
        raise UsageError(f"The directory {path.parent} does not exist.")


def write_trace(path: Path, statistics: RunStatistics, about: Mapping[str, Any]) -> None:
    """Write a run as a trace; the file is there whole or not at all.

    Parameters
    ----------
    path : Path
        The file.
    statistics : RunStatistics
        A run that is over.
    about : mapping
        What the trace shall say of the run besides, for example its model.

    Raises
    ------
    UsageError
        When the run kept no trace.
    CospipeError
        When the file cannot be written.
    """
    if not statistics.keeps_trace:
        raise UsageError("This run kept no trace; make its runner with keep_trace=True.")
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.write_text(json.dumps(trace(statistics, about)), encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise CospipeError(f"The trace could not be written to {path}: {first_line(error)}.") from error
    finally:
        scratch.unlink(missing_ok=True)


def trace(statistics: RunStatistics, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run as trace events."""
    origin_s = min(statistics.entered_s, default=0.0)
    events = [*_names(statistics), *_frames(statistics, origin_s), *_stages(statistics, origin_s)]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {key: str(about[key]) for key in about}}


def _names(statistics: RunStatistics) -> Iterator[_Event]:
    yield _name("process_name", _FRAMES, 0, "frames")
    yield _name("process_name", _STAGES, 0, "stages")
    for lane in range(_lane_count(statistics)):
        yield _name("thread_name", _FRAMES, lane, f"frames inside {lane}")
    for track, (name, replica) in enumerate(_tracks(statistics)):
        cpus = ", ".join(map(str, replica.placement.cpu_ids))
        yield _name("thread_name", _STAGES, track, f"{name} on {replica.configuration} (cpu {cpus})")
        yield {"ph": "M", "name": "thread_sort_index", "pid": _STAGES, "tid": track, "args": {"sort_index": track}}


def _name(what: str, process: int, track: int, name: str) -> _Event:
    return {"ph": "M", "name": what, "pid": process, "tid": track, "args": {"name": name}}


def _tracks(statistics: RunStatistics) -> Iterator[tuple[str, ReplicaTimes]]:
    for stage in statistics.stages:
        for number, replica in enumerate(stage.replicas):
            which = f" replica {number}" if len(stage.replicas) > 1 else ""
            yield f"{stage.name}{which}", replica


def _frames(statistics: RunStatistics, origin_s: float) -> Iterator[_Event]:
    """Yield each frame's way as a slice; those that are inside at the same time lie on different tracks."""
    times = zip(statistics.entered_s, statistics.finished_s, _lanes(statistics), strict=True)
    for frame, (entered_s, finished_s, lane) in enumerate(times):
        yield _slice(_FRAMES, lane, f"frame {frame}", Work(frame, entered_s, finished_s), origin_s)


def _lanes(statistics: RunStatistics) -> Iterator[int]:
    """Yield the lowest track that is free for each frame."""
    free_from_s: list[float] = []
    for entered_s, finished_s in zip(statistics.entered_s, statistics.finished_s, strict=True):
        lane = next((i for i, free_s in enumerate(free_from_s) if free_s <= entered_s), len(free_from_s))
        free_from_s[lane : lane + 1] = [finished_s]
        yield lane


def _lane_count(statistics: RunStatistics) -> int:
    return max(_lanes(statistics), default=-1) + 1


def _stages(statistics: RunStatistics, origin_s: float) -> Iterator[_Event]:
    last: dict[int, tuple[int, Work]] = {}
    for track, (name, replica) in enumerate(_tracks(statistics)):
        for work in replica.work:
            yield _slice(_STAGES, track, f"{name}, frame {work.frame}", work, origin_s)
            if work.frame in last:
                yield from _flow(last[work.frame], (track, work), origin_s)
        last |= {work.frame: (track, work) for work in replica.work}


def _slice(process: int, track: int, name: str, work: Work, origin_s: float) -> _Event:
    times = {"ts": _us(work.started_s, origin_s), "dur": round(work.busy_us, 3)}
    return {"ph": "X", "name": name, "pid": process, "tid": track, **times, "args": {"frame": work.frame}}


def _flow(source: tuple[int, Work], target: tuple[int, Work], origin_s: float) -> Iterator[_Event]:
    """Yield the two ends of an arrow; it starts within one slice and ends at the beginning of the next."""
    (from_track, before), (to_track, after) = source, target
    common = {"name": "hand-over", "cat": "hand-over", "pid": _STAGES, "id": f"{before.frame}.{from_track}.{to_track}"}
    middle_s = (before.started_s + before.finished_s) / 2
    yield {"ph": "s", **common, "tid": from_track, "ts": _us(middle_s, origin_s)}
    yield {"ph": "f", "bp": "e", **common, "tid": to_track, "ts": _us(after.started_s, origin_s)}


def _us(time_s: float, origin_s: float) -> float:
    return round((time_s - origin_s) * 1e6, 3)
