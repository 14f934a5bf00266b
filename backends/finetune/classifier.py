"""A model as a classifier: its logits for a batch, and whether it fits a data set."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cospipe.backends.finetune.data import Batch, LabelledData
from cospipe.ir.errors import CospipeError, UsageError, first_line


class Classifier:
    """Calls a model in the way its ``forward`` wants.

    Parameters
    ----------
    model : nn.Module
        Its first output are the logits, (N, classes). Tensors by name are given as keyword arguments, as far as
        ``forward`` takes them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        self._names = None if takes_any else set(parameters)
        self._dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits in FP32, (N, classes)."""
        if isinstance(batch, torch.Tensor):
            output = self.model(self._converted(batch))
        else:
            named = {name: self._converted(value) for name, value in batch.items() if self._takes(name)}
            output = self.model(**named)
        return _first_output(output).float()

    def _takes(self, name: str) -> bool:
        return self._names is None or name in self._names

    def _converted(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self._dtype) if values.is_floating_point() else values


def _first_output(output: Any) -> torch.Tensor:
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    elif isinstance(output, (tuple, list)):
        output = next(iter(output), None)
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"its first output is a {type(output).__name__}, not a tensor of logits")
    return output


def answers(classifier: Classifier, data: LabelledData, positions: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits for some examples, and their labels.

    Raises
    ------
    CospipeError
        When the model or the tokenizer fails on them.
    """
    try:
        inputs, labels = data.batch(positions)
        return classifier.logits(inputs), labels
    except Exception as error:  # whatever they raise on inputs that they were not tried on before
        counted = ", ".join(str(position + 1) for position in positions[:5])
        more = " ..." if len(positions) > 5 else ""
        raise CospipeError(f"The model fails on the examples {counted}{more}: {first_line(error)}.") from error


def backward(loss: torch.Tensor) -> None:
    """Compute the gradients of a loss.

    Raises
    ------
    UsageError
        When it does not depend on anything that is trained.
    """
    if not loss.requires_grad:
        raise UsageError(
            "The logits do not depend on what is trained: the model's forward detaches them or runs under"
            " torch.no_grad(), or uses none of the adapted weights. Adapt others, or let it compute gradients."
        )
    loss.backward()  # type: ignore[no-untyped-call]


def count_outputs(classifier: Classifier, data: LabelledData, model: str) -> int:
    """Return how many classes a model tells apart, by trying it on two examples.

    Raises
    ------
    UsageError
        When the model cannot take the data, or tells fewer classes apart than there are.
    """
    try:
        with torch.no_grad():
            logits = classifier.logits(data.batch(data.parts["train"][:2])[0])
    except Exception as error:  # whatever a model raises on inputs of another kind
        raise UsageError(f"{model} cannot take the data: {first_line(error)}.") from error
    if logits.ndim != 2:
        raise UsageError(
            f"The first output of {model} has the shape {tuple(logits.shape)} for two examples; a classifier gives"
            " (2, classes)."
        )
    _check_classes(model, logits.shape[1], data)
    return logits.shape[1]


def _check_classes(model: str, outputs: int, data: LabelledData) -> None:
    needed = max(len(data.classes), int(data.labels.max()) + 1)
    if outputs < needed:
        raise UsageError(
            f"{model} tells {outputs} classes apart, the data have {needed}: {', '.join(data.classes[:10])}"
            f"{' ...' if len(data.classes) > 10 else ''}. Let its factory give it a last layer with {needed} outputs,"
            " and train that whole: name it in also_train."
        )
