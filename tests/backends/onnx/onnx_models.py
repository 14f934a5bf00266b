"""Small ONNX files for tests, and their results in ONNX Runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper


def save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 18,
    kinds: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    output_kind: int = TensorProto.FLOAT,
) -> Path:
    """Write a graph; inputs are FP32 unless ``kinds`` says otherwise."""
    kinds = kinds or {}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info(name, kinds.get(name, output_kind), None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *[helper.make_opsetid(f.domain, 1) for f in functions[:1]]]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    onnx.save(model, path)
    return path


def in_onnx_runtime(path: Path, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, dict(arrays))


def relative_error(computed: torch.Tensor, expected: np.ndarray) -> float:
    assert tuple(computed.shape) == expected.shape
    difference = np.abs(computed.detach().numpy().astype(np.float64) - expected)
    return float(difference.max(initial=0) / max(np.abs(expected).max(initial=0), 1e-9))


def assert_agrees(
    network: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    path: Path,
    names: Sequence[str],
    fixed: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Compare a network on these inputs with ONNX Runtime, relative to the scale of each output."""
    arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    with torch.no_grad():
        results = network(*inputs)
    expected = in_onnx_runtime(path, {**arrays, **(fixed or {})})
    assert len(results) == len(expected)
    for computed, array in zip(results, expected, strict=True):
        assert relative_error(computed, array) < 1e-4
