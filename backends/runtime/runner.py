"""The pipeline runner: one thread a stage, pinned to the plan's cores, bounded queues in between."""

from __future__ import annotations

import os
import platform
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any

from cospipe.backends.bundle import Bundle
from cospipe.backends.runtime.placement import StagePlacement, available_cpus, place
from cospipe.backends.runtime.stage import StageExecutable, as_tensor, to_numpy
from cospipe.backends.runtime.statistics import RunStatistics, StageTimes
from cospipe.backends.runtime.tvm_runtime import compatible_version, configure_thread_pool, runtime_version
from cospipe.backends.runtime.weights import Array
from cospipe.ir.errors import BundleError, CospipeError, StageError, UsageError, several
from cospipe.ir.manifest import Manifest

Frame = dict[str, Array]
"""One input or output of the network: arrays by name."""


@dataclass
class _Job:
    """A frame on its way: the tensors later stages still need, and when it was accepted and done."""

    values: dict[str, Any]
    entered_s: float = 0.0
    finished_s: float = 0.0


@dataclass
class _Stage:
    """What a stage's thread works with."""

    name: str
    executable_arguments: tuple[Any, ...]
    placement: StagePlacement
    kept: frozenset[str]
    incoming: queue.Queue[_Job | StageError | None]
    outgoing: queue.Queue[_Job | StageError | None]
    times: StageTimes
    ready: threading.Event = field(default_factory=threading.Event)
    failure: CospipeError | None = None


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

    Use it as a context manager. Results come in the order of the frames.

    Parameters
    ----------
    bundle : Bundle
        An opened bundle.
    queue_depth : int
        Frames that may wait before each stage; more only adds latency when one stage is slower than the rest.

    Raises
    ------
    BundleError
        When the bundle was made for another architecture or TVM version.

    Examples
    --------
    >>> with PipelineRunner(open_bundle("build/a")) as runner:       # doctest: +SKIP
    ...     for result in runner.run(frames):
    ...         print(result["linear"].argmax())
    """

    def __init__(self, bundle: Bundle, queue_depth: int = 1) -> None:
        check_runs_here(bundle.manifest)
        if queue_depth < 1:
            raise UsageError(f"The queue depth must be at least 1, not {queue_depth}.")
        self.bundle = bundle
        self._queues: list[queue.Queue[Any]] = [queue.Queue(queue_depth) for _ in bundle.manifest.stages]
        self._results: queue.Queue[Any] = queue.Queue()
        self._stopping = threading.Event()
        self._stages = self._make_stages()
        self._threads: list[threading.Thread] = []
        self.statistics = RunStatistics([stage.times for stage in self._stages])

    def _make_stages(self) -> list[_Stage]:
        manifest = self.bundle.manifest
        placements = place(manifest.plan, manifest.architecture == manifest.soc_architecture, available_cpus())
        links = [*self._queues, self._results]
        return [
            _Stage(
                name=f"{files.name} ({planned.configuration})",
                executable_arguments=(files, self.bundle.file(files.library), self.bundle.file(files.weights)),
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
        for stage in self._stages:
            thread = threading.Thread(target=self._work, args=(stage,), name=stage.name, daemon=True)
            thread.start()
            self._threads.append(thread)
        for stage in self._stages:
            stage.ready.wait()
        failures = [stage.failure for stage in self._stages if stage.failure is not None]
        if failures:
            self.close()
            raise failures[0]
        return self

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
        inside = 0
        for frame in frames:
            job = _Job(self._inputs(frame))
            self._queues[0].put(job)
            job.entered_s = perf_counter()  # waiting for the pipeline to accept a frame is not part of its latency
            inside += 1
            while not self._results.empty():
                yield self._take()
                inside -= 1
        for _ in range(inside):
            yield self._take()

    def _inputs(self, frame: Frame) -> dict[str, Any]:
        check_frame(self.bundle.manifest, frame)
        return {name: as_tensor(array.copy()) for name, array in frame.items()}  # callers reuse their buffers

    def _take(self) -> Frame:
        job = self._results.get()
        if isinstance(job, StageError):
            raise job
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
        outputs = executable.call(job.values)
    except Exception as error:
        return StageError(stage.name, f"{stage.name} failed: {error}")
    job.finished_s = perf_counter()
    stage.times.busy_us.append((job.finished_s - started) * 1e6)
    job.values = {name: tensor for name, tensor in (job.values | outputs).items() if name in stage.kept}
    return job


def _needed_after(manifest: Manifest, position: int) -> frozenset[str]:
    later = {spec.name for stage in manifest.stages[position + 1 :] for spec in stage.inputs}
    return frozenset(later | {spec.name for spec in manifest.outputs})


def check_frame(manifest: Manifest, frame: Frame) -> None:
    """Check the names, shapes and dtypes of one input frame.

    Raises
    ------
    UsageError
        Listing everything that does not fit.
    """
    expected = {spec.name: spec for spec in manifest.inputs}
    problems = [f"{name} is no input" for name in frame if name not in expected]
    problems += [f"{spec} is missing" for name, spec in expected.items() if name not in frame]
    problems += [
        f"{name} is {'x'.join(map(str, array.shape))} {array.dtype}, expected {expected[name]}"
        for name, array in frame.items()
        if name in expected and (array.shape != expected[name].shape or str(array.dtype) != expected[name].dtype)
    ]
    if problems:
        raise UsageError(several("This input does not fit the network", problems))
