"""Pipelines that others measured on a board against what we predict from times of their parts alone.

A stage takes its parts alone, the first one also the reading of a frame, the others the hand-over; the period is the
longest stage times the contention. Clocks are the highest: the pipelines' table has none.

GoogLeNet's pipeline has 13 parts, the table of blocks 11; so its kernels are added up. Its second block holds a
normalisation of 14 ms that the kernels lack (``conv2/norm2``). The pipeline cannot have had it: with it, the first
stage alone would take longer than the measured period.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from environment import Row
from measured_tables import TableRow, number, read_table

from cospipe.ir.errors import UsageError
from cospipe.ir.soc import Soc

PIPELINES = "rk3399pro_measured_pipelines.csv"
BLOCKS = "rk3399pro_blocks.csv"
KERNELS = "armcl_rk3399pro_ops.csv"
CLUSTERS = {"B": "big", "L": "little"}
_FP32_BYTES = 4


@dataclass(frozen=True)
class NetworkNames:
    """What the tables call one network.

    Parameters
    ----------
    blocks, kernels : str
        Its name in the tables of blocks and of kernels.
    first_kernels : str
        Regular expression of the kernels that begin a part of the pipeline, where parts are not the blocks.
    """

    blocks: str
    kernels: str
    first_kernels: str = ""


NETWORKS: Mapping[str, NetworkNames] = {
    "alexnet": NetworkNames("Alex", "alexnet"),
    # the 13 parts of graph_googlenet_all_pipe_sync.cpp, github.com/Ehsan-aghapour/ARMCL-pipe-all; likewise 28 and 19
    "googlenet": NetworkNames("Google", "googlenet", r"conv1/7x7_s2|conv2/3x3|inception_\w+/1x1|loss3/classifier"),
    "mobilenet": NetworkNames(
        "MobileV1", "mobilenet_v1", r"Conv2d_0(\+|$)|Conv2d_\d+_depthwise/d|Conv2d_\d+_pointwise/C|Logits/AvgPool"
    ),
    "resnet50": NetworkNames("ResV1_50", "resnet50"),
    "squeezenet": NetworkNames("SqueezeV1", "squeezenet_v1.0", r"conv\d+$|fire\d/(squeeze|expand)1x1|pool10"),
}


@dataclass(frozen=True)
class Parts:
    """Times of a pipeline's parts alone.

    Parameters
    ----------
    source : str
        ``"blocks"``, or ``"kernels"`` where the pipeline's parts are none of the measured blocks.
    times_ms : mapping of str to sequence of float
        Of each part, on each component (``B``, ``L``) at its highest clock.
    input_ms : mapping of str to float
        Reading and preparing a frame, which is up to the first stage.
    output_bytes : sequence of int
        What each part hands to the next.
    """

    source: str
    times_ms: Mapping[str, Sequence[float]]
    input_ms: Mapping[str, float]
    output_bytes: Sequence[int]


@dataclass(frozen=True)
class MeasuredPipeline:
    """One row of the table, with the times of its stages alone, hand-over included."""

    network: str
    blocks: str
    source: str
    stages_ms: Sequence[float]
    components: Sequence[str]
    period_ms: float
    latency_ms: float
    board_power_mw: float

    @property
    def contention(self) -> float:
        """How much longer it took than its longest stage alone, for each further cluster."""
        further = len(set(self.components)) - 1
        return (self.period_ms / max(self.stages_ms) - 1) / further if further else 0.0


def read_pipelines(data: Path, soc: Soc) -> list[MeasuredPipeline]:
    """Return the measured pipelines.

    Raises
    ------
    UsageError
        When a table is missing, or a network or its blocks are not those of the other tables.
    """
    rows = read_table(data, PIPELINES, ("network", "period_ms", "latency_ms", "board_power_mw", "blocks"))
    blocks = read_table(
        data, BLOCKS, ("network", "component", "freq_mhz", "host_freq_mhz", "block", "metric", "time_ms")
    )
    kernels = read_table(
        data, KERNELS, ("set", "network", "component", "freq_mhz", "block", "name", "time_ms", "out_shape")
    )
    return [_pipeline(row, network_parts(row["network"], row["blocks"], blocks, kernels), soc) for row in rows]


def network_parts(network: str, letters: str, blocks: list[TableRow], kernels: list[TableRow]) -> Parts:
    """Return the times of the parts that a pipeline's letters stand for, each alone.

    Where there is a letter for each measured block, the blocks are meant. Otherwise the pipeline was cut more finely,
    and the times of the kernels are added up part by part.
    """
    names = NETWORKS.get(network.lower())
    if names is None:
        raise UsageError(f"{PIPELINES}: the parts of {network!r} are not known; known are {', '.join(NETWORKS)}.")
    of_network = [row for row in blocks if row["network"] == names.blocks and row["component"] in CLUSTERS]
    fastest = _at_highest_clock(of_network)
    times = {c: [number(row, "time_ms", BLOCKS) for row in fastest[c] if row["metric"] == "task"] for c in CLUSTERS}
    input_ms = {c: sum(number(row, "time_ms", BLOCKS) for row in fastest[c] if row["metric"] == "in") for c in CLUSTERS}
    of_kernels = _at_highest_clock(_one_set([row for row in kernels if row["network"] == names.kernels]))
    if len(letters) == len(times["B"]):
        groups = [list(group) for _, group in itertools.groupby(of_kernels["B"], key=lambda row: row["block"])]
        return Parts("blocks", times, input_ms, [_output_bytes(group) for group in groups])
    grouped = {c: _groups(rows, names.first_kernels) for c, rows in of_kernels.items()}
    if len(grouped["B"]) != len(letters):
        raise UsageError(
            f"{PIPELINES}: {network} has {len(letters)} letters, but {len(times['B'])} measured blocks and "
            f"{len(grouped['B'])} known parts."
        )
    sums = {c: [sum(number(row, "time_ms", KERNELS) for row in group) for group in grouped[c]] for c in CLUSTERS}
    return Parts("kernels", sums, input_ms, [_output_bytes(group) for group in grouped["B"]])


def pipeline_rows(pipelines: Sequence[MeasuredPipeline], soc: Soc) -> list[Row]:
    """Return one row for each pipeline and origin of the contention: the description, and the other pipelines."""
    rows = []
    for pipeline in pipelines:
        others = [other.contention for other in pipelines if other is not pipeline]
        origins = {"description": soc.contention}
        if others:
            origins["other pipelines"] = sum(others) / len(others)
        rows += [_row(pipeline, origin, contention, soc) for origin, contention in origins.items()]
    return rows


def _row(pipeline: MeasuredPipeline, origin: str, contention: float, soc: Soc) -> Row:
    factor = 1 + contention * (len(set(pipeline.components)) - 1)
    period_ms = factor * max(pipeline.stages_ms)
    latency_ms = factor * sum(pipeline.stages_ms)
    power_mw = _power_mw(pipeline, soc)
    return {
        "section": "pipelines",
        "network": pipeline.network,
        "blocks": pipeline.blocks,
        "alone_from": pipeline.source,
        "longest_stage_alone_ms": max(pipeline.stages_ms),
        "contention_from": origin,
        "contention": contention,
        "predicted_period_ms": period_ms,
        "measured_period_ms": pipeline.period_ms,
        "error": period_ms / pipeline.period_ms - 1,
        "latency_error": latency_ms / pipeline.latency_ms - 1,
        "power_error": power_mw / pipeline.board_power_mw - 1,
    }


def _power_mw(pipeline: MeasuredPipeline, soc: Soc) -> float:
    """Return the board's predicted power: each cluster is busy for its share of the period."""
    longest_ms = max(pipeline.stages_ms)
    power_mw = soc.idle_power_mw or math.nan
    for component, stage_ms in zip(pipeline.components, pipeline.stages_ms, strict=True):
        cluster = soc.cluster(CLUSTERS[component])
        power_mw += cluster.cores * cluster.core_power_mw[-1] * stage_ms / longest_ms
    return power_mw


