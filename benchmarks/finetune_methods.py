"""What a method reaches on a task: its learning rate, its accuracy over seeds, and for ``sdctft`` its selection.

The learning rate of the classifier is tuned first, with nothing else trained, and then is the same in every arm. Each
arm's own is tuned on validation with the first seed. The test split is looked at once for each seed, with what was
chosen. Methods that share runs (``sdctft`` and the selections it chooses from) do not repeat them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import mean, stdev

from environment import Value
from finetune_arms import SPECTRAL
from finetune_tasks import Task
from finetune_training import Run, Training, evaluate, train_run, tune

_FACTOR = 10**0.5
_STARTS = {"head": 1e-2, "full": 1e-4, "lora1": 3e-3, "lora8": 1e-3, "vera": 1e-2}
_SPECTRAL_START = 1e-2


@dataclass(frozen=True)
class Search:
    """How much is tried: learning rates of an arm at most, and seeds."""

    most_rates: int = 6
    seeds: int = 3


class MethodRunner:
    """Trains methods on one task.

    Parameters
    ----------
    task : Task
        What is learned.
    training : Training
        For how long.
    search : Search
        How much is tried.
    progress : callable
        Is told what is going on.
    """

    def __init__(self, task: Task, training: Training, search: Search, progress: Callable[[str], None]) -> None:
        self._task, self._training, self._search, self._progress = task, training, search, progress
        self._tuned = cache(self._tune)
        self._results = cache(self._result)

    def accuracy_fields(self, method: str) -> dict[str, Value]:
        """Return the fields of a row that come from training.

        Raises
        ------
        UnsupportedError
            When the method cannot adapt the task's network.
        """
        return {"selection": method.partition("-")[2] or None, **self._results(method)}

    def _result(self, method: str) -> dict[str, Value]:
        if method == "sdctft":
            best = max(SPECTRAL, key=lambda selection: self._tuned(selection)[0].score)
            return {**self._results(best), "selection": best.partition("-")[2]}
        run, is_inside = self._tuned(method)
        runs = [run, *(self._trained(method, run.learning_rate, seed) for seed in range(1, self._search.seeds))]
        accuracies = [self._test(method, number, trained) for number, trained in enumerate(runs)]
        return {
            "trainable_parameters": run.arm.trainable_parameters,
            "accuracy_mean": mean(accuracies),
            "accuracy_sd": stdev(accuracies) if len(accuracies) > 1 else None,
            "seeds": len(accuracies),
            "learning_rate": run.learning_rate,
            "learning_rate_inside_grid": is_inside,
            "head_learning_rate": self.head_learning_rate(),
            "validation_accuracy": mean(trained.validation_accuracy for trained in runs),
            "file_bytes": run.arm.file_bytes(),
        }

    def head_learning_rate(self) -> float:
        """Return the learning rate of every arm's classifier."""
        return self._tuned("head")[0].learning_rate

    def _tune(self, method: str) -> tuple[Run, bool]:
        start = _STARTS.get(method, _SPECTRAL_START)
        return tune(lambda rate: self._trained(method, rate, 0), start, _FACTOR, self._search.most_rates)

    def _trained(self, method: str, learning_rate: float, seed: int) -> Run:
        head_learning_rate = learning_rate if method == "head" else self.head_learning_rate()
        self._progress(f"{method}: learning rate {learning_rate:.2g}, seed {seed}")
        run = train_run(self._task, method, self._training, learning_rate, head_learning_rate, seed)
        self._progress(
            f"{method}: learning rate {learning_rate:.2g}, seed {seed}: {run.validation_accuracy:.1%} of validation"
        )
        return run

    def _test(self, method: str, seed: int, run: Run) -> float:
        self._progress(f"{method}: test, seed {seed}")
        return evaluate(run.arm.network, self._task.test)[0]
