"""Rules of recurrent networks, written out step by step: the number of steps is known when compiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule
from cospipe.backends.onnx.recurrent_cells import (
    Activation,
    Cell,
    GruCell,
    LstmCell,
    PlainCell,
    State,
    read_activations,
)

_STEPS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""Whether each direction goes from the last step to the first."""
_DATA, _WEIGHT, _RECURRENCE, _BIAS, _LENGTHS, _HIDDEN, _CELL, _PEEPHOLES = range(8)


@dataclass(frozen=True)
class Inputs:
    """What one direction computes with; ``bias`` is None or (input bias, recurrent bias)."""

    weight: Tensor
    recurrence: Tensor
    bias: tuple[Tensor, Tensor] | None
    peepholes: Tensor | None


@dataclass(frozen=True)
class Kind:
    """A kind of recurrent network.

    Parameters
    ----------
    activations : tuple of str
        Names of the activations in one direction.
    states : int
        Tensors that go from step to step.
    make : callable
        Returns, for one direction, the cell and the bias that is only added to the input times its weights.
    """

    activations: tuple[str, ...]
    states: int
    make: Callable[[OnnxNode, Inputs, tuple[Activation, ...]], tuple[Cell, Tensor | None]]


def _plain(_: OnnxNode, inputs: Inputs, activations: tuple[Activation, ...]) -> tuple[Cell, Tensor | None]:
    return PlainCell(inputs.recurrence, activations), inputs.bias and inputs.bias[0] + inputs.bias[1]


def _lstm(node: OnnxNode, inputs: Inputs, activations: tuple[Activation, ...]) -> tuple[Cell, Tensor | None]:
    peepholes = None if inputs.peepholes is None else inputs.peepholes.chunk(3)
    cell = LstmCell(inputs.recurrence, peepholes, activations, bool(node.attribute("input_forget", 0)))
    return cell, inputs.bias and inputs.bias[0] + inputs.bias[1]


def _gru(node: OnnxNode, inputs: Inputs, activations: tuple[Activation, ...]) -> tuple[Cell, Tensor | None]:
    """Keep the hidden gate's recurrent bias apart: it is reset with the hidden state."""
    resets_late = bool(node.attribute("linear_before_reset", 0))
    if inputs.bias is None:
        return GruCell(inputs.recurrence, None, activations, resets_late), None
    size = inputs.recurrence.shape[-1]
    of_input, (of_gates, of_hidden) = inputs.bias[0], torch.split(inputs.bias[1], [2 * size, size])
    cell = GruCell(inputs.recurrence, of_hidden, activations, resets_late)
    return cell, of_input + functional.pad(of_gates, (0, size))


def _recurrent(kind: Kind) -> Rule:
    def rule(node: OnnxNode) -> Computation:
        direction = str(node.attribute("direction", "forward"))
        if direction not in _STEPS:
            raise node.unsupported(f"direction {direction!r}")
        return _Network(node, kind, _STEPS[direction])

    return rule


class _Network:
    """A whole recurrent operation: all directions, all steps."""

    def __init__(self, node: OnnxNode, kind: Kind, directions: tuple[bool, ...]) -> None:
        self.node, self.kind, self.directions = node, kind, directions
        self.activations = read_activations(node, kind.activations, len(directions))
        self.is_batch_first = bool(node.attribute("layout", 0))
        self.steps = node.shape(_DATA)[1 if self.is_batch_first else 0]
        self.hidden = node.shape(_RECURRENCE)[-1]
        self.is_ragged = node.has(_LENGTHS) and not self._are_full()

    def _are_full(self) -> bool:
        return self.node.is_static(_LENGTHS) and bool((self.node.static(_LENGTHS) == self.steps).all())

    def __call__(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """Return all hidden states, the last ones, and of an LSTM the last cell states."""
        given = [*inputs, *[None] * (_PEEPHOLES + 1 - len(inputs))]
        data = given[_DATA]
        assert data is not None
        sequence = data.transpose(0, 1) if self.is_batch_first else data
        results = [self._direction(number, sequence, given) for number in range(len(self.directions))]
        everything = torch.stack([hidden for hidden, _ in results], dim=1)
        last = [torch.stack(states) for states in zip(*(states for _, states in results), strict=True)]
        if not self.is_batch_first:
            return everything, *last
        return everything.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last)

    def _direction(self, number: int, sequence: Tensor, given: list[Tensor | None]) -> tuple[Tensor, State]:
        """Return the hidden states, (steps, batch, hidden), and the last state of one direction."""
        cell, bias = self.kind.make(self.node, self._inputs(number, given), self.activations[number])
        weight = given[_WEIGHT]
        assert weight is not None
        fed = functional.linear(sequence, weight[number], bias)
        state = self._first_state(number, sequence, given)
        lengths = given[_LENGTHS] if self.is_ragged else None
        order = range(self.steps)[::-1] if self.directions[number] else range(self.steps)
        hidden: list[Tensor] = [state[0]] * self.steps
        for step in order:
            state, hidden[step] = _advance(cell, fed[step], state, step, lengths)
        return torch.stack(hidden), state

    def _inputs(self, number: int, given: list[Tensor | None]) -> Inputs:
        weight, recurrence, bias, peepholes = (
            None if tensor is None else tensor[number]
            for tensor in (given[_WEIGHT], given[_RECURRENCE], given[_BIAS], given[_PEEPHOLES])
        )
        assert weight is not None
        assert recurrence is not None
        halves: Any = None if bias is None else bias.chunk(2)
        return Inputs(weight, recurrence, halves, peepholes)

    def _first_state(self, number: int, sequence: Tensor, given: list[Tensor | None]) -> State:
        return tuple(
            sequence.new_zeros(sequence.shape[1], self.hidden)
            if tensor is None
            else tensor.select(1 if self.is_batch_first else 0, number)
            for tensor in given[_HIDDEN : _HIDDEN + self.kind.states]
        )


def _advance(cell: Cell, fed: Tensor, state: State, step: int, lengths: Tensor | None) -> tuple[State, Tensor]:
    """Return the next state and the output; a sequence that is shorter keeps its state and puts out zeros."""
    after = cell(fed, state)
    if lengths is None:
        return after, after[0]
    is_inside = (lengths > step).unsqueeze(-1)
    kept = tuple(torch.where(is_inside, new, old) for new, old in zip(after, state, strict=True))
    return kept, torch.where(is_inside, after[0], torch.zeros_like(after[0]))


RULES: dict[str, Rule] = {
    "GRU": _recurrent(Kind(("Sigmoid", "Tanh"), 1, _gru)),
    "LSTM": _recurrent(Kind(("Sigmoid", "Tanh", "Tanh"), 2, _lstm)),
    "RNN": _recurrent(Kind(("Tanh",), 1, _plain)),
}
