"""The fold of an adapter into a weight as a device computes it when it loads the weight."""

from __future__ import annotations

import torch
from torch import nn

from cospipe.ir.coefficient_places import matrix_shape
from cospipe.ir.dct import cosine_table
from cospipe.ir.spectral_delta import SpectralDelta


class LoadTimeFold(nn.Module):
    """Adds ``C_M^T S C_N`` to a weight, in the matmul form, with coefficients and places that are parameters.

    ``weight[r, c] + sum_j coefficients[j] C_M[row_j, r] C_N[column_j, c]``, with the rows of C taken from tables of
    cosines: no transform, complex number or sorting is needed on the device. Coefficients hold ``alpha`` already; there
    are as many as an adapter may have on this weight, and those it does not use are zero.

    Parameters
    ----------
    delta : SpectralDelta
        The adapter to begin with.
    weight_name : str
        The weight it is for.
    """

    def __init__(self, delta: SpectralDelta, weight_name: str) -> None:
        super().__init__()
        self.weight_name = weight_name
        self.shape = delta.shape
        height, width = matrix_shape(delta.shape)
        flat = delta.rows.long() * width + delta.columns.long()
        self.coefficients = nn.Parameter(delta.scaled(delta.coefficients).detach().float(), requires_grad=False)
        self.places = nn.Parameter(flat.to(_index_type(height * width)), requires_grad=False)
        self.row_cosines = nn.Parameter(_table(height), requires_grad=False)
        self.column_cosines = nn.Parameter(_table(width), requires_grad=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight with the change folded in."""
        height, width = matrix_shape(self.shape)
        rows = _rows(self.places // width, height, self.row_cosines) * self.coefficients[:, None]
        columns = _rows(self.places % width, width, self.column_cosines)
        change = torch.matmul(rows.T, columns).reshape(self.shape)
        return (weight + change).to(weight.dtype)


def _table(size: int) -> torch.Tensor:
    """Return the cosines of all steps, and behind them what the constant row of C holds."""
    return torch.cat([cosine_table(size), torch.full((1,), float(size**-0.5))])


def _index_type(largest: int) -> torch.dtype:
    return torch.int32 if largest < 2**31 else torch.int64


def _rows(frequencies: torch.Tensor, size: int, cosines: torch.Tensor) -> torch.Tensor:
    counting = _index_type(2 * size * size)  # steps are counted before they are taken modulo 4N
    steps = torch.arange(1, 2 * size, 2, dtype=counting, device=frequencies.device)
    turns = (frequencies[:, None] * steps[None, :]) % (4 * size)
    places = torch.where(frequencies[:, None] == 0, 4 * size, turns)
    return cosines.index_select(0, places.flatten()).reshape(places.shape)
