"""Kernels as the charts show them: a layer with all that is fused into it, in the order they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cospipe.ir.plan import PipelinePlan, StagePlan
from cospipe.prediction import LayerPrediction, Prediction


@dataclass(frozen=True)
class Kernel:
    """One kernel of the network and the stage it runs in.

    Parameters
    ----------
    name, module, kind : str
        Its graph node, the module it comes from, and what it does.
    fused : tuple of str
        Further layers it computes on the fly.
    stage : int
        Position of its stage in the chosen plan.
    macs, moved_bytes : int
        Multiply-accumulates, and bytes read and written.
    latency_us : mapping
        Predicted time by core configuration (``big:4``).
    reads : tuple of str
        Kernels whose results it reads.
    """

    name: str
    module: str
    kind: str
    fused: tuple[str, ...]
    stage: int
    macs: int
    moved_bytes: int
    latency_us: Mapping[str, float]
    reads: tuple[str, ...]

    def time_us(self, stage: StagePlan) -> float:
        """Return its time on the cores of a stage: those of the first replica, or the best cluster of several."""
        keys = [str(cores) for cores in stage.replicas[0].cores]
        return min((self.latency_us[key] for key in keys if key in self.latency_us), default=0.0)


def kernels_of(prediction: Prediction, plan: PipelinePlan) -> tuple[Kernel, ...]:
    """Return what takes time, stage by stage; views and what else is free are left out."""
    layers = {layer.node: layer for layer in prediction.layers}
    stage_of = {node: position for position, stage in enumerate(plan.stages) for node in stage.nodes}
    members: dict[str, list[LayerPrediction]] = {}
    for layer in prediction.layers:
        members.setdefault(_head(layer, layers), []).append(layer)
    busy = {head for head, parts in members.items() if any(any(part.latency_us.values()) for part in parts)}
    heads = [name for name in members if name in busy and name in layers]
    return tuple(
        Kernel(
            name=head,
            module=layers[head].module,
            kind=layers[head].layer.kind.value.replace("_", " "),
            fused=tuple(part.node for part in members[head] if part.node != head),
            stage=stage_of.get(head, 0),
            macs=sum(part.layer.macs for part in members[head]),
            moved_bytes=_moved_bytes(layers[head], members[head]),
            latency_us={
                key: sum(part.latency_us.get(key, 0.0) for part in members[head]) for key in layers[head].latency_us
            },
            reads=tuple(dict.fromkeys(_producers(members[head], head, layers, busy))),
        )
        for head in sorted(heads, key=lambda name: stage_of.get(name, 0))
    )


def _head(layer: LayerPrediction, layers: Mapping[str, LayerPrediction]) -> str:
    """Return the layer whose kernel computes this one."""
    while layer.layer.fused_into is not None and layer.layer.fused_into in layers:
        layer = layers[layer.layer.fused_into]
    return layer.node


def _moved_bytes(head: LayerPrediction, parts: list[LayerPrediction]) -> int:
    fused = [part.layer for part in parts if part is not head]
    return head.layer.total_bytes + sum(layer.input_bytes + layer.weight_bytes for layer in fused)


def _producers(
    parts: list[LayerPrediction], head: str, layers: Mapping[str, LayerPrediction], busy: set[str]
) -> Iterator[str]:
    """Yield the kernels that some layers read, through layers that cost nothing."""
    for part in parts:
        for read in part.reads:
            producer = _head(layers[read], layers) if read in layers else head
            if producer in busy and producer != head:
                yield producer
            elif producer != head:
                yield from _producers([layers[producer]], head, layers, busy)
