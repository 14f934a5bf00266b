"""Which places of its spectrum a weight gets coefficients at, and how many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch

from cospipe.ir.dct import dct2
from cospipe.ir.errors import UsageError
from cospipe.ir.spectral_config import SpectralConfig

_Places = npt.NDArray[np.int64]
_BANDS = 3
_RANKED_STEP = 2.0**-40
"""Magnitudes that differ by less, relative to the norm, count as equal, so that rounding does not decide."""


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return (rows, columns) of a weight seen as a matrix: its first dimension, and the product of the others."""
    return shape[0], prod(shape[1:])


def coefficient_counts(shapes: Mapping[str, Sequence[int]], config: SpectralConfig) -> dict[str, int]:
    """Return how many coefficients each weight gets.

    Parameters
    ----------
    shapes : mapping of str to shape
        The weights that can be adapted, by name.
    config : SpectralConfig
        Which of them, and how many coefficients.

    Returns
    -------
    dict
        At least one coefficient for each weight that a pattern matches.

    Raises
    ------
    UsageError
        When a budget has fewer coefficients than there are weights.
    """
    wanted = {name: config.count_for(name) for name in shapes if not config.trains_whole(name)}
    sizes = {name: prod(shapes[name]) for name, count in wanted.items() if count is not None}
    if not config.budget:
        return {name: min(wanted[name] or 0, size) for name, size in sizes.items()}
    if sizes and config.budget < len(sizes):
        raise UsageError(
            f"A budget of {config.budget} coefficients is less than one for each of the {len(sizes)} weights; name"
            " fewer layers or give more."
        )
    return _shared({name: sum(matrix_shape(shapes[name])) for name in sizes}, sizes, config.budget)


