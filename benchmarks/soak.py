"""Frames for an hour through cospipe-run and a spool, whatever happens to the process meanwhile.

    python benchmarks/soak.py --minutes 60 --json soak.json

A small network (three stages, two replicas in the middle, adapters folded at load) is compiled for this machine with
its runner. A producer brings frames at 85 % of the rate that the pipeline can keep alone, a checker compares every
result with eager PyTorch and removes it with its frame, so that the disk stays flat. Meanwhile, at random: producer and
checker stall, adapters are swapped (SIGHUP), the process is stopped for a while (SIGSTOP, SIGCONT); in the first half
it is also killed (SIGKILL) and started again, in the second half it lives on.

It fails at the first frame that is lost, done twice, out of order, wrong, or met by an adapter that was replaced before
an earlier frame. A result is committed by being renamed; a killed runner begins with the first frame that has none.
Every life begins with a full spool and an exchange: its pipeline was full once, and what is made once was made, before
memory counts. Frames are small: what they leave behind adds up, how many are inside does not show.
Memory is Rss of /proc/PID/smaps_rollup, twice a second; a life's drift is the median of its second half against that
of its first, without the first ten seconds. Lives under thirty seconds do not count. There is a row for each life.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from environment import JsonFile, Row, Value, print_rows, write_rows
from soak_network import SoakPipeline, soak_pipeline
from soak_run import MOST_DRIFT, Life, Soak, SoakError, Unrest

from cospipe.backends.board.options import RunnerOptions

SHARE_OF_RATE = 0.85
_MEASURED_FRAMES = 400


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="how long, in all")] = 60.0,
    seed: Annotated[int, typer.Option(help="of everything that is random")] = 0,
    json_file: JsonFile = "",
) -> None:
    """Let a pipeline run and disturb it; end with status 1 when anything is not as it must be."""
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        folder = Path(scratch)
        tell("Compiling the network")
        pipeline = soak_pipeline(folder, RunnerOptions())
        rate = SHARE_OF_RATE * frames_per_second(pipeline, folder)
        tell(f"{rate:.0f} frames a second")
        soak = Soak(pipeline, folder, rate, seed)
        failure = _run(soak, 60 * minutes)
    rows = [_row(life) for life in soak.lives]
    result = summary(soak, rate, failure)
    if json_file:
        write_rows(rows, json_file, (), result)
    else:
        print_rows("Lives of the process", rows)
        print("\n".join(f"{key}: {value}" for key, value in result.items()))
    if not result["passed"]:
        raise typer.Exit(1)


def _run(soak: Soak, seconds: float) -> str | None:
    """Run both halves; return what went wrong."""
    try:
        soak.run(seconds / 2, Unrest(), tell)
        soak.run(seconds / 2, replace(Unrest(), kill_s=0), tell)
    except SoakError as error:
        tell(str(error))
        return str(error)
    return None


def frames_per_second(pipeline: SoakPipeline, folder: Path) -> float:
    """Return what the pipeline can do alone, from a spool that is full."""
    spool, results = folder / "measured-in", folder / "measured-out"
    for directory in (spool, results):
        directory.mkdir()
    for number in range(_MEASURED_FRAMES):
        np.save(spool / f"{number:06}.npy", pipeline.frames[number % len(pipeline.frames)])
    command = [str(pipeline.bundle.folder / "cospipe-run"), "--spool", str(spool), "--results", str(results), "--json"]
    finished = subprocess.run(command, check=True, capture_output=True)
    statistics: dict[str, Any] = json.loads(finished.stdout)
    return float(statistics["frames_per_second"])


def tell(text: str) -> None:
    """Say on standard error what is done."""
    print(text, file=sys.stderr, flush=True)


def _row(life: Life) -> Row:
    drift = life.drift()
    sizes = [size for _, size in life.resident_bytes]
    return {
        "first_frame": life.first_frame,
        "frames": life.frames,
        "seconds": round(life.seconds, 1),
        "ended_by": life.ended_by,
        "swaps": len(life.adapters) - 1,
        "swaps_seen": life.swaps_seen,
        "resident_mb": round(sizes[-1] / 1e6, 2) if sizes else None,
        "most_resident_mb": round(max(sizes) / 1e6, 2) if sizes else None,
        "memory_drift_percent": None if drift is None else round(100 * drift, 3),
    }


def summary(soak: Soak, rate: float, failure: str | None) -> dict[str, Value]:
    """Return the figures of all lives together."""
    drifts = [drift for life in soak.lives if (drift := life.drift()) is not None]
    worst = max(drifts, key=abs) if drifts else None
    is_flat = worst is None or abs(worst) <= MOST_DRIFT
    return {
        "minutes": round(sum(life.seconds for life in soak.lives) / 60, 2),
        "offered_frames_per_s": round(rate, 1),
        "frames_right": soak.checked,
        "frames_missing": soak.produced - soak.checked,
        "lives": len(soak.lives),
        "kills": sum(life.ended_by == "SIGKILL" for life in soak.lives),
        "swaps": soak.swaps,
        "swaps_seen": sum(life.swaps_seen for life in soak.lives),
        "stops": soak.stops,
        "stalls": soak.stalls,
        "lives_with_memory": len(drifts),
        "worst_memory_drift_percent": None if worst is None else round(100 * worst, 3),
        "failure": failure or (None if is_flat else f"memory changed by more than {100 * MOST_DRIFT:.0f} %"),
        "passed": failure is None and is_flat,
    }


if __name__ == "__main__":
    typer.run(main)
