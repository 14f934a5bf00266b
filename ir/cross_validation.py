"""How far a latency model is off on networks it has not seen: each is left out of the fit once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cospipe.ir.errors import UsageError
from cospipe.ir.latency import LatencyModel
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import MeasuredLayer
from cospipe.ir.regression_latency import Cores, by_cores, fit_regression
from cospipe.ir.soc import Soc

PARTS = 10
"""Parts of a single network that are left out one after the other."""

Fit = Callable[[Sequence[MeasuredLayer]], LatencyModel]


@dataclass(frozen=True)
class HeldOut:
    """A measured layer and what a model predicts that has seen nothing of its group."""

    row: MeasuredLayer
    group: str
    predicted_us: float

    @property
    def error(self) -> float:
        """Distance of the prediction from the measured time, relative to that."""
        return abs(self.predicted_us - self.row.time_us) / self.row.time_us


def held_out_predictions(
    rows: Sequence[MeasuredLayer], fit: Fit, group_of: Callable[[MeasuredLayer], str] | None = None
) -> list[HeldOut]:
    """Return the prediction for every row from models fitted without its group.

    Parameters
    ----------
    rows : sequence of MeasuredLayer
        Measured layers with positive times.
    fit : function of rows
        Returns the model fitted to them.
    group_of : function of a row, optional
        What is left out at a time: a network, or, when there is only one, a tenth of its different layers.

    Returns
    -------
    list of HeldOut
        Without the layers that cannot be predicted, because nothing like them is left in the fit.
    """
    group_of = group_of or _grouping(rows)
    groups = sorted({group_of(row) for row in rows})
    if len(groups) < 2:
        return []
    return [
        held_out
        for group in groups
        for held_out in _predictions(
            fit,
            [row for row in rows if group_of(row) != group],
            [row for row in rows if group_of(row) == group],
            group,
        )
    ]


def held_out_errors(rows: Sequence[MeasuredLayer], soc: Soc | None) -> dict[Cores, float]:
    """Return the median relative error of the regression on held-out layers, by core type and number of cores."""
    errors: dict[Cores, float] = {}
    for cores, group in by_cores(rows).items():
        held_out = held_out_predictions(group, lambda kept: fit_regression(kept, soc, check=False))
        if held_out:
            errors[cores] = float(np.median([one.error for one in held_out]))
    return errors


def _predictions(
    fit: Fit, kept: Sequence[MeasuredLayer], left_out: Sequence[MeasuredLayer], group: str
) -> list[HeldOut]:
    try:
        model = fit(kept)
    except UsageError:  # too few layers are left
        return []
    return [
        HeldOut(row, group, time_us) for row in left_out if (time_us := _predict(model, row, row.configuration)) > 0
    ]


def _predict(model: LatencyModel, row: MeasuredLayer, configuration: CoreConfiguration) -> float:
    try:
        return model.predict_us(row.layer, configuration)
    except UsageError:  # a kind of layer that only this network has
        return 0.0


def _grouping(rows: Sequence[MeasuredLayer]) -> Callable[[MeasuredLayer], str]:
    if len({row.network for row in rows}) > 1:
        return lambda row: row.network
    different = sorted({row.layer for row in rows}, key=str)
    part = {layer: f"part {index % PARTS + 1}" for index, layer in enumerate(different)}
    return lambda row: part[row.layer]
