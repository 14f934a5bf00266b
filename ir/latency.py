"""Predicting the time of a layer on some cores of a chip: what every latency model says, and how sure it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.plan import CoreConfiguration

CPU_KERNELS = "cospipe CPU kernels"


class LatencySource(str, Enum):
    """Where a predicted time comes from."""

    ANALYTIC = "analytic"
    """Layer and chip alone: a roofline with constants fitted for each type of core."""
    REGRESSION = "regression"
    """A regression over measured layers of other networks."""
    MEASURED = "measured"
    """A profile of this very network on this chip."""
    EMULATED = "emulated"
    """Instructions executed under emulation, times the cycles that each block takes on this type of core."""


@dataclass(frozen=True)
class LatencyPrediction:
    """The predicted time of one layer on one core configuration.

    Parameters
    ----------
    time_us : float
        Microseconds at the highest clock.
    source : LatencySource
        Which model says so.
    held_out_error : float or None
        Median relative error of this model on layers it had not seen, of this kind of core; None where nobody checked.
    clock_bound : float
        Share of the time, 0 to 1, that shrinks with the core's clock; the rest waits for memory.
    crowding : float
        Factor on the time when all other cores of the cluster are busy with other work.
    """

    time_us: float
    source: LatencySource
    held_out_error: float | None = None
    clock_bound: float = 1.0
    crowding: float = 1.0

    def at_clock(self, share_of_highest: float) -> float:
        """Return the microseconds at a lower clock, given as a share of the highest one."""
        return self.time_us * (self.clock_bound / share_of_highest + 1 - self.clock_bound)


class LatencyModel(ABC):
    """What predicts the time of layers; every model belongs to one kernel library."""

    kernel_library: str
    """Name of the kernels the model was made for."""

    @abstractmethod
    def predict(
        self, layer: LayerDescriptor, configuration: CoreConfiguration, node: str | None = None
    ) -> LatencyPrediction:
        """Return the prediction for one layer on some cores; ``node`` names it in its graph, where that matters."""

    def predict_us(self, layer: LayerDescriptor, configuration: CoreConfiguration, node: str | None = None) -> float:
        """Return only the predicted microseconds."""
        return self.predict(layer, configuration, node).time_us
