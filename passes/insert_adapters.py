"""Put a trainable spectral change on the weight edges of a model, and freeze everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar
from zlib import crc32

import torch
from torch import fx, nn

from cospipe.ir.adapters import delta_nodes
from cospipe.ir.errors import PassError, UsageError
from cospipe.ir.graph import argument, fake_tensor, free_name, insert_call, store_tensor, stored_tensor, tensor_of
from cospipe.ir.meta import Aspect
from cospipe.ir.spectral_delta import SpectralDelta, random_places
from cospipe.passes.base import Pass, PassResult

aten = torch.ops.aten

_ADAPTED_LAYERS = frozenset(
    {
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv3d.default,
        aten.conv3d.padding,
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
        aten.convolution.default,
        aten.linear.default,
    }
)


@dataclass(frozen=True)
class InsertAdapters(Pass):
    """Rewrite ``w`` to ``w + delta()`` on the weight edge of linear layers and convolutions.

    ``delta`` is a :class:`~cospipe.ir.spectral_delta.SpectralDelta` called ``<weight>_delta``. A weight that several
    layers share gets one delta, and every reader of the weight sees the sum. Weights that are computed, and those of
    other operations, are left alone. Afterwards only the coefficients require a gradient; the parameters are frozen
    in the graph, not in the user's model.

    Parameters
    ----------
    n : int
        Coefficients of each weight; a smaller weight gets as many as it has elements.
    alpha : float
        Scale of the change.
    seed : int
        The places of a weight's coefficients follow from this and its name.
    layers : str
        Pattern of the weight names to adapt, ``features.*.weight``.

    Raises
    ------
    UsageError
        When ``n`` is below 1 or ``alpha`` is not a number other than zero.
    """

    n: int = 1000
    alpha: float = 1.0
    seed: int = 0
    layers: str = "*"

    name: ClassVar[str] = "insert-adapters"
    rewrites: ClassVar[frozenset[Aspect]] = frozenset({Aspect.STRUCTURE, Aspect.WEIGHTS})

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"insert-adapters needs at least one coefficient a weight, not n={self.n}.")
        if self.alpha == 0 or not math.isfinite(self.alpha):
            raise UsageError(f"insert-adapters needs a finite alpha other than zero, not alpha={self.alpha}.")

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise PassError when the graph has adapters already, or no weight has a name of the pattern."""
        adapted = [str(node.target) for node in delta_nodes(graph_module)]
        if adapted:
            raise PassError(f"The model has adapters already ({adapted[0]}, ...); run the pass 'merge-adapters' first.")
        known = [str(node.target) for node in _weights(graph_module.graph)]
        if not any(fnmatchcase(name, self.layers) for name in known):
            raise PassError(
                f"No weight of a linear layer or convolution matches {self.layers!r}."
                f" Known: {', '.join(known) or 'none'}."
            )

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Freeze all parameters, then adapt every weight of the pattern."""
        _freeze(graph_module)
        for weight in _weights(graph_module.graph):
            if fnmatchcase(str(weight.target), self.layers):
                self._adapt(graph_module, weight)
        return PassResult(graph_module, True)

    def _adapt(self, graph_module: fx.GraphModule, weight: fx.Node) -> None:
        like, readers = tensor_of(weight), list(weight.users)
        rows, columns = random_places(like.shape, self.n, self.seed + crc32(str(weight.target).encode()))
        name = free_name(graph_module, f"{weight.target}_delta")
        graph_module.add_submodule(name, SpectralDelta(like.shape, rows, columns, self.alpha, like.dtype))
        with graph_module.graph.inserting_after(weight):
            delta = graph_module.graph.call_module(name)
        delta.meta["val"] = fake_tensor(graph_module.graph, stored_tensor(graph_module, str(weight.target)))
        adapted = insert_call(graph_module.graph, aten.add.Tensor, (weight, delta), before=delta.next, like=delta)
        for reader in readers:
            reader.replace_input_with(weight, adapted)


def _weights(graph: fx.Graph) -> list[fx.Node]:
    read = [argument(node, "weight") for node in graph.nodes if node.target in _ADAPTED_LAYERS]
    return [weight for weight in dict.fromkeys(read) if weight.op == "get_attr" and tensor_of(weight).ndim > 1]


def _freeze(graph_module: fx.GraphModule) -> None:
    # new parameters over the same memory: the user's model keeps its own requires_grad flags
    for name, parameter in list(graph_module.named_parameters(remove_duplicate=False)):
        store_tensor(graph_module, name, nn.Parameter(parameter.detach(), requires_grad=False))
