"""A change of a weight given by a few coefficients of its cosine spectrum (arXiv 2410.09103)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from cospipe.ir.dct import dct_rows


class SpectralDelta(nn.Module):
    """The sum of n two-dimensional cosines, each with a trainable coefficient.

    Called without arguments it returns ``dW = alpha * C_M^T S C_N`` in the shape of the weight; S holds the
    coefficients at ``(rows, columns)`` and is zero elsewhere, C is the orthonormal DCT-II matrix. A weight with more
    than two dimensions is seen as the matrix (first dimension, product of the others): (O, I / groups * kernel) for a
    convolution. Coefficients start at zero, so the model starts unchanged.

    Parameters
    ----------
    shape : sequence of int
        Shape of the weight, at least two dimensions.
    rows, columns : Tensor of int, shape (n,)
        Places of the coefficients in the spectrum, no place twice.
    alpha : float
        Scale of the change.
    dtype : torch.dtype
        Type of the weight.
    """

    coefficients: nn.Parameter
    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(
        self,
        shape: Sequence[int],
        rows: torch.Tensor,
        columns: torch.Tensor,
        alpha: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.alpha = alpha
        self.coefficients = nn.Parameter(torch.zeros(len(rows), dtype=dtype))
        self.register_buffer("rows", rows.to(torch.int32))
        self.register_buffer("columns", columns.to(torch.int32))

    def forward(self) -> torch.Tensor:
        """Return the change of the weight, in the weight's shape."""
        height, width = matrix_shape(self.shape)
        dtype = self.coefficients.dtype
        # one outer product a coefficient: needs n (M + N) numbers, where the full transform needs M M + N N
        scaled_rows = dct_rows(self.rows, height, dtype) * (self.alpha * self.coefficients)[:, None]
        return (scaled_rows.T @ dct_rows(self.columns, width, dtype)).reshape(self.shape)

    def extra_repr(self) -> str:
        """Return what ``print`` shows of the module."""
        return f"shape={self.shape}, n={len(self.coefficients)}, alpha={self.alpha}"


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return (rows, columns) of a weight seen as a matrix."""
    return shape[0], prod(shape[1:])


def random_places(shape: Sequence[int], n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return n random places in the spectrum of a weight, without replacement; all of them when it has no more.

    Parameters
    ----------
    shape : sequence of int
        Shape of the weight.
    n : int
        How many.
    seed : int
        The same seed gives the same places on every machine.

    Returns
    -------
    rows, columns : Tensor of int32, shape (min(n, size of the matrix),)
        The places.
    """
    height, width = matrix_shape(shape)
    generator = torch.Generator().manual_seed(seed)
    places = _distinct(height * width, min(n, height * width), generator)
    return (places // width).to(torch.int32), (places % width).to(torch.int32)


def _distinct(total: int, n: int, generator: torch.Generator) -> torch.Tensor:
    if 2 * n >= total:
        return torch.randperm(total, generator=generator)[:n]
    # a permutation of a large matrix would need gigabytes: draw with replacement until enough are distinct
    chosen: dict[int, None] = {}
    while len(chosen) < n:
        chosen.update(dict.fromkeys(torch.randint(total, (n,), generator=generator).tolist()))
    return torch.tensor(list(chosen)[:n])
