"""Timing several runtimes alternately in one process, so that none disturbs another.

Each runtime lives in a thread of its own that may run on the benchmark's cores only; so do the threads it starts. In
every round each gets one turn, in an order shuffled anew. A turn is: wait until no thread of the process computes any
more (idle workers of ONNX Runtime, OpenMP and TVM spin for a while; they are left to, it makes them faster); run once
untimed, which brings code, weights and sleeping workers back; run once timed. The time is that of the runtime's own
call, taken in its thread. Linux counts how often a thread lost its core to another program meanwhile: on a busy
machine that happens in many of the runs, and then their times say little.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes import Array, Session, load_session

from cospipe.backends.profiling.rounds import without_garbage_collection

WARM_UP_RUNS = 3
_POLL_S = 0.005
_IDLE_SHARE = 0.1
_LONGEST_WAIT_S = 1.0


@dataclass(frozen=True)
class TimedRun:
    """Milliseconds of one run, and whether another program took a core away meanwhile."""

    milliseconds: float
    interrupted: bool


class SessionThread:
    """A runtime with a network, loaded and run by one thread that may run on some cores only.

    Parameters
    ----------
    runtime : str
        One of ``RUNTIMES``.
    folder : Path
        What was prepared.
    inputs : tuple of arrays
        The network's inputs.
    cpu_ids : sequence of int
        The cores; as many threads.
    """

    def __init__(self, runtime: str, folder: Path, inputs: tuple[Array, ...], cpu_ids: Sequence[int]) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=lambda: os.sched_setaffinity(0, cpu_ids))
        try:
            self._session = self._call(lambda: load_session(runtime, folder, inputs, cpu_ids))
        except BaseException:
            self.close()
            raise

    def _call(self, work: Callable[[], Any]) -> Any:
        return self._thread.submit(work).result()

    def warm_up(self) -> list[Array]:
        """Run a few times and return the outputs."""
        outputs: list[Array] = self._call(lambda: _warm_up(self._session))
        return outputs

    def timed_run(self) -> TimedRun:
        """Run twice and return the time of the second run."""
        timed: TimedRun = self._call(lambda: _timed_run(self._session))
        return timed

    def close(self) -> None:
        """Give up the thread."""
        self._thread.shutdown()


def _warm_up(session: Session) -> list[Array]:
    for _ in range(WARM_UP_RUNS - 1):
        session.run()
    return session.arrays(session.run())


def _timed_run(session: Session) -> TimedRun:
    session.run()
    switches = _involuntary_switches()
    started = time.perf_counter()
    outputs = session.run()
    finished = time.perf_counter()
    interrupted = _involuntary_switches() > switches
    del outputs  # giving them back is not part of the run
    return TimedRun((finished - started) * 1e3, interrupted)


def _involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def alternate(
    sessions: Mapping[str, SessionThread], rounds: int, progress: Callable[[str], None]
) -> dict[str, list[TimedRun]]:
    """Return the runs of every round by runtime."""
    runs: dict[str, list[TimedRun]] = {runtime: [] for runtime in sessions}
    with without_garbage_collection():
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            for runtime in random.Random(number).sample(list(sessions), len(sessions)):
                wait_until_idle()
                runs[runtime].append(sessions[runtime].timed_run())
    return runs


def wait_until_idle() -> bool:
    """Wait until the threads of this process hardly compute, but no longer than a second; return whether they do."""
    deadline = time.perf_counter() + _LONGEST_WAIT_S
    while time.perf_counter() < deadline:
        computed_s = time.process_time()
        time.sleep(_POLL_S)
        if time.process_time() - computed_s < _IDLE_SHARE * _POLL_S:
            return True
    return False
