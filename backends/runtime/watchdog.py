"""Looks after the replicas while frames run: whether one is stuck, and what happens to their cores."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from cospipe.backends.runtime.machine_monitor import MachineMonitor, PinnedThread
from cospipe.backends.runtime.worker import ReplicaWorker
from cospipe.ir.errors import CospipeError, StageError, several

_TICK_S = 0.1
_TICKS_BETWEEN_SAMPLES = 10


@dataclass
class _Progress:
    """What was seen at the last tick, and for how long the same was seen before."""

    steps: int = -1
    is_waited_for: bool = False
    unchanged_s: float = 0.0

    def stuck_s(self, steps: int, is_waited_for: bool, passed_s: float) -> float:
        """Count a tick; return for how long no step was made that somebody waits for."""
        is_unchanged = is_waited_for and self.is_waited_for and steps == self.steps
        self.unchanged_s = self.unchanged_s + passed_s if is_unchanged else 0.0
        self.steps, self.is_waited_for = steps, is_waited_for
        return self.unchanged_s


class Watchdog:
    """A thread that ends the pipeline when it is stuck, and notes what happens to its cores.

    It counts its own ticks, each of them as little longer than planned: a process that is stopped and continued has
    not run meanwhile, and neither have its stages.

    Parameters
    ----------
    workers : sequence of ReplicaWorker
        Whom it watches.
    stall_timeout_s : float
        How long a replica may be at one frame; 0 for as long as it likes.
    is_strict : bool
        Whether a lost core ends the pipeline.
    frames_inside : callable
        Returns how many frames were accepted and have not left the last stage.
    machine : callable
        Returns the monitor of the run that is going on; None between runs.
    fail : callable
        Ends the pipeline.
    """

    def __init__(
        self,
        workers: Sequence[ReplicaWorker],
        stall_timeout_s: float,
        is_strict: bool,
        frames_inside: Callable[[], int],
        machine: Callable[[], MachineMonitor | None],
        fail: Callable[[CospipeError], None],
    ) -> None:
        self._workers = workers
        self._stall_timeout_s = stall_timeout_s
        self._is_strict = is_strict
        self._frames_inside = frames_inside
        self._machine = machine
        self._fail = fail
        self._progress = [_Progress() for _ in workers]
        self._progress_of_all = _Progress()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def end(self) -> None:
        """Watch no more."""
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        before_s = monotonic()
        for tick in itertools.count():
            machine = self._machine()
            if machine is not None and (tick % _TICKS_BETWEEN_SAMPLES == 0 or not machine.samples):
                self.look_at(machine)
            if self._is_over.wait(_TICK_S):
                return
            now_s = monotonic()
            self.look_for_stalls(min(now_s - before_s, 2 * _TICK_S))
            before_s = now_s

    def look_for_stalls(self, passed_s: float) -> None:
        """Count a tick, and end the pipeline when something has been stuck for too long."""
        if not self._stall_timeout_s:
            return
        steps = [worker.steps for worker in self._workers]
        for worker, progress, taken in zip(self._workers, self._progress, steps, strict=True):
            if progress.stuck_s(taken, worker.is_at_work, passed_s) >= self._stall_timeout_s:
                self._end_stuck(worker)
        is_lost = self._frames_inside() > 0 and not any(worker.is_at_work for worker in self._workers)
        if self._progress_of_all.stuck_s(sum(steps), is_lost, passed_s) >= self._stall_timeout_s:
            self._end_lost()

    def _end_stuck(self, worker: ReplicaWorker) -> None:
        if worker.is_stuck:
            return
        worker.is_stuck = True
        self._fail(
            StageError(
                worker.name,
                f"{worker.name} has been at frame {worker.frame} for more than {self._stall_timeout_s:g} s; the run "
                "was ended. If it needs that long, allow it a longer stall timeout.",
            )
        )

    def _end_lost(self) -> None:
        waiting = next((worker for worker in self._workers if len(worker.incoming)), self._workers[0])
        self._fail(
            StageError(
                waiting.name,
                f"{self._frames_inside()} frame(s) are inside, but no stage has been at work for more than "
                f"{self._stall_timeout_s:g} s, first of all {waiting.name}; the run was ended.",
            )
        )

    def look_at(self, machine: MachineMonitor) -> None:
        """Sample clocks and threads; when the runner is strict, end the pipeline when a core was lost."""
        machine.sample([PinnedThread(w.name, w.native_id, w.cpus) for w in self._workers])
        if self._is_strict and (lost := machine.lost_cores()):
            self._fail(CospipeError(several("The run was ended because it is strict", lost)))
