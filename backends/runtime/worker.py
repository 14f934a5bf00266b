"""The thread of one replica of a stage: it takes frames as they come, on cores of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from cospipe.backends.runtime.adapter_weights import Overrides
from cospipe.backends.runtime.generations import Weights
from cospipe.backends.runtime.job import Job
from cospipe.backends.runtime.link import Link
from cospipe.backends.runtime.placement import ReplicaPlacement
from cospipe.backends.runtime.stage import StageExecutable
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
    ready: threading.Event = field(default_factory=threading.Event)
    failure: CospipeError | None = None

    def thread(self) -> threading.Thread:
        """Return its thread, not started yet."""
        return threading.Thread(target=self.work, name=self.name, daemon=True)

    def work(self) -> None:
        """Load the stage, then run frames until the link is closed or one fails."""
        executable = self._start()
        if executable is None:
            return
        while (job := self.incoming.get()) is not None:
            try:
                self.step(executable, job)
            except Exception as error:
                self.fail(StageError(self.name, f"{self.name} failed: {error}"))
                return
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
            return executable
        except CospipeError as error:
            self.failure = error
        except Exception as error:
            self.failure = StageError(self.name, f"{self.name} could not be started: {error}")
        finally:
            self.ready.set()
        return None

    def step(self, executable: StageExecutable, job: Job) -> None:
        """Run one frame and note its times."""
        started_s = perf_counter()
        outputs = executable.call(job.values, self.weights_of(job.generation))
        job.finished_s = perf_counter()
        job.started_s = job.started_s or started_s
        job.values = {name: tensor for name, tensor in (job.values | outputs).items() if name in self.kept}
        times = job.run.statistics.stages[self.stage].replicas[self.replica]
        times.work.append(Work(job.number, started_s, job.finished_s))
