"""Labelled images: a folder with a sub-folder for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cospipe.backends.finetune.data import PARTS, RawData, shortened, sorted_classes
from cospipe.backends.runtime.frames import ImageOptions, normalise_image, read_pixels
from cospipe.ir.errors import UsageError, first_line, several
from cospipe.ir.tensor_file import Array

_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))


@dataclass(frozen=True)
class ImageInputs:
    """Pixels as bytes, (examples, height, width, 3); they become numbers a batch at a time."""

    pixels: Array
    options: ImageOptions

    def batch(self, positions: Sequence[int]) -> torch.Tensor:
        """Return some images normalised, (images, 3, height, width)."""
        return torch.from_numpy(np.concatenate([normalise_image(self.pixels[i], self.options) for i in positions]))

    def pieces(self) -> Iterator[bytes]:
        """Yield the pixels, an image at a time."""
        yield str(self.pixels.shape).encode()
        for image in self.pixels:
            yield image.tobytes()


def read_images(path: Path, shape: Sequence[int], options: ImageOptions) -> RawData:
    """Read ``CLASS/*.png`` (or ``.jpg`` ...), or ``train/CLASS/``, ``validation/CLASS/`` and ``test/CLASS/``.

    Parameters
    ----------
    path : Path
        The folder.
    shape : sequence of int
        (1, 3, height, width): the shorter side of an image is scaled, the centre cut out.
    options : ImageOptions
        How bytes become numbers.

    Raises
    ------
    UsageError
        When there are no images, a class has none, or some cannot be read; all of them are listed.
    """
    if len(shape) != 4 or tuple(shape[:2]) != (1, 3):
        raise UsageError(f"Images are given to a model as 1x3xHxW; {'x'.join(map(str, shape))} is no such shape.")
    folders = [(part, folder) for part, parent in _parts(path) for folder in _folders(parent)]
    files = [(part, folder.name, file) for part, folder in folders for file in _images(folder)]
    problems = [f"{folder}: no images" for _, folder in folders if not _images(folder)]
    if not folders:
        problems.append("it has no sub-folders; each class needs one, named after it, with its images")
    pixels = np.zeros((len(files), shape[2], shape[3], 3), np.uint8)
    for position, (_, _, file) in enumerate(files):
        problems += _read_into(pixels[position], file)
    if problems:
        raise UsageError(several(f"{path} cannot be trained on", shortened(problems)))
    classes = sorted_classes(name for _, name, _ in files)
    labels = [classes.index(name) for _, name, _ in files]
    return RawData(ImageInputs(pixels, options), labels, classes, [part for part, _, _ in files])


def _read_into(pixels: Array, file: Path) -> list[str]:
    try:
        pixels[...] = read_pixels(file, *pixels.shape[:2])
    except UsageError as error:  # Pillow is missing: it is for every file
        raise UsageError(f"Images cannot be read: {error}.") from error
    except Exception as error:  # decoders raise almost anything at a damaged file
        return [f"{file}: {first_line(error)}"]
    return []


def _parts(path: Path) -> list[tuple[str, Path]]:
    folders = _folders(path)
    if folders and all(folder.name.lower() in PARTS and _folders(folder) for folder in folders):
        return [(folder.name, folder) for folder in folders]
    return [("train", path)]


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())
