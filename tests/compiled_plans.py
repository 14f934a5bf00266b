"""Compiling of networks into plans that no search would choose."""

import torch

import cospipe
from cospipe.ir.annotations import plan_of
from cospipe.ir.capture import capture
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, StagePlan
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.model_graph import compute_nodes
from cospipe.passes.partition import tag_stages
from cospipe.passes.pipeline import PassManager, parse_pipeline
from cospipe.passes.split import Split


def on_cores(cluster, cpu_ids, compute_us=1):
    """Return a replica on some cores of a cluster."""
    return Replica(cores=(CoreConfiguration(cluster, len(cpu_ids)),), cpu_ids=cpu_ids, compute_us=compute_us)


def compile_replicas(network, inputs, soc, replicas, output, passes=""):
    """Compile a network in as many stages as there are groups of replicas, one or three."""
    from cospipe.backends.tvm.pack import pack

    request = request_for_replicas(network, inputs, soc, replicas, passes)
    return cospipe.Optimized(plan_of(request.pipeline), pack(request, output, lambda step: None))


def request_for_replicas(network, inputs, soc, replicas, passes="", machine=None):
    """Return a network in as many stages as there are groups of replicas, one or three, ready to be compiled."""
    from cospipe.backends.tvm.pack_request import PackRequest

    captured = capture(network, inputs)
    originals = dict(captured.named_parameters())
    pipeline = PassManager([*parse_pipeline(passes), FoldBatchNorm()])(captured).graph_module
    parts = (
        _three_parts(pipeline.graph) if len(replicas) > 1 else [[node.name for node in compute_nodes(pipeline.graph)]]
    )
    stages = tuple(
        StagePlan(name=f"stage{i}", replicas=own, nodes=part, hand_over_us=0, hand_over_bytes=0)
        for i, (part, own) in enumerate(zip(parts, replicas, strict=True))
    )
    plan = PipelinePlan(soc=soc.name, objective="throughput", stages=stages)
    tag_stages(pipeline, plan)
    with torch.no_grad():
        expected = network(*inputs)
    return PackRequest(
        pipeline=Split()(pipeline).graph_module,
        soc=soc,
        machine=machine or soc,
        model="SmallNetwork",
        passes=",".join(filter(None, [passes, "fold-batch-norm,partition,split"])),
        example_inputs=inputs,
        expected=expected,
        originals=originals,
    )


def _three_parts(graph):
    nodes, waiting = [], []
    for node in compute_nodes(graph):
        waiting.append(node.name)
        done = {name for group in nodes for name in group}
        if any(read.op == "placeholder" or read.name in done for read in node.all_input_nodes):
            nodes.append(waiting)
            waiting = []
    groups = [nodes[:2], nodes[2 : len(nodes) // 2], nodes[len(nodes) // 2 :]]
    return [[name for group in part for name in group] for part in groups]
