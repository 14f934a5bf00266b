"""The pipeline runner: one thread a stage, pinned to the plan's cores, bounded queues in between."""

from __future__ import annotations

import os
import platform
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, TypeVar

from cospipe.backends.bundle import Bundle
from cospipe.backends.runtime.adapter_weights import Overrides, adapter_overrides
from cospipe.backends.runtime.frame import Frame, frame_problems
from cospipe.backends.runtime.placement import StagePlacement, available_cpus, place
from cospipe.backends.runtime.stage import StageExecutable, as_tensor, to_numpy
from cospipe.backends.runtime.statistics import RunStatistics, StageTimes
from cospipe.backends.runtime.tvm_runtime import compatible_version, configure_thread_pool, runtime_version
from cospipe.ir.adapter_file import StoredAdapter
from cospipe.ir.errors import BundleError, CospipeError, StageError, UsageError, several
from cospipe.ir.manifest import Manifest

_Result = TypeVar("_Result")


@dataclass
class _Job:
    """A frame on its way: its run and weights, the tensors later stages still need, and its times so far."""

    run: int
    values: dict[str, Any]
    generation: int = 0
    accepted_s: float = 0.0
    started_s: float = 0.0
    finished_s: float = 0.0

    @property
    def entered_s(self) -> float:
        return min(self.accepted_s, self.started_s)  # the first stage may be quicker than the thread that hands over


@dataclass
class _Stage:
    """What a stage's thread works with; ``weights`` by generation, older ones until a frame of a newer one comes."""

    name: str
    executable_arguments: tuple[Any, ...]
    placement: StagePlacement
    kept: frozenset[str]
    incoming: queue.Queue[_Job | StageError | None]
    outgoing: queue.Queue[_Job | StageError | None]
    times: StageTimes
    ready: threading.Event = field(default_factory=threading.Event)
    failure: CospipeError | None = None
    executable: StageExecutable | None = None
    weights: dict[int, list[Any]] = field(default_factory=dict)


def check_runs_here(manifest: Manifest) -> None:
    """Check that this machine can run a bundle.

    Raises
    ------
    BundleError
        When it was made for another architecture or TVM version; both are said.
    """
    problems = []
    if manifest.architecture != platform.machine():
        problems.append(
            f"it was compiled for {manifest.architecture}, this machine is {platform.machine()}; run it on the"
            " board, or check it here with: cospipe verify BUNDLE --emulate"
        )
    if compatible_version(manifest.tvm_version) != runtime_version():
        problems.append(
            f"it was compiled with TVM {manifest.tvm_version}, installed is {runtime_version()}; compile it again or "
            f"install apache-tvm {compatible_version(manifest.tvm_version)}"
        )
    if problems:
        raise BundleError(several("This bundle does not run here", problems))