def _pipeline(row: TableRow, parts: Parts, soc: Soc) -> MeasuredPipeline:
    components, stages_ms, start = [], [], 0
    for component, letters in itertools.groupby(row["blocks"]):
        stop = start + len(list(letters))
        before_ms = _hand_over_ms(parts.output_bytes[start - 1], soc) if start else parts.input_ms[component]
        stages_ms.append(before_ms + sum(parts.times_ms[component][start:stop]))
        components.append(component)
        start = stop
    return MeasuredPipeline(
        row["network"],
        row["blocks"],
        parts.source,
        stages_ms,
        components,
        number(row, "period_ms", PIPELINES),
        number(row, "latency_ms", PIPELINES),
        number(row, "board_power_mw", PIPELINES),
    )


def _hand_over_ms(size_bytes: int, soc: Soc) -> float:
    return (soc.hand_over_us + size_bytes / (soc.hand_over_gb_per_s * 1e3)) / 1e3


def _at_highest_clock(rows: list[TableRow]) -> dict[str, list[TableRow]]:
    """Return the rows of each component at its highest clock."""
    found = {}
    for component in CLUSTERS:
        own = [row for row in rows if row["component"] == component]
        if not own:
            raise UsageError(f"{BLOCKS} or {KERNELS} has no times of component {component} for one of the networks.")
        highest = max(number(row, "freq_mhz", BLOCKS) for row in own)
        found[component] = [row for row in own if number(row, "freq_mhz", BLOCKS) == highest]
    return found


def _one_set(rows: list[TableRow]) -> list[TableRow]:
    """Return the kernels of one profile: of the repository the pipelines are from, where there is one."""
    sets = {row["set"] for row in rows}
    return [row for row in rows if row["set"] == ("coup" if "coup" in sets else "lwga")]


def _groups(rows: list[TableRow], first_kernels: str) -> list[list[TableRow]]:
    groups: list[list[TableRow]] = []
    for row in rows:
        if not groups or (first_kernels and re.match(first_kernels, row["name"])):
            groups.append([])
        groups[-1].append(row)
    return groups


def _output_bytes(kernels: list[TableRow]) -> int:
    return _FP32_BYTES * math.prod(int(size) for size in kernels[-1]["out_shape"].split("x"))
