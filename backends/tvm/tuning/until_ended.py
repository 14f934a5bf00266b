"""A search strategy that an early end of its task stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.search_strategy import PySearchStrategy


@derived_object
class UntilEnded(PySearchStrategy):  # type: ignore[misc]
    """Another strategy that has no more candidates once its task has ended.

    TVM's scheduler fails when a measure callback ends a task whose turn it is; it expects that of the strategy.
    """

    def __init__(self, strategy: Any, has_ended: Callable[[], bool]) -> None:
        super().__init__()
        self.strategy, self.has_ended = strategy, has_ended

    def _initialize_with_tune_context(self, context: Any) -> None:
        self.strategy._initialize_with_tune_context(context)

    def pre_tuning(self, *arguments: Any) -> None:
        """Begin."""
        self.strategy.pre_tuning(*arguments)

    def post_tuning(self) -> None:
        """End."""
        self.strategy.post_tuning()

    def generate_measure_candidates(self) -> Any:
        """Return the next batch; None when there is none, or none is wanted."""
        if self.has_ended():
            return None
        candidates = self.strategy.generate_measure_candidates()
        return None if self.has_ended() else candidates  # to find them takes a while

    def notify_runner_results(self, candidates: Any, results: Any) -> None:
        """Learn from what was measured."""
        self.strategy.notify_runner_results(candidates, results)

    def clone(self) -> Any:
        """Return an equal one."""
        return UntilEnded(self.strategy.clone(), self.has_ended)
