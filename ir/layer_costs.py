"""What the time of a layer is made of: costs that cannot be negative, fitted to measured layers.

A time is a sum of terms with a physical meaning (multiply-accumulates in whole register tiles, the largest share of
row blocks any thread gets, bytes that do not fit into the cache, gathering the input of a convolution, transforming
Winograd's tiles, the passes of a blocked matrix product, starting the kernel), each with a factor that a non-negative
least squares fit finds. Because no term is ever subtracted, a layer far outside the fit still gets a sensible time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from cospipe.ir.layer_features import Array, LayerFeatures

WINOGRAD: Final = "winograd"
PRODUCT: Final = "product"
DEPTHWISE: Final = "depthwise"
STREAM: Final = "stream"

ROW_TILE, COLUMN_TILE = 8, 12
"""Rows and columns of a matrix product that 32 registers of four floats hold at a time; eight by twelve is the tile of
ARM Compute Library, MNN and most others."""
_FLOAT_BYTES = 4
_L1_WAYS = 2
_DEFAULT_L1_BYTES, _DEFAULT_L2_BYTES = 32 * 1024, 512 * 1024
_ROUNDS = 15
_ERROR_FLOOR = 0.03


@dataclass(frozen=True)
class Machine:
    """What the costs need to know of the cores: their caches, and how many share the work."""

    threads: int = 1
    l1_bytes: int = _DEFAULT_L1_BYTES
    l2_bytes: int = _DEFAULT_L2_BYTES


def cost_terms(form: str, layers: LayerFeatures, machine: Machine) -> Array:
    """Return the terms of some layers' times.

    Parameters
    ----------
    form : str
        ``winograd``, ``product``, ``depthwise`` or ``stream``.
    layers : LayerFeatures
        n layers.
    machine : Machine
        The cores.

    Returns
    -------
    array of float
        n x terms, in multiply-accumulates, elements, bytes or calls.
    """
    terms = {WINOGRAD: _winograd, PRODUCT: _product, DEPTHWISE: _depthwise, STREAM: _stream}[form](layers, machine)
    return np.stack([*terms, np.ones_like(layers.rows)], axis=1)


def fit_costs(terms: Array, times_us: Array) -> Array:
    """Return the factor of each term, none negative.

    The median relative error matters more than single outliers: each round of least squares weighs the layers by how
    far the last round was off.
    """
    from scipy.optimize import nnls  # scipy is slow to import; predicting from known costs does not need it

    scale = np.abs(terms / times_us[:, None]).mean(axis=0) + 1e-30
    relative = terms / scale / times_us[:, None]
    weights = np.ones(len(times_us))
    for _ in range(_ROUNDS):
        factors, _ = nnls(relative * weights[:, None], weights, maxiter=100 * terms.shape[1])
        weights = 1 / np.sqrt(np.maximum(np.abs(relative @ factors - 1), _ERROR_FLOOR))
    result: Array = factors / scale
    return result


def _product(layers: LayerFeatures, machine: Machine) -> list[Array]:
    rows, inner, columns = layers.rows, layers.inner, layers.columns
    matrix, weights, output = inner * rows, inner * columns, rows * columns
    gathered = layers.gathers * matrix
    calls = layers.gathers * rows * layers.taps
    blocks = np.ceil(np.ceil(rows / ROW_TILE) / machine.threads) * ROW_TILE * machine.threads
    passes = np.maximum(np.ceil(inner / _rows_in_l1(machine)) - 1, 0)
    return [
        rows * weights,
        _whole(rows, ROW_TILE) * inner * _whole(columns, COLUMN_TILE),
        blocks * weights,
        matrix,
        output,
        output * passes,
        weights,
        layers.input_bytes,
        _beyond(layers.weight_bytes, machine.l2_bytes),
        _beyond(layers.input_bytes, machine.l2_bytes),
        _beyond(layers.output_bytes, machine.l2_bytes),
        gathered,
        _beyond(_FLOAT_BYTES * gathered, machine.l2_bytes),
        calls,
        calls * (layers.channels < 4),
        layers.gathers * rows * layers.kernel_height,
    ]


def _winograd(layers: LayerFeatures, machine: Machine) -> list[Array]:
    tiles, channels, columns, transform = layers.tiles, layers.channels, layers.columns, layers.transform
    weights, read, written = channels * columns, tiles * channels, tiles * columns
    weight_bytes = _FLOAT_BYTES * weights
    crowding = np.gcd((_FLOAT_BYTES * read).astype(np.int64), machine.l1_bytes // _L1_WAYS)
    crowding = crowding / (machine.l1_bytes // _L1_WAYS)
    return [
        transform * tiles * weights,
        transform * _whole(tiles, ROW_TILE) * channels * _whole(columns, COLUMN_TILE),
        transform * read,
        transform * written,
        transform * weights,
        layers.input_bytes,
        layers.output_bytes,
        transform * _beyond(weight_bytes, machine.l2_bytes // 4),
        transform * _beyond(weight_bytes, machine.l2_bytes),
        # the matrices of one transformed tile lie a power of two apart and share one set of the L1 cache
        transform * read * (crowding == 1),
        transform * read * np.maximum(crowding - _L1_WAYS / transform, 0),
    ]


def _depthwise(layers: LayerFeatures, machine: Machine) -> list[Array]:
    outputs = layers.output_bytes
    return [
        layers.macs,
        layers.input_bytes,
        outputs,
        _beyond(layers.input_bytes, machine.l2_bytes),
        _beyond(outputs, machine.l2_bytes),
    ]


def _stream(layers: LayerFeatures, machine: Machine) -> list[Array]:
    moved = layers.input_bytes + layers.weight_bytes
    return [
        layers.rows,
        moved,
        layers.output_bytes,
        _beyond(moved + layers.output_bytes, machine.l2_bytes),
    ]


def _whole(sizes: Array, tile: int) -> Array:
    return np.ceil(sizes / tile) * tile


def _beyond(moved_bytes: Array, cache_bytes: int) -> Array:
    return np.maximum(moved_bytes - cache_bytes, 0)


def _rows_in_l1(machine: Machine) -> float:
    """Return how many rows of both panels of a register tile fill half of the L1 cache."""
    return machine.l1_bytes / 2 / (_FLOAT_BYTES * COLUMN_TILE)
