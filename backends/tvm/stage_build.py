"""Compiling of one stage: a library for each type of core and number of threads, its weights stored once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import fx

from cospipe.backends.bundle import sha256
from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.pack_request import PackRequest, StagePart, as_array, tensor_specs
from cospipe.backends.tvm.replica_target import ReplicaTarget, replica_target
from cospipe.backends.tvm.tuning.records import open_records
from cospipe.ir.adapters import fold_nodes
from cospipe.ir.annotations import LATENCY
from cospipe.ir.graph import module_path
from cospipe.ir.load_time_fold import LoadTimeFold
from cospipe.ir.manifest import AdapterSlot, GenericNode, StageBuild, StageFiles
from cospipe.ir.plan import CoreConfiguration, Replica, StagePlan
from cospipe.ir.tensor_file import Array, write_tensors


def build_stage(
    part: StagePart, planned: StagePlan, values: dict[str, Array], request: PackRequest, folder: Path
) -> StageFiles:
    """Compile a stage once for each core type and number of threads among its replicas, and store its weights once."""
    targets = [replica_target(replica, request.soc, request.machine) for replica in planned.replicas]
    replica_builds = builds_of_replicas(targets)
    first = [replica_builds.index(build) for build in sorted(set(replica_builds))]
    compiled = [_compile(part, planned.replicas[i], targets[i], values, request, folder) for i in first]
    builds = [build for build, _ in compiled]
    weight_names = tuple(dict.fromkeys(name for _, names in compiled for name in names))
    parameters = dict(part.module.named_parameters(remove_duplicate=False))
    weights = f"{part.name}.safetensors"
    write_tensors(folder / weights, {name: as_array(parameters[name]) for name in weight_names})
    return StageFiles(
        **dict(builds[0]),
        name=part.name,
        weights=weights,
        inputs=tensor_specs(part.inputs, values),
        outputs=tensor_specs(part.outputs, values),
        weight_names=weight_names,
        adapter_slots=tuple(_adapter_slots(part.module)),
        replaceable=tuple(_replaceable(parameters, weight_names, request.originals)),
        further_builds=tuple(builds[1:]),
        replica_builds=replica_builds,
    )


def builds_of_replicas(targets: Sequence[ReplicaTarget]) -> tuple[int, ...]:
    """Return which build each replica of a stage runs; those on as many cores of the same type share one."""
    keys = [(target.core_type, target.threads, target.shares_by_speed) for target in targets]
    distinct = list(dict.fromkeys(keys))
    return tuple(distinct.index(key) for key in keys)


def _compile(
    part: StagePart,
    replica: Replica,
    target: ReplicaTarget,
    values: dict[str, Array],
    request: PackRequest,
    folder: Path,
) -> tuple[StageBuild, tuple[str, ...]]:
    """Return a build of a stage, and the names of the weights it takes."""
    example = tuple(torch.from_numpy(values[name].copy()) for name in part.inputs)
    built = folder / f"{part.name}.so"
    records = open_records(request.tuning_records, target.target) if request.tuning_records else None
    lowered = lower_stage(
        part.module,
        example,
        target.target,
        target.core,
        built,
        allows_winograd=request.allows_winograd,
        shares_by_speed=target.shares_by_speed,
        records=records,
    )
    if records:
        records.report()
    # The name holds the content: a process that has loaded an earlier library from this path would get that one again.
    library = f"{part.name}-{sha256(built)[:12]}.so"
    built.rename(folder / library)
    build = StageBuild(
        library=library,
        core_type=target.core_type,
        threads=target.threads,
        shares_by_speed=target.shares_by_speed,
        weight_arguments=lowered.weight_arguments,
        generic_nodes=tuple(n for n in described_nodes(part.module, replica) if n.name in lowered.generic_nodes),
    )
    return build, lowered.weight_names


def _adapter_slots(stage: fx.GraphModule) -> Iterator[AdapterSlot]:
    for name in dict.fromkeys(str(node.target) for node in fold_nodes(stage)):
        fold = stage.get_submodule(name)
        assert isinstance(fold, LoadTimeFold)
        yield AdapterSlot(weight=fold.weight_name, coefficients=f"{name}.coefficients", places=f"{name}.places")


def _replaceable(
    parameters: Mapping[str, torch.Tensor], stored: Sequence[str], originals: Mapping[str, torch.Tensor]
) -> Iterator[str]:
    """Yield the stored weights that no pass has changed."""
    for name in stored:
        if name in originals and torch.equal(parameters[name], originals[name]):
            yield name


def described_nodes(stage: fx.GraphModule, replica: Replica) -> Iterator[GenericNode]:
    """Yield every node of a stage as it is described where no kernel is there for it."""
    alone_us = {node: _alone_us(node, replica.cores[0]) for node in stage.graph.nodes}
    total_us = sum(alone_us.values())
    planned = replica.compute_us / total_us if total_us else 0.0  # beside other stages everything takes longer
    for node, time_us in alone_us.items():
        yield GenericNode(name=node.name, module=module_path(node), predicted_us=time_us * planned)


def _alone_us(node: fx.Node, configuration: CoreConfiguration) -> float:
    predicted = (LATENCY.get(node) or {}).get(configuration)
    return predicted.time_us if predicted else 0.0
