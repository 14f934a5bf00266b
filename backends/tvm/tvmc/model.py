"""A network that was read from a file, and what becomes of it in Relax."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import tvm
from torch import fx
from torch.utils._pytree import tree_leaves

from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.pack_request import as_array
from cospipe.backends.tvm.tvmc.package_metadata import PackagedNode, PackagedTensor
from cospipe.ir.graph import module_path
from cospipe.ir.tensor_file import Array
from cospipe.passes.fold_batch_norm import FoldBatchNorm

Importer = Literal["cospipe", "tvm"]


@dataclass(frozen=True)
class RelaxModel:
    """A network as Relax: ``module["main"](inputs..., weights...) -> tuple``, its attribute num_input says how many.

    Parameters
    ----------
    module : tvm.IRModule
        Its ``main`` is the network.
    weight_names : tuple of str
        What ``main`` takes behind the inputs.
    weights : mapping of str to array
        Their values.
    inputs, outputs : tuple of PackagedTensor
        Names, shapes and element types in order.
    imported_by : str
        Whose front end made it: ``"cospipe"`` or ``"tvm"``.
    modules : mapping of str to str
        Path of the module that each node comes from, by the node's name; empty where nobody knows.
    """

    module: tvm.IRModule
    weight_names: tuple[str, ...]
    weights: Mapping[str, Array]
    inputs: tuple[PackagedTensor, ...]
    outputs: tuple[PackagedTensor, ...]
    imported_by: Importer
    modules: Mapping[str, str]

    @property
    def is_dynamic(self) -> bool:
        """Whether some size is known only when it runs."""
        return any(tensor.is_dynamic for tensor in (*self.inputs, *self.outputs))

    def nodes(self, names: Iterable[str]) -> tuple[PackagedNode, ...]:
        """Return nodes by name with the path of their module."""
        return tuple(PackagedNode(name=name, module=self.modules.get(name, "")) for name in names)


@dataclass(frozen=True)
class CapturedModel:
    """A network that our own front end has read.

    Parameters
    ----------
    name : str
        What it is called.
    graph : fx.GraphModule
        As :func:`cospipe.ir.capture.capture` returns it.
    example_inputs : tuple of Tensor
        One tensor for each input.
    input_names, output_names : tuple of str
        What the file calls them.
    """

    name: str
    graph: fx.GraphModule
    example_inputs: tuple[torch.Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def relax(self, folds_batch_norm: bool = True) -> RelaxModel:
        """Return it as Relax; batch norms may be folded into the weights of the layers before them."""
        graph: fx.GraphModule = FoldBatchNorm()(self.graph).graph_module if folds_batch_norm else self.graph
        imported = import_stage(graph, self.example_inputs)
        parameters = dict(graph.named_parameters(remove_duplicate=False))
        outputs = [node.meta["val"] for node in tree_leaves(graph.graph.output_node().args)]
        return RelaxModel(
            imported.module,
            imported.weight_names,
            {name: as_array(parameters[name]) for name in imported.weight_names},
            tuple(map(_packaged, self.input_names, self.example_inputs)),
            tuple(map(_packaged, self.output_names, outputs)),
            "cospipe",
            {node.name: module_path(node) for node in graph.graph.nodes},
        )


@dataclass(frozen=True)
class ForeignModel:
    """A network that TVM's front end has read, because ours could not or the file holds Relax.

    Parameters
    ----------
    name : str
        What it is called.
    imported : RelaxModel
        As Relax.
    reasons : tuple of str
        Why it was not our front end: nothing, one sentence, or what it lacks.
    """

    name: str
    imported: RelaxModel
    reasons: tuple[str, ...] = ()

    def relax(self, folds_batch_norm: bool = True) -> RelaxModel:
        """Return it as Relax; TVM's front ends leave batch norms as they are or fold them themselves."""
        return self.imported


LoadedModel = CapturedModel | ForeignModel


def captured_model(
    name: str,
    graph: fx.GraphModule,
    example_inputs: tuple[torch.Tensor, ...],
    input_names: Iterable[str] = (),
    output_names: Iterable[str] = (),
) -> CapturedModel:
    """Return a captured graph as a model; its inputs and outputs are called like its nodes unless names are given."""
    inputs = [node.name for node in graph.graph.find_nodes(op="placeholder")]
    outputs = [node.name for node in tree_leaves(graph.graph.output_node().args)]
    return CapturedModel(
        name,
        graph,
        example_inputs,
        distinct_names(tuple(input_names) or inputs),
        distinct_names(tuple(output_names) or outputs),
    )


def distinct_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of which none is there twice: a value that a network returns twice gets a number."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(distinct)


def _packaged(name: str, tensor: torch.Tensor) -> PackagedTensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return PackagedTensor(name=name, shape=tuple(map(int, tensor.shape)), dtype=dtype)  # type: ignore[arg-type]
