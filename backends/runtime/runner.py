"""The pipeline runner: a thread a replica of a stage, pinned to the plan's cores, with short queues in between."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from types import TracebackType

from cospipe.backends.bundle import Bundle
from cospipe.backends.profiling.core_state import online_cpus
from cospipe.backends.runtime.adapter_weights import adapter_overrides
from cospipe.backends.runtime.async_frames import AsyncResults, FramesOfLoop, in_thread
from cospipe.backends.runtime.checks import check_runs_here
from cospipe.backends.runtime.frame import Frame, frame_problems
from cospipe.backends.runtime.generations import WeightGenerations
from cospipe.backends.runtime.job import Job
from cospipe.backends.runtime.machine_monitor import MachineMonitor
from cospipe.backends.runtime.placement import StagePlacement, available_cpus, place, placement_warnings
from cospipe.backends.runtime.run import Run
from cospipe.backends.runtime.stage import as_tensor, to_numpy
from cospipe.backends.runtime.statistics import RunStatistics, stage_times
from cospipe.backends.runtime.watchdog import Watchdog
from cospipe.backends.runtime.weight_thread import weights_with
from cospipe.backends.runtime.wiring import frames_inside, wire
from cospipe.ir.adapter_file import StoredAdapter
from cospipe.ir.errors import BundleError, CospipeError, UsageError, several
from cospipe.ir.manifest import Manifest
from cospipe.ir.tensor_file import aligned_copy

_LOOK_AGAIN_S = 0.1
_NOT_STARTED = "The runner is not started; use it in a with statement."


class PipelineRunner:
    """Runs frames through the stages of a bundle, all stages and replicas at once on different frames.

    Use it as a context manager, once; inside, call :meth:`run` as often as you like. Results come in the order of
    the frames. ``statistics`` are those of the latest run. Programs that use asyncio write ``async with`` and
    :meth:`arun`.

    Parameters
    ----------
    bundle : Bundle
        An opened bundle.
    queue_depth : int
        Frames that may wait before each stage; more only adds latency when one stage is slower than the rest.
    adapter : StoredAdapter, str or Path, optional
        An adapter, or its file, to fold into the weights when they are loaded; the bundle must be compiled with
        ``merge-adapters{at=load}``.
    strict : bool
        Refuse to run on other cores than the plan's, and end the run when one is lost; otherwise these are warnings
        in the statistics.
    fail_on_nan : bool
        End the run when an output of a stage holds NaN.
    stall_timeout_s : float
        End the run when a replica is at one frame for longer; 0 lets it take as long as it likes.
    keep_trace : bool
        Keep the times of every frame at every replica, for a trace; memory then grows with the number of frames.

    Raises
    ------
    BundleError
        When the bundle was made for another architecture or TVM version; when it is to be strict and this machine
        does not have the plan's cores.
    AdapterError
        When the adapter does not fit the bundle.

    Examples
    --------
    >>> with PipelineRunner(open_bundle("build/a")) as runner:       # doctest: +SKIP
    ...     for result in runner.run(frames):
    ...         print(result["linear"].argmax())

    >>> async with PipelineRunner(open_bundle("build/a")) as runner:       # doctest: +SKIP
    ...     async for result in runner.arun(camera()):
    ...         print(result["linear"].argmax())
    """

    def __init__(
        self,
        bundle: Bundle,
        queue_depth: int = 1,
        adapter: StoredAdapter | str | Path | None = None,
        *,
        strict: bool = False,
        fail_on_nan: bool = False,
        stall_timeout_s: float = 60.0,
        keep_trace: bool = False,
    ) -> None:
        check_runs_here(bundle.manifest, bundle.path)
        _check_numbers(queue_depth, stall_timeout_s)
        self.bundle = bundle
        self._placements, self._warnings = _placements(bundle.manifest)
        if strict and self._warnings:
            raise BundleError(several("This bundle does not run here as planned, and is to be strict", self._warnings))
        self._keeps_trace = keep_trace
        self._window = frames_inside(bundle.manifest, queue_depth)
        pipeline = wire(
            bundle,
            self._placements,
            queue_depth,
            adapter_overrides(bundle, adapter),
            finish=self._finish,
            weights=lambda build, generation: self._generations.get(generation, build),
            fail=self._fail,
            fails_on_nan=fail_on_nan,
        )
        self._links, self._builds, self._workers = pipeline.links, pipeline.builds, pipeline.workers
        self._watchdog = Watchdog(
            self._workers,
            stall_timeout_s,
            strict,
            frames_inside=lambda: self._generations.frames_inside,
            machine=self._machine,
            fail=self._fail,
        )
        self._threads: list[threading.Thread] = []
        self._was_started = False
        self._failure: CospipeError | None = None
        self._swapping = threading.Lock()
        self._generations: WeightGenerations
        self._run: Run | None = None
        self.statistics = self._new_statistics()

    def _new_statistics(self) -> RunStatistics:
        pairs = zip(self.bundle.manifest.plan.stages, self._placements, strict=True)
        stages = [stage_times(planned, placements, self._keeps_trace) for planned, placements in pairs]
        used = {cpu for stage in self._placements for replica in stage for cpu in replica.cpu_ids}
        return RunStatistics(stages, self._keeps_trace, self._warnings, MachineMonitor(used))

    def _machine(self) -> MachineMonitor | None:
        """Return what looks after the machine for the run that is going on."""
        return self._run.statistics.machine if self._run is not None and self._run.is_going_on else None

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
        self._watchdog.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> PipelineRunner:
        """Start the threads; go on when every stage is loaded and warm, without blocking the event loop."""
        try:
            return await in_thread(self.__enter__)
        except asyncio.CancelledError:
            await in_thread(self.close)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await in_thread(self.close)

    def close(self) -> None:
        """Stop the stages after the frames they are at, and wait for their threads.

        A kernel that never ends cannot be stopped. Its thread is left alone once the watchdog has found it stuck, and
        keeps its cores busy until the process ends; ``has_stuck_thread`` tells. Without a stall timeout nobody finds
        it, and this waits for ever.
        """
        self._stop(UsageError("The runner was closed before this run was over."))
        for worker, thread in zip(self._workers, self._threads, strict=False):
            while thread.is_alive() and not worker.is_stuck:
                thread.join(_LOOK_AGAIN_S)
        self._watchdog.end()
        self._threads.clear()

    @property
    def has_stuck_thread(self) -> bool:
        """Whether a stage was at one frame for too long; its thread may compute until the process ends."""
        return any(worker.is_stuck for worker in self._workers)

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
            When a stage fails, is stuck, or puts out NaN that is not to be; it carries the stage's name and the
            reason. Results that were not out yet are lost.
        CospipeError
            When a core is lost and the runner is strict.
        """
        results = self._begin(frames).results()
        outputs = self._output_names
        return (to_numpy(values, outputs) for values in results)

    def arun(self, frames: Iterable[Frame] | AsyncIterable[Frame]) -> AsyncIterator[Frame]:
        """Run frames through the pipeline from a task of an event loop, which is never blocked.

        Like :meth:`run`, but for ``async for``. When the task is cancelled or breaks off, no more frames are taken,
        and what is inside is let go; an asynchronous iterable that is waiting for its next frame is cancelled.

        Parameters
        ----------
        frames : iterable or async iterable of dict
            Arrays by input name; a plain iterable is iterated by a thread of its own, an asynchronous one by the loop.

        Raises
        ------
        RuntimeError
            When no event loop is running.
        CospipeError
            What :meth:`run` raises.
        """
        loop = asyncio.get_running_loop()
        results = AsyncResults(loop)
        if not isinstance(frames, AsyncIterable):
            return results.of(self._begin(frames, results.tell), self._output_names)
        source = FramesOfLoop(frames, loop)
        return results.of(self._begin(source, results.tell), self._output_names, source)

    def drain(self) -> None:
        """Take no more frames in the current run, from any thread; those that are inside are finished and handed out.

        Returns at once. The run then ends as if its source had; a frame that the source hands over later is dropped.
        """
        if self._run is not None:
            self._run.drain()

    @property
    def _output_names(self) -> list[str]:
        return [spec.name for spec in self.bundle.manifest.outputs]

    def _begin(self, frames: Iterable[Frame], tell: Callable[[], object] = lambda: None) -> Run:
        if not self._threads:
            raise UsageError(_NOT_STARTED)
        if self._run is not None:
            self._run.end(UsageError("Another run of this runner has begun, which ended this one."))
        self.statistics = self._new_statistics()
        self._run = run = Run(frames, self._accept, self._window, self.statistics, tell)
        self._generations.begin_run(run)
        if self._failure is not None:
            run.end(self._failure)
        return run

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
            raise UsageError(_NOT_STARTED)
        overrides = adapter_overrides(self.bundle, adapter)
        with self._swapping:
            return self._generations.add(weights_with(self._builds, overrides))


def _check_numbers(queue_depth: int, stall_timeout_s: float) -> None:
    if queue_depth < 1:
        raise UsageError(f"The queue depth must be at least 1, not {queue_depth}.")
    if not 0 <= stall_timeout_s < math.inf:
        raise UsageError(f"The stall timeout must be 0 (never) or some seconds, not {stall_timeout_s}.")


def _placements(manifest: Manifest) -> tuple[tuple[StagePlacement, ...], list[str]]:
    """Return where the stages run, and why that is not what was planned."""
    matches, cpus = manifest.architecture == manifest.soc_architecture, available_cpus()
    placed = place(manifest.plan, matches, cpus)
    return placed, placement_warnings(manifest.plan, matches, placed, cpus, online_cpus())
