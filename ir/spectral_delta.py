"""A change of a weight given by a few coefficients of its cosine spectrum (arXiv 2410.09103)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from cospipe.ir.coefficient_places import matrix_shape
from cospipe.ir.dct import COMPUTED_TYPES, dct_matrix, dct_rows
from cospipe.ir.sparse_dct import SparseDct


class SpectralDelta(nn.Module):
    """Adds n two-dimensional cosines, each with a trainable coefficient, to a weight.

    Called with a weight W it returns ``W + alpha * C_M^T S C_N``; S holds the coefficients at ``(rows, columns)``
    and is zero elsewhere, C is the orthonormal DCT-II matrix. A weight with more than two dimensions is seen as the
    matrix (first dimension, product of the others): (O, I / groups * kernel) for a convolution. Coefficients start at
    zero, so the model starts unchanged. The sum is computed in the type of the coefficients, under autocast too, and
    rounded once to the weight's.

    It is a node on a weight edge of a captured graph, and a parametrization (``torch.nn.utils.parametrize``) of an
    eager module. The backward pass keeps nothing: the gradient ``alpha * [C_M G C_N^T]`` at the places needs only G.

    Parameters
    ----------
    shape : sequence of int
        Shape of the weight, at least two dimensions.
    rows, columns : Tensor of int, shape (n,)
        Places of the coefficients in the spectrum, no place twice.
    alpha : float
        Scale of the change.
    dtype : torch.dtype
        Type of the coefficients.

    Attributes
    ----------
    strength : float
        Further factor, for weighted sums of several adapters; with 0 the weight is returned as it is.
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
        self.strength = 1.0
        self.coefficients = nn.Parameter(torch.zeros(len(rows), dtype=dtype, device=rows.device))
        self.register_buffer("rows", rows.to(torch.int32))
        self.register_buffer("columns", columns.to(torch.int32))
        self._prepared: _Prepared | None = None

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight with its change, in the weight's shape and type."""
        if self.strength == 0:
            return weight
        return (weight + self.change()).to(weight.dtype)

    def change(self) -> torch.Tensor:
        """Return the change of the weight, in the weight's shape; FP32, or FP64 for such coefficients."""
        with without_autocast(self.coefficients.device.type):
            if torch.compiler.is_compiling() or self.coefficients.is_meta:
                return self._traced_change() * (self.alpha * self.strength)
            change: torch.Tensor = _Change.apply(self.coefficients, self)
            return change

    def merged(self, weight: torch.Tensor, coefficients: torch.Tensor, scale: float) -> torch.Tensor:
        """Return a weight with the change that coefficients times a scale make; nothing of it is differentiated."""
        values, weight, transform = _computed(coefficients.detach()) * scale, weight.detach(), self.transform()
        if weight.dtype != values.dtype or transform.is_swapped:  # the swapped one comes transposed in memory
            return (weight + transform.inverse(values).reshape(self.shape)).to(weight.dtype)
        return transform.inverse(values, weight.reshape(matrix_shape(self.shape))).reshape(self.shape)

    def scaled(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Return coefficients times ``alpha`` and ``strength``, in the type the change is computed in."""
        return _computed(coefficients) * (self.alpha * self.strength)

    def transform(self) -> SparseDct:
        """Return the transform at the places; prepared anew when these have changed or moved."""
        if self._prepared is None or not self._prepared.fits(self.rows, self.columns):
            with torch.inference_mode(False):  # it may be used for training later
                self._prepared = _Prepared(matrix_shape(self.shape), self.rows.clone(), self.columns.clone())
        return self._prepared.transform

    def _traced_change(self) -> torch.Tensor:
        """Return the change without ``alpha`` by operations that every tracer knows."""
        (height, width), coefficients = matrix_shape(self.shape), _computed(self.coefficients)
        scaled = dct_rows(self.rows, height, coefficients.dtype) * coefficients[:, None]
        if len(coefficients) <= width:
            return (scaled.T @ dct_rows(self.columns, width, coefficients.dtype)).reshape(self.shape)
        lines = scaled.new_zeros(width, height).index_add(0, self.columns, scaled)
        return (lines.T @ dct_matrix(width, coefficients.dtype, coefficients.device)).reshape(self.shape)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is prepared: it is made again."""
        return {**self.__dict__, "_prepared": None}

    def extra_repr(self) -> str:
        """Return what ``print`` shows of the module."""
        return f"shape={self.shape}, n={len(self.coefficients)}, alpha={self.alpha}"


class _Prepared:
    """A transform with a copy of the places it is for: DistributedDataParallel writes to the buffers in each step."""

    def __init__(self, shape: tuple[int, int], rows: torch.Tensor, columns: torch.Tensor) -> None:
        self._rows, self._columns = rows, columns
        self.transform = SparseDct(shape, rows, columns)

    def fits(self, rows: torch.Tensor, columns: torch.Tensor) -> bool:
        """Tell whether it is for these places, on their device."""
        is_here = rows.device == self._rows.device
        return is_here and torch.equal(rows, self._rows) and torch.equal(columns, self._columns)


def without_autocast(device: str) -> AbstractContextManager[None]:
    """Return a context in which no product is rounded to half precision."""
    is_on = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()


def _computed(coefficients: torch.Tensor) -> torch.Tensor:
    return coefficients if coefficients.dtype in COMPUTED_TYPES else coefficients.float()


class _Change(torch.autograd.Function):
    """The change as a function of the coefficients: linear, so its backward pass needs nothing of the forward pass."""

    @staticmethod
    def forward(ctx: Any, coefficients: torch.Tensor, delta: SpectralDelta) -> torch.Tensor:
        """Return the change, in the weight's shape."""
        ctx.delta, ctx.scale, ctx.dtype = delta, delta.alpha * delta.strength, coefficients.dtype
        return delta.transform().inverse(delta.scaled(coefficients)).reshape(delta.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient of the coefficients."""
        (gradient,) = gradients
        dense = gradient.to_dense() if gradient.is_sparse else gradient  # nn.Embedding(sparse=True)
        with without_autocast(dense.device.type):
            spectrum = ctx.delta.transform().forward(dense.reshape(matrix_shape(ctx.delta.shape)))
        return (spectrum * ctx.scale).to(ctx.dtype), None
