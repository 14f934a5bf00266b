"""MetaSchedule's search over several tasks, with a progress report, early stopping and an orderly end."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.target import Target

from cospipe.backends.tvm.tuning.database import RECORDS, WORKLOADS
from cospipe.backends.tvm.tuning.tasks import KernelTask
from cospipe.backends.tvm.tuning.until_ended import UntilEnded
from cospipe.ir.errors import LoweringError, first_line

log = logging.getLogger("cospipe")

_MOST_AT_ONCE, _FEWEST_AT_ONCE = 64, 8
_LARGEST_POPULATION = 512
_POPULATION_PER_TRIAL = 16
_INTRINSICS = "tvm.s_tir.tensor_intrin"


@dataclass(frozen=True)
class SearchProgress:
    """How far a search is.

    Parameters
    ----------
    done, total : int
        Trials.
    seconds_left : float
        For the rest, at the pace so far.
    improvement : float
        How many times as quick as its first trials the task that gained most has become.
    nodes : tuple of str
        Nodes of that task.
    """

    done: int
    total: int
    seconds_left: float
    improvement: float
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Parameters
    ----------
    trials : int
        Kernels to build and run, over all tasks.
    early_stopping : int or None
        A task ends after so many trials without a faster kernel.
    stop : callable
        Is asked after every batch whether to end.
    progress : callable
        Is told how far the search is.
    seed : int or None
        Makes the search repeat itself as far as measured times allow.
    """

    trials: int
    early_stopping: int | None = None
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[SearchProgress], None] = lambda _progress: None
    seed: int | None = None


class _Stopped(Exception):
    """Somebody asked the search to end, or no board is left."""


@derived_object
class _Watch(ms.measure_callback.PyMeasureCallback):  # type: ignore[misc]
    """Counts trials; runs before a batch is stored, so that one that was interrupted leaves nothing behind.

    Of a batch that found no board any more it stores what was measured: the rest are no trials, because the search
    that goes on later may run them.
    """

    def __init__(self, tasks: Sequence[KernelTask], options: SearchOptions, runner: Any) -> None:
        super().__init__()
        self.tasks, self.options, self.runner = tasks, options, runner
        self.done, self.started_s = 0, time.monotonic()
        self.first_s: dict[int, float] = {}
        self.best_s: dict[int, float] = {}
        self.without_gain: dict[int, int] = {}

    def apply(
        self,
        task_scheduler: Any,
        task_id: int,
        measure_candidates: Sequence[Any],
        builder_results: Sequence[Any],
        runner_results: Sequence[Any],
    ) -> None:
        """Note what a batch brought."""
        if self.options.stop():
            raise _Stopped
        if no_board_left(self.runner) is not None:
            batch = zip(measure_candidates, builder_results, runner_results, strict=True)
            measured = [one for one in batch if one[-1].run_secs]
            if measured:
                ms.measure_callback.AddToDatabase().apply(
                    task_scheduler, task_id, *map(list, zip(*measured, strict=True))
                )
            raise _Stopped
        times_s = [_mean(result) for result in runner_results if result.run_secs]
        self._note(int(task_id), times_s, len(runner_results))
        self.options.progress(self._progress())

    def has_ended(self, task: int) -> bool:
        """Tell whether no more candidates of a task are wanted."""
        limit = self.options.early_stopping
        has_gained_nothing = limit is not None and self.without_gain.get(task, -1) >= limit
        return self.options.stop() or has_gained_nothing

    def _note(self, task: int, times_s: Sequence[float], trials: int) -> None:
        self.done += trials
        fastest_s = min(times_s, default=float("inf"))
        if fastest_s < self.best_s.get(task, float("inf")):
            self.first_s.setdefault(task, fastest_s)
            self.best_s[task], self.without_gain[task] = fastest_s, 0
        else:
            self.without_gain[task] = self.without_gain.get(task, 0) + trials

    def _progress(self) -> SearchProgress:
        gains = {task: self.first_s[task] / best_s for task, best_s in self.best_s.items()}
        task = max(gains, key=lambda task: gains[task], default=0)
        left = max(0, self.options.trials - self.done)
        seconds_left = (time.monotonic() - self.started_s) / max(self.done, 1) * left
        nodes = self.tasks[task].nodes
        done = min(self.done, self.options.trials)  # the last batches of all tasks may be more than is left
        return SearchProgress(done, self.options.trials, seconds_left, gains.get(task, 1.0), nodes)


@dataclass
class SearchResult:
    """How a search ended; why candidates failed, by their error."""

    was_stopped: bool = False
    failures: dict[str, int] = field(default_factory=dict)


