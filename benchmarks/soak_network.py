"""The pipeline that ``soak.py`` runs: a small network in three stages, two replicas in the middle, and adapters."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.fx import Graph, Node

import cospipe
from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.bundle import Bundle
from cospipe.backends.runtime.placement import available_cpus
from cospipe.backends.tvm.pack import pack
from cospipe.backends.tvm.pack_request import PackRequest
from cospipe.ir.capture import capture
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, StagePlan
from cospipe.ir.soc import load_soc
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.model_graph import compute_nodes
from cospipe.passes.partition import tag_stages
from cospipe.passes.pipeline import PassManager, parse_pipeline
from cospipe.passes.split import Split

Array = npt.NDArray[np.float32]

ADAPTERS = ("a", "b", "c")
DIFFERENT_FRAMES = 64
"""More than can be inside a pipeline or in the hands of one that is killed: a result in a wrong place is seen."""
TOLERANCE = 1e-4
_PASSES = "insert-adapters{n=20,selection=low},merge-adapters{at=load}"
_SHAPE = (1, 3, 16, 16)
"""Small: what a frame leaves behind adds up, how many frames are inside at a moment hardly shows in the memory."""


class SoakNetwork(nn.Module):
    """Convolutions with batch norm, a skip over the middle, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.middle = nn.Sequential(*(nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()) for _ in range(6)))
        self.last = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return ten numbers for an image."""
        early = self.first(image)
        return self.head(self.last(self.middle(early) + early).mean((2, 3)))


@dataclass(frozen=True)
class SoakPipeline:
    """A compiled network, its adapters, and what must come out.

    Parameters
    ----------
    bundle : Bundle
        With cospipe-run and TVM's libraries.
    adapters : dict of str to Path
        Adapter files by name.
    frames : list of array, shape (1, 3, 48, 48)
        The frames that come again and again.
    expected : dict of str to list of array
        What eager PyTorch makes of each with each adapter, by adapter name.
    """

    bundle: Bundle
    adapters: dict[str, Path]
    frames: list[Array]
    expected: dict[str, list[Array]]

    def adapters_of(self, number: int, result: Array) -> list[str]:
        """Return the adapters with which a frame has this result; a right result fits exactly one."""
        which = number % len(self.frames)
        return [name for name, results in self.expected.items() if is_close(result, results[which])]


def is_close(one: Array, other: Array) -> bool:
    """Tell whether two results are equal but for the order of additions."""
    return one.shape == other.shape and bool(np.abs(one - other).max() <= TOLERANCE * max(1.0, np.abs(other).max()))


def soak_pipeline(folder: Path, runner: RunnerOptions) -> SoakPipeline:
    """Compile the network and its runner for this machine, make adapters, and compute what must come out."""
    torch.manual_seed(0)
    network = SoakNetwork().eval()
    frames = [torch.randn(_SHAPE) for _ in range(DIFFERENT_FRAMES)]
    bundle = _compile(network, frames[0], folder / "bundle", runner)
    adapters, expected = {}, {}
    for name in ADAPTERS:
        adapters[name] = folder / f"{name}.safetensors"
        changed = _adapted(network, adapters[name])
        with torch.no_grad():
            expected[name] = [changed(frame).numpy() for frame in frames]
    pipeline = SoakPipeline(bundle, adapters, [frame.numpy() for frame in frames], expected)
    _check_that_results_differ(pipeline)
    return pipeline


def _adapted(network: nn.Module, file: Path) -> nn.Module:
    """Return the network with a random adapter merged, which is kept in a file."""
    changed = copy.deepcopy(network)
    adapters = cospipe.adapt(changed, cospipe.SpectralConfig(n=20, selection="random", seed=ord(file.stem)))
    with torch.no_grad():
        for parameter in adapters.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    adapters.save(file)
    adapters.merge()
    return adapters.remove()


def _check_that_results_differ(pipeline: SoakPipeline) -> None:
    results = [result for results in pipeline.expected.values() for result in results]
    alike = sum(is_close(one, other) for one, other in combinations(results, 2))
    assert alike == 0, f"{alike} pairs of results cannot be told apart"


def _compile(network: nn.Module, image: torch.Tensor, output: Path, runner: RunnerOptions) -> Bundle:
    captured = capture(network, (image,))
    originals = dict(captured.named_parameters())
    pipeline = PassManager([*parse_pipeline(_PASSES), FoldBatchNorm()])(captured).graph_module
    soc = load_soc("host")
    plan = _plan(soc.name, soc.clusters[0].name, _steps(pipeline.graph))
    tag_stages(pipeline, plan)
    with torch.no_grad():
        expected = network(image)
    request = PackRequest(
        pipeline=Split()(pipeline).graph_module,
        soc=soc,
        machine=soc,
        model="SoakNetwork",
        passes=f"{_PASSES},fold-batch-norm,partition,split",
        example_inputs=(image,),
        expected=(expected,),
        originals=originals,
        runner=runner,
    )
    return pack(request, output, lambda _step: None)


def _steps(graph: Graph) -> list[list[str]]:
    """Return the nodes in groups: each computes something of the image, and before that what it needs of weights."""
    of_image = {node for node in graph.nodes if node.op == "placeholder"}
    steps: list[list[str]] = []
    done: set[Node] = set()
    for node in compute_nodes(graph):
        if not of_image.intersection(node.all_input_nodes):
            continue
        of_image.add(node)
        needed = [other for other in compute_nodes(graph) if other in _ancestors(node) and other not in of_image | done]
        done.update(needed)
        steps.append([*(other.name for other in needed), node.name])
    return steps


def _ancestors(node: Node) -> set[Node]:
    found: set[Node] = set()
    waiting = [node]
    while waiting:
        for read in waiting.pop().all_input_nodes:
            if read not in found:
                found.add(read)
                waiting.append(read)
    return found


def _plan(soc: str, cluster: str, steps: list[list[str]]) -> PipelinePlan:
    """Cut the steps in three parts; the middle one has two replicas."""
    cpus = available_cpus()
    cut, until = len(steps) // 4, 3 * len(steps) // 4
    parts = [[node for step in part for node in step] for part in (steps[:cut], steps[cut:until], steps[until:])]
    places = [[0], [0, 1], [1]]
    stages = tuple(
        StagePlan(
            name=f"stage{number}",
            replicas=tuple(_replica(cluster, cpus[place % len(cpus)]) for place in own),
            nodes=tuple(part),
            hand_over_us=0,
            hand_over_bytes=0,
        )
        for number, (part, own) in enumerate(zip(parts, places, strict=True))
    )
    return PipelinePlan(soc=soc, objective="throughput", stages=stages)


def _replica(cluster: str, cpu: int) -> Replica:
    return Replica(cores=(CoreConfiguration(cluster, 1),), cpu_ids=(cpu,), compute_us=1)
