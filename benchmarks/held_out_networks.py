"""Leaving a network out of a table of measured convolutions, and how far predictions of it are off."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from known_networks import networks_among, shape_of
from latency_sources import Predict
from layer_tables import TableLayer

from cospipe.ir.cross_validation import PARTS

EVERYTHING = "all"
_FEWEST_LAYERS = 3


@dataclass(frozen=True)
class Split:
    """What is left out at a time, and how often each of its layers stands in the network."""

    held_out: str
    counts: Counter[int]
    """By position in the table."""


@dataclass(frozen=True)
class Errors:
    """Relative errors of single layers and of the network's sum."""

    layers: tuple[float, ...]
    network: float


def splits(table: Sequence[TableLayer]) -> list[Split]:
    """Return what is held out of a table: its networks, or tenths of its different shapes when there are not two."""
    networks = networks_of(table)
    return networks if len(networks) > 1 else _tenths(table)


def networks_of(table: Sequence[TableLayer]) -> list[Split]:
    """Return the networks of a table.

    A table that names networks is split by them, whoever measured them how often. One that does not is split by the
    known networks whose convolutions are in it; a shape that several of them have belongs to each.
    """
    if any(layer.row.network for layer in table):
        return _by([layer.row.network for layer in table])
    return _inferred(table)


def comparable(table: Sequence[TableLayer]) -> list[TableLayer]:
    """Return the layers of kinds that more than one network has; of the others nothing can be learned."""
    parts = splits(table)
    homes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for part in parts:
        for index in part.counts:
            homes[_kind(table[index])].add(part.held_out)
    return [layer for layer in table if len(homes[_kind(layer)]) > 1]


def is_learnable(layer: TableLayer, kept: Sequence[TableLayer]) -> bool:
    """Return whether enough layers of a kind are in the fit, computed by the same kernel."""
    return sum(_kind(other) == _kind(layer) for other in kept) >= _FEWEST_LAYERS


def errors(layers: Sequence[TableLayer], counts: Sequence[int], predicted_us: Sequence[float]) -> Errors:
    """Return how far predictions are off; the sum counts each layer as often as the network has it."""
    measured_us = [layer.row.time_us for layer in layers]
    off = [abs(guess - time) / time for guess, time in zip(predicted_us, measured_us, strict=True)]
    total = sum(count * time for count, time in zip(counts, measured_us, strict=True))
    guess = sum(count * time for count, time in zip(counts, predicted_us, strict=True))
    return Errors(tuple(off), abs(guess - total) / total)


def summary(found: Sequence[Errors]) -> dict[str, float]:
    """Return the three figures of some networks: of all their layers, and the median of their sums."""
    layers = [error for errors_ in found for error in errors_.layers]
    return {
        "layer_median_error": round(median(layers), 4),
        "layer_p90_error": round(float(np.quantile(layers, 0.9)), 4),
        "network_error": round(median(errors_.network for errors_ in found), 4),
    }


def predict_kernels(predictors: dict[str, Predict], layers: Sequence[TableLayer]) -> list[float]:
    """Return the predictions for layers, each from the predictor of its kernel."""
    times_us = dict.fromkeys(range(len(layers)), 0.0)
    for kernel in {layer.kernel for layer in layers}:
        chosen = [index for index, layer in enumerate(layers) if layer.kernel == kernel]
        rows = [layers[index].row for index in chosen]
        times_us.update(zip(chosen, predictors[kernel](rows), strict=True))
    return list(times_us.values())


def _kind(layer: TableLayer) -> tuple[str, str]:
    return layer.row.layer.kind.value, layer.kernel


def _tenths(table: Sequence[TableLayer]) -> list[Split]:
    shapes = sorted({shape_of(layer.row.layer) for layer in table})
    return _by([f"shapes {shapes.index(shape_of(layer.row.layer)) % PARTS + 1} of {PARTS}" for layer in table], 1)


def _by(names: Sequence[str], fewest: int = _FEWEST_LAYERS) -> list[Split]:
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for index, name in enumerate(names):
        counts[name][index] += 1
    return [Split(name, counted) for name, counted in sorted(counts.items()) if len(counted) >= fewest]


def _inferred(table: Sequence[TableLayer]) -> list[Split]:
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, layer in enumerate(table):
        places[shape_of(layer.row.layer)].append(index)
    return [
        Split(name, Counter({index: count for shape, count in shapes.items() for index in places[shape]}))
        for name, shapes in networks_among([layer.row.layer for layer in table]).items()
    ]
