"""From a model's name and a data set to an adapter file."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cospipe.backends.finetune.checkpoint import Checkpoint
from cospipe.backends.finetune.classifier import Classifier, answers, backward, count_outputs
from cospipe.backends.finetune.data import LabelledData
from cospipe.backends.finetune.readers import DataOptions, read_data
from cospipe.backends.finetune.training import Training, TrainingOptions
from cospipe.ir.adapter_file import read_adapter
from cospipe.ir.eager_adapters import Adapters, adapt
from cospipe.ir.errors import AdapterError, CospipeError, UsageError, nearest, several
from cospipe.ir.load import load_model
from cospipe.ir.spectral_config import SpectralConfig, matches

_CALIBRATION_BATCHES = 4


@dataclass(frozen=True)
class FineTuning:
    """What is to be trained.

    Parameters
    ----------
    model : str
        ``package.module:factory``; the first output are logits.
    output : Path
        The adapter file to write.
    data : DataOptions
        The data set.
    config : SpectralConfig
        The adapter.
    training : TrainingOptions
        How it is trained.
    restart : bool
        Forget an interrupted training instead of continuing it.
    """

    model: str
    output: Path
    data: DataOptions
    config: SpectralConfig = field(default_factory=SpectralConfig)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    restart: bool = False

    @property
    def checkpoint_path(self) -> Path:
        """Where an interrupted training is kept."""
        return self.output.with_name(f"{self.output.name}.checkpoint")


def fine_tune(
    request: FineTuning,
    progress: Callable[[str], None] = lambda step: None,
    watch: Callable[[Training], None] = lambda training: None,
) -> dict[str, Any]:
    """Train an adapter and write it.

    An interruption (Ctrl-C) ends the current step, keeps the state in ``checkpoint_path`` and raises KeyboardInterrupt;
    the same request continues from there, with bitwise the same result as without it.

    Parameters
    ----------
    request : FineTuning
        What is to be trained.
    progress : callable
        Is told what is done next.
    watch : callable
        Is called with the training between any two batches.

    Returns
    -------
    dict
        The figures of the training, ready for JSON.

    Raises
    ------
    UsageError
        When model, data, options and checkpoint do not fit together.
    AdapterError
        When a loss is not finite or a file cannot be written.
    """
    _check_output(request.output)
    progress("Reading the data")
    data = read_data(request.data, request.training.seed)
    progress("Loading the model")
    model, model_fingerprint = _load(request)
    classifier = Classifier(model)
    outputs = count_outputs(classifier, data, request.model)
    options = {**_option_texts(request), "the model's weights": model_fingerprint, "the data": data.fingerprint()}
    checkpoint = Checkpoint(request.checkpoint_path, options)
    if request.restart:
        checkpoint.delete()
    state = checkpoint.load()
    progress("Choosing coefficients")
    adapters = adapt(model, request.config, calibrate=_calibration(classifier, data, request.training))
    training = Training(classifier, adapters, data, request.training)
    if state is not None:
        _continue(training, checkpoint, state)
    progress("Training")
    _train(training, checkpoint, watch)
    test_accuracy = training.evaluate("test")[1] if data.parts["test"] else None
    adapters.save(request.output, base=request.model, labels=data.classes)
    checkpoint.delete()
    return {**_figures(request, training, adapters, outputs), "test_accuracy": test_accuracy}


def _check_output(output: Path) -> None:
    """Find out before the training, not after it, that the result cannot be written."""
    if output.suffix != ".safetensors" or output.is_dir():
        raise UsageError(f"An adapter is written as .safetensors; {output} is not such a file name.")
    if output.exists():
        try:
            read_adapter(output)
        except CospipeError as error:
            raise UsageError(f"{output} exists and is no adapter; it is not overwritten: {error}") from error
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise UsageError(f"{output.parent} is no directory that can be written to; make it first.")


def _load(request: FineTuning) -> tuple[nn.Module, str]:
    """Return the model and a fingerprint of what the adapter does not replace."""
    model, digests = _loaded(request, request.training.seed)
    _check_patterns(model, request.config)
    _, others = _loaded(request, request.training.seed + 1)
    changing = sorted(name for name, digest in digests.items() if others.get(name) != digest)
    if changing:
        raise UsageError(
            several(
                f"{request.model} gives other values each time, so an adapter would fit no other copy of it. Let the"
                " factory load weights or call torch.manual_seed(0), or train these whole with also_train",
                changing[:10],
            )
        )
    return model, hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()[:16]


def _loaded(request: FineTuning, seed: int) -> tuple[nn.Module, dict[str, str]]:
    torch.manual_seed(seed)  # a new last layer that is trained whole starts from the same values when continued
    model, _ = load_model(request.model, [[1]])
    if not isinstance(model, nn.Module):
        raise UsageError(f"{request.model} cannot be trained; name the package.module:factory of the module itself.")
    kept = {name: tensor for name, tensor in model.state_dict().items() if not request.config.trains_whole(name)}
    return model, {name: _digest(tensor) for name, tensor in kept.items() if isinstance(tensor, torch.Tensor)}


def _digest(tensor: torch.Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(f"{tuple(tensor.shape)}{tensor.dtype}".encode() + values.data).hexdigest()


def _check_patterns(model: nn.Module, config: SpectralConfig) -> None:
    names = [name for name, _ in model.named_parameters()]
    for pattern in filter(None, config.also_train.split("|")):
        if not any(matches(name, pattern) for name in names):
            # the last ones: it is the last layer that people replace
            raise UsageError(f"No parameter matches {pattern!r} of also_train. {nearest(pattern, names[-20:])}")


def _option_texts(request: FineTuning) -> dict[str, str]:
    data, images = request.data, request.data.images
    values = {
        "model": request.model,
        "data": data.path,
        "validation": data.validation,
        "tokenizer": data.tokenizer,
        "max_tokens": data.max_tokens,
        "input_shape": data.input_shape,
        "mean": tuple(images.mean),
        "std": tuple(images.std),
        **asdict(request.config),
        **asdict(request.training),
    }
    return {key: str(value) for key, value in values.items()}


def _calibration(classifier: Classifier, data: LabelledData, options: TrainingOptions) -> Callable[[nn.Module], None]:
    def run(model: nn.Module) -> None:
        shuffled = np.random.RandomState(options.seed).permutation(data.parts["train"]).tolist()
        chosen = shuffled[: _CALIBRATION_BATCHES * options.batch]
        for start in range(0, len(chosen), options.batch):
            backward(cross_entropy(*answers(classifier, data, chosen[start : start + options.batch])))

    return run


def _continue(training: Training, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    try:
        training.restore(state)
    except Exception as error:  # whatever a state of other shapes makes torch raise
        raise checkpoint.damaged() from error


def _train(training: Training, checkpoint: Checkpoint, watch: Callable[[Training], None]) -> None:
    saved = len(training.epochs)

    def between_batches(training: Training) -> None:
        nonlocal saved
        if interrupted.is_set():
            checkpoint.save(training.state())
            raise KeyboardInterrupt
        if len(training.epochs) > saved:
            saved = len(training.epochs)
            checkpoint.save(training.state())
        watch(training)

    with _interruptions() as interrupted:
        try:
            training.run(between_batches)
        except AdapterError:
            checkpoint.delete()  # continuing would only fail again
            raise


@contextmanager
def _interruptions() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, as a step torn apart could not be continued; the second ends at once."""
    event = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _figures(request: FineTuning, training: Training, adapters: Adapters, outputs: int) -> dict[str, Any]:
    best, coefficients = training.epochs[training.best - 1], adapters.coefficient_count()
    trained = sum(parameter.numel() for parameter in adapters.trainable_parameters())
    return {
        "model": request.model,
        "data": str(request.data.path),
        "adapter": str(request.output),
        "classes": list(training.data.classes),
        "outputs": outputs,
        "examples": {part: len(positions) for part, positions in training.data.parts.items()},
        "coefficients": coefficients,
        "trained_parameters": trained - coefficients,
        "epochs": len(training.epochs),
        "best_epoch": training.best,
        "train_loss": best.train_loss,
        "train_accuracy": best.train_accuracy,
        "validation_loss": best.validation_loss,
        "validation_accuracy": best.validation_accuracy,
        "seconds": round(training.seconds, 3),
        "file_bytes": request.output.stat().st_size,
    }
