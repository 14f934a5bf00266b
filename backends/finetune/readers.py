"""Which reader a data set needs: by what its path is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cospipe.backends.finetune.data import LabelledData, RawData, labelled_data
from cospipe.backends.finetune.read_arrays import read_arrays
from cospipe.backends.finetune.read_images import read_images
from cospipe.backends.finetune.read_text import load_tokenizer, read_text
from cospipe.backends.runtime.frames import ImageOptions
from cospipe.ir.errors import UsageError


@dataclass(frozen=True)
class DataOptions:
    """How data are read.

    Parameters
    ----------
    path : Path
        A folder of images, a ``.csv`` file of texts or an ``.npz`` file of arrays.
    validation : float
        Share of the training examples that validate instead, when the data have no validation part.
    input_shape : tuple of int
        (1, 3, height, width), for images.
    images : ImageOptions
        How images are normalised.
    tokenizer : str
        For texts, see :func:`~cospipe.backends.finetune.read_text.load_tokenizer`.
    max_tokens : int
        Longer texts are cut off.

    Raises
    ------
    UsageError
        When the share or the number of tokens makes no sense.
    """

    path: Path
    validation: float = 0.1
    input_shape: tuple[int, ...] = (1, 3, 224, 224)
    images: ImageOptions = field(default_factory=ImageOptions)
    tokenizer: str = ""
    max_tokens: int = 128

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            raise UsageError(f"The share that validates is {self.validation}; it must be between 0 and 1, like 0.1.")
        if self.max_tokens < 1:
            raise UsageError(f"The most tokens of a text are {self.max_tokens}; it must be at least 1.")


def read_data(options: DataOptions, seed: int) -> LabelledData:
    """Read a data set and check it.

    Raises
    ------
    UsageError
        When it does not exist or cannot be trained on; everything that is wrong with it is listed.
    """
    return labelled_data(options.path, _read(options), options.validation, seed)


def _read(options: DataOptions) -> RawData:
    path = options.path
    if path.is_dir():
        return read_images(path, options.input_shape, options.images)
    if not path.is_file():
        raise UsageError(f"There is no data set {str(path)!r}.")
    if path.suffix.lower() == ".npz":
        return read_arrays(path)
    if path.suffix.lower() != ".csv":
        raise UsageError(f"{path} is no data set; give a folder of images, a .csv file or an .npz file.")
    if not options.tokenizer:
        raise UsageError(
            f"{path} holds texts; name the model's tokenizer: a directory, or package.module:factory of a function."
        )
    return read_text(path, load_tokenizer(options.tokenizer, options.max_tokens))
