"""The regression of one core configuration: costs that add up, corrected by a forest where measured layers are near."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cospipe.ir.forest import Forest, fit_forest
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.layer_costs import Machine, cost_terms, fit_costs
from cospipe.ir.layer_families import WinogradRule, family_of, form_of
from cospipe.ir.layer_features import Array, LayerFeatures, layer_features

_FEWEST_ROWS = 3
_TRUSTED_OCTAVES = 2.0
_LARGEST_DIVISOR, _VECTOR_COLUMNS, _BLOCK_ROWS = 8, 64, 256


@dataclass(frozen=True)
class ConfigurationFit:
    """Times of layers on one core configuration.

    The time of a layer is the sum of its family's costs times what the forest of residuals says:
    ``exp(trust * forest(log sizes))``. ``trust`` is 1 within two octaves of a measured layer of the family (the
    distance in log2 N, K, M) and falls with the square of the distance beyond it, so that far from every measured
    layer only the costs are left.

    Parameters
    ----------
    machine : Machine
        The cores.
    rule : WinogradRule
        Which convolutions are computed by Winograd's method.
    costs : mapping of str to array
        Factor of each cost term, by family.
    measured : mapping of str to array
        log2 N, K, M of the measured layers (n x 3), by family.
    forest : Forest
        The residuals, as natural logarithms of measured over summed costs.
    """

    machine: Machine
    rule: WinogradRule
    costs: Mapping[str, Array]
    measured: Mapping[str, Array]
    forest: Forest

    def knows(self, layer: LayerDescriptor) -> bool:
        """Return whether layers of this kind were measured."""
        return family_of(layer, self.rule) in self.costs

    def times_us(self, layers: Sequence[LayerDescriptor]) -> Array:
        """Return the microseconds of layers whose kinds were measured."""
        features = layer_features(layers)
        families = [family_of(layer, self.rule) for layer in layers]
        summed = summed_costs(features, families, self.costs, self.machine)
        sizes = _sizes(features)
        trust = np.array([_trust(size, self.measured[family]) for size, family in zip(sizes, families, strict=True)])
        codes = _codes(families, self.costs)
        times: Array = summed * np.exp(trust * self.forest.predict(_forest_features(features, codes)))
        return times


def fit_configuration(
    layers: Sequence[LayerDescriptor], times_us: Array, machine: Machine, rule: WinogradRule
) -> ConfigurationFit | None:
    """Return the fit to layers measured on one core configuration; None when there are too few of every family."""
    families = np.array([family_of(layer, rule) for layer in layers])
    names, counts = np.unique(families, return_counts=True)
    known = [str(name) for name, count in zip(names, counts, strict=True) if count >= _FEWEST_ROWS]
    if not known:
        return None
    chosen = np.isin(families, known)
    features, families, times_us = layer_features(layers).take(chosen), families[chosen], times_us[chosen]
    costs = {name: _family_costs(features, times_us, families == name, name, machine) for name in known}
    residuals = np.log(times_us / summed_costs(features, list(families), costs, machine))
    forest = fit_forest(_forest_features(features, _codes(list(families), costs)), residuals)
    measured = {name: np.unique(_sizes(features)[families == name], axis=0) for name in known}
    return ConfigurationFit(machine, rule, costs, measured, forest)


def summed_costs(
    features: LayerFeatures, families: Sequence[str], costs: Mapping[str, Array], machine: Machine
) -> Array:
    """Return the microseconds that the costs of each layer's family add up to."""
    summed, of_layer = np.zeros(len(families)), np.array(families)
    for name in set(families):
        chosen: NDArray[np.bool_] = of_layer == name
        summed[chosen] = cost_terms(form_of(name), features.take(chosen), machine) @ costs[name]
    return np.maximum(summed, 1e-6)


def _family_costs(
    features: LayerFeatures, times_us: Array, chosen: NDArray[np.bool_], name: str, machine: Machine
) -> Array:
    return fit_costs(cost_terms(form_of(name), features.take(chosen), machine), times_us[chosen])


def _sizes(features: LayerFeatures) -> Array:
    return np.log2(np.stack([features.rows, features.inner, features.columns], axis=1))


def _trust(size: Array, measured: Array) -> float:
    distance = float(np.sqrt(((measured - size) ** 2).sum(axis=1).min()))
    return 1 / (1 + max(distance - _TRUSTED_OCTAVES, 0.0) ** 2)


def _codes(families: Sequence[str], costs: Mapping[str, Array]) -> Array:
    order = sorted(costs)
    return np.array([order.index(family) for family in families], dtype=np.float64)


def _forest_features(features: LayerFeatures, codes: Array) -> Array:
    f = features
    logarithms = np.log2(
        np.stack(
            [
                f.rows,
                f.inner,
                f.columns,
                f.channels,
                f.tiles,
                f.taps,
                f.stride,
                f.macs,
                f.input_bytes + 1,
                f.inner * f.columns,
                f.rows * f.columns,
                f.rows * f.inner,
                _divisor(f.row_length),
                np.gcd(f.columns.astype(np.int64), _VECTOR_COLUMNS).astype(np.float64),
                np.gcd(f.inner.astype(np.int64), _BLOCK_ROWS).astype(np.float64),
            ],
            axis=1,
        )
    )
    return np.column_stack([logarithms, codes])


def _divisor(lengths: Array) -> Array:
    """Return the largest divisor up to eight: kernels tile a row of the output, and prime lengths tile badly."""
    best = np.ones_like(lengths)
    for divisor in range(2, _LARGEST_DIVISOR + 1):
        best = np.where(lengths % divisor == 0, divisor, best)
    return best
