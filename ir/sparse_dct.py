"""The two-dimensional DCT of a few places of the spectrum: its inverse, and its value at these places."""

from __future__ import annotations

import math
from functools import cached_property, lru_cache

import torch
from torch.nn.functional import embedding_bag

from cospipe.ir.dct import KEPT_SIZE, Form, cheapest_form, dct_matrix, dct_rows, fft_cost, matmul_cost

_ADDED_ELEMENT = 12.0
"""Adding one element of a scaled row costs as much as this many operations of a matrix product."""


class _LineSums:
    """Sums of scaled DCT rows: line l is the sum of ``factor * C[frequency]`` over the places on it.

    Parameters
    ----------
    frequencies : Tensor of int64, shape (n,)
        Which row each place scales.
    size : int
        Length of a row.
    line_of : Tensor of int64, shape (n,)
        The line of each place.
    lines : int
        How many lines there are.
    """

    def __init__(self, frequencies: torch.Tensor, size: int, line_of: torch.Tensor, lines: int) -> None:
        self._size = size
        self._order = torch.argsort(line_of, stable=True)
        self._frequencies = frequencies[self._order]
        self._positions = torch.arange(len(frequencies), device=frequencies.device)
        counts = torch.bincount(line_of, minlength=lines)
        self._starts = counts.cumsum(0) - counts

    def __call__(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the lines, shape (lines, size), of factors of shape (n,)."""
        if self._size > KEPT_SIZE:
            table, which = dct_rows(self._frequencies, self._size, factors.dtype), self._positions
        else:
            table, which = dct_matrix(self._size, factors.dtype, factors.device), self._frequencies
        return embedding_bag(which, table, self._starts, mode="sum", per_sample_weights=factors[self._order])


class _PairedSpectra:
    """Many inverse transforms of one length by complex FFTs, each of which transforms two signals.

    A signal x of length N whose odd samples stand backwards behind its even ones has the Fourier spectrum
    ``(X_k - i X_(N-k)) exp(i pi k / 2N) / s_k``. Signal 2m is the real and signal 2m + 1 the imaginary part of a
    complex signal; so each line of the spectrum of all of them is a sum of DCT rows and of rows whose pairs are turned
    by i.

    Parameters
    ----------
    frequencies : Tensor of int64, shape (n,)
        The DCT row over the signals that each place scales.
    signals : int
        How many signals there are.
    transformed : Tensor of int64, shape (n,)
        Frequency of each place along the signals.
    size : int
        Length N of a signal.
    """

    def __init__(self, frequencies: torch.Tensor, signals: int, transformed: torch.Tensor, size: int) -> None:
        self._count, self._size, self._frequencies = signals, size, frequencies
        mirrored = size - transformed
        half = torch.minimum(transformed, mirrored)
        angles = half.double() * (math.pi / (2 * size))
        norms = torch.full_like(angles, math.sqrt(size / 2)).masked_fill(transformed == 0, math.sqrt(size))
        cosines, sines = norms * angles.cos(), norms * angles.sin()
        is_low, is_high = transformed <= mirrored, transformed >= mirrored
        real, imaginary = cosines * is_low + sines * is_high, sines * is_low - cosines * is_high
        places = torch.arange(len(frequencies), device=frequencies.device)
        twice = places[(half != 0) & (2 * half != size)]  # the spectrum of a real signal is its own mirror image
        self._places = torch.cat([places, places, twice, twice])
        self._factors = torch.cat([real, imaginary, real[twice], -imaginary[twice]])
        is_turned = torch.cat([places * 0, places * 0 + 1, twice * 0, twice * 0 + 1])
        lines = torch.cat([half, half, size - half[twice], size - half[twice]])
        order = torch.argsort(lines, stable=True)
        self._places, self._factors, self._is_turned = self._places[order], self._factors[order], is_turned[order]
        counts = torch.bincount(lines, minlength=size)
        self._starts = counts.cumsum(0) - counts

    def signals(self, values: torch.Tensor, base: torch.Tensor | None = None) -> torch.Tensor:
        """Return the signals, shape (signals, N), whose spectra hold ``values`` at the places, added to ``base``."""
        table, which = self._table(values.dtype)
        factors = values[self._places] * self._factors.to(values.dtype)
        lines = embedding_bag(which, table, self._starts, mode="sum", per_sample_weights=factors)
        reordered = torch.fft.ifft(torch.view_as_complex(lines.view(self._size, -1, 2)), dim=0)
        pairs = torch.view_as_real(reordered.T)  # in memory the signals are contiguous: (pairs, N, 2)
        signals = values.new_empty(len(pairs), 2, self._size)
        split = (self._size + 1) // 2
        even, odd = (signals.permute(0, 2, 1)[:, first::2] for first in (0, 1))
        if base is None or self._count % 2:
            even.copy_(pairs[:, :split])
            odd.copy_(pairs[:, split:].flip(1))
            result = signals.view(-1, self._size)[: self._count]
            return result if base is None else result + base
        start = base.reshape(len(pairs), 2, self._size).permute(0, 2, 1)
        torch.add(start[:, ::2], pairs[:, :split], out=even)  # one pass over memory less than a sum behind it
        torch.add(start[:, 1::2], pairs[:, split:].flip(1), out=odd)
        return signals.view(-1, self._size)

    def _table(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return DCT rows with their turned ones below, and which of them each place scales."""
        device = self._frequencies.device
        if self._count <= KEPT_SIZE:
            return _kept_table(self._count, dtype, str(device)), self._table_rows
        rows = dct_rows(self._frequencies, self._count, dtype)
        return _with_turned(rows), self._places + len(rows) * self._is_turned

    @cached_property
    def _table_rows(self) -> torch.Tensor:
        return self._frequencies[self._places] + self._count * self._is_turned


@lru_cache(maxsize=8)
def _kept_table(size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _with_turned(dct_matrix(size, dtype, torch.device(device)))


def _with_turned(rows: torch.Tensor) -> torch.Tensor:
    """Return rows of an even length, and below them the same with each pair (a, b) turned to (-b, a)."""
    even = torch.nn.functional.pad(rows, (0, rows.shape[1] % 2))
    return torch.cat([even, torch.stack([-even[:, 1::2], even[:, ::2]], dim=2).flatten(1)])


class SparseDct:
    """The transform of matrices of shape (M, N) at n places (row, column) of the spectrum, prepared once.

    Of the two axes one is transformed by adding up scaled rows of the DCT matrix, one for each place; the other by the
    dense transform, restricted to the frequencies that occur. Which axis is which, and whether the dense transform is a
    matrix product or an FFT, follows from the cost formula of :func:`cospipe.ir.dct.cheapest_form`.

    Parameters
    ----------
    shape : tuple of int
        (M, N).
    rows, columns : Tensor of int, shape (n,)
        The places.
    form : str, optional
        ``"fft"`` or ``"matmul"``; the cheaper one by default.
    """

    def __init__(
        self, shape: tuple[int, int], rows: torch.Tensor, columns: torch.Tensor, form: Form | None = None
    ) -> None:
        axes = (shape, rows.long(), columns.long()), ((shape[1], shape[0]), columns.long(), rows.long())
        self.is_swapped = _cost(*axes[1]) < _cost(*axes[0])
        (self.height, self.width), self._added, self._transformed = axes[self.is_swapped]
        self.lines, self._line_of = torch.unique(self._transformed, return_inverse=True)
        self._form = form

    def inverse(self, values: torch.Tensor, base: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``C_M^T S C_N`` of a sparse spectrum, plus another matrix.

        Parameters
        ----------
        values : Tensor, shape (n,)
            What the spectrum S holds at the places; it is zero elsewhere.
        base : Tensor, shape (M, N), optional
            A matrix of the same type to add the result to; it is not written to.

        Returns
        -------
        Tensor, shape (M, N)
            In the type of ``values``.
        """
        upright = base.T if base is not None and self.is_swapped else base
        form = self._form or cheapest_form(self.height, self.width, len(self.lines), values.dtype)
        if form == "fft":
            matrix = self._spectra.signals(values, upright)
        else:
            lines, rows = self._sums(values).T, self.line_rows(values.dtype)
            matrix = lines @ rows if upright is None else torch.addmm(upright, lines, rows)
        return matrix.T if self.is_swapped else matrix

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return the spectrum ``C_M X C_N^T`` of a matrix of shape (M, N) at the places, shape (n,)."""
        upright = matrix.T if self.is_swapped else matrix
        return self.finish(self.line_rows(matrix.dtype) @ upright.T)

    def line_rows(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the rows of the DCT matrix of the densely transformed axis that occur, shape (u, width)."""
        return dct_rows(self.lines, self.width, dtype)

    def finish(self, lines: torch.Tensor) -> torch.Tensor:
        """Return the spectrum at the places of a matrix whose densely transformed axis is done, shape (u, height)."""
        rows = dct_rows(self._added, self.height, lines.dtype)
        return (lines.index_select(0, self._line_of) * rows).sum(1)

    @cached_property
    def _sums(self) -> _LineSums:
        return _LineSums(self._added, self.height, self._line_of, len(self.lines))

    @cached_property
    def _spectra(self) -> _PairedSpectra:
        return _PairedSpectra(self._added, self.height, self._transformed, self.width)


def _cost(shape: tuple[int, int], added: torch.Tensor, transformed: torch.Tensor) -> float:
    height, width = shape
    lines = len(torch.unique(transformed))
    dense = min(matmul_cost(height, width, lines), fft_cost(height, width))
    return _ADDED_ELEMENT * len(added) * height + dense
