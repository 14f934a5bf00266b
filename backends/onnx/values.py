"""The values of an ONNX graph while it is translated: known when compiling, or computed from the inputs."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
import torch
from torch import Tensor, fx


@dataclass(frozen=True, eq=False)
class KnownValue:
    """A tensor that does not depend on the network's inputs.

    Parameters
    ----------
    name : str
        The value's name in the file.
    tensor : Tensor
        What it holds.
    is_weight : bool
        Whether it stands in the file as it is; what is computed when compiling is none.
    """

    name: str
    tensor: Tensor
    is_weight: bool = False


@dataclass(frozen=True, eq=False)
class ComputedValue:
    """A tensor that depends on the network's inputs: the node that gives it, and a fake tensor like it."""

    source: fx.Node
    tensor: Tensor


Value: TypeAlias = "KnownValue | ComputedValue | None"
"""None stands for an input that is not given, or the result of a node that could not be translated."""

Scope: TypeAlias = "MutableMapping[str, Value]"
"""The values that a node can read, by their names."""


def tensor_of_proto(proto: onnx.TensorProto) -> Tensor:
    """Return a constant of the file; its element type must be one that PyTorch has."""
    array = onnx.numpy_helper.to_array(proto)
    if proto.data_type == onnx.TensorProto.BFLOAT16:
        return torch.tensor(np.asarray(array, np.float32)).to(torch.bfloat16)
    return torch.tensor(array)
