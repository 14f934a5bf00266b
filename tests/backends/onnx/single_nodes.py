"""Models of one ONNX node, compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

from cospipe.backends.onnx.importer import import_model


def model_of(
    operation: str,
    attributes: dict[str, Any],
    inputs: Sequence[np.ndarray | None],
    known: Collection[int] = (),
    outputs: int = 1,
    opset: int = 18,
) -> onnx.ModelProto:
    """Return a model of one node; None is an absent input, and those at ``known`` positions are constants."""
    given = {f"input{position}": value for position, value in enumerate(inputs) if value is not None}
    names = [f"input{position}" if value is not None else "" for position, value in enumerate(inputs)]
    constants = {name for name in given if int(name.removeprefix("input")) in known}
    node = helper.make_node(operation, names, [f"output{i}" for i in range(outputs)], name="node", **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [_described(name, value) for name, value in given.items() if name not in constants],
        [helper.make_empty_tensor_value_info(f"output{i}") for i in range(outputs)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in given.items() if name in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _described(name: str, value: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def fed_inputs(inputs: Sequence[np.ndarray | None], known: Collection[int] = ()) -> dict[str, np.ndarray]:
    """Return the inputs that are no constants, by name."""
    return {
        f"input{position}": np.asarray(value)
        for position, value in enumerate(inputs)
        if value is not None and position not in known
    }


def check_like_onnxruntime(
    operation: str,
    attributes: dict[str, Any],
    inputs: Sequence[np.ndarray | None],
    known: Collection[int] = (),
    outputs: int = 1,
    opset: int = 18,
) -> None:
    """Check that our importer and ONNX Runtime compute the same."""
    model = model_of(operation, attributes, inputs, known, outputs, opset)
    fed = fed_inputs(inputs, known)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        computed = import_model(model)(*(torch.from_numpy(value) for value in fed.values()))
    for ours, theirs in zip(computed, session.run(None, fed), strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-4, atol=1e-5, equal_nan=True)
