"""Labelled examples: what a model is given, the class of each, and which are for training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from cospipe.ir.errors import UsageError, several

Batch = torch.Tensor | dict[str, torch.Tensor]
PARTS = {
    "": "train",
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""How the parts of a data set may be written."""

_MOST_PROBLEMS = 20


class Inputs(Protocol):
    """The inputs of all examples."""

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return the inputs of some examples: a tensor, or tensors by the name of the model's argument."""

    def pieces(self) -> Iterable[bytes]:
        """Yield bytes that are others when the inputs are others."""


@dataclass
class RawData:
    """What a reader found; ``labels`` are positions in ``classes``, ``parts`` words of ``PARTS`` for each example."""

    inputs: Inputs
    labels: Sequence[int]
    classes: Sequence[str]
    parts: Sequence[str]
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LabelledData:
    """Examples that training can use.

    Parameters
    ----------
    inputs : Inputs
        Of all examples.
    labels : Tensor of int64, shape (examples,)
        Positions in ``classes``.
    classes : tuple of str
        Names of the classes.
    parts : dict of str to list of int
        Positions of the examples for ``train``, ``validation`` and ``test``; the last may be empty.
    """

    inputs: Inputs
    labels: torch.Tensor
    classes: tuple[str, ...]
    parts: dict[str, list[int]]

    def batch(self, positions: Sequence[int]) -> tuple[Batch, torch.Tensor]:
        """Return inputs and labels of some examples."""
        return self.inputs.batch(positions), self.labels[list(positions)]

    def fingerprint(self) -> str:
        """Return a text that is another one when inputs, labels, classes or parts are others."""
        digest = hashlib.sha256(repr((self.labels.tolist(), self.classes, self.parts)).encode())
        for piece in self.inputs.pieces():
            digest.update(piece)
        return digest.hexdigest()[:16]


def labelled_data(path: Path, raw: RawData, validation: float, seed: int) -> LabelledData:
    """Check what a reader found and choose a validation part, when the data have none of their own.

    Parameters
    ----------
    path : Path
        Where the data are from.
    raw : RawData
        What was found.
    validation : float
        Share of the training examples of each class that validate instead.
    seed : int
        Decides which.

    Raises
    ------
    UsageError
        Listing everything that is wrong with the data.
    """
    problems = list(raw.problems)
    unknown = sorted({part for part in raw.parts if part.lower() not in PARTS})
    if unknown:
        problems.append(f"unknown part(s) {', '.join(map(repr, unknown))}; write train, validation or test")
    parts = _positions(raw.parts)
    if not parts["validation"]:
        parts = _with_validation(parts, raw.labels, validation, seed)
    if problems := problems + ([] if problems else _part_problems(parts, raw)):
        raise UsageError(several(f"{path} cannot be trained on", shortened(problems)))
    return LabelledData(raw.inputs, torch.tensor(list(raw.labels), dtype=torch.int64), tuple(raw.classes), parts)


def shortened(problems: Sequence[str]) -> list[str]:
    """Return the first problems of a long list, and how many more there are."""
    rest = len(problems) - _MOST_PROBLEMS
    return [*problems[:_MOST_PROBLEMS], *([f"and {rest} more"] if rest > 0 else [])]


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Return distinct class names in order; as numbers when all are."""
    distinct = set(names)
    are_numbers = all(name.isascii() and name.isdecimal() for name in distinct)
    return sorted(distinct, key=lambda name: (int(name), name) if are_numbers else (0, name))


def _positions(parts: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for position, part in enumerate(parts):
        found[PARTS.get(part.lower(), "train")].append(position)
    return found


def _with_validation(
    parts: dict[str, list[int]], labels: Sequence[int], share: float, seed: int
) -> dict[str, list[int]]:
    """Take a share of every class out of the training part, at least one of a class with two or more."""
    random = np.random.RandomState(seed)
    train, validation = [], []
    known = np.asarray(labels, np.int64)
    positions = np.asarray(parts["train"], np.int64)
    for label in np.unique(known[positions]):
        members = random.permutation(positions[known[positions] == label])
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        validation += members[:count].tolist()
        train += members[count:].tolist()
    return {"train": sorted(train), "validation": sorted(validation), "test": parts["test"]}


def _part_problems(parts: dict[str, list[int]], raw: RawData) -> list[str]:
    if not raw.labels:
        return ["there are no examples"]
    classes = {raw.classes[raw.labels[position]] for position in parts["train"]}
    if len(classes) < 2:
        only = f"only the class {next(iter(classes))!r}" if classes else "no examples"
        return [f"the training part has {only}; at least two classes are needed"]
    if not parts["validation"]:
        return ["no class has a second example to validate with"]
    return []
