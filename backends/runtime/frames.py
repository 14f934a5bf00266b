"""Where frames come from: .npy and .npz files, images, or synthetic numbers."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cospipe.backends.runtime.frame import frame_problems
from cospipe.ir.errors import UsageError, several
from cospipe.ir.manifest import Manifest, TensorSpec
from cospipe.ir.tensor_file import Array

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageOptions:
    """How an image becomes a network input: mean and standard deviation of each channel, for values from 0 to 1."""

    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD


def synthetic_frames(manifest: Manifest, count: int | None) -> Iterator[dict[str, Array]]:
    """Yield frames of normally distributed numbers (zeros for integers), the same for every run.

    ``count`` None is without end.

    Raises
    ------
    UsageError
        When ``count`` is less than one.
    """
    if count is not None and count < 1:
        raise UsageError(f"The number of frames must be at least 1, not {count}.")
    generator = np.random.default_rng(0)
    different = 4 if count is None else min(count, 4)
    few = [{spec.name: _synthetic(spec, generator) for spec in manifest.inputs} for _ in range(different)]
    return itertools.islice(itertools.cycle(few), count)


def _synthetic(spec: TensorSpec, generator: np.random.Generator) -> Array:
    if spec.dtype.startswith("float"):
        return generator.standard_normal(spec.shape).astype(spec.dtype)
    return np.zeros(spec.shape, spec.dtype)


def read_frames(manifest: Manifest, files: Sequence[Path], options: ImageOptions) -> list[dict[str, Array]]:
    """Read one frame from each file.

    ``.npz`` files hold arrays by input name; ``.npy`` files and images are for networks with one input.

    Raises
    ------
    UsageError
        When files cannot be read or do not fit; all of them are listed.
    """
    results = [_frame_or_problem(manifest, file, options) for file in files]
    if problems := [result for result in results if isinstance(result, str)]:
        raise UsageError(several("These inputs cannot be used", problems))
    return [result for result in results if not isinstance(result, str)]


def _frame_or_problem(manifest: Manifest, file: Path, options: ImageOptions) -> dict[str, Array] | str:
    if not file.is_file():
        return f"{file}: there is no such file"
    try:
        frame = _read_frame(manifest, file, options)
    except Exception as error:  # decoders raise almost anything at a damaged file
        return f"{file}: {str(error) or type(error).__name__}"
    problems = frame_problems(manifest, frame)
    return f"{file}: {'; '.join(problems)}" if problems else frame


def _read_frame(manifest: Manifest, file: Path, options: ImageOptions) -> dict[str, Array]:
    if file.suffix == ".npz":
        if not zipfile.is_zipfile(file):
            raise UsageError("it is not an .npz archive")
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    if len(manifest.inputs) != 1:
        raise UsageError(f"the network has {len(manifest.inputs)} inputs; give an .npz file with all of them")
    spec = manifest.inputs[0]
    if file.suffix == ".npy":
        return {spec.name: np.load(file, allow_pickle=False)}
    return {spec.name: read_image(file, spec, options)}


def read_image(file: Path, spec: TensorSpec, options: ImageOptions) -> Array:
    """Read an image for a 1 x 3 x H x W input: shorter side scaled, centre cut out, normalised.

    Raises
    ------
    UsageError
        When the input takes no images, or Pillow is not installed.
    """
    if len(spec.shape) != 4 or spec.shape[:2] != (1, 3) or spec.dtype != "float32":
        raise UsageError(f"images need a 1x3xHxW float32 input, this one is {spec}")
    return normalise_image(read_pixels(file, spec.shape[2], spec.shape[3]), options)


def read_pixels(file: Path, height: int, width: int) -> Array:
    """Read an image as height x width x 3 bytes: shorter side scaled, centre cut out.

    Raises
    ------
    UsageError
        When Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise UsageError("reading images needs Pillow; install it with: pip install pillow") from error
    with Image.open(file) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.BICUBIC))


def normalise_image(pixels: Array, options: ImageOptions) -> Array:
    """Return H x W x 3 bytes as a normalised 1 x 3 x H x W float32 array."""
    mean, std = np.asarray(options.mean, np.float32), np.asarray(options.std, np.float32)
    scaled = (pixels.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], dtype=np.float32)
