"""The orthonormal discrete cosine transform (DCT-II) and its inverse, dense and of a few places, in two forms.

``C[k, i] = s_k cos(pi / N * (i + 1/2) * k)`` with ``s_0 = sqrt(1 / N)`` and ``s_k = sqrt(2 / N)``. ``C`` is orthogonal:
its transpose is the inverse transform (DCT-III).

* The *matmul* form multiplies with rows of C. It works with every type of number, and where complex numbers or an FFT
  are missing: under ``torch.export`` and ``torch.compile``, in ONNX, on a board.
* The *fft* form needs one real FFT of the same length (Makhoul, "A fast cosine transform in one and two dimensions",
  1980).

:func:`cheapest_form` chooses by a cost formula.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch

Form = Literal["fft", "matmul"]

COMPUTED_TYPES = frozenset({torch.float32, torch.float64})
"""Types that have an FFT, and that sums can be formed in without losing digits."""

_FFT_CALL = 15e6
_FFT_ELEMENT = 200.0
KEPT_SIZE = 2048
"""Matrices up to this size are kept: 16 MB in FP32."""


def cheapest_form(signals: int, size: int, used: int | None = None, dtype: torch.dtype = torch.float32) -> Form:
    """Return the cheaper form for transforming some signals of one length.

    The matmul form costs ``2 * signals * size * used`` floating-point operations. The fft form costs a fixed amount
    for its ten small calls and an amount for each element (passes over memory; the butterflies hide behind them),
    expressed in operations of a matrix product that take the same time. Both were fitted on two x86 cores by
    ``benchmarks/spectral_delta.py``.

    Parameters
    ----------
    signals : int
        How many signals are transformed.
    size : int
        Their length N.
    used : int, optional
        Frequencies that are needed, or are not zero; all N by default.
    dtype : torch.dtype
        Type of the numbers; without an FFT for it there is only the matmul form.
    """
    if dtype not in COMPUTED_TYPES or torch.compiler.is_compiling():
        return "matmul"
    return "fft" if fft_cost(signals, size) < matmul_cost(signals, size, used) else "matmul"


def matmul_cost(signals: int, size: int, used: int | None = None) -> float:
    """Return the floating-point operations of the matmul form, see :func:`cheapest_form`."""
    return 2.0 * signals * size * (size if used is None else used)


def fft_cost(signals: int, size: int) -> float:
    """Return the cost of the fft form in operations of a matrix product, see :func:`cheapest_form`."""
    return _FFT_CALL + _FFT_ELEMENT * signals * size


def cosine_table(size: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> torch.Tensor:
    """Return ``sqrt(2 / N) cos(pi / 2N * s)`` for the steps s = 0 ... 4N - 1, after which it repeats; shape (4N,).

    ``C[k, i]`` for k > 0 is its element ``(2i + 1) k mod 4N``: whole numbers, so it is exact for any size and type.
    """
    angles = torch.arange(4 * size, device=device, dtype=torch.float64) * (math.pi / (2 * size))
    return (torch.cos(angles) * math.sqrt(2 / size)).to(dtype)


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
    is_traced = torch.compiler.is_compiling() or frequencies.is_meta
    if size <= KEPT_SIZE and not is_traced:
        return _kept_matrix(size, dtype, str(frequencies.device)).index_select(0, frequencies)
    return _computed_rows(frequencies, size, dtype)


def _computed_rows(frequencies: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    steps = torch.outer(frequencies, 2 * torch.arange(size, device=frequencies.device) + 1) % (4 * size)
    cosines = cosine_table(size, dtype, frequencies.device)
    constant_row = torch.full((), math.sqrt(1 / size), dtype=dtype, device=frequencies.device)
    return torch.where(frequencies[:, None] == 0, constant_row, torch.take(cosines, steps))


@lru_cache(maxsize=16)
def _kept_matrix(size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():  # an inference tensor could not be saved for a backward pass
        return _computed_rows(torch.arange(size, device=device), size, dtype)


def dct_matrix(size: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> torch.Tensor:
    """Return the orthonormal DCT-II matrix C, shape (size, size): ``C @ x`` transforms a signal x."""
    return dct_rows(torch.arange(size, device=device), size, dtype)


def dct2(matrix: torch.Tensor, form: Form | None = None) -> torch.Tensor:
    """Return the two-dimensional DCT ``C_M X C_N^T`` of a matrix of shape (M, N); ``form`` None is the cheapest."""
    return _dct(_dct(matrix, form).T, form).T


def inverse_dct2(spectrum: torch.Tensor, form: Form | None = None) -> torch.Tensor:
    """Return the matrix ``C_M^T S C_N`` of a spectrum of shape (M, N); ``form`` None is the cheapest."""
    return inverse_dct(inverse_dct(spectrum, form).T, form).T


def _dct(signals: torch.Tensor, form: Form | None) -> torch.Tensor:
    """Transform the rows of (signals, N)."""
    count, size = signals.shape
    if (form or cheapest_form(count, size, dtype=signals.dtype)) == "matmul":
        return signals @ dct_matrix(size, signals.dtype, signals.device).T
    reordered = torch.cat([signals[:, ::2], signals[:, 1::2].flip(1)], dim=1)
    turned = torch.fft.rfft(reordered, dim=1) * _twiddles(size, signals.dtype, str(signals.device)).conj()
    mirrored = -turned.imag[:, 1 : (size + 1) // 2].flip(1)
    spectrum = torch.cat([turned.real, mirrored], dim=1)
    return spectrum * _norms(size, signals.dtype, str(signals.device))


def inverse_dct(spectra: torch.Tensor, form: Form | None = None) -> torch.Tensor:
    """Return the signals, shape (signals, N), of the spectra in the rows of a matrix of that shape."""
    count, size = spectra.shape
    if (form or cheapest_form(count, size, dtype=spectra.dtype)) == "matmul":
        return spectra @ dct_matrix(size, spectra.dtype, spectra.device)
    half = size // 2 + 1
    scaled = spectra / _norms(size, spectra.dtype, str(spectra.device))
    mirrored = torch.cat([torch.zeros_like(scaled[:, :1]), scaled.flip(1)[:, : half - 1]], dim=1)
    turned = torch.complex(scaled[:, :half], -mirrored) * _twiddles(size, spectra.dtype, str(spectra.device))
    reordered = torch.fft.irfft(turned, n=size, dim=1)
    split = (size + 1) // 2
    signals = torch.empty_like(reordered)
    signals[:, ::2] = reordered[:, :split]
    signals[:, 1::2] = reordered[:, split:].flip(1)
    return signals


@lru_cache(maxsize=16)
def _twiddles(size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Return ``exp(i pi k / 2N)`` for k = 0 ... N / 2."""
    with torch.inference_mode(False), torch.no_grad():
        angles = torch.arange(size // 2 + 1, dtype=torch.float64, device=device) * (math.pi / (2 * size))
        return torch.complex(torch.cos(angles).to(dtype), torch.sin(angles).to(dtype))


@lru_cache(maxsize=16)
def _norms(size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Return s_k for k = 0 ... N - 1."""
    with torch.inference_mode(False), torch.no_grad():
        norms = torch.full((size,), math.sqrt(2 / size), dtype=dtype, device=device)
        norms[0] = math.sqrt(1 / size)
        return norms
