"""The training loop: only what an adapter trains moves, and every step can be repeated bit by bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from cospipe.backends.finetune.classifier import Classifier, answers, backward
from cospipe.backends.finetune.data import LabelledData
from cospipe.ir.eager_adapters import Adapters
from cospipe.ir.errors import AdapterError, UsageError, several


@dataclass(frozen=True)
class TrainingOptions:
    """How long, and in what steps.

    Parameters
    ----------
    learning_rate : float
        Of AdamW; with a spectral adapter of alpha 1, 5e-3 suits language and up to 5e-2 vision.
    epochs : int
        Most passes over the training part.
    batch : int
        Examples of a step.
    patience : int
        Training ends after so many epochs without a better one.
    weight_decay : float
        Of AdamW.
    seed : int
        Decides the order of the examples.

    Raises
    ------
    UsageError
        Listing every option that makes no sense.
    """

    learning_rate: float = 0.01
    epochs: int = 5
    batch: int = 32
    patience: int = 3
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [f"{name} is {getattr(self, name)}: at least 1" for name in _COUNTS if getattr(self, name) < 1]
        if not 0 < self.learning_rate < math.inf:
            problems.append(f"learning_rate is {self.learning_rate}: a number above 0, like 0.01")
        if not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay is {self.weight_decay}: 0 or more")
        if problems:
            raise UsageError(several("These options of training make no sense", problems))


_COUNTS = ("epochs", "batch", "patience")


@dataclass(frozen=True)
class Epoch:
    """One pass over the training part: mean losses, shares of right answers (those of training while it went on)."""

    number: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float

    def is_better_than(self, other: Epoch) -> bool:
        """Tell whether more validation answers are right, or as many and the loss is lower."""
        return (self.validation_accuracy, -self.validation_loss) > (other.validation_accuracy, -other.validation_loss)


class Training:
    """The state of a training and the steps to its end.

    The model stays in eval mode: the base's batch norm statistics must not move, and dropout is off.

    Parameters
    ----------
    classifier : Classifier
        Around the adapted model.
    adapters : Adapters
        Of that model; the active one is trained.
    data : LabelledData
        Trained on ``train``; the best epoch is chosen by ``validation``.
    options : TrainingOptions
        How long, and in what steps.

    Attributes
    ----------
    epochs : list of Epoch
        Those that are over.
    best : int
        Number of the best of them, 0 before the first is over.
    step, step_count : int
        Steps done of the current epoch, and of each epoch.
    last_loss : float
        Of the last step.
    seconds : float
        Spent so far, over all runs that were interrupted.
    """

    def __init__(
        self, classifier: Classifier, adapters: Adapters, data: LabelledData, options: TrainingOptions
    ) -> None:
        self.data, self.options = data, options
        self.epochs: list[Epoch] = []
        self.best = 0
        self.step = 0
        self.step_count = -(-len(data.parts["train"]) // options.batch)
        self.last_loss = math.nan
        self.seconds = 0.0
        self._sums = [0.0, 0.0]
        self._classifier, self._adapters = classifier, adapters
        self._trained = {n: p for n, p in classifier.model.named_parameters() if p.requires_grad}
        self._best_values: dict[str, torch.Tensor] = {}
        self._optimizer = torch.optim.AdamW(
            self._trained.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        )

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or too many were no better."""
        return len(self.epochs) >= self.options.epochs or len(self.epochs) - self.best >= self.options.patience

    def run(self, watch: Callable[[Training], None]) -> None:
        """Train until it is over, then put back what was trained in the best epoch.

        Parameters
        ----------
        watch : callable
            Is called between any two batches, when :meth:`state` can be taken.

        Raises
        ------
        AdapterError
            When a loss is not finite.
        """
        while not self.is_over:
            self._epoch(watch)
        with torch.no_grad():
            for name, value in self._best_values.items():
                self._trained[name].copy_(value)

    def _epoch(self, watch: Callable[[Training], None]) -> None:
        batches = list(self._batches(self._order()))
        while self.step < len(batches):
            started = time.monotonic()
            self._train(batches[self.step])
            self.step += 1
            self.seconds += time.monotonic() - started
            watch(self)
        started = time.monotonic()
        loss, accuracy = self.evaluate("validation", watch)
        self._end_epoch(loss, accuracy)
        self.seconds += time.monotonic() - started
        watch(self)

    def _order(self) -> list[int]:
        random = np.random.RandomState([self.options.seed, len(self.epochs) + 1])
        return [int(position) for position in random.permutation(self.data.parts["train"])]

    def _batches(self, positions: list[int]) -> Iterator[list[int]]:
        for start in range(0, len(positions), self.options.batch):
            yield positions[start : start + self.options.batch]

    def _train(self, positions: list[int]) -> None:
        logits, labels = answers(self._classifier, self.data, positions)
        loss = cross_entropy(logits, labels)
        self.last_loss = self._checked(float(loss.detach()))
        self._optimizer.zero_grad()
        backward(loss)
        self._optimizer.step()
        self._sums[0] += self.last_loss * len(positions)
        self._sums[1] += float((logits.detach().argmax(1) == labels).sum())

    def _checked(self, loss: float) -> float:
        if math.isfinite(loss):
            return loss
        if not self.epochs and not self.step:
            raise AdapterError(
                "The loss is infinite or undefined before anything was trained: for these data the model's outputs are."
            )
        raise AdapterError(
            f"The loss became infinite or undefined in epoch {len(self.epochs) + 1}, step {self.step + 1}; lower the"
            f" learning rate, which is {self.options.learning_rate:g}."
        )

    def evaluate(self, part: str, watch: Callable[[Training], None] = lambda training: None) -> tuple[float, float]:
        """Return the mean loss on a part of the data, and the share of right answers."""
        loss, right = 0.0, 0
        for positions in self._batches(self.data.parts[part]):
            with torch.no_grad():
                logits, labels = answers(self._classifier, self.data, positions)
                loss += float(cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
            watch(self)
        count = len(self.data.parts[part])
        return self._checked(loss / count), right / count

    def _end_epoch(self, validation_loss: float, validation_accuracy: float) -> None:
        train_loss, train_accuracy = (total / len(self.data.parts["train"]) for total in self._sums)
        epoch = Epoch(len(self.epochs) + 1, train_loss, train_accuracy, validation_loss, validation_accuracy)
        if not self.best or epoch.is_better_than(self.epochs[self.best - 1]):
            self.best = epoch.number
            self._best_values = {name: p.detach().clone() for name, p in self._trained.items()}
        self.epochs.append(epoch)
        self.step, self._sums = 0, [0.0, 0.0]

    def state(self) -> dict[str, Any]:
        """Return all that is needed to continue, as tensors and plain values."""
        deltas = self._adapters.deltas()
        return {
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best": self.best,
            "step": self.step,
            "sums": list(self._sums),
            "last_loss": self.last_loss,
            "seconds": self.seconds,
            "places": {name: [delta.rows, delta.columns] for name, delta in deltas.items()},
            "trained": {name: parameter.detach() for name, parameter in self._trained.items()},
            "best_values": self._best_values,
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state` was taken."""
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.best, self.step, self._sums = state["best"], state["step"], list(state["sums"])
        self.last_loss, self.seconds = state["last_loss"], state["seconds"]
        self._best_values = state["best_values"]
        with torch.no_grad():
            for name, delta in self._adapters.deltas().items():
                delta.rows.copy_(state["places"][name][0])
                delta.columns.copy_(state["places"][name][1])
            for name, parameter in self._trained.items():
                parameter.copy_(state["trained"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
