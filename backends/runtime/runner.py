"""The pipeline runner: a thread a replica of a stage, pinned to the plan's cores, with short queues in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from math import ceil
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TypeVar

from cospipe.backends.bundle import Bundle
from cospipe.backends.runtime.adapter_weights import Overrides, adapter_overrides
from cospipe.backends.runtime.checks import check_runs_here
from cospipe.backends.runtime.frame import Frame, frame_problems
from cospipe.backends.runtime.generations import WeightGenerations, Weights
from cospipe.backends.runtime.job import Job
from cospipe.backends.runtime.link import Link
from cospipe.backends.runtime.placement import available_cpus, place
from cospipe.backends.runtime.run import Run
from cospipe.backends.runtime.stage import as_tensor, to_numpy
from cospipe.backends.runtime.statistics import RunStatistics, stage_times
from cospipe.backends.runtime.tvm_runtime import configure_thread_pool
from cospipe.backends.runtime.worker import ReplicaWorker, SharedBuild
from cospipe.ir.adapter_file import StoredAdapter
from cospipe.ir.errors import CospipeError, UsageError, several
from cospipe.ir.manifest import Manifest, StageFiles
from cospipe.ir.plan import StagePlan
from cospipe.ir.tensor_file import aligned_copy

_Result = TypeVar("_Result")
_LEAST_SPEED_RATIO = 2.5


class PipelineRunner:
    """Runs frames through the stages of a bundle, all stages and replicas at once on different frames.

    Use it as a context manager, once; inside, call :meth:`run` as often as you like. Results come in the order of
    the frames. ``statistics`` are those of the latest run.

    Parameters
    ----------
    bundle : Bundle
        An opened bundle.
    queue_depth : int
        Frames that may wait before each stage; more only adds latency when one stage is slower than the rest.
    adapter : StoredAdapter, str or Path, optional
        An adapter, or its file, to fold into the weights when they are loaded; the bundle must be compiled with
        ``merge-adapters{at=load}``.

    Raises
    ------
    BundleError
        When the bundle was made for another architecture or TVM version.
    AdapterError
        When the adapter does not fit the bundle.

    Examples
    --------
    >>> with PipelineRunner(open_bundle("build/a")) as runner:       # doctest: +SKIP
    ...     for result in runner.run(frames):
    ...         print(result["linear"].argmax())
    """

    def __init__(self, bundle: Bundle, queue_depth: int = 1, adapter: StoredAdapter | str | Path | None = None) -> None:
        check_runs_here(bundle.manifest)
        if queue_depth < 1:
            raise UsageError(f"The queue depth must be at least 1, not {queue_depth}.")
        manifest = bundle.manifest
        self.bundle = bundle
        self._placements = place(manifest.plan, manifest.architecture == manifest.soc_architecture, available_cpus())
        self._window = sum(queue_depth + _frames_at_work(stage) for stage in manifest.plan.stages)
        self._links: list[Link[Job]] = [Link(queue_depth) for _ in manifest.stages]
        self._builds: list[SharedBuild] = []
        self._workers: list[ReplicaWorker] = []
        self._make_workers(adapter_overrides(bundle, adapter))
        self._threads: list[threading.Thread] = []
        self._was_started = False
        self._failure: CospipeError | None = None
        self._swapping = threading.Lock()
        self._generations: WeightGenerations
        self._run: Run | None = None
        self.statistics = self._new_statistics()

    def _new_statistics(self) -> RunStatistics:
        stages = zip(self.bundle.manifest.plan.stages, self._placements, strict=True)
        return RunStatistics([stage_times(planned, placements) for planned, placements in stages])

    def _make_workers(self, overrides: dict[str, Overrides]) -> None:
        manifest = self.bundle.manifest
        for number, (files, planned) in enumerate(zip(manifest.stages, manifest.plan.stages, strict=True)):
            first_build = len(self._builds)
            self._builds += [self._build(build, overrides[files.name]) for build in files.builds]
            is_last = number == len(manifest.stages) - 1
            for replica, build in enumerate(files.replica_builds):
                worker = ReplicaWorker(
                    name=_worker_name(planned, replica),
                    stage=number,
                    replica=replica,
                    build=self._builds[first_build + build],
                    placement=self._placements[number][replica],
                    kept=_needed_after(manifest, number),
                    incoming=self._links[number],
                    pass_on=self._finish if is_last else self._links[number + 1].put,
                    weights_of=partial(self._weights, first_build + build),
                    fail=self._fail,
                )
                self._workers.append(worker)

    def _build(self, files: StageFiles, overrides: Overrides) -> SharedBuild:
        return SharedBuild(files, self.bundle.file(files.library), self.bundle.file(files.weights), overrides)

    def _weights(self, build: int, generation: int) -> Weights:
        return self._generations.get(generation, build)

    def __enter__(self) -> PipelineRunner:
        """Start the threads; return when every stage is loaded and warm."""
        if self._was_started:
            raise UsageError("A runner is started once; make a new one.")
        self._was_started = True
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        for worker in self._workers:
            thread = worker.thread()
            thread.start()
            self._threads.append(thread)
        for worker in self._workers:
            worker.ready.wait()
        for worker in self._workers:
            if worker.failure is not None:
                raise worker.failure
        self._generations = WeightGenerations([build.first.weights for build in self._builds])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the stages after the frames they are at, and wait for their threads."""
        self._stop(UsageError("The runner was closed before this run was over."))
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _fail(self, error: CospipeError) -> None:
        """Stop everything because one replica cannot go on; the first failure counts."""
        self._failure = self._failure or error
        self._stop(self._failure)

    def _stop(self, reason: CospipeError) -> None:
        self._was_started = True
        for link in self._links:
            link.close()
        if self._run is not None:
            self._run.end(reason)

    def run(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Run frames through the pipeline and yield their outputs in order, each as soon as it is there.

        Parameters
        ----------
        frames : iterable of dict
            Arrays by input name; taken from the iterable only as fast as the pipeline accepts them and results are
            taken, by a thread of their own.

        Raises
        ------
        UsageError
            When an input is missing, unknown, or has another shape or dtype; after the results of those before it.
        StageError
            When a stage fails; it carries the stage's name and the reason. Results that were not out yet are lost.
        """
        if not self._threads:
            raise UsageError("The runner is not started; use it in a with statement.")
        if self._run is not None:
            self._run.end(UsageError("Another run of this runner has begun, which ended this one."))
        self.statistics = self._new_statistics()
        self._run = run = Run(frames, self._accept, self._window, self.statistics)
        self._generations.begin_run(run)
        if self._failure is not None:
            run.end(self._failure)
        outputs = [spec.name for spec in self.bundle.manifest.outputs]
        return (to_numpy(values, outputs) for values in run.results())

    def _accept(self, run: Run, number: int, frame: Frame) -> bool:
        """Bring a frame to the first stage; return whether it took it."""
        if problems := frame_problems(self.bundle.manifest, frame):
            raise UsageError(several("This input does not fit the network", problems))
        values = {name: as_tensor(aligned_copy(array)) for name, array in frame.items()}  # callers reuse their buffers
        job = Job(run, number, values, self._generations.enter(run))
        was_taken = self._links[0].put(job)
        job.accepted_s = perf_counter()  # waiting for the pipeline to accept a frame is not part of its latency
        return was_taken

    def _finish(self, job: Job) -> None:
        self._generations.leave(job.generation)
        job.run.receive(job)

    def swap_adapter(self, adapter: StoredAdapter | str | Path | None) -> int:
        """Give a started pipeline another adapter, from any thread, also while frames are running.

        The new weights are made first, beside the running stages; then every frame that is accepted from now on meets
        them in all stages, and every earlier frame the old ones. No frame is dropped or waits, and nothing is compiled.
        The weights the stages were loaded with stay in memory, and the changed ones are there once more; twice more
        while frames of two adapters are inside. Weights that no frame has met go at once.

        Parameters
        ----------
        adapter : StoredAdapter, str, Path or None
            An adapter, or its file; None for what the bundle was compiled with.

        Returns
        -------
        int
            How many frames of the current run were accepted before: the position of the first frame with the new one.

        Raises
        ------
        UsageError
            When the runner is not started.
        AdapterError
            When the adapter does not fit the bundle; then the pipeline goes on as it was.
        """
        if not self._threads:
            raise UsageError("The runner is not started; use it in a with statement.")
        overrides = adapter_overrides(self.bundle, adapter)
        with self._swapping:
            made = _in_thread_of_one_core(lambda: [_weights_with(build, overrides) for build in self._builds])
            return self._generations.add(made)


def _weights_with(build: SharedBuild, overrides: dict[str, Overrides]) -> Weights:
    return build.first.weights_with(overrides[build.first.files.name])


def _in_thread_of_one_core(work: Callable[[], _Result]) -> _Result:
    """Run TVM code where its pool neither pins the caller's thread nor takes the cores of the stages."""
    return _thread_of_one_core().submit(work).result()


@cache
def _thread_of_one_core() -> ThreadPoolExecutor:
    """Return the one thread of this process that makes weights."""
    return ThreadPoolExecutor(
        max_workers=1, thread_name_prefix="adapter", initializer=configure_thread_pool, initargs=(available_cpus(), 1)
    )


def _worker_name(planned: StagePlan, replica: int) -> str:
    which = f" replica {replica}" if len(planned.replicas) > 1 else ""
    return f"{planned.name}{which} ({planned.replicas[replica].text})"


def _needed_after(manifest: Manifest, position: int) -> frozenset[str]:
    later = {spec.name for stage in manifest.stages[position + 1 :] for spec in stage.inputs}
    return frozenset(later | {spec.name for spec in manifest.outputs})


def _frames_at_work(stage: StagePlan) -> int:
    """Return how many frames a stage may have taken and not handed out in order: fast replicas run ahead of slow ones.

    While the slowest replica computes one, each of the others finishes as many as it is faster, and begins another.
    """
    if len(stage.replicas) == 1:
        return 1
    times_us = [replica.compute_us for replica in stage.replicas]
    ratio = max(times_us) / min(times_us) if min(times_us) else 1.0
    return len(stage.replicas) * (1 + ceil(max(ratio, _LEAST_SPEED_RATIO)))
