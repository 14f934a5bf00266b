"""Put a trainable spectral change on the weight edges of a model, and freeze everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from cospipe.ir.adapters import delta_nodes
from cospipe.ir.coefficient_places import choose_places, coefficient_counts
from cospipe.ir.errors import PassError
from cospipe.ir.graph import argument, fake_tensor, free_name, store_tensor, stored_tensor, tensor_of
from cospipe.ir.meta import Aspect
from cospipe.ir.spectral_config import SpectralConfig
from cospipe.ir.spectral_delta import SpectralDelta
from cospipe.passes.base import Pass, PassResult

aten = torch.ops.aten

_ADAPTED_LAYERS = frozenset(
    {
        aten.addmm.default,
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv3d.default,
        aten.conv3d.padding,
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
        aten.conv_transpose3d.input,
        aten.convolution.default,
        aten.embedding.default,
        aten.linear.default,
        aten.matmul.default,
        aten.mm.default,
    }
)
_WEIGHT_ARGUMENTS = {
    aten.addmm.default: "mat2",
    aten.matmul.default: "other",
    aten.mm.default: "mat2",
}


@dataclass(frozen=True)
class InsertAdapters(SpectralConfig, Pass):
    """Rewrite ``w`` to ``delta(w)`` on the weight edge of linear layers, convolutions, embeddings and products.

    ``delta`` is a :class:`~cospipe.ir.spectral_delta.SpectralDelta` called ``<weight>_delta``. A weight that several
    layers share gets one delta, and every reader of the weight sees the sum. Weights that are computed, and those of
    other operations, are left alone. Afterwards only the coefficients, and what ``also_train`` names, require a
    gradient; the parameters are frozen in the graph, not in the user's model, and those trained whole are copies.

    The options are those of :class:`~cospipe.ir.spectral_config.SpectralConfig`. Selection by gradient takes the
    gradients that the model's parameters have: run ``loss.backward()`` on a few batches before.

    Raises
    ------
    UsageError
        When options make no sense, or a selection by gradient lacks one.
    """

    name: ClassVar[str] = "insert-adapters"
    rewrites: ClassVar[frozenset[Aspect]] = frozenset({Aspect.STRUCTURE, Aspect.WEIGHTS})

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError when the graph has adapters already, or no weight has a name of the pattern."""
        adapted = [str(node.target) for node in delta_nodes(graph_module)]
        if adapted:
            raise PassError(f"The model has adapters already ({adapted[0]}, ...); run the pass 'merge-adapters' first.")
        known = [str(node.target) for node in _weights(graph_module.graph)]
        if not any(self.count_for(name) and not self.trains_whole(name) for name in known):
            raise PassError(
                f"No weight of a linear layer or convolution matches {self.layers!r}."
                f" Known: {', '.join(known) or 'none'}."
            )

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Choose all places, freeze the parameters, then adapt every weight of the pattern."""
        weights = {str(node.target): node for node in _weights(graph_module.graph)}
        counts = coefficient_counts({name: tensor_of(node).shape for name, node in weights.items()}, self)
        places = {name: self._places(graph_module, name, n) for name, n in counts.items()}
        self._freeze(graph_module)
        for name, (rows, columns) in places.items():
            self._adapt(graph_module, weights[name], rows, columns)
        return PassResult(graph_module, True)

    def _places(self, graph_module: fx.GraphModule, name: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        weight = stored_tensor(graph_module, name)
        return choose_places(name, weight, n, self, weight.grad)

    def _adapt(self, graph_module: fx.GraphModule, weight: fx.Node, rows: torch.Tensor, columns: torch.Tensor) -> None:
        like, readers = tensor_of(weight), list(weight.users)
        name = free_name(graph_module, f"{weight.target}_delta")
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        graph_module.add_submodule(name, SpectralDelta(like.shape, rows, columns, self.alpha, dtype))
        with graph_module.graph.inserting_after(weight):
            adapted = graph_module.graph.call_module(name, (weight,))
        adapted.meta["val"] = fake_tensor(graph_module.graph, stored_tensor(graph_module, str(weight.target)))
        for reader in readers:
            reader.replace_input_with(weight, adapted)

    def _freeze(self, graph_module: fx.GraphModule) -> None:
        # new parameters over the same memory: the user's model keeps its own requires_grad flags; what is trained whole
        # gets memory of its own, so that training does not write to the user's model
        found = list(graph_module.named_parameters(remove_duplicate=False))
        trained = {id(parameter) for name, parameter in found if self.trains_whole(name)}
        own: dict[int, nn.Parameter] = {}
        for name, parameter in found:
            is_trained, values = id(parameter) in trained, parameter.detach()
            if id(parameter) not in own:
                own[id(parameter)] = nn.Parameter(values.clone() if is_trained else values, requires_grad=is_trained)
            store_tensor(graph_module, name, own[id(parameter)])


def _weights(graph: fx.Graph) -> list[fx.Node]:
    layers = [node for node in graph.nodes if node.target in _ADAPTED_LAYERS]
    read = [argument(node, _WEIGHT_ARGUMENTS.get(node.target, "weight")) for node in layers]
    return [
        weight
        for weight in dict.fromkeys(read)
        if weight.op == "get_attr" and tensor_of(weight).ndim > 1 and tensor_of(weight).is_floating_point()
    ]
