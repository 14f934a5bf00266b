"""One step of a recurrent network: LSTM, GRU and the plain cell, with the activations ONNX knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from cospipe.backends.onnx.node import OnnxNode

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
"""The hidden state, and of an LSTM the cell state behind it."""

_DEFAULT_NUMBERS: dict[str, tuple[float, ...]] = {
    "affine": (1.0, 0.0),
    "elu": (1.0,),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01,),
    "scaledtanh": (1.0, 1.0),
    "thresholdedrelu": (1.0,),
}
"""alpha, beta of the activations that have them."""


def _activation(node: OnnxNode, name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    """Return an activation, with the next numbers of the node's lists if it needs any."""
    kind = name.lower()
    given = zip(_DEFAULT_NUMBERS.get(kind, ()), (alphas, betas), strict=False)
    alpha, beta = ([next(numbers, default) for default, numbers in given] + [0.0, 0.0])[:2]
    known: dict[str, Activation] = {
        "affine": lambda data: data * alpha + beta,
        "elu": lambda data: functional.elu(data, alpha),
        "hardsigmoid": lambda data: (data * alpha + beta).clamp(0.0, 1.0),
        "leakyrelu": lambda data: functional.leaky_relu(data, alpha),
        "relu": torch.relu,
        "scaledtanh": lambda data: torch.tanh(data * beta) * alpha,
        "sigmoid": torch.sigmoid,
        "softplus": functional.softplus,
        "softsign": functional.softsign,
        "tanh": torch.tanh,
        "thresholdedrelu": lambda data: torch.where(data > alpha, data, torch.zeros_like(data)),
    }
    if kind not in known:
        raise node.unsupported(f"the activation {name!r}")
    return known[kind]


def read_activations(node: OnnxNode, defaults: tuple[str, ...], directions: int) -> list[tuple[Activation, ...]]:
    """Return the activations of each direction.

    Parameters
    ----------
    node : OnnxNode
        A recurrent operation.
    defaults : tuple of str
        Names of the cell's activations when the node gives none.
    directions : int
        One or two.
    """
    names = node.attribute("activations", None) or defaults * directions
    if len(names) != len(defaults) * directions:
        raise node.unsupported(f"{len(names)} activations for {directions} direction(s)")
    alphas = iter(node.attribute("activation_alpha", None) or ())
    betas = iter(node.attribute("activation_beta", None) or ())
    functions = [_activation(node, str(name), alphas, betas) for name in names]
    clip = node.attribute("clip", None)
    if clip is not None:
        functions = [_clipped(function, clip, i % len(defaults)) for i, function in enumerate(functions)]
    return [tuple(functions[first : first + len(defaults)]) for first in range(0, len(functions), len(defaults))]


def _clipped(activation: Activation, clip: float, position: int) -> Activation:
    """Clip what the gates and the new state are computed from; the cell state, which the third sees, is not clipped."""
    return activation if position == 2 else lambda data: activation(data.clamp(-clip, clip))


class Cell(Protocol):
    """A step of one direction; ``fed`` is the input times its weights, with all biases that are only added."""

    def __call__(self, fed: Tensor, state: State) -> State:
        """Return the next state."""
        ...


@dataclass(frozen=True)
class PlainCell:
    """``h' = f(fed + h R)``."""

    recurrence: Tensor
    activations: tuple[Activation, ...]

    def __call__(self, fed: Tensor, state: State) -> State:
        """Return the next state."""
        (activate,) = self.activations
        return (activate(fed + functional.linear(state[0], self.recurrence)),)


@dataclass(frozen=True)
class GruCell:
    """Gates in the order update, reset, hidden.

    ``reset_late`` (ONNX's ``linear_before_reset``) resets what the hidden state gives to the new one, otherwise the
    hidden state itself is reset; ``hidden_bias`` is then the recurrent bias of the hidden gate.
    """

    recurrence: Tensor
    hidden_bias: Tensor | None
    activations: tuple[Activation, ...]
    reset_late: bool

    def __call__(self, fed: Tensor, state: State) -> State:
        """Return the next state."""
        (hidden,) = state
        activate_gate, activate_hidden = self.activations
        size = hidden.shape[-1]
        fed_gates, fed_hidden = torch.split(fed, [2 * size, size], dim=-1)
        of_gates, of_hidden = torch.split(self.recurrence, [2 * size, size])
        update, reset = activate_gate(fed_gates + functional.linear(hidden, of_gates)).chunk(2, dim=-1)
        if self.reset_late:
            recurrent = reset * functional.linear(hidden, of_hidden, self.hidden_bias)
        else:
            recurrent = functional.linear(reset * hidden, of_hidden, self.hidden_bias)
        new = activate_hidden(fed_hidden + recurrent)
        return (new + update * (hidden - new),)


@dataclass(frozen=True)
class LstmCell:
    """Gates in the order input, output, forget, cell; ``peepholes`` (input, output, forget) see the cell state."""

    recurrence: Tensor
    peepholes: tuple[Tensor, ...] | None
    activations: tuple[Activation, ...]
    couples_forget: bool

    def __call__(self, fed: Tensor, state: State) -> State:
        """Return the next state."""
        hidden, cell = state
        activate_gate, activate_cell, activate_hidden = self.activations
        gates = fed + functional.linear(hidden, self.recurrence)
        into, out, forget, new = gates.chunk(4, dim=-1)
        into = activate_gate(self._peek(into, 0, cell))
        kept = 1 - into if self.couples_forget else activate_gate(self._peek(forget, 2, cell))
        after = kept * cell + into * activate_cell(new)
        return activate_gate(self._peek(out, 1, after)) * activate_hidden(after), after

    def _peek(self, gate: Tensor, number: int, cell: Tensor) -> Tensor:
        return gate if self.peepholes is None else gate + self.peepholes[number] * cell
