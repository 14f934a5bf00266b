"""From the name of a latency source to its model."""

from __future__ import annotations

from pathlib import Path

from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.errors import UsageError, nearest
from cospipe.ir.latency import LatencyModel, LatencySource
from cospipe.ir.measured_latency import measured_model
from cospipe.ir.regression_file import regression_model
from cospipe.ir.soc import Soc


def latency_model(soc: Soc, source: str = "analytic", profile: str | Path = "", fingerprint: str = "") -> LatencyModel:
    """Return the model that predicts times on a chip.

    Parameters
    ----------
    soc : Soc
        The chip.
    source : str
        A :class:`~cospipe.ir.latency.LatencySource`: ``analytic``, ``regression``, ``measured`` or ``emulated``.
    profile : str or Path
        The file that the last three read: what ``cospipe profile`` wrote.
    fingerprint : str
        Of the network whose times ``measured`` and ``emulated`` look up, see
        :func:`~cospipe.ir.graph_fingerprint.graph_fingerprint`.

    Raises
    ------
    UsageError
        When the source is unknown, or needs a profile and has none, or the profile is of another board or network.
    """
    known = [known_source.value for known_source in LatencySource]
    if source not in known:
        raise UsageError(f"There is no latency source {source!r}. {nearest(source, known)}")
    wanted = LatencySource(source)
    if wanted in (LatencySource.MEASURED, LatencySource.EMULATED):
        return measured_model(soc, wanted, profile, fingerprint)
    if wanted is LatencySource.REGRESSION:
        return regression_model(soc, profile)
    return AnalyticLatencyModel(soc)
