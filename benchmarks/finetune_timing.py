"""How long a training step takes, all arms alternately in one process, and the frozen network among them.

A step is forward pass, backward pass and AdamW on a batch that is in memory already: 16 texts of 64 tokens, or 16
images of 64x64. In every round each arm takes one step, in an order shuffled anew; the figure is the median. The least
is given, too, as on a busy machine it says more.

The frozen network trains the classifier alone, but its backward pass goes through all activations down to what the
first adapted layer reads; so does that of every arm but ``head``, which needs none. What an arm takes longer is thus
what its adapter costs.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from finetune_arms import Arm, UnsupportedError, build_arm
from finetune_networks import pretrained
from finetune_tasks import Batch
from finetune_training import calibrate, new_optimizer, step
from torch import nn

FROZEN = "frozen"
_WARM_UP_STEPS = 3
_TOLD_ROUNDS = 5
_SHAPES = {"text": (16, 64), "image": (16, 3, 64, 64)}
_CLASSES = 8
_TOKENS = 1000
_LEARNING_RATE = 1e-5  # the weights hardly move: what a step takes must not depend on them


@dataclass(frozen=True)
class Measured:
    """What is known of an arm without training it: median and least milliseconds of a step, trained numbers, file size.

    ``note`` says why nothing is known.
    """

    step_ms: float | None = None
    step_min_ms: float | None = None
    trainable_parameters: int | None = None
    file_bytes: int | None = None
    note: str | None = None


def measure_steps(
    methods: Sequence[str], kind: str, n: int, rounds: int, progress: Callable[[str], None]
) -> dict[str, Measured]:
    """Return what is known of each arm by method, ``frozen`` included.

    Parameters
    ----------
    methods : sequence of str
        Those that cannot adapt the network get a note.
    kind : str
        ``"text"`` or ``"image"``.
    n : int
        Coefficients of a weight of 384x384.
    rounds : int
        Timed steps of each arm.
    progress : callable
        Is told what is going on.
    """
    batch = measured_batch(kind)
    arms: dict[str, Arm] = {}
    found: dict[str, Measured] = {}
    for method in (FROZEN, *methods):
        progress(f"preparing the timing of {method}")
        try:
            arms[method] = measured_arm(method, kind, n, batch)
        except UnsupportedError as error:
            found[method] = Measured(note=str(error))
    steps = {
        method: partial(step, arm, new_optimizer(arm, _LEARNING_RATE, _LEARNING_RATE), batch)
        for method, arm in arms.items()
    }
    times_ms = _alternate(steps, rounds, progress)
    for method, arm in arms.items():
        median_ms, min_ms = median(times_ms[method]), min(times_ms[method])
        found[method] = Measured(median_ms, min_ms, arm.trainable_parameters, arm.file_bytes())
    return found


def _alternate(
    steps: Mapping[str, Callable[[], None]], rounds: int, progress: Callable[[str], None]
) -> dict[str, list[float]]:
    times_ms: dict[str, list[float]] = {name: [] for name in steps}
    gc.collect()
    gc.disable()
    try:
        for number in range(-_WARM_UP_STEPS, rounds):
            if number % _TOLD_ROUNDS == 0:
                progress(f"timing, round {number + 1} of {rounds}")
            for name in random.Random(number).sample(list(steps), len(steps)):
                started = time.perf_counter()
                steps[name]()
                if number >= 0:
                    times_ms[name].append((time.perf_counter() - started) * 1e3)
    finally:
        gc.enable()
    return times_ms


def measured_batch(kind: str) -> Batch:
    """Return a batch of random numbers, nothing of it padding."""
    generator = torch.Generator().manual_seed(0)
    shape = _SHAPES[kind]
    labels = torch.randint(_CLASSES, shape[:1], generator=generator)
    if kind == "image":
        return Batch((torch.randn(shape, generator=generator),), labels)
    token_ids = torch.randint(_TOKENS, shape, generator=generator)
    return Batch((token_ids, torch.ones_like(token_ids)), labels)


def measured_arm(method: str, kind: str, n: int, batch: Batch) -> Arm:
    """Return an arm whose backward pass goes down to the first adapted layer; ``sdctft`` is hybrid selection."""
    network = pretrained(kind, _CLASSES, seed=0)
    if method != "head":
        network.first_activations().register_forward_hook(_wants_gradient)
    method = {FROZEN: "head", "sdctft": "sdctft-hybrid"}.get(method, method)
    return build_arm(method, network, n, 0, partial(calibrate, batches=[batch]))


def _wants_gradient(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
    return output if output.requires_grad or not torch.is_grad_enabled() else output.requires_grad_()
