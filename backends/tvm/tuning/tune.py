"""Tuning a network: search, measure what was found beside our own kernels, write both down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm.s_tir import meta_schedule as ms
from tvm.target import Target

from cospipe.backends.tvm.tuning.candidates import candidate_builder, cores_here, local_runner
from cospipe.backends.tvm.tuning.comparing import Here, Network, Place, compare
from cospipe.backends.tvm.tuning.comparisons import KernelComparison, read_comparisons, write_comparisons
from cospipe.backends.tvm.tuning.database import (
    RECORDS,
    WORKLOADS,
    check_can_store,
    check_is_records,
    read_database,
    workload_hash,
)
from cospipe.backends.tvm.tuning.records import is_for, open_records, trace_digest
from cospipe.backends.tvm.tuning.search import SearchOptions, SearchProgress, search
from cospipe.backends.tvm.tuning.tasks import KernelTask, NetworkTasks, find_tasks, parse_selection
from cospipe.ir.errors import UsageError


@dataclass(frozen=True)
class TuningOptions:
    """How to tune; names and defaults are tvmc's.

    Parameters
    ----------
    trials : int
        Kernels to build and run over all tasks; those that the directory holds already count.
    early_stopping : int or None
        A task ends after so many trials without a faster kernel.
    tasks : str
        Which tasks, see :func:`~cospipe.backends.tvm.tuning.tasks.parse_selection`.
    timeout_s : float
        How long one candidate may take to build, and to run, in seconds.
    parallel : int
        Candidates that are built at once.
    number, repeat, min_repeat_ms : int
        Runs that make one time, times, and the least milliseconds that one time takes.
    seed : int or None
        Makes the search repeat itself as far as measured times allow.
    """

    trials: int = 1000
    early_stopping: int | None = None
    tasks: str = "all"
    timeout_s: float = 10.0
    parallel: int = 4
    number: int = 10
    repeat: int = 1
    min_repeat_ms: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class TaskResult:
    """What tuning brought for one task; ``comparison`` is None where no kernel could be tuned."""

    number: int
    task: KernelTask
    comparison: KernelComparison | None

    @property
    def is_tuned_kept(self) -> bool:
        """Whether compiling with these records uses the tuned kernel."""
        return self.comparison is not None and self.comparison.is_tuned_faster


@dataclass(frozen=True)
class TuningResult:
    """What tuning brought.

    Parameters
    ----------
    results : tuple of TaskResult
        Of the tasks that were chosen.
    left_to_ours : tuple
        Kind and nodes of kernels that MetaSchedule cannot schedule.
    was_stopped : bool
        Whether somebody ended it early.
    """

    results: tuple[TaskResult, ...]
    left_to_ours: tuple[tuple[str, tuple[str, ...]], ...]
    was_stopped: bool


def tune(
    network: Network,
    directory: Path,
    options: TuningOptions,
    *,
    earlier: Path | None = None,
    runner: Any = None,
    place: Place | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[SearchProgress], None] = lambda _progress: None,
    tell: Callable[[str], None] = lambda _step: None,
) -> TuningResult:
    """Tune a network and write records, which compiling takes with ``--tuning-records``.

    Parameters
    ----------
    network : Network
        What to tune.
    directory : Path
        Gets the records; those that are there count as trials, so the same call goes on where one was stopped.
    options : TuningOptions
        How to tune.
    earlier : Path, optional
        Records to start with.
    runner : ms.runner.Runner, optional
        Runs candidates; in a process of this machine by default.
    place : callable, optional
        Where the network runs with our kernels and with tuned ones; this machine by default.
    stop : callable
        Tells whether to end; what was found by then is kept, and compared with ours by the next call.
    progress : callable
        Is told how far the search is.
    tell : callable
        Is told in a few words what is done next.

    Raises
    ------
    UsageError
        When a directory holds something else, a task does not exist, or this machine lacks cores.
    LoweringError
        When something cannot be compiled.
    """
    check_can_store()
    tell("Looking for kernels to tune")
    found = find_tasks(network.imported, network.core, network.allows_winograd)
    numbers = parse_selection(options.tasks, len(found.tasks))
    chosen = [found.tasks[number] for number in numbers]
    cpu_ids = cores_here(int(network.target.attrs["num-cores"])) if runner is None or place is None else ()
    prepare_directory(directory, earlier)
    left = max(0, options.trials - trials_done(directory, chosen, network.target))
    was_stopped = False
    if left and chosen:
        tell(f"Tuning {len(chosen)} tasks")
        runner = runner or local_runner(
            cpu_ids, options.number, options.repeat, options.min_repeat_ms, options.timeout_s
        )
        builder = candidate_builder(network.core, options.parallel, options.timeout_s)
        search_options = SearchOptions(left, options.early_stopping, stop, progress, options.seed)
        was_stopped = search(chosen, network.target, directory, builder, runner, search_options).was_stopped
    if not was_stopped:
        tell("Measuring tuned kernels beside cospipe's own")
        _compare(network, chosen, directory, place or Here(cpu_ids))
    return _result(network, found, numbers, directory, was_stopped)


def _compare(network: Network, tasks: Sequence[KernelTask], directory: Path, place: Place) -> None:
    records = open_records(directory, network.target)
    measured = compare(network, tasks, records, place)
    write_comparisons(directory, records.comparisons.replaced(measured))


def _result(
    network: Network, found: NetworkTasks, numbers: Sequence[int], directory: Path, was_stopped: bool
) -> TuningResult:
    records = open_records(directory, network.target)
    results = [TaskResult(n, found.tasks[n], records.comparison(found.tasks[n].workload)) for n in numbers]
    return TuningResult(tuple(results), found.left_to_ours, was_stopped)


def prepare_directory(directory: Path, earlier: Path | None = None) -> None:
    """Make a directory ready to get records, and copy earlier ones into it that it does not have.

    A line that was cut off when an earlier process was killed is removed.

    Raises
    ------
    UsageError
        When something else is there, or the earlier records are none.
    """
    if earlier is not None:
        check_is_records(earlier)
    if directory.is_file():
        raise UsageError(f"{directory} is a file; name a directory for the tuning records with -o.")
    if directory.is_dir() and any(directory.iterdir()):
        check_is_records(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name in (WORKLOADS, RECORDS):
        _cut_to_whole_lines(directory / name)
    if earlier is not None:
        _copy_records(earlier, directory)


def _copy_records(earlier: Path, directory: Path) -> None:
    database = ms.database.JSONDatabase(str(directory / WORKLOADS), str(directory / RECORDS))
    known = {(workload_hash(record), trace_digest(record.trace)) for record in read_database(directory)}
    for record in read_database(earlier):
        if (workload_hash(record), trace_digest(record.trace)) not in known:
            workload = database.commit_workload(record.workload.mod)
            copied = ms.database.TuningRecord(record.trace, workload, record.run_secs, record.target, record.args_info)
            database.commit_tuning_record(copied)
    own = read_comparisons(directory).comparisons
    write_comparisons(directory, read_comparisons(earlier).replaced(own))


def _cut_to_whole_lines(file: Path) -> None:
    file.touch()
    text = file.read_bytes()
    if text and not text.endswith(b"\n"):
        scratch = file.with_name(f"{file.name}.new")
        scratch.write_bytes(text[: text.rfind(b"\n") + 1])
        scratch.replace(file)


def trials_done(directory: Path, tasks: Sequence[KernelTask], target: Target) -> int:
    """Return how many kernels of some tasks a directory holds for a target, those that failed included."""
    workloads = {task.workload for task in tasks}
    return sum(workload_hash(record) in workloads and is_for(record, target) for record in read_database(directory))
