"""The orthonormal discrete cosine transform (DCT-II) as matrix products.

``C[k, i] = s_k cos(pi / N * (i + 1/2) * k)`` with ``s_0 = sqrt(1 / N)`` and ``s_k = sqrt(2 / N)``. ``C`` is orthogonal:
its transpose is the inverse transform (DCT-III).
"""

from __future__ import annotations

import math

import torch


def dct_rows(frequencies: torch.Tensor, size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the rows of the DCT matrix at some frequencies.

    Parameters
    ----------
    frequencies : Tensor, shape (n,)
        Integers k with 0 <= k < size.
    size : int
        Length N of the signals.
    dtype : torch.dtype
        Type of the result.

    Returns
    -------
    Tensor, shape (n, size)
        ``C[frequencies]``.
    """
    frequencies = frequencies.long()
    # the angle pi / 2N * (2i + 1) k in whole steps of pi / 2N repeats after 4N steps: exact for any size and type
    steps = torch.outer(frequencies, 2 * torch.arange(size, device=frequencies.device) + 1) % (4 * size)
    angles = torch.arange(4 * size, device=frequencies.device, dtype=torch.float64) * (math.pi / (2 * size))
    cosines = (torch.cos(angles) * math.sqrt(2 / size)).to(dtype)
    constant_row = torch.full((), math.sqrt(1 / size), dtype=dtype, device=frequencies.device)
    return torch.where(frequencies[:, None] == 0, constant_row, torch.take(cosines, steps))


def dct_matrix(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the orthonormal DCT-II matrix C, shape (size, size): ``C @ x`` transforms a signal x."""
    return dct_rows(torch.arange(size), size, dtype)


def dct2(matrix: torch.Tensor) -> torch.Tensor:
    """Return the two-dimensional DCT ``C_M X C_N^T`` of a matrix of shape (M, N)."""
    rows, columns = matrix.shape
    return dct_matrix(rows, matrix.dtype) @ matrix @ dct_matrix(columns, matrix.dtype).T


def inverse_dct2(spectrum: torch.Tensor) -> torch.Tensor:
    """Return the matrix ``C_M^T S C_N`` of a spectrum of shape (M, N)."""
    rows, columns = spectrum.shape
    return dct_matrix(rows, spectrum.dtype).T @ spectrum @ dct_matrix(columns, spectrum.dtype)