def search(
    tasks: Sequence[KernelTask], target: Target, directory: Path, builder: Any, runner: Any, options: SearchOptions
) -> SearchResult:
    """Search for fast kernels; every kernel that was measured goes to the database in a directory.

    Parameters
    ----------
    tasks : sequence of KernelTask
        What to tune.
    target : Target
        The cores.
    directory : Path
        Holds MetaSchedule's JSON database, or gets one.
    builder, runner : ms.builder.Builder, ms.runner.Runner
        What builds and runs candidates.
    options : SearchOptions
        How to search.

    Raises
    ------
    LoweringError
        When MetaSchedule fails.
    RemoteError
        When no board is left; what was measured is kept.
    """
    at_once = trials_at_once(options.trials, len(tasks))
    watch = _Watch(tasks, options, runner)
    steps = ms.measure_callback
    callbacks = [steps.RemoveBuildArtifact(), watch, steps.AddToDatabase(), steps.UpdateCostModel()]
    seeds = ms.utils.fork_seed(options.seed, n=len(tasks))
    try:
        ms.tune.tune_tasks(
            tasks=[
                _context(task, target, at_once, seed, partial(watch.has_ended, number))
                for number, (task, seed) in enumerate(zip(tasks, seeds, strict=True))
            ],
            task_weights=[float(task.calls) for task in tasks],
            work_dir=str(directory),
            max_trials_global=options.trials,
            num_trials_per_iter=at_once,
            builder=builder,
            runner=runner,
            database=ms.database.JSONDatabase(str(directory / WORKLOADS), str(directory / RECORDS)),
            cost_model=cost_model(),
            measure_callbacks=callbacks,
        )
    except BaseException as error:
        if options.stop():
            return SearchResult(was_stopped=True)
        if not isinstance(error, Exception):
            raise
        if (lost := no_board_left(runner)) is not None:
            raise lost from error
        raise LoweringError(f"MetaSchedule failed ({type(error).__name__}): {first_line(error)}.") from error
    return SearchResult(was_stopped=options.stop())


def no_board_left(runner: Any) -> Exception | None:
    """Return why a runner has no board any more; None while it has one, or needs none."""
    lost: Exception | None = getattr(runner, "no_board_left", None)
    return lost


def trials_at_once(trials: int, tasks: int) -> int:
    """Return how many candidates of a task are measured before the next task is chosen.

    Few, so that half of the trials are left when every task had its turn, and go where they bring most.
    """
    return max(_FEWEST_AT_ONCE, min(_MOST_AT_ONCE, ceil(trials / (2 * max(tasks, 1)))))


def cost_model() -> Any:
    """Return what guesses which candidates are fast: XGBoost's trees, or nothing where XGBoost is not installed."""
    if find_spec("xgboost"):
        return ms.cost_model.CostModel.create("xgb")
    log.warning(
        "xgboost is not installed, so candidates are chosen at random and it takes more trials to find fast kernels;"
        " install it with: pip install 'cospipe[tune]'"
    )
    return ms.cost_model.CostModel.create("random")


def _context(
    task: KernelTask, target: Target, at_once: int, seed: int, has_ended: Callable[[], bool]
) -> ms.TuneContext:
    population = min(_LARGEST_POPULATION, _POPULATION_PER_TRIAL * at_once)
    with without_intrinsics():
        return ms.TuneContext(
            mod=task.module,
            target=target,
            space_generator=llvm_space(),
            search_strategy=UntilEnded(ms.search_strategy.EvolutionarySearch(population_size=population), has_ended),
            task_name=task.names[0],
            rand_state=seed,
            logger=logging.getLogger("tvm.s_tir.meta_schedule"),
        ).clone()


def llvm_space() -> ms.space_generator.PostOrderApply:
    """Return MetaSchedule's schedules for CPUs, without those that need tensor intrinsics, which FP32 has not."""
    return ms.space_generator.PostOrderApply(
        sch_rules=ms.ScheduleRule.create("llvm"),
        postprocs=ms.Postproc.create("llvm"),
        mutator_probs=ms.Mutator.create("llvm"),
    )


@contextmanager
def without_intrinsics() -> Iterator[None]:
    """Keep TVM from registering the tensor intrinsics of all GPUs, NPUs and CPUs, which takes it up to a minute.

    The rules for FP32 on CPUs have no use for any of them.
    """
    if _INTRINSICS in sys.modules:
        yield
        return
    sys.modules[_INTRINSICS] = ModuleType(_INTRINSICS)
    try:
        yield
    finally:
        del sys.modules[_INTRINSICS]


def _mean(result: Any) -> float:
    times = [float(seconds) for seconds in result.run_secs]
    return sum(times) / len(times)
