"""The workers of a bundle, one for each replica of each stage, and the links between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

from cospipe.backends.bundle import Bundle
from cospipe.backends.runtime.adapter_weights import Overrides
from cospipe.backends.runtime.generations import Weights
from cospipe.backends.runtime.job import Job
from cospipe.backends.runtime.link import Link
from cospipe.backends.runtime.placement import StagePlacement
from cospipe.backends.runtime.worker import ReplicaWorker, SharedBuild
from cospipe.ir.errors import CospipeError
from cospipe.ir.manifest import Manifest, StageFiles
from cospipe.ir.plan import StagePlan

_LEAST_SPEED_RATIO = 2.5


@dataclass(frozen=True)
class Pipeline:
    """What frames go through: the link before each stage, the builds of all stages, and the workers that run them."""

    links: list[Link[Job]]
    builds: list[SharedBuild]
    workers: list[ReplicaWorker]


def wire(
    bundle: Bundle,
    placements: Sequence[StagePlacement],
    queue_depth: int,
    overrides: dict[str, Overrides],
    *,
    finish: Callable[[Job], object],
    weights: Callable[[int, int], Weights],
    fail: Callable[[CospipeError], None],
    fails_on_nan: bool,
) -> Pipeline:
    """Return the workers of a bundle, not started yet.

    Parameters
    ----------
    bundle : Bundle
        What they run.
    placements : sequence of tuple of ReplicaPlacement
        Where, for every stage.
    queue_depth : int
        Frames that may wait before each stage.
    overrides : dict of str to Overrides
        What takes the place of stored weights, by stage.
    finish : callable
        Takes each frame behind the last stage.
    weights : callable
        Returns the weights of a build, of which it is told the number, that frames of a generation meet.
    fail : callable
        Is told what keeps a worker from going on.
    fails_on_nan : bool
        Whether NaN in an output does.
    """
    manifest = bundle.manifest
    pipeline = Pipeline([Link(queue_depth) for _ in manifest.stages], [], [])
    for number, (files, planned) in enumerate(zip(manifest.stages, manifest.plan.stages, strict=True)):
        first_build = len(pipeline.builds)
        pipeline.builds.extend(_shared(bundle, build, overrides[files.name]) for build in files.builds)
        is_last = number == len(manifest.stages) - 1
        for replica, build in enumerate(files.replica_builds):
            worker = ReplicaWorker(
                name=_worker_name(planned, replica),
                stage=number,
                replica=replica,
                build=pipeline.builds[first_build + build],
                placement=placements[number][replica],
                kept=_needed_after(manifest, number),
                incoming=pipeline.links[number],
                pass_on=finish if is_last else pipeline.links[number + 1].put,
                weights_of=partial(weights, first_build + build),
                fail=fail,
                fails_on_nan=fails_on_nan,
            )
            pipeline.workers.append(worker)
    return pipeline


def frames_inside(manifest: Manifest, queue_depth: int) -> int:
    """Return how many frames may be inside at once so that no stage waits for a taker of results that is quick."""
    return sum(queue_depth + _frames_at_work(stage) for stage in manifest.plan.stages)


def _shared(bundle: Bundle, files: StageFiles, overrides: Overrides) -> SharedBuild:
    return SharedBuild(files, bundle.file(files.library), bundle.file(files.weights), overrides)


def _worker_name(planned: StagePlan, replica: int) -> str:
    which = f" replica {replica}" if len(planned.replicas) > 1 else ""
    return f"{planned.name}{which} ({planned.replicas[replica].text})"


def _needed_after(manifest: Manifest, position: int) -> frozenset[str]:
    later = {spec.name for stage in manifest.stages[position + 1 :] for spec in stage.inputs}
    return frozenset(later | {spec.name for spec in manifest.outputs})


def _frames_at_work(stage: StagePlan) -> int:
    """Return how many frames a stage may have taken and not handed out in order: fast replicas run ahead of slow ones.

    While the slowest replica computes one, each of the others finishes as many as it is faster, and begins another.
    """
    if len(stage.replicas) == 1:
        return 1
    times_us = [replica.compute_us for replica in stage.replicas]
    ratio = max(times_us) / min(times_us) if min(times_us) else 1.0
    return len(stage.replicas) * (1 + ceil(max(ratio, _LEAST_SPEED_RATIO)))
