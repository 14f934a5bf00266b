"""The latency model fitted to measured layers: physics-shaped costs, corrected by a forest of trees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.configuration_fit import ConfigurationFit, fit_configuration
from cospipe.ir.core_scaling import time_on_cores
from cospipe.ir.errors import UsageError, several
from cospipe.ir.latency import LatencyModel, LatencyPrediction, LatencySource
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.layer_costs import Machine
from cospipe.ir.layer_families import WinogradRule, find_winograd
from cospipe.ir.layer_features import Array
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import MeasuredLayer
from cospipe.ir.soc import Soc

Cores = tuple[str, int]
"""Core type and number of cores."""

_MOST_PROBLEMS = 5


@dataclass(frozen=True)
class RegressionLatencyModel(LatencyModel):
    """Times of layers from those of other networks' layers, fitted by :func:`fit_regression`.

    * Layers of a measured kind: see :class:`~cospipe.ir.configuration_fit.ConfigurationFit`.
    * Numbers of cores that were not measured lie between those that were, as a part that the cores share and one that
      they do not; with only one number measured, the chip's ``parallel_efficiency`` gives the others.
    * Layers of a kind that was never measured: the analytic model, times the median of measured over analytic of the
      kinds that were; the prediction says ``analytic`` and has no held-out error.
    * A fused layer costs what it reads in addition, a view nothing, as in the analytic model.

    Parameters
    ----------
    kernel_library : str
        Name of the kernels that were measured.
    rows : sequence of MeasuredLayer
        What the model was fitted to.
    fits : mapping of (core type, cores) to ConfigurationFit
        The regressions.
    errors : mapping of (core type, cores) to float
        Median relative error on layers of networks that were held out.
    core_types : mapping of str to str
        Core type of each cluster.
    soc : Soc or None
        The chip; without one, only kinds of layer and numbers of cores around those measured can be predicted.
    """

    kernel_library: str
    rows: tuple[MeasuredLayer, ...]
    fits: Mapping[Cores, ConfigurationFit]
    errors: dict[Cores, float]
    core_types: Mapping[str, str]
    soc: Soc | None = None
    _scales: dict[Cores, float] = field(init=False, repr=False, compare=False, default_factory=dict)

    def predict(
        self, layer: LayerDescriptor, configuration: CoreConfiguration, node: str | None = None
    ) -> LatencyPrediction:
        """Return the prediction for one layer on some cores of a cluster; ``node`` makes no difference.

        Raises
        ------
        UsageError
            When the chip does not have these cores, or no layer was measured on cores of their type, or, without a
            chip, no layer of this kind.
        """
        if self.soc is not None:
            self.soc.check_cores([configuration])
        core_type = self._core_type(configuration.cluster)
        measured = {cores: fit for (name, cores), fit in self.fits.items() if name == core_type}
        if not measured:
            known = sorted({name for name, _ in self.fits})
            raise UsageError(f"No layer was measured on {core_type} cores, only on {', '.join(known)}.")
        if layer.fused_into is not None or not layer.total_bytes:
            return self._without_kernel(layer, configuration)
        known_kinds = {cores: fit for cores, fit in measured.items() if fit.knows(layer)}
        if not known_kinds:
            return self._unmeasured_kind(layer, configuration, core_type)
        exact = {cores: fit for cores, fit in known_kinds.items() if cores == configuration.cores}
        times_us = {cores: float(fit.times_us([layer])[0]) for cores, fit in (exact or known_kinds).items()}
        nearest = min(times_us, key=lambda cores: abs(cores - configuration.cores))
        return LatencyPrediction(
            time_on_cores(times_us, configuration.cores, self._efficiency(configuration.cluster)),
            LatencySource.REGRESSION,
            self.errors.get((core_type, nearest)),
            self._clock_bound(layer, configuration),
        )

    def _core_type(self, cluster: str) -> str:
        if self.soc is not None:
            return self.soc.cluster(cluster).core_type
        if cluster in self.core_types:
            return self.core_types[cluster]
        raise UsageError(
            f"Nothing was measured on a cluster {cluster!r}, only on {', '.join(sorted(self.core_types))}."
        )

    def _efficiency(self, cluster: str) -> tuple[float, ...]:
        return self.soc.cluster(cluster).parallel_efficiency if self.soc is not None else ()

    def _clock_bound(self, layer: LayerDescriptor, configuration: CoreConfiguration) -> float:
        if self.soc is None:
            return 1.0
        return AnalyticLatencyModel(self.soc).predict(layer, configuration).clock_bound

    def _without_kernel(self, layer: LayerDescriptor, configuration: CoreConfiguration) -> LatencyPrediction:
        if self.soc is None:
            return LatencyPrediction(0.0, LatencySource.REGRESSION)
        return AnalyticLatencyModel(self.soc).predict(layer, configuration)

    def _unmeasured_kind(
        self, layer: LayerDescriptor, configuration: CoreConfiguration, core_type: str
    ) -> LatencyPrediction:
        if self.soc is None:
            raise UsageError(
                f"No layer of the kind {layer.kind.value!r} was measured on {core_type} cores; name the chip, so that "
                "the analytic model can stand in."
            )
        prediction = AnalyticLatencyModel(self.soc).predict(layer, configuration)
        scale = self._analytic_scale(core_type, configuration)
        return LatencyPrediction(prediction.time_us * scale, LatencySource.ANALYTIC, clock_bound=prediction.clock_bound)

    def _analytic_scale(self, core_type: str, configuration: CoreConfiguration) -> float:
        """Return the median of measured over analytic times on cores of this type."""
        assert self.soc is not None
        key = (core_type, configuration.cores)
        if key not in self._scales:
            self._scales[key] = _median_ratio(self.rows, core_type, configuration, self.soc)
        return self._scales[key]


def _median_ratio(rows: Sequence[MeasuredLayer], core_type: str, configuration: CoreConfiguration, soc: Soc) -> float:
    available = soc.cluster(configuration.cluster).cores
    ours = [row for row in rows if row.core_type == core_type and row.configuration.cores <= available]
    if not ours:
        return 1.0
    cores = min((row.configuration.cores for row in ours), key=lambda count: abs(count - configuration.cores))
    model, there = AnalyticLatencyModel(soc), CoreConfiguration(configuration.cluster, cores)
    ratios = [row.time_us / model.predict_us(row.layer, there) for row in ours if row.configuration.cores == cores]
    return float(np.median(ratios))


def fit_regression(
    rows: Sequence[MeasuredLayer], soc: Soc | None = None, kernel_library: str = "measured kernels", check: bool = True
) -> RegressionLatencyModel:
    """Fit the model to measured layers.

    Parameters
    ----------
    rows : sequence of MeasuredLayer
        Layers of any networks and core configurations; the same rows always give the same model.
    soc : Soc, optional
        The chip: the sizes of its caches, and the analytic model for what was not measured.
    kernel_library : str
        Name of the kernels that were measured.
    check : bool
        Whether to cross-validate, see :func:`~cospipe.ir.cross_validation.held_out_errors`; it takes a fit for each
        network.

    Raises
    ------
    UsageError
        When there is no row, a time is negative or no number, or no kind of layer has enough rows.
    """
    from cospipe.ir.cross_validation import held_out_errors  # it fits models with this function

    check_times(rows)
    used = [row for row in rows if row.time_us > 0 and row.layer.total_bytes and row.layer.fused_into is None]
    fits = _fit_all(used, soc)
    if not fits:
        raise UsageError(f"{len(used)} measured layers are too few to fit a regression to; measure whole networks.")
    core_types = {row.configuration.cluster: row.core_type for row in rows}
    errors = held_out_errors(used, soc) if check else {}
    return RegressionLatencyModel(kernel_library, tuple(used), fits, errors, core_types, soc)


def check_times(rows: Iterable[MeasuredLayer]) -> None:
    """Check that measured times can be fitted to.

    Raises
    ------
    UsageError
        When there is no row, or a time is negative or no number.
    """
    rows = list(rows)
    if not rows:
        raise UsageError("There is no measured layer to fit a latency model to.")
    wrong = [row for row in rows if not (isfinite(row.time_us) and row.time_us >= 0)]
    if wrong:
        shown = [
            f"{row.network}, {row.layer.kind.value} on {row.configuration}: {row.time_us} us"
            for row in wrong[:_MOST_PROBLEMS]
        ]
        raise UsageError(several(f"{len(wrong)} measured time(s) are negative or no number, for example", shown))


def machine_of(core_type: str, cores: int, soc: Soc | None) -> Machine:
    """Return the caches of a core type; those of most small cores where the chip does not say."""
    for cluster in soc.clusters if soc is not None else ():
        if cluster.core_type == core_type:
            return Machine(cores, cluster.l1d_kib * 1024, cluster.l2_kib * 1024)
    return Machine(cores)


def _fit_all(rows: Sequence[MeasuredLayer], soc: Soc | None) -> dict[Cores, ConfigurationFit]:
    groups = by_cores(rows)
    measured = {
        cores: (machine_of(*cores, soc), [row.layer for row in group], _times(group)) for cores, group in groups.items()
    }
    rules: dict[str, WinogradRule] = {
        core_type: find_winograd([measured[cores] for cores in measured if cores[0] == core_type])
        for core_type in {core_type for core_type, _ in measured}
    }
    fits = {
        cores: fit_configuration(layers, times_us, machine, rules[cores[0]])
        for cores, (machine, layers, times_us) in measured.items()
    }
    return {cores: fit for cores, fit in fits.items() if fit is not None}


def by_cores(rows: Iterable[MeasuredLayer]) -> dict[Cores, list[MeasuredLayer]]:
    """Return the rows by core type and number of cores."""
    groups: dict[Cores, list[MeasuredLayer]] = {}
    for row in rows:
        groups.setdefault((row.core_type, row.configuration.cores), []).append(row)
    return groups


def _times(rows: Sequence[MeasuredLayer]) -> Array:
    return np.array([row.time_us for row in rows], dtype=np.float64)
