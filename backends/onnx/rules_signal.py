"""Rules of signal processing: Fourier transforms as products with tables of cosines and sines, and windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cospipe.backends.onnx.element_types import element_type_name, torch_dtype
from cospipe.backends.onnx.node import Computation, OnnxNode, Rule

_AXIS_IS_INPUT = 20
_FLOAT = 1
Table = np.ndarray[Any, np.dtype[np.complex128]]


def _fourier_table(rows: int, columns: int, length: int, is_inverse: bool) -> Table:
    """Return the table that transforms a row of samples, or of frequencies back."""
    turns = np.outer(np.arange(rows), np.arange(columns)) % length / length
    table: Table = np.exp(2j * np.pi * turns) / length if is_inverse else np.exp(-2j * np.pi * turns)
    return table


def _transform(real: Tensor, imaginary: Tensor | None, table: Table) -> Tensor:
    """Multiply the last axis by a table; a new last axis has the real and the imaginary part."""
    cosines, sines = (torch.tensor(part, dtype=real.dtype) for part in (table.real, table.imag))
    if imaginary is None:
        return torch.stack([torch.matmul(real, cosines), torch.matmul(real, sines)], dim=-1)
    real_part = torch.matmul(real, cosines) - torch.matmul(imaginary, sines)
    imaginary_part = torch.matmul(real, sines) + torch.matmul(imaginary, cosines)
    return torch.stack([real_part, imaginary_part], dim=-1)


def _fourier(node: OnnxNode) -> Computation:
    shape, rank = node.shape(0), node.rank(0)
    axis = _axis(node)
    if axis == rank - 1 or shape[-1] not in (1, 2):
        raise node.unsupported(f"axis {axis} of an input of shape {shape}")
    is_inverse, is_one_sided = bool(node.attribute("inverse", 0)), bool(node.attribute("onesided", 0))
    is_real_again = is_inverse and is_one_sided
    given = int(node.static(1).item()) if node.has(1) else None
    length = given or (2 * (shape[axis] - 1) if is_real_again else shape[axis])
    half = length // 2 + 1
    table = _fourier_table(half if is_real_again else length, half if is_one_sided else length, length, is_inverse)
    if is_real_again:
        table = _both_sides(length)

    def compute(data: Tensor, *_: Tensor) -> Tensor:
        parts = [part.movedim(axis, -1) for part in data.unbind(-1)]
        sized = [functional.pad(part, [0, len(table) - shape[axis]]) for part in parts]
        spectrum = _transform(sized[0], sized[1] if len(sized) > 1 else None, table)
        whole = spectrum.movedim(-2, axis)
        return whole[..., :1] if is_real_again else whole

    return compute


def _both_sides(length: int) -> Table:
    """Return the table from one half of a spectrum to the samples; what the other half mirrors counts twice."""
    half = length // 2 + 1
    counts = [1 if number in (0, length / 2) else 2 for number in range(half)]
    table: Table = _fourier_table(half, length, length, is_inverse=True) * np.array(counts)[:, None]
    return table


def _axis(node: OnnxNode) -> int:
    if node.opset < _AXIS_IS_INPUT:
        return node.axis(1)
    return node.positive_axis(int(node.static(2).item()) if node.has(2) else -2, node.rank(0))


def _short_time_fourier(node: OnnxNode) -> Computation:
    shape, step = node.shape(0), int(node.static(1).item())
    if len(shape) == 3 and shape[-1] != 1:
        raise node.unsupported("a complex signal")
    length = int(node.static(3).item()) if node.has(3) else node.shape(2)[0]
    frames = (shape[1] - length) // step + 1
    if frames < 1:
        raise node.unsupported(f"frames of {length} samples of a signal of {shape[1]}")
    table = _fourier_table(length, length // 2 + 1 if node.attribute("onesided", 1) else length, length, False)
    places = np.arange(frames)[:, None] * step + np.arange(length)

    def compute(signal: Tensor, _step: Tensor, window: Tensor | None = None, *_: Tensor) -> Tensor:
        samples = signal.reshape(shape[:2]).index_select(1, torch.tensor(places.reshape(-1)))
        framed = samples.reshape(shape[0], frames, length)
        return _transform(framed if window is None else framed * window, None, table)

    return compute


def _window(coefficients: tuple[float, ...]) -> Rule:
    """Return the rule of a window that is a sum of cosines with these factors."""

    def rule(node: OnnxNode) -> Computation:
        size, given = int(node.static(0).item()), int(node.attribute("output_datatype", _FLOAT))
        dtype = torch_dtype(given)
        if dtype is None:
            raise node.unsupported(f"the element type {element_type_name(given)}")
        period = size if node.attribute("periodic", 1) else size - 1
        angles = np.arange(size) * (2 * np.pi / max(period, 1))
        values = sum(factor * np.cos(number * angles) for number, factor in enumerate(coefficients))
        return lambda *_: torch.tensor(values, dtype=dtype)

    return rule


RULES: dict[str, Rule] = {
    "BlackmanWindow": _window((0.42, -0.5, 0.08)),
    "DFT": _fourier,
    "HammingWindow": _window((25 / 46, -21 / 46)),
    "HannWindow": _window((0.5, -0.5)),
    "STFT": _short_time_fourier,
}
