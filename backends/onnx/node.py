"""One node of an ONNX graph, as the rules that translate it see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from cospipe.ir.errors import CospipeError

Computation: TypeAlias = Callable[..., "torch.Tensor | tuple[torch.Tensor, ...]"]
"""What a node computes: called with the tensors of all its inputs in order, None for an absent one."""


class OnnxRuleError(CospipeError):
    """An ONNX node that cannot be translated; all of a file are reported together."""


@dataclass(frozen=True)
class OnnxNode:
    """A node with everything that is known of its inputs before the network runs.

    Parameters
    ----------
    name : str
        The node's name in the file, or one made from its operation.
    op_type, domain : str
        The operation, for example ``Conv``; the domain is empty for ONNX's own operations.
    opset : int
        Version of the domain's operations.
    attributes : mapping of str to object
        Those written in the file: int, float, str, lists of these, ``np.ndarray``.
    inputs, outputs : tuple of str
        Names of the values; an absent optional one is empty.
    shapes : tuple of (tuple of int or None)
        Shape of each input; None for an absent one.
    dtypes : tuple of (torch.dtype or None)
        Element type of each input; None for an absent one.
    constants : tuple of (np.ndarray or None)
        The values of those inputs that do not depend on the network's inputs.
    """

    name: str
    op_type: str
    domain: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...] | None, ...]
    dtypes: tuple[torch.dtype | None, ...]
    constants: tuple[np.ndarray[Any, Any] | None, ...]

    def attribute(self, name: str, default: Any) -> Any:
        """Return the attribute of this name, the default when the file does not give it."""
        return self.attributes.get(name, default)

    def has(self, position: int) -> bool:
        """Return whether the input at this position is given."""
        return position < len(self.inputs) and self.inputs[position] != ""

    def has_output(self, position: int) -> bool:
        """Return whether somebody may read the output at this position."""
        return position < len(self.outputs) and self.outputs[position] != ""

    def shape(self, position: int) -> tuple[int, ...]:
        """Return the shape of a given input."""
        shape = self.shapes[position] if self.has(position) else None
        if shape is None:
            raise self._absent(position)
        return shape

    def rank(self, position: int) -> int:
        """Return the number of dimensions of a given input."""
        return len(self.shape(position))

    def dtype(self, position: int) -> torch.dtype:
        """Return the element type of a given input."""
        dtype = self.dtypes[position] if self.has(position) else None
        if dtype is None:
            raise self._absent(position)
        return dtype

    def axis(self, default: int, position: int = 0) -> int:
        """Return the attribute ``axis``, counted from the first dimension of an input."""
        return self.positive_axis(int(self.attribute("axis", default)), self.rank(position))

    def positive_axis(self, axis: int, rank: int) -> int:
        """Return an axis of a tensor of so many dimensions, counted from the first.

        Raises
        ------
        OnnxRuleError
            When the tensor has no such axis.
        """
        if not -rank <= axis < max(rank, 1):
            raise self.unsupported(f"axis {axis} of a tensor with {rank} dimension(s)")
        return axis + rank if axis < 0 else axis

    def is_static(self, position: int) -> bool:
        """Return whether the value of a given input is known before the network runs."""
        return self.has(position) and self.constants[position] is not None

    def static(self, position: int) -> np.ndarray[Any, Any]:
        """Return the value of a given input.

        Raises
        ------
        OnnxRuleError
            When it is computed from the network's inputs.
        """
        value = self.constants[position] if self.has(position) else None
        if not self.has(position):
            raise self._absent(position)
        if value is None:
            raise OnnxRuleError(
                f"{self}: its input {position} ({self.inputs[position]!r}) is computed from the data, but it must be"
                " known when the network is compiled."
            )
        return value

    def integers(
        self, name: str, position: int | None = None, default: Sequence[int] | None = None
    ) -> tuple[int, ...] | None:
        """Return integers that older opsets give as an attribute and newer ones as an input, such as ``axes``.

        Parameters
        ----------
        name : str
            Of the attribute; it is looked at first.
        position : int, optional
            Of the input.
        default : sequence of int, optional
            Returned when the node has neither.

        Raises
        ------
        OnnxRuleError
            When the input is computed from the network's inputs.
        """
        if name in self.attributes:
            return tuple(int(number) for number in np.atleast_1d(self.attributes[name]))
        if position is not None and self.has(position):
            return tuple(int(number) for number in self.static(position).reshape(-1))
        return None if default is None else tuple(default)

    def unsupported(self, what: str) -> OnnxRuleError:
        """Return the error that says what of this node cannot be translated; the caller raises it."""
        return OnnxRuleError(f"{self}: {what} is not supported.")

    def _absent(self, position: int) -> OnnxRuleError:
        return OnnxRuleError(f"{self}: its input {position} is missing.")

    def __str__(self) -> str:
        domain = f"{self.domain}." if self.domain else ""
        return f"{domain}{self.op_type} ({self.name})"


Rule: TypeAlias = Callable[[OnnxNode], Computation]
"""Translates one node; raises OnnxRuleError when it cannot."""
