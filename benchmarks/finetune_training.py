"""Training one arm for a fixed number of steps, and choosing its learning rate on the validation split.

AdamW without weight decay, linear decay of the learning rate to zero after a warm-up of a twentieth of the steps,
batches of texts of like length in a seeded order: the same steps on the same batches for every arm of a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from finetune_arms import Arm, build_arm
from finetune_networks import pretrained
from finetune_tasks import Batch, Split, Task
from torch import nn
from torch.nn.functional import cross_entropy

_WARM_UP_SHARE = 0.05
_BUCKETED_BATCHES = 8
_EVALUATED_BATCH = 64
_CALIBRATION_BATCHES = 8
_HEAD_FIT_STEPS = 100
_HEAD_FIT_LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class Training:
    """How arms are trained: steps, examples of a step, coefficients of a weight of 384x384."""

    steps: int = 300
    batch: int = 16
    n: int = 256


@dataclass(frozen=True)
class Run:
    """What came of training one arm once: the trained arm, its accuracy (0 to 1) and loss on validation."""

    arm: Arm
    learning_rate: float
    validation_accuracy: float
    validation_loss: float

    @property
    def score(self) -> tuple[float, float]:
        """What is to be large: the accuracy, and between equal ones the smaller loss."""
        return self.validation_accuracy, -self.validation_loss


def train_run(
    task: Task, method: str, training: Training, learning_rate: float, head_learning_rate: float, seed: int
) -> Run:
    """Train a method on a task from the pretrained weights on."""
    arm = new_arm(task, method, training, seed)
    steps = batches(task.train, training, seed)
    train(arm, steps, training.steps, learning_rate, head_learning_rate)
    accuracy, loss = evaluate(arm.network, task.validation)
    return Run(arm, learning_rate, accuracy, loss)


def new_arm(task: Task, method: str, training: Training, seed: int) -> Arm:
    """Return a method on the pretrained network, untrained."""
    network = pretrained(task.kind, task.classes, seed)
    few = [batch for batch, _ in zip(batches(task.train, training, seed), range(_CALIBRATION_BATCHES), strict=False)]
    return build_arm(method, network, training.n, seed, partial(calibrate, batches=few))


def batches(split: Split, training: Training, seed: int) -> Iterator[Batch]:
    """Yield shuffled batches for ever; among a few of them texts of like length are put together."""
    generator = random.Random(seed)
    order: list[int] = []
    pool = training.batch * _BUCKETED_BATCHES
    while True:
        while len(order) < pool:
            order += generator.sample(range(len(split)), len(split))
        bucketed = sorted(order[:pool], key=split.length)
        order = order[pool:]
        starts = list(range(0, pool, training.batch))
        for start in generator.sample(starts, len(starts)):
            yield split.batch(bucketed[start : start + training.batch])


def train(arm: Arm, data: Iterator[Batch], steps: int, learning_rate: float, head_learning_rate: float) -> None:
    """Train an arm in place."""
    optimizer = new_optimizer(arm, learning_rate, head_learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, steps=steps))
    for _, batch in zip(range(steps), data, strict=False):
        step(arm, optimizer, batch)
        schedule.step()


def new_optimizer(arm: Arm, learning_rate: float, head_learning_rate: float) -> torch.optim.Optimizer:
    """Return AdamW over what the arm trains."""
    groups = [{"params": arm.adapter, "lr": learning_rate}, {"params": arm.head, "lr": head_learning_rate}]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)


def step(arm: Arm, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Do one training step."""
    cross_entropy(arm.network(*batch.inputs), batch.labels).backward()
    optimizer.step()
    optimizer.zero_grad()


def _rate(number: int, steps: int) -> float:
    warm_up = max(1, round(steps * _WARM_UP_SHARE))
    return min((number + 1) / warm_up, (steps - number) / max(1, steps - warm_up))


@torch.no_grad()
def evaluate(network: nn.Module, split: Split) -> tuple[float, float]:
    """Return accuracy, from 0 to 1, and mean loss; an undefined loss counts as infinite."""
    correct, loss = 0, 0.0
    for batch in split.batches(_EVALUATED_BATCH):
        logits = network(*batch.inputs)
        correct += int((logits.argmax(1) == batch.labels).sum())
        loss += float(cross_entropy(logits, batch.labels, reduction="sum"))
    return correct / len(split), loss / len(split) if loss == loss else float("inf")


def calibrate(network: nn.Module, batches: Sequence[Batch]) -> None:
    """Give weights the gradients of a few training batches, under a classifier fitted to the frozen features of these.

    The gradients of an untrained classifier would point nowhere. Afterwards it is again as it was.
    """
    classifier = network.get_submodule("classifier")
    before = [parameter.detach().clone() for parameter in classifier.parameters()]
    with torch.no_grad():
        features = torch.cat([network.features(*batch.inputs) for batch in batches])  # type: ignore[operator]
    fitted = _fitted_head(features, torch.cat([batch.labels for batch in batches]), classifier)
    _fill(classifier, fitted)
    for batch in batches:
        cross_entropy(network(*batch.inputs), batch.labels).backward()
    _fill(classifier, before)


def _fitted_head(features: torch.Tensor, labels: torch.Tensor, classifier: nn.Module) -> list[torch.Tensor]:
    weight, bias = (torch.zeros_like(parameter, requires_grad=True) for parameter in classifier.parameters())
    optimizer = torch.optim.Adam([weight, bias], lr=_HEAD_FIT_LEARNING_RATE)
    for _ in range(_HEAD_FIT_STEPS):
        optimizer.zero_grad()
        cross_entropy(features @ weight.T + bias, labels).backward()
        optimizer.step()
    return [weight.detach(), bias.detach()]


@torch.no_grad()
def _fill(module: nn.Module, values: Sequence[torch.Tensor]) -> None:
    for parameter, value in zip(module.parameters(), values, strict=True):
        parameter.copy_(value)


def tune(train_with: Callable[[float], Run], start: float, factor: float, most: int) -> tuple[Run, bool]:
    """Climb over learning rates ``start * factor**i`` until the best has a worse one on each side.

    Parameters
    ----------
    train_with : callable
        Trains with a learning rate.
    start, factor : float
        The grid.
    most : int
        Learning rates tried at most.

    Returns
    -------
    best : Run
        The run of the highest score.
    is_inside : bool
        Whether both its neighbours were tried.
    """
    runs: dict[int, Run] = {}
    best = 0
    while len(runs) < most:
        wanted = [place for place in (best, best + 1, best - 1) if place not in runs]
        if not wanted:
            break
        runs[wanted[0]] = train_with(start * factor ** wanted[0])
        best = max(runs, key=lambda place: runs[place].score)
    return runs[best], {best - 1, best + 1} <= runs.keys()