class PipelineRunner:
    """Runs frames through the stages of a bundle, all stages at once on different frames.

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
        self.bundle = bundle
        self._queues: list[queue.Queue[Any]] = [queue.Queue(queue_depth) for _ in bundle.manifest.stages]
        self._results: queue.Queue[_Job | StageError | None] = queue.Queue()
        self._stopping = threading.Event()
        self._stages = self._make_stages(adapter_overrides(bundle, adapter))
        self._generation = 0
        self._met_generation = -1
        self._accepting = threading.Lock()
        self._swapping = threading.Lock()
        self._accepted = 0
        self._threads: list[threading.Thread] = []
        self._latest_run = 0
        self.statistics = RunStatistics([stage.times for stage in self._stages])

    def _make_stages(self, overrides: dict[str, Overrides]) -> list[_Stage]:
        manifest = self.bundle.manifest
        placements = place(manifest.plan, manifest.architecture == manifest.soc_architecture, available_cpus())
        links = [*self._queues, self._results]
        return [
            _Stage(
                name=f"{files.name} ({planned.configuration})",
                executable_arguments=(
                    files,
                    self.bundle.file(files.library),
                    self.bundle.file(files.weights),
                    overrides[files.name],
                ),
                placement=placement,
                kept=_needed_after(manifest, position),
                incoming=links[position],
                outgoing=links[position + 1],
                times=StageTimes(files.name, str(planned.configuration), placement, planned.time_us),
            )
            for position, (files, planned, placement) in enumerate(
                zip(manifest.stages, manifest.plan.stages, placements, strict=True)
            )
        ]

    def __enter__(self) -> PipelineRunner:
        """Start the stage threads; return when every stage is loaded and warm."""
        if self._threads or self._stopping.is_set():
            raise UsageError("A runner is started once; make a new one.")
        try:
            self._start_stages()
        except BaseException:
            self.close()
            raise
        return self

    def _start_stages(self) -> None:
        for stage in self._stages:
            thread = threading.Thread(target=self._work, args=(stage,), name=stage.name, daemon=True)
            thread.start()
            self._threads.append(thread)
        for stage in self._stages:
            stage.ready.wait()
        for stage in self._stages:
            if stage.failure is not None:
                raise stage.failure

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the stages after the frame they are at, and wait for their threads."""
        self._stopping.set()
        if self._threads:
            self._queues[0].put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._results.put(None)  # whoever waits for a result learns that none will come

    def run(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Run frames through the pipeline and yield their outputs in order.

        Parameters
        ----------
        frames : iterable of dict
            Arrays by input name; taken from the iterable only as fast as the pipeline accepts them.

        Raises
        ------
        UsageError
            When an input is missing, unknown, or has another shape or dtype.
        StageError
            When a stage fails; it carries the stage's name and the reason.
        """
        if not self._threads:
            raise UsageError("The runner is not started; use it in a with statement.")
        self._latest_run += 1
        self._accepted = 0
        for stage in self._stages:
            stage.times = replace(stage.times, busy_us=[])
        self.statistics = RunStatistics([stage.times for stage in self._stages])
        return self._results_of(self._latest_run, frames)

    def _results_of(self, run: int, frames: Iterable[Frame]) -> Iterator[Frame]:
        inside = 0
        for frame in frames:
            self._check_current(run)
            inputs = self._inputs(frame)
            with self._accepting:
                job = _Job(run, inputs, self._generation)
                self._met_generation = self._generation
                self._accepted += 1
            self._queues[0].put(job)
            job.accepted_s = perf_counter()  # waiting for the pipeline to accept a frame is not part of its latency
            inside += 1
            while not self._results.empty():
                yield self._take(run)
                inside -= 1
        for _ in range(inside):
            yield self._take(run)

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
        if not self._threads or self._stopping.is_set():
            raise UsageError("The runner is not started; use it in a with statement.")
        overrides = adapter_overrides(self.bundle, adapter)
        with self._swapping:
            made = _in_thread_of_one_core(lambda: [_weights_with(stage, overrides) for stage in self._stages])
            with self._accepting:
                for stage, weights in zip(self._stages, made, strict=True):
                    stage.weights[self._generation + 1] = weights
                    if self._generation > self._met_generation:
                        stage.weights.pop(self._generation, None)
                self._generation += 1
                return self._accepted

    def _check_current(self, run: int) -> None:
        if self._stopping.is_set():
            raise UsageError("The runner was closed before this run was over.")
        if run != self._latest_run:
            raise UsageError("Another run of this runner has begun, which ended this one.")

    def _inputs(self, frame: Frame) -> dict[str, Any]:
        if problems := frame_problems(self.bundle.manifest, frame):
            raise UsageError(several("This input does not fit the network", problems))
        return {name: as_tensor(array.copy()) for name, array in frame.items()}  # callers reuse their buffers

    def _take(self, run: int) -> Frame:
        """Return the next result of a run; what an earlier one, broken off, left behind is dropped."""
        while True:
            self._check_current(run)
            job = self._results.get()
            if isinstance(job, StageError):
                self._results.put(job)  # the stage has stopped: every later run meets this error, too
                raise job
            if job is not None and job.run == run:
                break
        self.statistics.record(job.entered_s, job.finished_s)
        return to_numpy(job.values, [spec.name for spec in self.bundle.manifest.outputs])

    def _work(self, stage: _Stage) -> None:
        """Body of a stage thread."""
        executable = self._start(stage)
        while (job := stage.incoming.get()) is not None:
            if executable is None or self._stopping.is_set():
                continue  # keep the queue moving so that nobody waits for ever
            result = job if isinstance(job, StageError) else _step(stage, executable, job)
            stage.outgoing.put(result)
            if isinstance(result, StageError):
                executable = None
        if stage.outgoing is not self._results:
            stage.outgoing.put(None)

    def _start(self, stage: _Stage) -> StageExecutable | None:
        try:
            cpus = stage.placement.cpu_ids
            os.sched_setaffinity(0, cpus)
            configure_thread_pool(cpus, stage.placement.threads)
            executable = StageExecutable(*stage.executable_arguments)
            executable.warm_up()
            stage.executable, stage.weights[0] = executable, executable.weights
            if stage.placement.kind != "shared":
                os.sched_setaffinity(0, cpus[:1])  # the pool has just widened it to all its cores
            return executable
        except CospipeError as error:
            stage.failure = error
        except Exception as error:
            stage.failure = StageError(stage.name, f"{stage.name} could not be started: {error}")
        finally:
            stage.ready.set()
        return None


def _step(stage: _Stage, executable: StageExecutable, job: _Job) -> _Job | StageError:
    started = perf_counter()
    try:
        # a list, because a swap in another thread may add weights meanwhile
        for older in [generation for generation in list(stage.weights) if generation < job.generation]:
            del stage.weights[older]
        outputs = executable.call(job.values, stage.weights[job.generation])
    except Exception as error:
        return StageError(stage.name, f"{stage.name} failed: {error}")
    job.started_s = job.started_s or started
    job.finished_s = perf_counter()
    stage.times.busy_us.append((job.finished_s - started) * 1e6)
    job.values = {name: tensor for name, tensor in (job.values | outputs).items() if name in stage.kept}
    return job


def _weights_with(stage: _Stage, overrides: dict[str, Overrides]) -> list[Any]:
    assert stage.executable is not None
    return stage.executable.weights_with(overrides[stage.executable.files.name])


def _in_thread_of_one_core(work: Callable[[], _Result]) -> _Result:
    """Run TVM code where its pool neither pins the caller's thread nor takes the cores of the stages."""
    return _thread_of_one_core().submit(work).result()


@cache
def _thread_of_one_core() -> ThreadPoolExecutor:
    """Return the one thread of this process that makes weights: TVM keeps the pool of a thread that has ended."""
    return ThreadPoolExecutor(
        max_workers=1, thread_name_prefix="adapter", initializer=configure_thread_pool, initargs=(available_cpus(), 1)
    )


def _needed_after(manifest: Manifest, position: int) -> frozenset[str]:
    later = {spec.name for stage in manifest.stages[position + 1 :] for spec in stage.inputs}
    return frozenset(later | {spec.name for spec in manifest.outputs})