def _shared(weights: dict[str, int], sizes: dict[str, int], budget: int) -> dict[str, int]:
    """Share a budget in proportion to ``weights``; none gets more than its size, or less than one."""
    counts = dict.fromkeys(weights, 1)
    left = min(budget, sum(sizes.values())) - len(counts)
    while left > 0:
        open_weights = {name: weight for name, weight in weights.items() if counts[name] < sizes[name]}
        total = sum(open_weights.values())
        shares = {
            name: min(left * weight // total, sizes[name] - counts[name]) for name, weight in open_weights.items()
        }
        if not any(shares.values()):
            largest = sorted(open_weights, key=lambda name: -open_weights[name])[:left]
            shares = dict.fromkeys(largest, 1)
        for name, share in shares.items():
            counts[name] += share
        left -= sum(shares.values())
    return counts


def choose_places(
    name: str,
    weight: torch.Tensor,
    n: int,
    config: SpectralConfig,
    gradient: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the places of a weight's coefficients; the same ones on every machine.

    Parameters
    ----------
    name : str
        Of the weight; with the seed it decides the random places.
    weight : Tensor
        Its values, of which hybrid selection looks at the energy.
    n : int
        How many; all places when the weight has no more.
    config : SpectralConfig
        How they are chosen.
    gradient : Tensor, optional
        The gradient of the loss, for selection by gradient.

    Returns
    -------
    rows, columns : Tensor of int32, shape (min(n, elements),)
        In the order of the matrix. On the meta device when the weight is: then they have a number, but no values.

    Raises
    ------
    UsageError
        When selection by gradient has no gradient, or what decides is not finite.
    """
    height, width = matrix_shape(weight.shape)
    n = min(n, height * width)
    if weight.is_meta:
        return torch.empty(n, dtype=torch.int32, device="meta"), torch.empty(n, dtype=torch.int32, device="meta")
    random = np.random.RandomState([config.seed, crc32(name.encode())])
    if n == height * width:
        places = np.arange(n)
    elif config.selection == "random":
        places = _distinct(height * width, n, random)
    elif config.selection == "low":
        places = _lowest(height, width, n, config.distance)
    elif config.selection == "gradient":
        if gradient is None:
            raise UsageError(
                f"Selection by gradient needs the gradient of {name}: run loss.backward() on a few batches first,"
                " or give adapt() a function that does."
            )
        places = _largest(_magnitudes(name, gradient), n)
    else:
        places = _hybrid(_magnitudes(name, weight), (height, width), n, config, random)
    places = np.sort(places)
    rows, columns = np.divmod(places, width)
    return torch.from_numpy(rows.astype(np.int32)), torch.from_numpy(columns.astype(np.int32))


def _distinct(total: int, n: int, random: np.random.RandomState) -> _Places:
    if 2 * n >= total:
        return random.permutation(total)[:n].astype(np.int64)
    # a permutation of a large matrix would need gigabytes: draw with replacement until enough are distinct
    chosen: dict[int, None] = {}
    while len(chosen) < n:
        chosen.update(dict.fromkeys(random.randint(total, size=n, dtype=np.int64).tolist()))
    return np.fromiter(chosen, np.int64)[:n]


def _distances(
    height: int, width: int, distance: str, rows: int, columns: int
) -> tuple[npt.NDArray[np.float64], float]:
    """Return the distance of the first rows and columns from the lowest frequency, and the largest one."""
    vertical, horizontal = np.arange(rows)[:, None] * 1.0, np.arange(columns)[None, :] * 1.0
    if distance == "normalized":
        return np.hypot(vertical / height, horizontal / width), float(np.sqrt(2))
    largest = np.hypot(height / 2, width / 2) if distance == "paper" else np.hypot(height - 1, width - 1)
    return np.hypot(vertical, horizontal), float(largest)


def _lowest(height: int, width: int, n: int, distance: str) -> _Places:
    """Return the n places of the shortest distance; looks at a corner that is just large enough."""
    unit = (height, width) if distance == "normalized" else (1, 1)
    radius = np.sqrt(n / (unit[0] * unit[1]))
    while True:
        rows, columns = min(height, int(radius * unit[0]) + 1), min(width, int(radius * unit[1]) + 1)
        found, _ = _distances(height, width, distance, rows, columns)
        is_whole = (rows, columns) == (height, width)
        if is_whole or np.count_nonzero(found <= radius) >= n:
            nearest = np.argsort(found, axis=None, kind="stable")[:n]
            return (nearest // columns * width + nearest % columns).astype(np.int64)
        radius *= 1.5


def _magnitudes(name: str, tensor: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the magnitudes of the spectrum of a tensor seen as a matrix, flat."""
    matrix = tensor.detach().double().cpu().reshape(matrix_shape(tensor.shape))
    if not bool(torch.isfinite(matrix).all()):
        raise UsageError(f"{name} holds infinite or undefined numbers, by which no places can be chosen.")
    return dct2(matrix, "fft").abs().numpy().ravel()


def _largest(magnitudes: npt.NDArray[np.float64], n: int) -> _Places:
    """Return the positions of the n largest values; of equal ones the first."""
    step = np.linalg.norm(magnitudes) * _RANKED_STEP
    ranks = np.floor(magnitudes / step) if step else np.zeros_like(magnitudes)
    if n >= len(ranks):
        return np.arange(len(ranks))
    if n == 0:
        return np.arange(0)
    threshold = np.partition(ranks, len(ranks) - n)[len(ranks) - n]
    above = np.flatnonzero(ranks > threshold)
    return np.concatenate([above, np.flatnonzero(ranks == threshold)[: n - len(above)]])


def _hybrid(
    magnitudes: npt.NDArray[np.float64],
    shape: tuple[int, int],
    n: int,
    config: SpectralConfig,
    random: np.random.RandomState,
) -> _Places:
    distances, largest = _distances(*shape, config.distance, *shape)
    band_of = np.minimum((distances.ravel() * (_BANDS / largest)).astype(np.int64), _BANDS - 1)
    bands = [np.flatnonzero(band_of == band) for band in range(_BANDS)]
    chosen = []
    for band, count in zip(bands, _band_counts([len(band) for band in bands], n), strict=True):
        top = band[_largest(magnitudes[band], round(config.delta * count))]
        rest = np.setdiff1d(band, top, assume_unique=True)
        chosen += [top, rest[_distinct(len(rest), count - len(top), random)]]
    return np.concatenate(chosen)


def _band_counts(sizes: Sequence[int], n: int) -> list[int]:
    """Share n over the bands: a third each, as far as a band has places."""
    counts = [0] * len(sizes)
    while (left := n - sum(counts)) > 0:
        open_bands = [band for band, size in enumerate(sizes) if counts[band] < size][:left]
        for band in open_bands:
            counts[band] += min(left // len(open_bands), sizes[band] - counts[band])
    return counts
