"""What is compared by ``latency_prediction.py``: ways to predict the time of convolutions from those of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

import numpy as np

from cospipe.ir.errors import UsageError
from cospipe.ir.latency import LatencyModel
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.pipe_it import fit_pipe_it
from cospipe.ir.profile import MeasuredLayer
from cospipe.ir.regression_latency import fit_regression
from cospipe.ir.soc import Soc

Predict = Callable[[Sequence[MeasuredLayer]], list[float]]
"""Microseconds for some rows, whose own times are not looked at."""

_TREES = 300


def regression(rows: Sequence[MeasuredLayer], soc: Soc | None) -> Predict:
    """Fit this project's regression."""
    return of_model(fit_regression(rows, soc, check=False))


def pipe_it(rows: Sequence[MeasuredLayer], soc: Soc | None) -> Predict:
    """Fit Pipe-it's linear form; it needs no description of the chip."""
    return of_model(fit_pipe_it(rows))


def extra_trees(rows: Sequence[MeasuredLayer], soc: Soc | None) -> Predict:
    """Fit plain extra-trees to the logarithm of the rate, from logarithms of the sizes, for scale.

    The rate instead of the time, because trees cannot go beyond the times they have seen: it is the better of the two.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    if not rows:
        raise UsageError("There is no measured layer to fit extra-trees to.")
    sizes = np.array([_logarithms(row.layer) for row in rows])
    rates = np.array([log(row.time_us / row.layer.macs) for row in rows])
    forest = ExtraTreesRegressor(_TREES, random_state=0, n_jobs=1).fit(sizes, rates)

    def predict(others: Sequence[MeasuredLayer]) -> list[float]:
        logarithms = forest.predict(np.array([_logarithms(row.layer) for row in others]))
        return [float(np.exp(value)) * row.layer.macs for value, row in zip(logarithms, others, strict=True)]

    return predict


def of_model(model: LatencyModel) -> Predict:
    """Return the predictions of a model, one row at a time."""
    return lambda rows: [model.predict_us(row.layer, row.configuration) for row in rows]


FITTED: dict[str, Callable[[Sequence[MeasuredLayer], Soc | None], Predict]] = {
    "regression": regression,
    "pipe-it": pipe_it,
    "extra-trees": extra_trees,
}


def _logarithms(layer: LayerDescriptor) -> list[float]:
    sizes = (layer.gemm_n, layer.gemm_k, layer.gemm_m, layer.macs, layer.input_bytes, layer.output_bytes)
    return [log(size) for size in (*sizes, *layer.kernel, *layer.output_size, layer.stride, layer.groups)]
