"""Labelled arrays from an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cospipe.backends.finetune.data import RawData
from cospipe.ir.errors import UsageError, first_line, several
from cospipe.ir.tensor_file import Array

_MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class ArrayInputs:
    """Numbers, the first dimension counts examples."""

    values: Array

    def batch(self, positions: Sequence[int]) -> torch.Tensor:
        """Return the rows of some examples."""
        return torch.from_numpy(self.values[list(positions)])

    def pieces(self) -> Iterator[bytes]:
        """Yield the numbers, a part at a time."""
        yield str(self.values.shape).encode()
        for row in self.values:
            yield row.tobytes()


def read_arrays(path: Path) -> RawData:
    """Read ``x`` (N, ...) and the classes ``y`` (N,); optional ``x_test``, ``y_test``, ``split`` (N,) and ``classes``.

    Raises
    ------
    UsageError
        When the file is no archive, or its arrays do not fit together; everything that is wrong is listed.
    """
    arrays = _load(path)
    problems = _missing(arrays) or [*_pair_problems(arrays, "x", "y"), *_pair_problems(arrays, "x_test", "y_test")]
    problems = problems or [*_test_problems(arrays), *_split_problems(arrays), *_class_problems(arrays)]
    if problems:
        raise UsageError(several(f"{path} cannot be trained on", problems))
    tests = len(arrays.get("y_test", ()))
    x = np.concatenate([arrays["x"], arrays["x_test"]]) if tests else arrays["x"]
    # NumPy makes floats of signed and unsigned integers together
    labels = np.concatenate([arrays[name].astype(np.int64) for name in ("y", "y_test") if name in arrays]).tolist()
    count = max(labels, default=-1) + 1
    classes = [str(name) for name in arrays.get("classes", range(count))]
    parts = [str(part) for part in arrays.get("split", ["train"] * len(arrays["y"]))] + ["test"] * tests
    return RawData(ArrayInputs(_float32(x)), labels, classes, parts)


def _float32(values: Array) -> Array:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told as such
        return np.ascontiguousarray(values, np.float32)


def _load(path: Path) -> dict[str, Array]:
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path} is not an .npz archive; numpy.savez writes one.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # damaged archives raise almost anything
        raise UsageError(f"{path} cannot be read: {first_line(error)}.") from error


def _missing(arrays: dict[str, Array]) -> list[str]:
    missing = [name for name in ("x", "y") if name not in arrays]
    missing += [f"{a}_test" for a, b in ("xy", "yx") if f"{b}_test" in arrays and f"{a}_test" not in arrays]
    return [f"there is no array {name}; found: {', '.join(arrays) or 'none'}" for name in missing]


def _pair_problems(arrays: dict[str, Array], inputs: str, labels: str) -> list[str]:
    if inputs not in arrays:
        return []
    x, y, problems = arrays[inputs], arrays[labels], []
    if x.dtype.kind != "f":
        problems.append(f"{inputs} holds {x.dtype}, not floating point numbers; scale it and save it as float32")
    elif not (finite := np.isfinite(_float32(x))).all():
        first = int(np.argwhere(~finite)[0][0]) if x.ndim else 0
        problems.append(f"{inputs} holds infinite or undefined numbers (as float32), the first in example {first}")
    if x.ndim < 2:
        problems.append(
            f"{inputs} has the shape {x.shape}; its first dimension counts examples, so it has at least two"
        )
    if y.ndim != 1 or y.dtype.kind not in "iu":
        problems.append(f"{labels} holds {y.dtype} of shape {y.shape}; it takes one integer for each example")
    elif y.size and not 0 <= int(y.min()) <= int(y.max()) < _MOST_CLASSES:
        wrong = y.min() if y.min() < 0 else y.max()
        problems.append(f"{labels} holds {wrong}; classes count from 0, each number up to the largest is a class")
    if x.ndim and y.ndim and len(x) != len(y):
        problems.append(f"{inputs} has {len(x)} examples, {labels} has {len(y)}")
    return problems


def _test_problems(arrays: dict[str, Array]) -> list[str]:
    x, test = arrays["x"], arrays.get("x_test", arrays["x"])
    if x.shape[1:] == test.shape[1:]:
        return []
    return [f"examples of x have the shape {x.shape[1:]}, of x_test {test.shape[1:]}"]


def _split_problems(arrays: dict[str, Array]) -> list[str]:
    split = arrays.get("split")
    if split is None or (split.dtype.kind == "U" and split.shape == arrays["y"].shape):
        return []
    return [f"split holds {split.dtype} of shape {split.shape}; it takes train, validation or test for each example"]


def _class_problems(arrays: dict[str, Array]) -> list[str]:
    classes = arrays.get("classes")
    count = max((int(label) + 1 for name in ("y", "y_test") for label in np.unique(arrays.get(name, ()))), default=0)
    if classes is None or (classes.ndim == 1 and len(classes) >= count):
        return []
    return [f"classes has the shape {classes.shape}; it takes a name for each of the {count} classes of y"]
