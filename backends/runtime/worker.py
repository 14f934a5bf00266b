"""The thread of one replica of a stage: it takes frames as they come, on cores of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from cospipe.backends.runtime.adapter_weights import Overrides
from cospipe.backends.runtime.generations import Weights
from cospipe.backends.runtime.job import Job
from cospipe.backends.runtime.link import Link
from cospipe.backends.runtime.placement import ReplicaPlacement
from cospipe.backends.runtime.reasons import reason
from cospipe.backends.runtime.stage import StageExecutable, to_numpy
from cospipe.backends.runtime.statistics import Work
from cospipe.backends.runtime.tvm_runtime import configure_thread_pool
from cospipe.ir.errors import CospipeError, StageError
from cospipe.ir.manifest import StageFiles


class SharedBuild:
    """A library of a stage and its weights, which all replicas on cores of one kind share.

    Parameters
    ----------
    files : StageFiles
        The stage with this build alone.
    library, weights : Path
        Absolute paths of its files.
    overrides : mapping of str to array
        Values that take the place of stored weights, by name.
    """

    def __init__(self, files: StageFiles, library: Path, weights: Path, overrides: Overrides) -> None:
        self._arguments = files, library, weights, overrides
        self._lock = threading.Lock()
        self._first: StageExecutable | None = None

    @property
    def first(self) -> StageExecutable:
        """What was loaded first; the weights are its."""
        assert self._first is not None
        return self._first

    def executable(self) -> StageExecutable:
        """Return an executable for the calling thread alone; the first call loads library and weights."""
        with self._lock:
            if self._first is not None:
                return self._first.twin()
            self._first = StageExecutable(*self._arguments)
            return self._first


@dataclass
class ReplicaWorker:
    """One replica of a stage.

    Parameters
    ----------
    name : str
        For people, and the thread.
    stage, replica : int
        Its numbers, under which times are recorded.
    build : SharedBuild
        What it runs.
    placement : ReplicaPlacement
        Where it runs.
    kept : frozenset of str
        Values that later stages or the outputs need.
    incoming : Link
        Where it takes frames from, together with the other replicas of its stage.
    pass_on : callable
        Takes each frame when it is done.
    weights_of : callable
        Returns the weights that frames of a generation meet.
    fail : callable
        Is told what keeps it from going on.
    fails_on_nan : bool
        Whether NaN in an output does.

    Attributes
    ----------
    ready : threading.Event
        Set when it is loaded and warm, or ``failure`` says why not.
    frame : int
        The frame it is at, or was at last.
    steps : int
        How many frames it has begun, and how many it has ended, together: odd while it is at work.
    is_stuck : bool
        Whether it was at one frame for too long, and nobody waits for it any more.
    native_id, cpus
        The kernel's number of its thread, and the cores that thread stays on.
    """

    name: str
    stage: int
    replica: int
    build: SharedBuild
    placement: ReplicaPlacement
    kept: frozenset[str]
    incoming: Link[Job]
    pass_on: Callable[[Job], object]
    weights_of: Callable[[int], Weights]
    fail: Callable[[CospipeError], None]
    fails_on_nan: bool = False
    ready: threading.Event = field(default_factory=threading.Event)
    failure: CospipeError | None = None
    frame: int = 0
    steps: int = 0
    is_stuck: bool = False
    native_id: int = 0
    cpus: tuple[int, ...] = ()

    @property
    def is_at_work(self) -> bool:
        """Whether it computes a frame at this moment."""
        return self.steps % 2 == 1

    def thread(self) -> threading.Thread:
        """Return its thread, not started yet."""
        return threading.Thread(target=self.work, name=self.name, daemon=True)

    def work(self) -> None:
        """Load the stage, then run frames until the link is closed or one fails."""
        executable = self._start()
        if executable is None:
            return
        while (taken := self.incoming.take()) is not None:
            job, waiting = taken
            try:
                self.step(executable, job, waiting)
            except StageError as error:
                return self.fail(error)
            except Exception as error:
                return self.fail(StageError(self.name, f"{self.name} failed at frame {job.number}: {reason(error)}"))
            self.pass_on(job)

    def _start(self) -> StageExecutable | None:
        try:
            cpus = self.placement.cpu_ids
            os.sched_setaffinity(0, cpus)
            configure_thread_pool(cpus, self.placement.threads)
            executable = self.build.executable()
            executable.warm_up()
            if self.placement.kind != "shared":
                os.sched_setaffinity(0, cpus[:1])  # the pool has just widened it to all its cores
            self.native_id, self.cpus = threading.get_native_id(), tuple(sorted(os.sched_getaffinity(0)))
            return executable
        except CospipeError as error:
            self.failure = error
        except Exception as error:
            self.failure = StageError(self.name, f"{self.name} could not be started: {reason(error)}")
        finally:
            self.ready.set()
        return None

    def step(self, executable: StageExecutable, job: Job, waiting: int = 0) -> None:
        """Run one frame and note its times, and how many others waited.

        Raises
        ------
        StageError
            When an output holds NaN, and that is not to be.
        """
        self.frame = job.number
        self.steps += 1
        started_s = perf_counter()
        outputs = executable.call(job.values, self.weights_of(job.generation))
        job.finished_s = perf_counter()
        self.steps += 1
        job.started_s = job.started_s or started_s
        job.run.statistics.stages[self.stage].replicas[self.replica].record(
            Work(job.number, started_s, job.finished_s), waiting
        )
        if self.fails_on_nan:
            self._check_for_nan(outputs, job.number)
        job.values = {name: tensor for name, tensor in (job.values | outputs).items() if name in self.kept}

    def _check_for_nan(self, outputs: dict[str, Any], frame: int) -> None:
        for name, array in to_numpy(outputs, list(outputs)).items():
            # the smallest of numbers is NaN when one of them is
            if array.dtype.kind == "f" and np.isnan(array.min(initial=0.0)):
                raise StageError(self.name, f"{self.name} put out NaN in {name} at frame {frame}.")
