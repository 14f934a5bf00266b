"""Which layers are computed the same way, so that one sum of costs describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.layer_costs import DEPTHWISE, PRODUCT, STREAM, WINOGRAD, Machine, cost_terms, fit_costs
from cospipe.ir.layer_features import Array, is_square_and_dense, layer_features

WinogradRule = Mapping[int, int]
"""Fewest input channels from which on a library takes Winograd's method, by side of the kernel."""

CONVOLUTION = "convolution"

_PRODUCTS = {
    LayerKind.CONV: CONVOLUTION,
    LayerKind.POINTWISE_CONV: CONVOLUTION,
    LayerKind.GROUPED_CONV: LayerKind.GROUPED_CONV.value,
    LayerKind.TRANSPOSED_CONV: LayerKind.TRANSPOSED_CONV.value,
    LayerKind.LINEAR: LayerKind.LINEAR.value,
    LayerKind.MATMUL: LayerKind.MATMUL.value,
    LayerKind.ATTENTION: LayerKind.ATTENTION.value,
}
_USUAL_CHANNELS = 16
_OTHER_CHANNELS = (1, 32, 64)
_SIDES = (3, 5, 7)
_FEWEST_ROWS = 4
_CLEARLY_BETTER = 0.9


def family_of(layer: LayerDescriptor, rule: WinogradRule) -> str:
    """Return the name of the family of a layer."""
    if is_square_and_dense(layer) and _channels(layer) >= rule.get(layer.kernel[0], 1 << 62):
        return f"{WINOGRAD} {layer.kernel[0]}x{layer.kernel[0]}"
    return _PRODUCTS.get(layer.kind, layer.kind.value)


def form_of(family: str) -> str:
    """Return the form of the costs of a family, see :func:`~cospipe.ir.layer_costs.cost_terms`."""
    if family.startswith(WINOGRAD):
        return WINOGRAD
    if family in _PRODUCTS.values():
        return PRODUCT
    return DEPTHWISE if family == LayerKind.DEPTHWISE_CONV.value else STREAM


def find_winograd(measured: Sequence[tuple[Machine, Sequence[LayerDescriptor], Array]]) -> WinogradRule:
    """Return which square convolutions a library computes by Winograd's method, judged by their times.

    A size of kernel is taken to be computed so, from some number of channels on, when the times of all convolutions
    are then explained clearly better.

    Parameters
    ----------
    measured : sequence of (Machine, layers, array of float)
        Layers and their microseconds on some core configurations.
    """
    rule: dict[int, int] = {}
    error = _error(measured, rule)
    for side in _SIDES:
        for channels in (_USUAL_CHANNELS, *_OTHER_CHANNELS):
            candidate = {**rule, side: channels}
            candidate_error = _error(measured, candidate)
            if candidate_error < _CLEARLY_BETTER * error:
                rule, error = candidate, candidate_error
    return rule


def _error(measured: Sequence[tuple[Machine, Sequence[LayerDescriptor], Array]], rule: WinogradRule) -> float:
    """Return the mean relative error that fitted costs leave, of convolutions only."""
    logs = [
        _family_error(machine, [layers[i] for i in chosen], times_us[chosen], family)
        for machine, layers, times_us in measured
        for family, chosen in _convolutions(layers, rule).items()
    ]
    return float(np.mean(np.concatenate(logs))) if logs else 0.0


def _family_error(machine: Machine, layers: Sequence[LayerDescriptor], times_us: Array, family: str) -> Array:
    if len(layers) < _FEWEST_ROWS:
        return np.full(len(layers), 1.0)  # too few to fit: no gain to be had from a family of its own
    terms = cost_terms(form_of(family), layer_features(layers), machine)
    return np.abs(np.log(np.maximum(terms @ fit_costs(terms, times_us), 1e-9) / times_us))


def _convolutions(layers: Sequence[LayerDescriptor], rule: WinogradRule) -> dict[str, list[int]]:
    chosen: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        family = family_of(layer, rule)
        if family == CONVOLUTION or family.startswith(WINOGRAD):
            chosen.setdefault(family, []).append(index)
    return chosen


def _channels(layer: LayerDescriptor) -> int:
    return layer.gemm_k // layer.kernel[0] ** 2
