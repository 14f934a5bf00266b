"""How well this machine's profile of some networks predicts others, layer by layer, as a whole, and as a pipeline.

Ten networks are profiled (``cospipe profile``), a regression is fitted to their layers, and five others, profiled only
to compare with, are predicted on every number of cores. Then the search plans each of the five with at most two stages
from the predictions, and the plan is compiled and run. Rows with ``row`` = ``layers``, one for each network and number
of cores:

* ``layer_median_error``, ``layer_p90_error``: median and 90th percentile over its layers of how far the prediction is
  off, as a share of the measured time, which is the median of undisturbed rounds;
* ``measured_us``, ``predicted_us``, ``network_error``: the whole network, measured without looking at kernels, against
  the sum of the predictions of all nodes of its graph, which is what plans are made of; the error has a sign;
* ``network_runs``: runs of the whole network that no other program disturbed; with none ``measured_us`` is the sum of
  its kernels, each of which was measured undisturbed.

Rows with ``row`` = ``plan``, one for each network:

* ``plan``, ``stages``: what the search chose;
* ``predicted_period_us``, ``measured_period_us``, ``period_error``: time between two results, from predictions of a
  network that was never measured, against that of the compiled pipeline: the median over windows of eight frames;
* ``looked_up_period_us``: the period of the same plan from the network's own profile; what remains of the error then is
  not the regression's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from command_line import repeat_option_names
from environment import JsonFile, Value, print_rows, write_rows
from host_plans import Sources, plan_row
from host_profile import profile_networks
from models import load_network, model_specs
from rich.console import Console

from cospipe.backends.profiling.measuring import ThisMachine
from cospipe.backends.profiling.networks import prepare_network
from cospipe.ir.describe import describe_graph
from cospipe.ir.errors import CospipeError, UsageError
from cospipe.ir.latency import LatencyModel
from cospipe.ir.latency_models import latency_model
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import ConfigurationProfile, NetworkProfile, read_profile, write_profile
from cospipe.ir.soc import Soc, load_soc

FITTED = (
    "densenet121",
    "efficientnet_b0",
    "inception_v3",
    "mnasnet1_0",
    "mobilenet_v3_large",
    "regnet_x_400mf",
    "resnet34",
    "shufflenet_v2_x1_0",
    "squeezenet1_0",
    "vgg11",
)
TESTED = ("alexnet", "googlenet", "mobilenet_v2", "resnet50", "squeezenet1_1")

_LISTS = ("--fitted", "--tested")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Names = Annotated[list[str] | None, typer.Option(help="torchvision names or package.module:factory; any number")]


@app.command()
def main(
    json: JsonFile = "",
    fitted: Names = None,
    tested: Names = None,
    rounds: Annotated[int, typer.Option(min=3, help="undisturbed rounds of each network")] = 40,
    frames: Annotated[int, typer.Option(min=32, help="frames of a run of the pipeline")] = 80,
    runs: Annotated[int, typer.Option(min=1, help="runs of each pipeline")] = 5,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="keep other programs off the cores while timing; needs root")
    ] = False,
    profile: Annotated[
        Path | None, typer.Option(help="profile to continue and to keep; a new one, thrown away, if not given")
    ] = None,
) -> None:
    """Predict networks on this machine from the profile of others.

    Example: python benchmarks/host_prediction.py --tested mobilenet_v2 resnet50 --profile host.json --json -
    """
    console = Console(stderr=True)
    try:
        to_fit, to_test = _apart(model_specs(fitted or FITTED), model_specs(tested or TESTED))
        soc = load_soc("host")
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="host_prediction-")))
            sources = Sources(folder / "fitted.json", profile or folder / "measured.json")
            networks = profile_networks(
                [*to_fit, *to_test], soc, sources.measured, rounds, ThisMachine(real_time), console.print
            )
            _write_part(sources, networks[: len(to_fit)])
            model = latency_model(soc, "regression", sources.fitted)
            layers = [row for network in networks[len(to_fit) :] for row in _layer_rows(network, model, soc)]
            plans = []
            for spec in to_test:
                console.print(f"{spec}: planning and running")
                plans.append(plan_row(spec, sources, runs, frames, real_time))
    except CospipeError as error:
        raise typer.BadParameter(str(error)) from error
    summary = _summary(layers, plans)
    if json:
        write_rows([*layers, *plans], json, packages=("torchvision",), summary=summary)
    if json != "-":
        print_rows("Layers of networks that were not fitted", layers)
        print_rows("Plans of at most two stages", plans)
        print_rows("Summary", [summary])


def _apart(fitted: list[str], tested: list[str]) -> tuple[list[str], list[str]]:
    if both := sorted(set(fitted) & set(tested)):
        raise UsageError(f"{', '.join(both)} cannot be fitted and predicted; name other networks to test.")
    return fitted, tested


def _write_part(sources: Sources, networks: Sequence[NetworkProfile]) -> None:
    """Write the profile of the networks to fit alone."""
    whole = read_profile(sources.measured)
    write_profile(whole.model_copy(update={"networks": tuple(networks)}), sources.fitted)


def _layer_rows(network: NetworkProfile, model: LatencyModel, soc: Soc) -> list[dict[str, Value]]:
    nodes = _described_nodes(network.model)
    return [
        _layer_row(network.model, configuration, network.configurations[str(configuration)], model, nodes)
        for configuration in soc.configurations()
    ]


def _described_nodes(spec: str) -> dict[str, LayerDescriptor]:
    network = load_network(spec, (), keep_weights=False)
    graph = prepare_network(spec, network.module, network.inputs).graph_module.graph
    return {node.name: layer for node, layer in describe_graph(graph).items()}


def _layer_row(
    spec: str,
    cores: CoreConfiguration,
    measured: ConfigurationProfile,
    model: LatencyModel,
    nodes: dict[str, LayerDescriptor],
) -> dict[str, Value]:
    errors = [abs(model.predict_us(kernel.layer, cores) / kernel.median_us - 1) for kernel in measured.kernels]
    predicted_us = sum(model.predict_us(layer, cores, node) for node, layer in nodes.items())
    in_kernels_us = sum(kernel.median_us for kernel in measured.kernels)
    measured_us = measured.network_us if measured.network_runs else in_kernels_us
    return {
        "row": "layers",
        "network": spec.rpartition(":")[2],
        "cores": str(cores),
        "layers": len(errors),
        "layer_median_error": round(median(errors), 4),
        "layer_p90_error": round(float(np.percentile(errors, 90)), 4),
        "measured_us": round(measured_us, 1),
        "predicted_us": round(predicted_us, 1),
        "network_error": round(predicted_us / measured_us - 1, 4),
        "network_runs": measured.network_runs,
    }


def _summary(layers: Sequence[dict[str, Value]], plans: Sequence[dict[str, Value]]) -> dict[str, Value]:
    def values(rows: Sequence[dict[str, Value]], key: str) -> list[float]:
        return [abs(float(str(row[key]))) for row in rows]

    return {
        "layer_median_error": round(median(values(layers, "layer_median_error")), 4),
        "network_median_error": round(median(values(layers, "network_error")), 4),
        "network_worst_error": max(values(layers, "network_error")),
        "period_median_error": round(median(values(plans, "period_error")), 4),
        "period_worst_error": max(values(plans, "period_error")),
    }


if __name__ == "__main__":
    app(args=repeat_option_names(sys.argv[1:], _LISTS))
