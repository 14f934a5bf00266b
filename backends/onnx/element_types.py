"""Element types of ONNX tensors and their names in PyTorch."""

from __future__ import annotations

import onnx
import torch

_TORCH: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.UINT16: torch.uint16,
    onnx.TensorProto.UINT32: torch.uint32,
    onnx.TensorProto.UINT64: torch.uint64,
}

STORED_ONLY = frozenset({torch.uint16, torch.uint32, torch.uint64})
"""Types that PyTorch can hold but hardly compute with."""


def torch_dtype(element_type: int) -> torch.dtype | None:
    """Return PyTorch's type of an ONNX element type; None for strings, complex numbers and those below eight bits."""
    return _TORCH.get(element_type)


def element_type_name(element_type: int) -> str:
    """Return ONNX's name of an element type in lower case, for example ``float16``."""
    return str(onnx.TensorProto.DataType.Name(element_type)).lower()
