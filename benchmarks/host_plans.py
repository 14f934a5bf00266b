"""Predicting the period of the plan that the search chooses for a network, and measuring it."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from environment import Value
from models import Network, load_network

import cospipe
from cospipe.backends.profiling.networks import prepare_network
from cospipe.backends.profiling.pinned_thread import run_in_real_time
from cospipe.backends.runtime.frames import synthetic_frames
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.ir.describe import describe_graph
from cospipe.ir.latency import LatencySource
from cospipe.ir.measured_latency import measured_model
from cospipe.ir.plan import PipelinePlan, StagePlan
from cospipe.ir.soc import load_soc

WINDOW_FRAMES = 8
"""Results of copies come in pairs, so that single steps between results say nothing."""


@dataclass(frozen=True)
class Sources:
    """What predicts: the networks that were fitted, and the profile that holds the network itself."""

    fitted: Path
    measured: Path


def plan_row(spec: str, sources: Sources, rounds: int, frames: int, real_time: bool) -> dict[str, Value]:
    """Return the predicted and the measured period of the pipeline of at most two stages that is chosen for a network.

    Parameters
    ----------
    spec : str
        ``package.module:factory``.
    sources : Sources
        The prediction's, and that of the figure beside it.
    rounds, frames : int
        How often to run how many frames.
    real_time : bool
        Whether to keep other programs off the cores meanwhile.
    """
    network = load_network(spec, (), keep_weights=False)
    with tempfile.TemporaryDirectory(prefix="host_prediction-") as folder:
        chosen = cospipe.optimize(
            network.module,
            network.inputs,
            soc="host",
            output=Path(folder) / "bundle",
            max_stages=2,
            plans="pipeline",
            source="regression",
            profile=sources.fitted,
        )
        with ThreadPoolExecutor(1, initializer=run_in_real_time if real_time else None) as thread:
            measured_us = thread.submit(measured_period_us, chosen, rounds, frames).result()
    plan = chosen.plan
    return {
        "row": "plan",
        "network": spec.rpartition(":")[2],
        "plan": " | ".join(stage.text for stage in plan.stages),
        "stages": len(plan.stages),
        "predicted_period_us": round(plan.period_us, 1),
        "measured_period_us": round(measured_us, 1),
        "period_error": round(plan.period_us / measured_us - 1, 4),
        "looked_up_period_us": round(looked_up_period_us(plan, network, sources.measured), 1),
    }


def measured_period_us(chosen: cospipe.Optimized, rounds: int, frames: int) -> float:
    """Return the median time of a frame over all windows of eight frames, the first window of each round left out."""
    windows_us: list[float] = []
    for _ in range(rounds):
        with PipelineRunner(chosen.bundle, keep_trace=True) as runner:
            for _result in runner.run(synthetic_frames(chosen.bundle.manifest, frames)):
                pass
        ended_s = runner.statistics.finished_s[WINDOW_FRAMES:]
        windows = zip(ended_s, ended_s[WINDOW_FRAMES:], strict=False)
        windows_us += [(last - first) / WINDOW_FRAMES * 1e6 for first, last in windows]
    return median(windows_us)


def looked_up_period_us(plan: PipelinePlan, network: Network, profile: Path) -> float:
    """Return the period of a plan when every node takes the time it was measured to take."""
    prepared = prepare_network("", network.module, network.inputs)
    model = measured_model(load_soc("host"), LatencySource.MEASURED, profile, prepared.fingerprint)
    layers = {node.name: layer for node, layer in describe_graph(prepared.graph_module.graph).items()}

    def stage_us(stage: StagePlan) -> float:
        """Return the period of a stage, all of whose replicas have as many equal cores."""
        (cores,) = {replica.cores[0] for replica in stage.replicas}
        times_us = [model.predict_us(layers[node], cores, node) for node in stage.nodes if node in layers]
        return (sum(times_us) + stage.hand_over_us) / len(stage.replicas)

    return plan.contention * max(map(stage_us, plan.stages))
