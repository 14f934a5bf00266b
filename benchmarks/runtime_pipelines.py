"""Pipelines of two stages of equal work, one on each of two cores of this machine, for benchmarks of the runners."""

from __future__ import annotations

from pathlib import Path

import torch
from slow_core_plans import one_slow_core
from torch import nn

from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.bundle import Bundle
from cospipe.backends.profiling.networks import prepare_network
from cospipe.backends.runtime.placement import available_cpus
from cospipe.backends.tvm.pack import pack
from cospipe.backends.tvm.pack_request import PackRequest
from cospipe.ir.errors import UsageError
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, StagePlan
from cospipe.passes.model_graph import compute_nodes
from cospipe.passes.partition import tag_stages
from cospipe.passes.split import Split


def two_equal_stages(channels: int, pixels: int, layers: int, folder: Path) -> Bundle:
    """Compile a chain of equal convolutions, half of it for each of two cores, with the runner for boards.

    Parameters
    ----------
    channels, pixels : int
        Of every tensor: 1 x channels x pixels x pixels.
    layers : int
        Convolutions of each half.
    folder : Path
        Where the bundle goes.

    Raises
    ------
    UsageError
        When this process may use one core only.
    """
    cpus = available_cpus()
    if len(cpus) < 2:
        raise UsageError("Two stages need two cores; this process may use one only.")
    torch.manual_seed(0)
    chain = nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2 * layers))).eval()
    prepared = prepare_network("chain", chain, (torch.randn(1, channels, pixels, pixels),))
    soc = one_slow_core(*cpus[:2])
    nodes = [node.name for node in compute_nodes(prepared.graph_module.graph)]
    halves = nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]
    stages = tuple(
        StagePlan(
            name=f"stage{number}",
            replicas=(Replica(cores=(CoreConfiguration(cluster, 1),), cpu_ids=(cpu,), compute_us=1),),
            nodes=tuple(half),
            hand_over_us=0,
            hand_over_bytes=0,
        )
        for number, (half, cluster, cpu) in enumerate(zip(halves, ("big", "little"), cpus[:2], strict=True), 1)
    )
    plan = PipelinePlan(soc=soc.name, objective="throughput", stages=stages)
    tag_stages(prepared.graph_module, plan)
    request = PackRequest(
        pipeline=Split()(prepared.graph_module).graph_module,
        soc=soc,
        machine=soc,
        model=f"{2 * layers} convolutions",
        passes="fold-batch-norm,partition,split",
        example_inputs=prepared.inputs,
        expected=tuple(torch.from_numpy(array) for array in prepared.expected),
        originals={},
        runner=RunnerOptions(),
    )
    return pack(request, folder, lambda _step: None)
