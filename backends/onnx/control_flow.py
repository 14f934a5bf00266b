"""If, Loop and Scan whose course is known when compiling: the branch taken, and the rounds one after the other."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Protocol

import onnx
import torch
from torch import Tensor

from cospipe.backends.onnx.attributes import attribute_values
from cospipe.backends.onnx.node import Computation, OnnxRuleError
from cospipe.backends.onnx.values import KnownValue, Scope, Value

_MOST_ROUNDS = 1024


class Translator(Protocol):
    """What is needed of the importer."""

    def add_graph(self, graph: onnx.GraphProto, scope: Scope, prefix: str = "") -> None:
        """Translate the nodes of a graph; their values are added to the scope."""

    def add_operation(
        self, name: str, op_type: str, outputs: Sequence[str], computation: Computation, inputs: Sequence[Value]
    ) -> Sequence[Value]:
        """Translate a single computation, and return its results."""


Expansion = Callable[[Translator, onnx.NodeProto, Scope, str], "Sequence[Value] | None"]


def _if(translator: Translator, node: onnx.NodeProto, scope: Scope, name: str) -> Sequence[Value]:
    condition = scope[node.input[0]]
    if not isinstance(condition, KnownValue):
        raise OnnxRuleError(
            f"If ({name}): its condition {node.input[0]!r} depends on the data; if it follows from an input that is"
            " always the same, give its value (--input-value NAME=VALUE)"
        )
    branch = attribute_values(node)["then_branch" if bool(condition.tensor.item()) else "else_branch"]
    return _results(translator, branch, ChainMap({}, scope), name)


def _results(translator: Translator, graph: onnx.GraphProto, scope: Scope, name: str) -> list[Value]:
    translator.add_graph(graph, scope, f"{name}/")
    return [scope[output.name] for output in graph.output]


def _loop(translator: Translator, node: onnx.NodeProto, scope: Scope, name: str) -> Sequence[Value] | None:
    body: onnx.GraphProto = attribute_values(node)["body"]
    rounds, condition, *state = (scope[source] if source else None for source in node.input)
    count = _known_number(rounds, f"Loop ({name}): the number of its rounds") if node.input[0] else _MOST_ROUNDS + 1
    collected: list[list[Value]] = []
    for number in range(count):
        if condition is not None and not _known_number(condition, f"Loop ({name}): the condition to go on"):
            break
        if number == _MOST_ROUNDS:
            raise OnnxRuleError(f"Loop ({name}): more than {_MOST_ROUNDS} rounds are not supported")
        inner: Scope = ChainMap({}, scope)
        iteration = KnownValue(f"{name}/{number}", torch.tensor(number))
        true = KnownValue(f"{name}/{number}/condition", torch.tensor(True))
        inner.update(zip((value.name for value in body.input), (iteration, true, *state), strict=True))
        condition, *values = _results(translator, body, inner, f"{name}/{number}")
        if None in values:
            return None
        state, scanned = values[: len(state)], values[len(state) :]
        collected.append(scanned)
    return [*state, *_stacked(translator, node, name, collected, len(state))]


def _known_number(value: Value, what: str) -> int:
    if not isinstance(value, KnownValue):
        raise OnnxRuleError(f"{what} depends on the data; only loops of a known course are supported")
    return int(value.tensor.item())


def _stacked(
    translator: Translator, node: onnx.NodeProto, name: str, rounds: Sequence[Sequence[Value]], state_count: int
) -> list[Value]:
    if len(node.output) > state_count and not rounds:
        raise OnnxRuleError(f"{node.op_type} ({name}): a loop without a round that collects outputs is not supported")
    return [
        translator.add_operation(f"{name}/{output}", "Concat", [output], _stack, column)[0]
        for output, column in zip(node.output[state_count:], zip(*rounds, strict=True), strict=True)
    ]


def _stack(*tensors: Tensor) -> Tensor:
    return torch.stack(tensors)


def _scan(translator: Translator, node: onnx.NodeProto, scope: Scope, name: str) -> Sequence[Value] | None:
    attributes = attribute_values(node)
    body: onnx.GraphProto = attributes["body"]
    if any(value for key, value in attributes.items() if key not in ("body", "num_scan_inputs") and any(value)):
        raise OnnxRuleError(f"Scan ({name}): other axes than the first, or backwards, is not supported")
    if not all(node.input):
        raise OnnxRuleError(f"Scan ({name}): its form of opset 8, with sequence lengths, is not supported")
    inputs = [scope[source] for source in node.input]
    state_count = len(inputs) - attributes["num_scan_inputs"]
    state, sequences = inputs[:state_count], inputs[state_count:]
    collected: list[list[Value]] = []
    for number in range(_length(sequences)):
        step_name = f"{name}/{number}"
        elements = [
            translator.add_operation(f"{step_name}/{i}", "Gather", [f"{step_name}/{i}"], _select(number), [sequence])[0]
            for i, sequence in enumerate(sequences)
        ]
        inner: Scope = ChainMap({}, scope)
        inner.update(zip((value.name for value in body.input), (*state, *elements), strict=True))
        values = _results(translator, body, inner, step_name)
        if None in values:
            return None
        state, scanned = values[:state_count], values[state_count:]
        collected.append(scanned)
    return [*state, *_stacked(translator, node, name, collected, state_count)]


def _length(sequences: Sequence[Value]) -> int:
    first = sequences[0]
    assert first is not None
    return int(first.tensor.shape[0])


def _select(number: int) -> Computation:
    return lambda data: data.select(0, number)


OPERATIONS: dict[str, Expansion] = {"If": _if, "Loop": _loop, "Scan": _scan}
